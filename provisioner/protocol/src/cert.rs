//! Certificates as read, and the chains they form.

use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::bytes::{Digest, Malformed};
use crate::clock::Time;

/// EKU `id-kp-cmcRA` (RFC 6402 section 2.10): may act as a registrar.
pub(crate) const CMC_RA: &str = "1.3.6.1.5.5.7.3.28";
/// EKU of keys that sign vouchers and bundles, 1.3.6.1.4.1.32473.8366.1 as DER holds it. The arc is the documentation
/// enterprise number (RFC 5612): put the owner's own before the first fleet.
const SIGNER_DER: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0x81, 0xfd, 0x59, 0xc1, 0x2e, 0x01];
/// EKU `id-kp-serverAuth`.
pub(crate) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
/// EKU `id-kp-clientAuth`.
pub(crate) const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
/// What stands before the site's name in a certificate's URI.
pub(crate) const SITE_URI: &str = "urn:nodeboot:site:";
/// What stands before the machine's id in a node certificate's URI.
pub const MACHINE_URI: &str = "urn:nodeboot:machine:";

/// A certificate, reduced to what the protocol asks of it. Its signature is not checked here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert {
    /// The certificate, DER.
    pub der: Vec<u8>,
    /// Its public key, DER `SubjectPublicKeyInfo`.
    pub spki: Vec<u8>,
    /// SHA-256 of `spki`.
    pub key_hash: Digest,
    /// Common name of the subject, empty where there is none.
    pub common_name: String,
    /// Common name of the issuer, empty where there is none.
    pub issuer: String,
    /// Valid from.
    pub not_before: Time,
    /// Valid until.
    pub not_after: Time,
    /// Extended key usages as dotted numbers.
    pub usages: Vec<String>,
    /// URIs among the subject's alternative names.
    pub uris: Vec<String>,
}

impl Cert {
    /// Reads a DER certificate (RFC 5280), nothing after it.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, read) = X509Certificate::from_der(der).map_err(|_| Malformed("an X.509 certificate"))?;
        if !rest.is_empty() {
            return Err(Malformed("one X.509 certificate alone"));
        }
        let spki = read.public_key().raw.to_vec();
        let common_name = |of: &X509Name<'_>| {
            let name = of.iter_common_name().next().and_then(|name| name.as_str().ok());
            name.unwrap_or_default().to_owned()
        };
        let mut cert = Self {
            der: der.to_vec(),
            key_hash: Digest::of(&spki),
            spki,
            common_name: common_name(read.subject()),
            issuer: common_name(read.issuer()),
            not_before: Time(read.validity().not_before.timestamp()),
            not_after: Time(read.validity().not_after.timestamp()),
            usages: Vec::new(),
            uris: Vec::new(),
        };
        for extension in read.extensions() {
            cert.note(extension.parsed_extension());
        }
        Ok(cert)
    }

    fn note(&mut self, extension: &ParsedExtension) {
        match extension {
            ParsedExtension::ExtendedKeyUsage(usage) => {
                let named = [(usage.server_auth, SERVER_AUTH), (usage.client_auth, CLIENT_AUTH)];
                self.usages.extend(named.iter().filter(|(set, _)| *set).map(|(_, oid)| (*oid).to_owned()));
                self.usages.extend(usage.other.iter().map(x509_parser::oid_registry::Oid::to_id_string));
            }
            ParsedExtension::SubjectAlternativeName(names) => {
                self.uris.extend(names.general_names.iter().filter_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }

    /// Whether the extended key usages contain `oid`. A certificate without any has none.
    pub fn has_usage(&self, oid: &str) -> bool {
        self.usages.iter().any(|usage| usage == oid)
    }

    /// The site named in it.
    pub fn site(&self) -> Option<&str> {
        self.uris.iter().find_map(|uri| uri.strip_prefix(SITE_URI))
    }
}

/// Why certificates form no chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// No path to a trusted anchor.
    #[error("no path leads to a trusted anchor")]
    Untrusted,
    /// A path, but one of its certificates has expired.
    #[error("a certificate of the chain has expired")]
    Expired,
    /// A path, but the leaf lacks the extended key usage.
    #[error("the certificate is not meant for this use")]
    Usage,
}

const ALGORITHMS: &[&dyn rustls_pki_types::SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P384_SHA384,
    webpki::ring::ECDSA_P256_SHA384,
    webpki::ring::ECDSA_P384_SHA256,
];

fn path(
    leaf: &[u8],
    between: &[Vec<u8>],
    anchors: &[Cert],
    at: Time,
    usage: KeyUsage,
) -> Result<(), ChainError> {
    let leaf = CertificateDer::from(leaf);
    let leaf = EndEntityCert::try_from(&leaf).map_err(|_| ChainError::Untrusted)?;
    let between: Vec<_> = between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let trusted: Vec<_> = anchors.iter().map(|anchor| CertificateDer::from(anchor.der.as_slice())).collect();
    let trusted: Vec<TrustAnchor<'_>> =
        trusted.iter().filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
    match leaf.verify_for_usage(ALGORITHMS, &trusted, &between, at.as_unix(), usage, None, None) {
        Ok(_) => Ok(()),
        Err(webpki::Error::CertExpired { .. }) => Err(ChainError::Expired),
        Err(webpki::Error::RequiredEkuNotFoundContext(_)) => Err(ChainError::Usage),
        Err(_) => Err(ChainError::Untrusted),
    }
}

/// Whether `leaf` leads over `between` (DER) to one of `anchors` at time `at` and may serve TLS.
///
/// RFC 5280 lets a leaf without any extended key usage pass here; who needs one asks [`Cert::has_usage`].
pub fn serves(leaf: &[u8], between: &[Vec<u8>], anchors: &[Cert], at: Time) -> Result<(), ChainError> {
    path(leaf, between, anchors, at, KeyUsage::server_auth())
}

/// Whether `leaf` leads over `between` (DER) to one of `anchors` at time `at` and may be a TLS client.
pub fn is_client(leaf: &[u8], between: &[Vec<u8>], anchors: &[Cert], at: Time) -> Result<(), ChainError> {
    path(leaf, between, anchors, at, KeyUsage::client_auth())
}

/// Whether `leaf` was issued **directly** by one of `anchors`, is valid at `at`, and may sign vouchers.
pub fn signs(leaf: &[u8], anchors: &[Cert], at: Time) -> Result<(), ChainError> {
    path(leaf, &[], anchors, at, KeyUsage::required(SIGNER_DER))
}

/// Whether the CA certificate `ca` was issued directly by one of `anchors` and is valid at `at`. A CA is no end
/// entity to path building, so its signature is checked as such.
pub fn issued_by(ca: &Cert, anchor: &Cert, at: Time) -> bool {
    let is_ca = X509Certificate::from_der(&ca.der).is_ok_and(|(_, read)| read.is_ca());
    is_ca && ca.not_after > at && certifies(anchor, ca)
}

/// Whether `parent` issued `child`, by name and signature alone: of any age, and for any use.
pub fn certifies(parent: &Cert, child: &Cert) -> bool {
    let Ok((_, child)) = X509Certificate::from_der(&child.der) else { return false };
    let Ok((_, parent)) = X509Certificate::from_der(&parent.der) else { return false };
    child.issuer() == parent.subject() && child.verify_signature(Some(parent.public_key())).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anchors::tests::{Owner, T};

    #[test]
    fn an_anchor_vouches_for_cas_that_live_and_for_nothing_else() {
        let owner = Owner::new();
        let ((a, _), (b, _), (signer, _)) = (&owner.a, &owner.b, &owner.signer);
        assert!(issued_by(a, a, T) && !issued_by(a, b, T));
        assert!(!issued_by(a, a, a.not_after), "it has expired");
        assert!(certifies(a, signer) && !issued_by(signer, a, T), "it is no CA");
    }
}
