//! Asking the provisioner that runs on this computer.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Ask, SOCKET};
use crate::site::keys;

/// The longest act, a bundle that is put in force, takes less.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks the running provisioner of `dir`; an answer of no comes back as its words.
pub fn ask<T: DeserializeOwned>(dir: &Path, ask: &Ask) -> Result<T> {
    let stream = connect(dir)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    (&stream).write_all(format!("{}\n", serde_json::to_string(ask)?).as_bytes())?;
    let mut line = String::new();
    let gone = || "provisioner did not answer: see its log";
    BufReader::new(&stream).read_line(&mut line).with_context(gone)?;
    let mut answer: Value = serde_json::from_str(&line).with_context(gone)?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        bail!("{error}");
    }
    serde_json::from_value(answer["ok"].take()).context("provisioner is of another version than this program")
}

fn connect(dir: &Path) -> Result<UnixStream> {
    UnixStream::connect(dir.join(SOCKET)).map_err(|error| {
        let place = dir.display();
        if error.kind() == ErrorKind::PermissionDenied {
            return anyhow!(
                "you may not speak to the provisioner in {place}: run this as root or as its owner"
            );
        }
        let start = || format!("provisioner is not running: start it with `provisioner serve --dir {place}`");
        anyhow!(keys::uncertified(dir).unwrap_or_else(start))
    })
}

/// Whether a provisioner runs in `dir`.
pub fn is_running(dir: &Path) -> bool {
    let answer = UnixStream::connect(dir.join(SOCKET));
    answer.is_ok() || answer.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}
