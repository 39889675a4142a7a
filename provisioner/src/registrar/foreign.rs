//! EST (RFC 7030) for machines that are not ours: a listener of its own, off unless asked for, with its own rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::cert::{Cert, MACHINE_URI, is_client};
use protocol::clock::YEAR;
use protocol::csr::Csr;
use protocol::est;
use protocol::issue::Role;
use protocol::messages::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::reply::{Reply, certificates, reply};
use super::tls;
use crate::accept;
use crate::site::Site;
use crate::site::admin::est::redeem;

/// Connections at a time.
const CONNECTIONS: usize = 64;

/// Serves until the program ends.
pub async fn serve(site: Arc<Site>, address: SocketAddr, patience: Duration) -> Result<()> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("listening for EST on {address}"))?;
    let busy = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    let mut acceptor = tls::Acceptors::lenient(Arc::clone(&site))?;
    loop {
        let (stream, _) = accept::next(|| listener.accept()).await;
        let Ok(permit) = Arc::clone(&busy).try_acquire_owned() else { continue };
        let (site, tls) = (Arc::clone(&site), acceptor.current()?);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(site, tls, stream, patience).await {
                tracing::debug!(%error, "an EST connection ended");
            }
        });
    }
}

async fn converse(
    site: Arc<Site>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    patience: Duration,
) -> Result<()> {
    let stream = tokio::time::timeout(patience, acceptor.accept(stream)).await.context("no handshake")??;
    let client =
        stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|der| der.to_vec());
    let client = client.and_then(|der| Cert::parse(&der).ok()).filter(|cert| {
        // A node certificate of ours is for the machine's own listener.
        let own = cert.uris.iter().any(|uri| uri.starts_with(MACHINE_URI));
        !own && is_client(&cert.der, &[], std::slice::from_ref(&site.keys.issuing), site.now()).is_ok()
    });
    let client = Arc::new(client);
    let service = service_fn(move |request| {
        let (site, client) = (Arc::clone(&site), Arc::clone(&client));
        async move {
            let answering = answer(&site, client.as_ref().as_ref(), request, patience);
            Ok::<_, std::convert::Infallible>(answering.await)
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience);
    http.serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn answer(site: &Site, client: Option<&Cert>, request: Request<Incoming>, patience: Duration) -> Reply {
    match Message::of(request.method().as_str(), request.uri().path()) {
        Some((Message::CaCerts, _)) => {
            // RFC 7030 section 4.1.3: up to the root. Such a client does not carry the owner's anchors as machines do.
            let anchors = site.trust().0.site_anchors().into_iter().map(|anchor| anchor.der);
            certificates(&site.ca_chain().into_iter().chain(anchors).collect::<Vec<_>>())
        }
        Some((Message::CsrAttrs, _)) => reply(200, est::ATTRIBUTES_TYPE, est::NO_ATTRIBUTES),
        Some((message @ (Message::SimpleEnroll | Message::SimpleReenroll), _)) => {
            if client.is_none()
                && let Err(refused) = site.check_current()
            {
                return reply(503, "text/plain", format!("{}\n", refused.refusal.sentence()));
            }
            let Some(name) = who(site, client, &request).await else { return unauthorised() };
            if message == Message::SimpleReenroll && client.is_none() {
                return unauthorised();
            }
            let body = Limited::new(request.into_body(), message.limit()).collect();
            match tokio::time::timeout(patience, body).await {
                Ok(Ok(body)) => enroll(site, &name, &body.to_bytes()),
                _ => reply(400, "text/plain", "The request is too large or too slow.\n"),
            }
        }
        _ => reply(404, "text/plain", "There is only EST here.\n"),
    }
}

/// The name that the client has shown to be its own: by the certificate it got here, or by a password, good once.
async fn who(site: &Site, client: Option<&Cert>, request: &Request<Incoming>) -> Option<String> {
    if let Some(client) = client {
        return Some(client.common_name.clone());
    }
    let basic = request.headers().get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let pair = String::from_utf8(protocol::bytes::from_b64(basic.trim()).ok()?).ok()?;
    let (name, password) = pair.split_once(':')?;
    redeem(&site.store, site.now(), name, password).await.ok()?.then(|| name.to_owned())
}

fn enroll(site: &Site, name: &str, body: &[u8]) -> Reply {
    let csr = match est::read_base64(body).and_then(|der| Csr::parse(&der)) {
        Ok(csr) => csr,
        Err(error) => {
            return reply(400, "text/plain", format!("The certificate request is not right: {error}.\n"));
        }
    };
    // The subject is what was registered or certified before, never what the request wishes.
    match site.keys.issue(&Role::Foreign { name, life: YEAR }, &csr.spki, site.now()) {
        Ok(certificate) => {
            tracing::info!(name, "EST certificate issued to a machine that is not ours");
            certificates(&[certificate])
        }
        Err(error) => {
            tracing::error!(%error, "an EST certificate could not be issued");
            reply(500, "text/plain", "The certificate could not be made now.\n")
        }
    }
}

fn unauthorised() -> Reply {
    let mut reply = reply(401, "text/plain", "Show the certificate you got here, or a password.\n");
    reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"est\""));
    reply
}
