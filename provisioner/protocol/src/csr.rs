//! Certificate requests as received: who asks for what, with the signature checked.

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::bytes::{Digest, Malformed};

/// What a certificate request (RFC 2986) asks for. Its signature was good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    /// The request, DER.
    pub der: Vec<u8>,
    /// Its public key, DER `SubjectPublicKeyInfo`.
    pub spki: Vec<u8>,
    /// SHA-256 of `spki`.
    pub key_hash: Digest,
    /// Common names of the subject, in order.
    pub common_names: Vec<String>,
    /// Organisations of the subject, in order.
    pub organisations: Vec<String>,
    /// Alternative names that are DNS names.
    pub dns: Vec<String>,
    /// Alternative names that are addresses, 4 or 16 bytes.
    pub addresses: Vec<Vec<u8>>,
    /// How many alternative names are of any other kind.
    pub other_names: usize,
}

impl Csr {
    /// Reads a DER request, nothing after it, and checks that its key signed it.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, read) =
            X509CertificationRequest::from_der(der).map_err(|_| Malformed("a certificate request"))?;
        if !rest.is_empty() {
            return Err(Malformed("one certificate request alone"));
        }
        read.verify_signature().map_err(|_| Malformed("a certificate request signed by its own key"))?;
        let subject = &read.certification_request_info.subject;
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().map(str::to_owned).unwrap_or_default()
        };
        let spki = read.certification_request_info.subject_pki.raw.to_vec();
        let mut csr = Self {
            der: der.to_vec(),
            key_hash: Digest::of(&spki),
            spki,
            common_names: subject.iter_common_name().map(text).collect(),
            organisations: subject.iter_organization().map(text).collect(),
            dns: Vec::new(),
            addresses: Vec::new(),
            other_names: 0,
        };
        for extension in read.requested_extensions().into_iter().flatten() {
            csr.note(extension);
        }
        Ok(csr)
    }

    fn note(&mut self, extension: &ParsedExtension) {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { return };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(dns) => self.dns.push((*dns).to_owned()),
                GeneralName::IPAddress(address) => self.addresses.push(address.to_vec()),
                _ => self.other_names += 1,
            }
        }
    }

    /// Whether it asks for no alternative name at all.
    pub fn has_no_names(&self) -> bool {
        self.dns.is_empty() && self.addresses.is_empty() && self.other_names == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Alg, Signer, SoftKey};

    #[test]
    fn a_kubelet_request_reads_back() {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let der = crate::issue::request("system:node:n", Some("system:nodes"), &key).unwrap();
        let csr = Csr::parse(&der).unwrap();
        assert_eq!(csr.key_hash, key.key_hash());
        assert_eq!(
            (csr.common_names, csr.organisations),
            (vec!["system:node:n".into()], vec!["system:nodes".into()])
        );
    }

    #[test]
    fn a_changed_or_cut_request_is_refused() {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let der = crate::issue::request("n", None, &key).unwrap();
        for cut in 0..der.len() {
            assert!(Csr::parse(&der[..cut]).is_err());
        }
        assert!(Csr::parse(&[&der[..], &[0]].concat()).is_err(), "nothing comes after it");
        let mut changed = der.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert!(Csr::parse(&changed).is_err());
    }
    #[test]
    fn names_of_every_kind_are_seen() {
        let mail = rcgen::SanType::Rfc822Name("root@example.com".try_into().unwrap());
        let uri = rcgen::SanType::URI("urn:nodeboot:machine:mc_01".try_into().unwrap());
        let dns = rcgen::SanType::DnsName("kubernetes".try_into().unwrap());
        let address = rcgen::SanType::IpAddress([10, 0, 0, 1].into());
        for (name, other) in [(mail, 1), (uri, 1), (dns, 0), (address, 0)] {
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = vec![name];
            let key = rcgen::KeyPair::generate().unwrap();
            let csr = Csr::parse(params.serialize_request(&key).unwrap().der()).unwrap();
            assert_eq!((csr.other_names, csr.has_no_names()), (other, false));
        }
    }
}
