//! Whom we believe on the wire: a provisioner of our owner's, whatever our clock says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::anchors::Trust;
use protocol::attest::Binding;
use protocol::clock::Time;
use protocol::crypto::Signer;
use protocol::messages::{ALPN, BINDING_LABEL, SNI};
use protocol::refusal::Refused;
use protocol::tls;
use protocol::voucher::check_provisioner;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

use super::timed::Timed;

/// No connection takes longer to be made, handshake included: anybody on the LAN can accept one and say nothing.
const CONNECT: Duration = Duration::from_secs(5);

/// A connection, and what its handshake proved.
pub struct Link {
    /// The stream.
    pub stream: StreamOwned<ClientConnection, Timed>,
    /// Certificates that the provisioner showed, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// What binds our proofs to this connection.
    pub binding: Binding,
}

/// Who we are on a connection.
pub struct Own<'a> {
    /// The node key.
    pub key: &'a Arc<dyn Signer>,
    /// The certificate to show, DER: the site's, or the self-signed one.
    pub certificate: &'a [u8],
}

/// M1. A refusal says why the other end is not believed.
pub fn connect(
    address: SocketAddr,
    own: &Own<'_>,
    trust: &Trust,
    floor: Time,
    rtc: Option<Time>,
) -> Result<Result<Link, Refused>> {
    let refused = Arc::new(Mutex::new(None));
    let config = config(own, trust, floor, rtc, Arc::clone(&refused))?;
    let mut socket = Timed::connect(address, CONNECT).with_context(|| format!("connecting to {address}"))?;
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(SNI)?)?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut socket) {
            let why = refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            return why.map_or_else(|| Err(error).context("the TLS handshake"), |why| Ok(Err(why)));
        }
    }
    let chain =
        connection.peer_certificates().context("no certificate")?.iter().map(|der| der.to_vec()).collect();
    let x = connection.export_keying_material([0; 32], BINDING_LABEL, None)?;
    let binding = Binding { x, s: own.key.key_hash() };
    Ok(Ok(Link { stream: StreamOwned::new(connection, socket), chain, binding }))
}

fn config(
    own: &Own<'_>,
    trust: &Trust,
    floor: Time,
    rtc: Option<Time>,
    refused: Arc<Mutex<Option<Refused>>>,
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certified = tls::certified(vec![own.certificate.to_vec()], Arc::clone(own.key));
    let owners = Owners { trust: trust.clone(), floor, rtc, refused };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(owners))
        .with_client_cert_resolver(Arc::new(Always(certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// Believes provisioners of the owner: R1–R4.
struct Owners {
    trust: Trust,
    floor: Time,
    rtc: Option<Time>,
    refused: Arc<Mutex<Option<Refused>>>,
}

impl std::fmt::Debug for Owners {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the owner's anchors")
    }
}

impl ServerCertVerifier for Owners {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain: Vec<_> =
            std::iter::once(end_entity).chain(intermediates).map(|der| der.to_vec()).collect();
        check_provisioner(&self.trust, &chain, self.floor, self.rtc).map_err(|refused| {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
            Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls::too_old()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        tls::verify(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::schemes()
    }
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
