//! Answering: who asks is known from the kernel, how long and how much is bounded, every act leaves a line.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{Ask, LIMIT, ROLES, Role, Roles, SOCKET, act};
use crate::accept;
use crate::plain;
use crate::site::Site;

/// Nobody is waited for longer: neither for a question nor for taking its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions at a time.
const MOST: usize = 32;

/// The socket, which goes when the program ends.
pub(super) struct Desk {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
}

impl Desk {
    /// Listens in a provisioner's folder. Only its owner reaches the socket, unless roles were given to others.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let path = dir.join(SOCKET);
        // The store was opened before: a socket that is still there belongs to a program that is gone.
        let _ = std::fs::remove_file(&path);
        let listener =
            UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
        let mode = if dir.join(ROLES).exists() { 0o666 } else { 0o600 };
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        let owner = std::fs::metadata(&path)?.uid();
        Ok(Self { listener, path, owner })
    }

    /// The next one who asks.
    pub(super) async fn accept(&self) -> std::io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Serves the socket until the program ends.
pub async fn serve(site: Arc<Site>) -> Result<()> {
    let desk = Desk::open(&site.dir)?;
    let busy = Arc::new(tokio::sync::Semaphore::new(MOST));
    loop {
        let stream = accept::next(|| desk.accept()).await;
        let Ok(permit) = Arc::clone(&busy).try_acquire_owned() else {
            tokio::spawn(say(stream, error("too many ask at the same time: ask again in a moment")));
            continue;
        };
        let (site, owner) = (Arc::clone(&site), desk.owner);
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(peer) = stream.peer_cred() else { return };
            let role = Roles::load(&site.dir).of(owner, peer.uid(), peer.gid());
            let guest = Guest { uid: peer.uid(), role, patience: PATIENCE };
            converse(stream, guest, async |ask| answer(&site, peer.uid(), ask).await).await;
        });
    }
}

pub(super) fn error(words: &str) -> Value {
    json!({ "error": words })
}

/// Who asks, and how long he is waited for.
pub(super) struct Guest {
    pub(super) uid: u32,
    pub(super) role: Option<Role>,
    pub(super) patience: Duration,
}

/// One question and its answer.
pub(super) async fn converse(mut stream: UnixStream, guest: Guest, answer: impl AsyncFnOnce(Ask) -> Value) {
    let Guest { uid, role, patience } = guest;
    let mut line = Vec::new();
    let read = {
        let mut reader = BufReader::new((&mut stream).take(LIMIT as u64 + 1));
        tokio::time::timeout(patience, reader.read_until(b'\n', &mut line)).await
    };
    let told = match read {
        Err(_) => error("no question came in time: one line of JSON, then a line feed"),
        Ok(Err(_)) => return,
        Ok(Ok(_)) if line.len() > LIMIT => error(&format!("a question has at most {LIMIT} bytes")),
        Ok(Ok(_)) => match serde_json::from_slice::<Ask>(&line) {
            Err(why) => error(&format!("this question is not known here ({why})")),
            Ok(ask) if role.is_none_or(|role| role < ask.needs()) => error(&forbidden(uid, role, &ask)),
            Ok(ask) => answer(ask).await,
        },
    };
    say(stream, told).await;
}

fn forbidden(uid: u32, role: Option<Role>, ask: &Ask) -> String {
    let has = role.map_or("no role", Role::word);
    format!(
        "user {uid} has {has} and this needs {}: the owner of the provisioner gives roles in {ROLES}",
        ask.needs().word()
    )
}

async fn say(mut stream: UnixStream, told: Value) {
    let text = format!("{told}\n");
    // Whoever does not take his answer has gone; what he asked for is done all the same.
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(text.as_bytes())).await;
}

async fn answer(site: &Site, uid: u32, ask: Ask) -> Value {
    let (acts, what) = (ask.needs() > Role::View, plain::sentence(&ask.told()));
    let done = act::act(site, ask).await;
    let outcome = done.as_ref().map_or_else(|why| format!("{why:#}"), |_| "done".to_owned());
    if acts && let Err(why) = site.audit(&format!("uid {uid}"), &what, &outcome).await {
        tracing::error!(%why, "an audit line could not be saved");
    }
    match done {
        Ok(value) => json!({ "ok": value }),
        Err(why) => error(&format!("{why:#}")),
    }
}
