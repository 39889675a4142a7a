//! Everything that runs beside each other while the provisioner serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use decide::Life;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;

use super::metrics::MEDIA_TYPE;
use super::{Site, admin, controller, explain, inbox};
use crate::{accept, registrar};

/// Files that may be open at a time, where the system allows it.
const FILES: u64 = 16_384;

/// Where it listens.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TLS and heartbeats.
    pub listen: SocketAddr,
    /// EST for machines that are not ours.
    pub est: Option<SocketAddr>,
    /// `/metrics` and `/healthz`.
    pub metrics: SocketAddr,
    /// How long a slow client is waited for: handshake, head and body each.
    pub patience: std::time::Duration,
}

/// Runs until a signal, or until a part that cannot do without fails.
pub async fn run(site: Arc<Site>, options: Options) -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    more_files();
    site.recall_bundles().await?;
    site.warn_if_withdrawn();
    let door = registrar::Door::open(options.listen).await?;
    let metrics = TcpListener::bind(options.metrics).await;
    let taken = || format!("listening on {} (--metrics gives another address)", options.metrics);
    let metrics = metrics.with_context(taken)?;
    tracing::info!(site = site.name(), listen = %options.listen, "serving");
    for missing in missing(&site) {
        tracing::warn!("{missing}");
    }
    tokio::select! {
        done = registrar::serve(Arc::clone(&site), door, options) => done.context("the registrar"),
        done = inbox::watch(Arc::clone(&site)) => done.context("the inbox"),
        done = admin::serve(Arc::clone(&site)) => done.context("the admin socket"),
        done = controller::run(Arc::clone(&site)) => done.context("the controller"),
        done = watch_me(Arc::clone(&site), metrics) => done.context("the metrics"),
        _ = terminate.recv() => Ok(()),
        done = tokio::signal::ctrl_c() => done.context("waiting for a signal"),
    }
}

/// What must be there before a machine can join.
fn missing(site: &Site) -> Vec<&'static str> {
    let cluster = (!site.is_attached()).then_some(explain::NO_CLUSTER);
    let bundle = (site.word().seq == 0).then_some(explain::NO_BUNDLE);
    cluster.into_iter().chain(bundle).collect()
}

/// Every connection is an open file, and the usual thousand are soon taken.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(FILES, |most| most.min(FILES));
    let more = Rlimit { current: Some(wanted), ..limit };
    if limit.current.is_some_and(|now| now < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, more)
    {
        tracing::warn!(%error, "this program may not open more files at a time");
    }
}

/// `/metrics` and `/healthz` over plain HTTP, on loopback unless told otherwise.
async fn watch_me(site: Arc<Site>, listener: TcpListener) -> Result<()> {
    let busy = Arc::new(tokio::sync::Semaphore::new(16));
    loop {
        let (stream, _) = accept::next(|| listener.accept()).await;
        let Ok(permit) = Arc::clone(&busy).try_acquire_owned() else { continue };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let _permit = permit;
            let service = service_fn(|request| {
                let site = Arc::clone(&site);
                async move { Ok::<_, std::convert::Infallible>(answer(&site, &request)) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            let serving = http.keep_alive(false).serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(10), serving).await;
        });
    }
}

fn answer(site: &Site, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    let (status, media, text) = match request.uri().path() {
        "/healthz" => match explain::health(site) {
            wrong if wrong.is_empty() => (StatusCode::OK, plain, "ok\n".to_owned()),
            wrong => (StatusCode::SERVICE_UNAVAILABLE, plain, wrong.join("\n") + "\n"),
        },
        "/metrics" => (StatusCode::OK, MEDIA_TYPE, metrics(site)),
        _ => (StatusCode::NOT_FOUND, plain, "there are /metrics and /healthz\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

fn metrics(site: &Site) -> String {
    let lives = site.machines().ok().map(|machines| {
        // A life that nobody has any more is a zero; a line that is gone would be no news at all.
        let mut lives: BTreeMap<_, _> = Life::ALL.iter().map(|life| (life.word().to_owned(), 0)).collect();
        for machine in machines {
            *lives.entry(machine.life.word().to_owned()).or_insert(0) += 1;
        }
        lives
    });
    site.metrics.text(lives.as_ref(), site.name(), site.word().seq)
}
