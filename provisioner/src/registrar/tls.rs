//! Mutual TLS 1.3 with any key: possession is proven by the handshake, what the key may do is looked up later.

use std::sync::Arc;

use anyhow::{Context, Result};
use protocol::crypto::{Alg, Signer, der_signature};
use protocol::messages::ALPN;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureAlgorithm, SignatureScheme,
    client::danger::HandshakeSignatureValid,
};
use tokio_rustls::TlsAcceptor;

use crate::site::Site;

/// The acceptor of the present leaf, made anew when the leaf is.
pub struct Acceptors {
    site: Arc<Site>,
    leaf: Vec<u8>,
    acceptor: TlsAcceptor,
}

impl Acceptors {
    /// The acceptor of the site's leaf.
    pub fn new(site: Arc<Site>) -> Result<Self> {
        let leaf = site.keys.leaf().0.der;
        let acceptor = TlsAcceptor::from(Arc::new(config(&site)?));
        Ok(Self { site, leaf, acceptor })
    }

    /// For the next connection.
    pub fn current(&mut self) -> Result<TlsAcceptor> {
        let leaf = self.site.keys.leaf().0.der;
        if leaf != self.leaf {
            self.acceptor = TlsAcceptor::from(Arc::new(config(&self.site)?));
            self.leaf = leaf;
        }
        Ok(self.acceptor.clone())
    }
}

/// For EST clients that nobody here wrote: TLS 1.2 too, and a certificate only where they have one.
pub fn lenient(site: &Site) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let chain: Vec<_> = site.keys.chain().into_iter().map(CertificateDer::from).collect();
    let certified = Arc::new(CertifiedKey::new(chain, Arc::new(Held(site.keys.leaf().1))));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .context("TLS 1.2 and 1.3")?
        .with_client_cert_verifier(Arc::new(AnyKey { algorithms, lenient: true }))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn config(site: &Site) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let chain: Vec<_> = site.keys.chain().into_iter().map(CertificateDer::from).collect();
    let key = Arc::new(Held(site.keys.leaf().1));
    let certified = Arc::new(CertifiedKey::new(chain, key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .context("TLS 1.3")?
        .with_client_cert_verifier(Arc::new(AnyKey { algorithms, lenient: false }))
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would carry a proof of possession over to whoever holds the ticket.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// A key of ours, wherever it is held, as the TLS library wants it.
#[derive(Clone)]
struct Held(Arc<dyn Signer>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {}", self.0.key_hash())
    }
}

impl Held {
    fn scheme_of(&self) -> SignatureScheme {
        match self.0.alg() {
            Alg::Es256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Alg::Es384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

impl SigningKey for Held {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn rustls::sign::Signer>> {
        offered.contains(&self.scheme_of()).then(|| Box::new(self.clone()) as Box<dyn rustls::sign::Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl rustls::sign::Signer for Held {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let fixed = self.0.sign(message).map_err(|error| Error::General(error.to_string()))?;
        Ok(der_signature(&fixed))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme_of()
    }
}

/// Takes any well-formed certificate whose key signs the handshake; self-signed and expired ones too.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
    /// For EST clients: TLS 1.2, RSA, and no certificate are fine as well.
    lenient: bool,
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let malformed = |_| Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        protocol::cert::Cert::parse(end_entity).map_err(malformed)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.lenient {
            return Err(Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered));
        }
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.algorithms)
    }

    fn client_auth_mandatory(&self) -> bool {
        !self.lenient
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        if self.lenient {
            return self.algorithms.supported_schemes();
        }
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384]
    }
}
