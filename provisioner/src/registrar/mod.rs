//! Towards a pledge: TLS, messages, limits, EST, discovery.

pub mod announced; // on the LAN, as the registrar
pub mod foreign; // EST for machines that are not ours
pub mod guests; // who is connected, and who leaves when there are too many
pub mod limits; // how much one source may ask
mod reply; // answers as HTTP
pub mod routes; // each message to its room
pub mod tls; // mutual TLS 1.3, any key

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::refusal::Refusal;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

use self::guests::{Guest, Guests, KNOCK};
use self::limits::Limits;
use self::routes::Session;
use crate::accept;
use crate::site::Site;
use crate::site::serve::Options;

/// Where machines are listened to.
pub struct Door {
    listener: TcpListener,
    beats: UdpSocket,
}

impl Door {
    /// Binds TCP for machines and UDP for their heartbeats.
    pub async fn open(listen: SocketAddr) -> Result<Self> {
        let taken = |what: &str| format!("listening for {what} on {listen} (--listen gives another address)");
        let listener = TcpListener::bind(listen).await.with_context(|| taken("machines"))?;
        let beats = UdpSocket::bind(listen).await.with_context(|| taken("heartbeats"))?;
        Ok(Self { listener, beats })
    }
}

/// Serves machines until the program ends.
pub async fn serve(site: Arc<Site>, Door { listener, beats }: Door, options: Options) -> Result<()> {
    let Options { est, patience, .. } = options;
    let _announced = announced::start(&site, listener.local_addr()?);
    tokio::try_join!(
        machines(Arc::clone(&site), listener, patience),
        heartbeats(Arc::clone(&site), beats),
        if_asked(site, est, patience),
    )?;
    Ok(())
}

async fn machines(site: Arc<Site>, listener: TcpListener, patience: Duration) -> Result<()> {
    let limits = Arc::new(Limits::new(patience));
    let guests = Guests::default();
    let mut acceptor = tls::Acceptors::strict(Arc::clone(&site))?;
    loop {
        let (stream, source) = accept::next(|| listener.accept()).await;
        let guest = Arc::new(guests.enter(source));
        let (site, limits, tls) = (Arc::clone(&site), Arc::clone(&limits), acceptor.current()?);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = converse(site, limits, tls, stream, (source, Arc::clone(&guest))) => ended,
                () = guest.must_leave() => Err(anyhow::anyhow!("others need the place")),
            };
            if let Err(error) = ended {
                tracing::debug!(%source, %error, "a connection ended");
            }
        });
    }
}

async fn converse(
    site: Arc<Site>,
    limits: Arc<Limits>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    (source, guest): (SocketAddr, Arc<Guest>),
) -> Result<()> {
    stream.set_nodelay(true)?;
    let patience = limits.patience();
    let handshake = tokio::time::timeout(patience.min(KNOCK), acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            site.metrics.refusal(Refusal::Tls.code());
            return Err(error.into());
        }
        Err(_) => anyhow::bail!("no handshake in time"),
    };
    guest.proven();
    let tls = stream.get_ref().1;
    if site.rebuild().is_some() {
        site.readmit(&routes::certificate_of(tls)?).await.map_err(anyhow::Error::new)?;
    }
    let session = Arc::new(Session::of(site, limits, tls, source, guest)?);
    let service = service_fn(move |request| {
        let session = Arc::clone(&session);
        async move { Ok::<_, std::convert::Infallible>(session.answer(request).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(32 * 1024);
    http.serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

async fn heartbeats(site: Arc<Site>, socket: UdpSocket) -> Result<()> {
    let mut datagram = [0; 64];
    loop {
        let Ok((length, source)) = socket.recv_from(&mut datagram).await else { continue };
        if let Some(answer) = site.beat(&datagram[..length], source) {
            // A lost answer is like a lost heartbeat: the machine asks again.
            let _ = socket.send_to(&answer, source).await;
        }
    }
}

/// EST for machines that are not ours: nothing unless asked for.
async fn if_asked(site: Arc<Site>, est: Option<SocketAddr>, patience: Duration) -> Result<()> {
    match est {
        Some(address) => foreign::serve(site, address, patience).await,
        None => std::future::pending().await,
    }
}
