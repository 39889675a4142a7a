//! Keys that a machine's firmware believes: RSA of 2048 bits with SHA-256 (RFC 8017 section 8.2), which every firmware
//! knows.

use ring::rsa::KeyPair;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey};

use crate::crypto::{BadKey, SignError, SystemRandom};

/// What stands before the `RSAPublicKey` of 2048 bits with the exponent 65537 in a DER `SubjectPublicKeyInfo`.
const PREFIX: [u8; 24] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
    0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00,
];
/// Bytes of that `RSAPublicKey`, and of a signature.
const PUBLIC: usize = 270;
const SIGNATURE: usize = 256;

/// The name of the algorithm in a JWS header (RFC 7518).
pub(crate) const ALG: &str = "RS256";

/// A private key that firmware believes, in memory or behind a program of the owner's.
pub trait FirmwareSigner: Send + Sync {
    /// Its public half, DER `SubjectPublicKeyInfo`.
    fn spki(&self) -> &[u8];
    /// Signature of 256 bytes over `message`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// A private key in memory.
pub struct RsaKey {
    pair: KeyPair,
    spki: Vec<u8>,
}

impl RsaKey {
    /// Reads a DER PKCS#8 key (RFC 5958) of 2048 bits.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, BadKey> {
        let pair = KeyPair::from_pkcs8(der).map_err(|_| BadKey)?;
        let spki = [&PREFIX, pair.public().as_ref()].concat();
        if public(&spki).is_some() { Ok(Self { pair, spki }) } else { Err(BadKey) }
    }
}

impl FirmwareSigner for RsaKey {
    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; SIGNATURE];
        let failed =
            |_| SignError { key: "a key in memory".into(), why: "no random bytes; try again".into() };
        let random = SystemRandom::new();
        self.pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
        Ok(signature)
    }
}

/// The DER `RSAPublicKey` in a `SubjectPublicKeyInfo`; none for keys of another kind or size.
pub fn public(spki: &[u8]) -> Option<&[u8]> {
    spki.strip_prefix(&PREFIX).filter(|key| key.len() == PUBLIC)
}

/// Whether `signature` over `message` was made by the private half of `spki`.
pub fn verify(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Some(public) = public(spki) else { return false };
    UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(message, signature).is_ok()
}

/// A variable of the firmware (UEFI 2.10 section 3.3) that says whom it believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Whose name that is, a GUID as text.
    pub vendor: &'static str,
}

/// The platform key.
pub const PK: Variable = Variable { name: "PK", vendor: GLOBAL };
/// The key exchange keys.
pub const KEK: Variable = Variable { name: "KEK", vendor: GLOBAL };
/// Whose programs are started.
pub const DB: Variable = Variable { name: "db", vendor: "d719b2cb-3d3a-4596-a3bc-dad00e67656f" };
/// `EFI_GLOBAL_VARIABLE`.
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Kept over a power cut, seen by the firmware and by us, and changed by whoever has signed the change at a later time.
pub const ATTRIBUTES: u32 = 0x27;
/// Type of a list of certificates (`EFI_CERT_X509_GUID`, UEFI 2.10 section 32.4.1).
pub const CERTIFICATES: &str = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072";

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::cert::Cert;
    use crate::clock::Time;
    use crate::section::{self, SectionError};

    /// A key of OpenSSL's.
    pub(crate) fn key() -> RsaKey {
        let mut openssl = Command::new("openssl");
        let made = openssl.args(["genpkey", "-quiet", "-algorithm", "RSA"]).output().unwrap();
        RsaKey::from_pkcs8(&crate::est::read_base64(&made.stdout).unwrap()).unwrap()
    }

    #[test]
    fn openssl_believes_what_a_key_and_its_certificate_say() {
        let (key, dir) = (key(), tempfile::tempdir().unwrap());
        let der = crate::issue::for_firmware("Example Line db", &key, Time(1_795_348_800)).unwrap();
        assert_eq!(Cert::parse(&der).unwrap().spki, key.spki());
        let file = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(file("cert"), crate::bytes::pem("CERTIFICATE", &der)).unwrap();
        std::fs::write(file("signature"), key.sign(b"words").unwrap()).unwrap();
        std::fs::write(file("words"), b"words").unwrap();
        let run = |words: &[&str]| Command::new("openssl").args(words).output().unwrap();
        let cert = file("cert");
        let public = run(&["x509", "-in", &cert, "-pubkey", "-noout"]).stdout;
        std::fs::write(file("public"), public).unwrap();
        let (public, signature) = (file("public"), file("signature"));
        let words = ["dgst", "-sha256", "-verify", &public, "-signature", &signature, &file("words")];
        assert!(run(&words).status.success());
        assert!(run(&["verify", "-CAfile", &cert, &cert]).status.success());
        assert!(verify(key.spki(), b"words", &key.sign(b"words").unwrap()));
        assert!(!verify(key.spki(), b"other words", &key.sign(b"words").unwrap()));
    }

    #[test]
    fn a_section_that_was_changed_or_cut_off_is_not_read() {
        let key = key();
        let der = crate::issue::for_firmware("db", &key, Time(1_795_348_800)).unwrap();
        let text = section::sign(br#"{"a":1}"#, &der, &key).unwrap();
        let read = section::read(text.as_bytes()).unwrap();
        assert_eq!((read.signer.der, read.payload.as_slice()), (der, &br#"{"a":1}"#[..]));
        let other = text.replace(&crate::bytes::b64u(br#"{"a":1}"#), &crate::bytes::b64u(br#"{"a":2}"#));
        assert_eq!(section::read(other.as_bytes()).unwrap_err(), SectionError::Altered);
        for cut in [0, 1, 100, text.len() - 1] {
            let error = section::read(&text.as_bytes()[..cut]).unwrap_err();
            assert!(matches!(error, SectionError::Document(_)), "cut at {cut}: {error}");
        }
    }
}
