//! Endorsement key certificates (TCG EK Credential Profile 2.6): what a TPM's maker gives to whoever buys machines.

use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::public::{EkKind, MODULUS, rsa_spki};
use crate::bytes::Digest;
use crate::crypto::Alg;

/// Extended key usage `tcg-kp-EKCertificate`.
const EK_CERTIFICATE: Oid<'static> = oid!(2.23.133.8.1);
/// Public exponent of every RSA endorsement key of a TCG template.
const EXPONENT: [u8; 3] = [1, 0, 1];

/// Why a certificate names no endorsement key that a machine could prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEk {
    /// Not a certificate, or more than one.
    #[error("no X.509 certificate (base64 of its DER on one line, or PEM)")]
    Damaged,
    /// It is an authority's.
    #[error("an authority's certificate: only the endorsement key's own belongs here")]
    Authority,
    /// Its extended key usages are others.
    #[error("a certificate for another use: an endorsement key's says tcg-kp-EKCertificate (2.23.133.8.1)")]
    Use,
    /// Its key is not of a known kind.
    #[error("for a key of another kind than ecc-p256, ecc-p384 and rsa-2048")]
    Kind,
}

/// Kind and hash of the endorsement key that a certificate (DER) is for. Who signed it, and until when it is valid, is
/// not looked at: the key is what is registered. The hash is that of the SPKI which its public area gives, since some
/// makers write RSAES-OAEP where others write rsaEncryption.
pub fn certified(der: &[u8]) -> Result<(EkKind, Digest), NoEk> {
    let (rest, read) = X509Certificate::from_der(der).map_err(|_| NoEk::Damaged)?;
    // What was read from a TPM's memory may be filled up to the size of its place.
    if rest.iter().any(|byte| !matches!(byte, 0 | 0xff)) {
        return Err(NoEk::Damaged);
    }
    let constraints = read.basic_constraints().map_err(|_| NoEk::Damaged)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(NoEk::Authority);
    }
    if let Some(usage) = read.extended_key_usage().map_err(|_| NoEk::Damaged)?
        && !usage.value.other.contains(&EK_CERTIFICATE)
    {
        return Err(NoEk::Use);
    }
    let (kind, spki) = key(read.public_key()).ok_or(NoEk::Kind)?;
    Ok((kind, Digest::of(&spki)))
}

fn key(of: &SubjectPublicKeyInfo<'_>) -> Option<(EkKind, Vec<u8>)> {
    let curve = Alg::of_spki(of.raw).map(|(alg, _)| match alg {
        Alg::Es256 => EkKind::P256,
        Alg::Es384 => EkKind::P384,
    });
    if let Some(kind) = curve {
        return Some((kind, of.raw.to_vec()));
    }
    let (_, rsa) = RSAPublicKey::from_der(&of.subject_public_key.data).ok()?;
    let modulus = rsa.modulus.strip_prefix(&[0]).unwrap_or(rsa.modulus);
    let fits = modulus.len() == MODULUS && modulus[0] >= 0x80 && rsa.exponent == EXPONENT;
    fits.then(|| (EkKind::Rsa2048, rsa_spki(modulus)))
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData as _;

    use super::*;

    fn certificate(usages: Vec<rcgen::ExtendedKeyUsagePurpose>) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.extended_key_usages = usages;
        (params.self_signed(&key).unwrap().der().to_vec(), key.subject_public_key_info())
    }

    #[test]
    fn an_endorsement_key_is_named_by_the_hash_of_its_key_whoever_signed() {
        let ek = rcgen::ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1]);
        for usages in [vec![ek], vec![]] {
            let (der, spki) = certificate(usages);
            let named = Ok((EkKind::P256, Digest::of(&spki)));
            assert_eq!(certified(&der), named);
            for rest in [[0; 40], [0xff; 40]] {
                assert_eq!(certified(&[&der[..], &rest].concat()), named, "as read from its memory");
            }
            assert_eq!(certified(&[&der[..], b"more"].concat()), Err(NoEk::Damaged));
        }
    }

    #[test]
    fn an_authority_is_no_endorsement_key() {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let der = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        assert_eq!(certified(der.der()), Err(NoEk::Authority));
    }

    #[test]
    fn a_certificate_for_another_use_and_a_damaged_one_name_nobody() {
        let (der, _) = certificate(vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth]);
        assert_eq!(certified(&der), Err(NoEk::Use));
        let (der, _) = certificate(vec![]);
        assert!((0..der.len()).all(|cut| certified(&der[..cut]) == Err(NoEk::Damaged)));
    }
}
