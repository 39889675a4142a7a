//! What headquarters does: keys, registrations, sites, bundles, reports.

pub mod bundles; // what a site is sent
pub mod cli; // the command line
mod doubts; // what is perhaps not what was meant
pub mod firmware; // what machines start, signed for their firmware
pub mod images; // images that sites may run
pub mod import; // registrations from a table
pub mod keys; // private keys, encrypted at rest
pub mod machines; // registrations as files
pub mod owner; // the anchors, the signer, and what they sign
pub mod reports; // what sites have to say
pub mod sites; // sites and their provisioners
pub mod vouchers; // vouchers of anybody, shown and verified

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::yaml;

/// Headquarters' folder, and its keys apart from it.
pub struct Hq {
    /// YAML under Git.
    pub dir: PathBuf,
    /// Private keys.
    pub keys: keys::Keys,
}

/// Reads a YAML file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    yaml::read(&text).with_context(|| format!("reading {}", path.display()))
}

/// Writes a YAML file, whole or not at all.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_text(path, &serde_saphyr::to_string(value)?)
}

/// Writes a text file, whole or not at all. What is there and is no file, such as a pipe, is written to as it is: a
/// rename would put a file in its place.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).with_context(|| format!("writing {}", path.display()))?;
    std::fs::rename(&beside, path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_is_no_file_is_written_to_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let reader = Command::new("cat").arg(&path).stdout(Stdio::piped()).spawn().unwrap();
        write_text(&path, "said").unwrap();
        assert_eq!(reader.wait_with_output().unwrap().stdout, b"said");
        assert!(std::fs::metadata(&path).unwrap().file_type().is_fifo());
    }
}
