//! What headquarters does: keys, registrations, sites, bundles, reports.

pub mod bundles; // what a site is sent
pub mod cli; // the command line
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
    serde_saphyr::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Writes a YAML file, whole or not at all.
pub(crate) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    write_text(path, &serde_saphyr::to_string(value)?)
}

/// Writes a text file, whole or not at all.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    }
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).with_context(|| format!("writing {}", path.display()))?;
    std::fs::rename(&beside, path).with_context(|| format!("writing {}", path.display()))
}
