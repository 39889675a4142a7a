//! What survives a power cut: small files, each written whole or not at all.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::anchors::Kept;
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::id::Id;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where it is on a machine whose whole system is ours.
pub const STATE: &str = "/var/lib/node-boot";

/// The folder of the machine's state.
#[derive(Clone, Debug)]
pub struct State {
    dir: PathBuf,
}

/// Whom the machine believes, and to whom it belongs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Belief {
    /// Documents of HQ in force.
    pub kept: Kept,
    /// When the newest image that this machine has seen was built.
    #[serde(default)]
    pub image: Time,
    /// The latest HQ-signed time seen.
    pub floor: Time,
    /// The voucher in force.
    #[serde(default)]
    pub voucher: Option<Held>,
    /// The highest bundle index held: JWS text.
    #[serde(default)]
    pub index: Option<String>,
    /// Its number.
    #[serde(default)]
    pub bundle: u64,
}

/// A voucher in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Held {
    /// Its epoch.
    pub epoch: u32,
    /// The site.
    pub site: String,
    /// By which of its names headquarters means this machine; none where a person admitted it.
    #[serde(default)]
    pub machine: Option<Id>,
    /// The pinned CA, base64url of its DER.
    pub pin: protocol::bytes::B64u,
    /// Hash of the pinned CA's key.
    pub pin_key: Digest,
}

impl State {
    /// Opens the folder, making it.
    pub fn open(dir: &Path) -> Result<Self> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("creating {}", dir.display()))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The folder of it all.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A file's bytes; none where it is not there.
    pub fn bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.path(name).display())),
        }
    }

    /// A file's JSON. What cannot be read is put aside: the step that makes it is done again.
    pub fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let Some(bytes) = self.bytes(name)? else { return Ok(None) };
        if let Ok(value) = protocol::json::parse(&bytes) {
            return Ok(Some(value));
        }
        let aside = self.path(&format!("{name}.damaged"));
        eprintln!(
            "{} is damaged; it is kept as {} and made again",
            self.path(name).display(),
            aside.display()
        );
        fs::rename(self.path(name), aside)?;
        Ok(None)
    }

    /// Saves bytes.
    pub fn save_bytes(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_file(&self.path(name), bytes, 0o600)
    }

    /// Saves JSON.
    pub fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        self.save_bytes(name, &protocol::json::to_vec(value))
    }

    /// Forgets a file.
    pub fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Writes a file so that after a power cut either the old content or the new one is there.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let doing = || format!("writing {}", path.display());
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).with_context(doing)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // What an earlier attempt left may have other permissions.
    let _ = fs::remove_file(&beside);
    let mut options = fs::File::options();
    let mut file = options.write(true).create_new(true).mode(mode).open(&beside).with_context(doing)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(doing)?;
    fs::rename(&beside, path).with_context(doing)?;
    fs::File::open(folder).and_then(|folder| folder.sync_all()).with_context(doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_put_aside_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        state.save("a", &vec![1, 2, 3]).unwrap();
        assert_eq!(state.load::<Vec<u8>>("a").unwrap(), Some(vec![1, 2, 3]));
        let whole = state.bytes("a").unwrap().unwrap();
        for cut in 0..whole.len() {
            fs::write(state.path("a"), &whole[..cut]).unwrap();
            assert_eq!(state.load::<Vec<u8>>("a").unwrap(), None, "cut at {cut}");
        }
    }

    #[test]
    fn secrets_are_not_world_readable() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("s")).unwrap();
        state.save_bytes("key", b"x").unwrap();
        assert_eq!(fs::metadata(state.path("key")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(state.path("")).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
