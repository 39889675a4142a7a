//! TLS 1.3 as both ends speak it: keys that sign a handshake wherever they are held, and the signatures believed.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::CertificateDer;
use rustls::sign::{CertifiedKey, Signer as Sign, SigningKey};
use rustls::{DigitallySignedStruct, Error, SignatureAlgorithm, SignatureScheme};

use crate::crypto::{Alg, Signer, der_signature};

/// The two signatures of the protocol, and no other (RFC 8446 section 4.2.3).
static ALGORITHMS: WebPkiSupportedAlgorithms = WebPkiSupportedAlgorithms {
    all: &[webpki::ring::ECDSA_P256_SHA256, webpki::ring::ECDSA_P384_SHA384],
    mapping: &[
        (SignatureScheme::ECDSA_NISTP256_SHA256, &[webpki::ring::ECDSA_P256_SHA256]),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &[webpki::ring::ECDSA_P384_SHA384]),
    ],
};

/// What a verifier offers to the other end.
pub fn schemes() -> Vec<SignatureScheme> {
    ALGORITHMS.supported_schemes()
}

/// Whether the key in `cert`, DER, signed the handshake `message`: possession, and nothing of who that is.
///
/// # Errors
/// The signature is not one of [`schemes`], or wrong.
pub fn verify(
    message: &[u8],
    cert: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, cert, signed, &ALGORITHMS)
}

/// The verdict of a verifier of TLS 1.3 on every signature of TLS 1.2.
///
/// # Errors
/// Always.
pub fn too_old() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 only".into()))
}

/// What one end shows: certificates, DER, leaf first, and the key of the leaf.
pub fn certified(chain: Vec<Vec<u8>>, key: Arc<dyn Signer>) -> Arc<CertifiedKey> {
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    Arc::new(CertifiedKey::new(chain, Arc::new(Held(key))))
}

/// A private key, wherever it is held, as the TLS library wants it.
#[derive(Clone)]
pub struct Held(pub Arc<dyn Signer>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {}", self.0.key_hash())
    }
}

impl SigningKey for Held {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Sign>> {
        offered.contains(&self.scheme()).then(|| Box::new(self.clone()) as Box<dyn Sign>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Sign for Held {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let fixed = self.0.sign(message).map_err(|error| Error::General(error.to_string()))?;
        Ok(der_signature(&fixed))
    }

    fn scheme(&self) -> SignatureScheme {
        match self.0.alg() {
            Alg::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Alg::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SoftKey;

    #[test]
    fn a_held_key_signs_with_its_own_scheme_and_with_no_other() {
        for alg in [Alg::Es256, Alg::Es384] {
            let held = Held(Arc::new(SoftKey::generate(alg).unwrap().0));
            assert_eq!(held.choose_scheme(&schemes()).unwrap().scheme(), held.scheme());
            let others: Vec<_> = schemes().into_iter().filter(|scheme| *scheme != held.scheme()).collect();
            assert_eq!(others.len(), 1);
            assert!(held.choose_scheme(&others).is_none());
        }
    }
}
