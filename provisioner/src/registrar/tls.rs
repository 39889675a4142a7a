//! Mutual TLS 1.3 with any key: possession is proven by the handshake, what the key may do is looked up later.

use std::sync::Arc;

use anyhow::{Context, Result};
use protocol::messages::ALPN;
use protocol::tls;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use tokio_rustls::TlsAcceptor;

use crate::site::Site;

/// The acceptor of the present leaf, made anew when the leaf is.
pub struct Acceptors {
    site: Arc<Site>,
    make: fn(&Site) -> Result<ServerConfig>,
    leaf: Vec<u8>,
    acceptor: TlsAcceptor,
}

impl Acceptors {
    /// For machines: TLS 1.3, and a certificate always.
    pub fn strict(site: Arc<Site>) -> Result<Self> {
        Self::with(site, |site| {
            let mut strict = config(site, &[&TLS13], false)?;
            strict.alpn_protocols = vec![ALPN.to_vec()];
            Ok(strict)
        })
    }

    /// For EST clients that nobody here wrote: TLS 1.2 too, and a certificate only where they have one.
    pub fn lenient(site: Arc<Site>) -> Result<Self> {
        Self::with(site, |site| config(site, &[&TLS13, &TLS12], true))
    }

    fn with(site: Arc<Site>, make: fn(&Site) -> Result<ServerConfig>) -> Result<Self> {
        let leaf = site.keys.leaf().0.der;
        let acceptor = TlsAcceptor::from(Arc::new(make(&site)?));
        Ok(Self { site, make, leaf, acceptor })
    }

    /// For the next connection.
    pub fn current(&mut self) -> Result<TlsAcceptor> {
        let leaf = self.site.keys.leaf().0.der;
        if leaf != self.leaf {
            self.acceptor = TlsAcceptor::from(Arc::new((self.make)(&self.site)?));
            self.leaf = leaf;
        }
        Ok(self.acceptor.clone())
    }
}

fn config(
    site: &Site,
    versions: &[&'static SupportedProtocolVersion],
    lenient: bool,
) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let known = lenient.then_some(provider.signature_verification_algorithms);
    let certified = tls::certified(site.keys.chain(), site.keys.leaf().1);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .context("versions of TLS")?
        .with_client_cert_verifier(Arc::new(AnyKey(known)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    // A resumed session would carry a proof of possession over to whoever holds the ticket.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// Takes any well-formed certificate whose key signs the handshake; self-signed and expired ones too. With algorithms,
/// for EST clients, each of them is fine as well, and so are TLS 1.2 and no certificate.
#[derive(Debug)]
struct AnyKey(Option<WebPkiSupportedAlgorithms>);

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

    fn client_auth_mandatory(&self) -> bool {
        self.0.is_none()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.0 {
            Some(known) => verify_tls12_signature(message, cert, signed, known),
            None => tls::too_old(),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match &self.0 {
            Some(known) => verify_tls13_signature(message, cert, signed, known),
            None => tls::verify(message, cert, signed),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.map_or_else(tls::schemes, |known| known.supported_schemes())
    }
}
