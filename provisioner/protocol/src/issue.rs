//! Certificates and requests as made: the whole public key infrastructure of the protocol in one place.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};

use crate::cert::{Cert, MACHINE_URI, SITE_URI};
use crate::clock::{DAY, NEVER, Time, YEAR};
use crate::crypto::{Alg, Signer, der_signature, random};
use crate::firmware::{self, FirmwareSigner};

/// A certificate could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("making a certificate for {subject}: {why}")]
pub struct IssueError {
    /// Whose certificate.
    pub subject: String,
    /// What went wrong.
    pub why: String,
}

/// What a certificate is for. It decides validity, usages and names; a request's own wishes never do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role<'a> {
    /// A trust anchor of the owner, 20 years.
    Anchor {
        /// Common name.
        name: &'a str,
    },
    /// A key that firmware believes, 20 years.
    Firmware {
        /// Common name.
        name: &'a str,
    },
    /// HQ's signer of vouchers and bundles, 6 years.
    Signer {
        /// Common name.
        name: &'a str,
    },
    /// The CA of a site, 15 years, kept at HQ.
    SiteCa {
        /// The site.
        site: &'a str,
        /// `g<N>`: rises when the CA is replaced.
        generation: u32,
    },
    /// The issuing CA of one provisioner, 10 years.
    IssuingCa {
        /// The site.
        site: &'a str,
        /// Generation of the site CA.
        generation: u32,
        /// `i<M>`: which provisioner.
        number: u32,
    },
    /// What a provisioner shows in TLS and signs reports with, one year.
    Leaf {
        /// The site.
        site: &'a str,
        /// Which provisioner.
        number: u32,
    },
    /// What a machine shows in TLS once it is enrolled.
    Node {
        /// The id of its record.
        machine: &'a str,
        /// Seconds it is valid.
        life: i64,
    },
    /// What an EST client that is not a machine of ours gets.
    Foreign {
        /// Common name, as its registration says.
        name: &'a str,
        /// Seconds it is valid.
        life: i64,
    },
}

impl Role<'_> {
    fn name(&self) -> String {
        match self {
            Self::Anchor { name }
            | Self::Firmware { name }
            | Self::Signer { name }
            | Self::Foreign { name, .. } => (*name).to_owned(),
            Self::SiteCa { site, generation } => format!("{site} g{generation}"),
            Self::IssuingCa { site, generation, number } => format!("{site} g{generation} i{number}"),
            Self::Leaf { site, number } => format!("{site} provisioner {number}"),
            Self::Node { machine, .. } => (*machine).to_owned(),
        }
    }

    fn life(&self) -> i64 {
        match self {
            Self::Anchor { .. } | Self::Firmware { .. } => 20 * YEAR,
            Self::Signer { .. } => 6 * YEAR,
            Self::SiteCa { .. } => 15 * YEAR,
            Self::IssuingCa { .. } => 10 * YEAR,
            Self::Leaf { .. } => YEAR,
            Self::Node { life, .. } | Self::Foreign { life, .. } => *life,
        }
    }

    fn ca(&self) -> IsCa {
        match self {
            Self::Anchor { .. } => IsCa::Ca(BasicConstraints::Unconstrained),
            Self::SiteCa { .. } => IsCa::Ca(BasicConstraints::Constrained(1)),
            Self::IssuingCa { .. } => IsCa::Ca(BasicConstraints::Constrained(0)),
            _ => IsCa::ExplicitNoCa,
        }
    }

    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Signer { .. } => {
                vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 4, 1, 32473, 8366, 1])]
            }
            Self::Leaf { .. } => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 28]),
            ],
            Self::Node { .. } | Self::Foreign { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
            _ => Vec::new(),
        }
    }

    fn uri(&self) -> Option<String> {
        match self {
            Self::SiteCa { site, .. } | Self::Leaf { site, .. } => Some(format!("{SITE_URI}{site}")),
            Self::Node { machine, .. } => Some(format!("{MACHINE_URI}{machine}")),
            _ => None,
        }
    }

    fn params(&self, now: Time, serial: [u8; 16]) -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::default();
        // A machine's clock may be behind: certificates begin a day early.
        params.not_before = now.plus(-DAY).as_date();
        params.not_after = now.plus(self.life()).as_date();
        params.serial_number = Some(SerialNumber::from_slice(&positive(serial)));
        params.distinguished_name = common_name(&self.name());
        params.is_ca = self.ca();
        params.key_usages = match params.is_ca {
            IsCa::Ca(_) => vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign],
            _ => vec![KeyUsagePurpose::DigitalSignature],
        };
        params.extended_key_usages = self.usages();
        params.use_authority_key_identifier_extension = true;
        if let Some(uri) = self.uri() {
            params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        }
        if matches!(self, Self::Leaf { .. }) {
            params.subject_alt_names.push(SanType::DnsName("provisioner.local".try_into()?));
        }
        Ok(params)
    }
}

/// RFC 5280 section 4.1.2.2: a positive number of at most 20 bytes.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] = serial[0] & 0x7f | 0x40;
    serial
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn algorithm(alg: Alg) -> &'static rcgen::SignatureAlgorithm {
    match alg {
        Alg::Es256 => &rcgen::PKCS_ECDSA_P256_SHA256,
        Alg::Es384 => &rcgen::PKCS_ECDSA_P384_SHA384,
    }
}

/// Lets the certificate library sign with any of our keys.
struct Adapter<'a>(&'a dyn Signer);

impl PublicKeyData for Adapter<'_> {
    fn der_bytes(&self) -> &[u8] {
        Alg::of_spki(self.0.spki()).map_or(&[], |(_, point)| point)
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        algorithm(self.0.alg())
    }
}

impl rcgen::SigningKey for Adapter<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map(|fixed| der_signature(&fixed)).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

fn wrap<T>(subject: &str, result: Result<T, rcgen::Error>) -> Result<T, IssueError> {
    result.map_err(|error| IssueError { subject: subject.to_owned(), why: error.to_string() })
}

fn serial(subject: &str) -> Result<[u8; 16], IssueError> {
    random().map_err(|error| IssueError { subject: subject.to_owned(), why: error.to_string() })
}

/// A certificate that its own key signs: DER.
pub fn self_signed(role: &Role<'_>, key: &dyn Signer, now: Time) -> Result<Vec<u8>, IssueError> {
    let name = role.name();
    let params = wrap(&name, role.params(now, serial(&name)?))?;
    Ok(wrap(&name, params.self_signed(&Adapter(key)))?.der().to_vec())
}

/// A certificate for the public key `spki` under `ca`, whose key is `key`: DER. It never outlives its issuer.
pub fn issue(
    role: &Role<'_>,
    spki: &[u8],
    ca: &Cert,
    key: &dyn Signer,
    now: Time,
) -> Result<Vec<u8>, IssueError> {
    let name = role.name();
    let mut params = wrap(&name, role.params(now, serial(&name)?))?;
    params.not_after = params.not_after.min(ca.not_after.as_date());
    let public = wrap(&name, SubjectPublicKeyInfo::from_der(spki))?;
    let issuer = wrap(&name, Issuer::from_ca_cert_der(&ca.der.as_slice().into(), Adapter(key)))?;
    Ok(wrap(&name, params.signed_by(&public, &issuer))?.der().to_vec())
}

/// The same for keys that firmware believes.
struct FirmwareAdapter<'a>(&'a dyn FirmwareSigner);

impl PublicKeyData for FirmwareAdapter<'_> {
    fn der_bytes(&self) -> &[u8] {
        firmware::public(self.0.spki()).unwrap_or_default()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::SigningKey for FirmwareAdapter<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// A certificate by which firmware knows a key of the owner's, signed by itself, 20 years: DER.
pub fn for_firmware(name: &str, key: &dyn FirmwareSigner, now: Time) -> Result<Vec<u8>, IssueError> {
    let params = wrap(name, Role::Firmware { name }.params(now, serial(name)?))?;
    Ok(wrap(name, params.self_signed(&FirmwareAdapter(key)))?.der().to_vec())
}

/// The certificate a pledge shows before it has one of the site: self-signed, CN `pledge`, without end. DER.
pub fn pledge(key: &dyn Signer) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.not_before = Time(0).as_date();
    params.not_after = NEVER.as_date();
    params.serial_number = Some(SerialNumber::from_slice(&positive(serial("pledge")?)));
    params.distinguished_name = common_name("pledge");
    Ok(wrap("pledge", params.self_signed(&Adapter(key)))?.der().to_vec())
}

/// A certificate request (RFC 2986) for `subject` by `key`: DER. `organisation` is `system:nodes` for kubelets.
pub fn request(subject: &str, organisation: Option<&str>, key: &dyn Signer) -> Result<Vec<u8>, IssueError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(subject);
    if let Some(organisation) = organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    Ok(wrap(subject, params.serialize_request(&Adapter(key)))?.der().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cert::{self, CLIENT_AUTH, CMC_RA, ChainError, SERVER_AUTH};
    use crate::crypto::SoftKey;

    const NOW: Time = Time(1_795_348_800);

    fn key() -> SoftKey {
        SoftKey::generate(Alg::Es256).unwrap().0
    }

    #[test]
    fn a_site_chain_serves_and_its_leaf_is_a_registrar() {
        let (anchor_key, site_key, issuing_key, leaf_key) =
            (SoftKey::generate(Alg::Es384).unwrap().0, key(), key(), key());
        let anchor =
            Cert::parse(&self_signed(&Role::Anchor { name: "A" }, &anchor_key, NOW).unwrap()).unwrap();
        let site =
            issue(&Role::SiteCa { site: "s", generation: 1 }, site_key.spki(), &anchor, &anchor_key, NOW)
                .unwrap();
        let site = Cert::parse(&site).unwrap();
        let role = Role::IssuingCa { site: "s", generation: 1, number: 1 };
        let issuing = Cert::parse(&issue(&role, issuing_key.spki(), &site, &site_key, NOW).unwrap()).unwrap();
        let leaf = issue(&Role::Leaf { site: "s", number: 1 }, leaf_key.spki(), &issuing, &issuing_key, NOW)
            .unwrap();
        let between = [issuing.der.clone(), site.der.clone()];
        assert_eq!(cert::serves(&leaf, &between, std::slice::from_ref(&anchor), NOW), Ok(()));
        assert_eq!(cert::serves(&leaf, &between, &[anchor], NOW.plus(2 * YEAR)), Err(ChainError::Expired));
        let leaf = Cert::parse(&leaf).unwrap();
        assert!(leaf.has_usage(CMC_RA) && leaf.has_usage(SERVER_AUTH) && !leaf.has_usage(CLIENT_AUTH));
        assert_eq!(leaf.site(), Some("s"));
        assert_eq!(site.site(), Some("s"));
    }

    #[test]
    fn a_certificate_never_outlives_its_issuer() {
        let (ca_key, leaf_key) = (key(), key());
        let ca = Cert::parse(&self_signed(&Role::Anchor { name: "A" }, &ca_key, NOW).unwrap()).unwrap();
        let late = NOW.plus(20 * YEAR - DAY);
        let cert = issue(&Role::Leaf { site: "s", number: 1 }, leaf_key.spki(), &ca, &ca_key, late).unwrap();
        assert_eq!(Cert::parse(&cert).unwrap().not_after, ca.not_after);
    }

    #[test]
    fn a_pledge_certificate_has_no_end() {
        let cert = Cert::parse(&pledge(&key()).unwrap()).unwrap();
        assert_eq!((cert.common_name.as_str(), cert.not_before, cert.not_after), ("pledge", Time(0), NEVER));
    }
}
