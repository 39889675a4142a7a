//! The local socket by which people and programs ask and act: one line of JSON there, one line back.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::Site;
use super::explain;

/// Name of the socket in the provisioner's folder.
pub const SOCKET: &str = "admin.sock";
/// No question is longer, bytes.
const LIMIT: u64 = 64 * 1024;
/// Nobody keeps a connection longer than this without asking.
const PATIENCE: Duration = Duration::from_secs(10);

/// What may be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Ask {
    /// Every machine.
    Machines,
    /// Every slot.
    Slots,
    /// Where one machine stands, and why.
    Explain {
        /// Id, serial, Node or slot.
        machine: String,
    },
    /// Machines that show a code.
    Claims,
    /// Whether all is well.
    Health,
    /// Open the window for machines that nobody registered.
    Window {
        /// For so long.
        minutes: u32,
    },
    /// Take a file as if it lay in the inbox.
    Apply {
        /// Its path on this computer.
        path: PathBuf,
    },
    /// HQ's answer by voice.
    Approve {
        /// The slot.
        slot: String,
        /// The code that HQ said.
        code: String,
    },
    /// Write a report.
    Report,
    /// The files that a machine would be sent.
    Render {
        /// Id, serial, Node or slot.
        machine: String,
    },
    /// Copy the store.
    Backup {
        /// To this path.
        path: PathBuf,
    },
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May look.
    View,
    /// May say yes to machines.
    Approve,
    /// May do everything.
    Admin,
}

impl Ask {
    fn needs(&self) -> Role {
        match self {
            Self::Machines | Self::Slots | Self::Explain { .. } | Self::Claims | Self::Health => Role::View,
            Self::Window { .. } | Self::Approve { .. } => Role::Approve,
            Self::Apply { .. } | Self::Report | Self::Render { .. } | Self::Backup { .. } => Role::Admin,
        }
    }
}

/// The role of a user of this computer: root and the owner of the folder may do everything; others what `roles.json`
/// says (`{"1000": "approve"}`), or nothing.
fn role_of(dir: &Path, uid: u32) -> Option<Role> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(dir).map(|meta| meta.uid()).unwrap_or(0);
    if uid == 0 || uid == owner {
        return Some(Role::Admin);
    }
    let roles = std::fs::read(dir.join("roles.json")).ok()?;
    let roles: std::collections::BTreeMap<String, Role> = serde_json::from_slice(&roles).ok()?;
    roles.get(&uid.to_string()).copied()
}

/// Serves the socket until the program ends.
pub async fn serve(site: Arc<Site>) -> Result<()> {
    let path = site.dir.join(SOCKET);
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).with_context(|| format!("listening on {}", path.display()))?;
    // Who may do what is decided by who asks; the folder above is closed to others unless its owner opens it.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666))?;
    let busy = Arc::new(tokio::sync::Semaphore::new(32));
    loop {
        let (stream, _) = listener.accept().await?;
        let Ok(permit) = Arc::clone(&busy).acquire_owned().await else { continue };
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(error) = converse(&site, stream).await {
                tracing::debug!(%error, "an admin connection ended");
            }
        });
    }
}

async fn converse(site: &Site, stream: UnixStream) -> Result<()> {
    let uid = stream.peer_cred()?.uid();
    let role = role_of(&site.dir, uid);
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(reader.take(LIMIT));
    tokio::time::timeout(PATIENCE, reader.read_until(b'\n', &mut line))
        .await
        .context("no question in time")??;
    let answer = match serde_json::from_slice::<Ask>(&line) {
        Err(_) if line.len() as u64 == LIMIT => {
            json!({ "error": format!("a question has at most {LIMIT} bytes") })
        }
        Err(error) => json!({ "error": format!("this question is not known here: {error}") }),
        Ok(ask) if role.is_none_or(|role| role < ask.needs()) => {
            json!({ "error": format!("user {uid} may not do this; root gives roles in {}", site.dir.join("roles.json").display()) })
        }
        Ok(ask) => answer(site, uid, ask).await,
    };
    writer.write_all(format!("{answer}\n").as_bytes()).await?;
    Ok(())
}

async fn answer(site: &Site, uid: u32, ask: Ask) -> Value {
    let acts = ask.needs() > Role::View;
    let what = serde_json::to_string(&ask).unwrap_or_default();
    let done = act(site, ask).await;
    let (outcome, answer) = match done {
        Ok(value) => ("done".to_owned(), json!({ "ok": value })),
        Err(error) => (format!("{error:#}"), json!({ "error": format!("{error:#}") })),
    };
    if acts && let Err(error) = site.audit(&format!("uid {uid}"), &what, &outcome).await {
        tracing::error!(%error, "an audit line could not be saved");
    }
    answer
}

async fn act(site: &Site, ask: Ask) -> Result<Value> {
    Ok(match ask {
        Ask::Machines => json!(explain::machines(site)?),
        Ask::Slots => json!(explain::slots(site)?),
        Ask::Explain { machine } => json!(explain::explain(site, &machine)?),
        Ask::Claims => json!(explain::claims(site)),
        Ask::Health => json!(explain::health(site)),
        Ask::Window { minutes } => json!(site.open_window(minutes.clamp(1, 60))),
        Ask::Apply { path } => {
            let name = path.file_name().context("a file")?.to_string_lossy().into_owned();
            json!(site.take(&name, &std::fs::read(&path)?).await?)
        }
        Ask::Approve { slot, code } => json!(site.approve_by_voice(&slot, &code).await?),
        Ask::Report => json!(site.report().await?),
        Ask::Render { machine } => json!(explain::render(site, &machine)?),
        Ask::Backup { path } => {
            site.backup(&path)?;
            json!(path)
        }
    })
}

impl Site {
    /// Copies the store, the keys that are files, and HQ's word into one folder at `path`.
    pub fn backup(&self, path: &Path) -> Result<()> {
        std::fs::create_dir_all(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
        // The store is a file of whole transactions at every moment: what is copied opens like after a power cut.
        for name in
            ["store.redb", "identity.json", "trust.json", "issuing-ca.key", "issuing-ca.tpm", "cluster.json"]
        {
            if self.dir.join(name).exists() {
                std::fs::copy(self.dir.join(name), path.join(name))
                    .with_context(|| format!("copying {name}"))?;
            }
        }
        Ok(())
    }
}

/// Asks the running provisioner of `dir`.
pub fn ask(dir: &Path, ask: &Ask) -> Result<Value> {
    let path = dir.join(SOCKET);
    let running =
        || format!("the provisioner does not run: start it with `provisioner serve --dir {}`", dir.display());
    let mut stream = Blocking::connect(&path).with_context(running)?;
    stream.write_all(format!("{}\n", serde_json::to_string(ask)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let mut answer: Value =
        serde_json::from_str(&line).context("the provisioner ended before it answered")?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    Ok(answer["ok"].take())
}
