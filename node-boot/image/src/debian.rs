//! Packages of the distribution, each pinned by version and digest.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use protocol::bytes::hex;
use serde::Deserialize;

/// One pinned package.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// Its name in the distribution.
    pub name: String,
    /// Its version, as `dpkg` compares them.
    pub version: String,
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
}

/// Every pinned package of the images, in the order of the file.
pub fn pins() -> Result<Vec<Pin>> {
    listed(include_str!("../debian.yaml"))
}

/// The packages that a list pins (YAML).
pub fn listed(list: &str) -> Result<Vec<Pin>> {
    serde_saphyr::from_str(list).context("reading a list of packages")
}

/// Gets the packages that a list pins (YAML) into `cache`, and unpacks them all into `root`.
pub fn unpack_listed(list: &str, cache: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(root)?;
    unpack(&listed(list)?, cache, root)
}

/// Gets the packages into `cache`, and unpacks them all into `root`.
pub(crate) fn unpack(pins: &[Pin], cache: &Path, root: &Path) -> Result<()> {
    fs::create_dir_all(cache)?;
    for pin in pins {
        let file = fetched(pin, cache)?;
        let done =
            Command::new("dpkg-deb").arg("-x").arg(&file).arg(root).status().context("running dpkg-deb")?;
        ensure!(done.success(), "dpkg-deb cannot unpack {}", file.display());
    }
    Ok(())
}

/// Where the package's file is kept.
pub(crate) fn file(pin: &Pin, cache: &Path) -> PathBuf {
    cache.join(format!("{}.deb", pin.sha256))
}

/// The package's file: from the cache, or from the distribution's mirror.
fn fetched(pin: &Pin, cache: &Path) -> Result<PathBuf> {
    let file = file(pin, cache);
    if file.exists() {
        return Ok(file);
    }
    let folder = tempfile::tempdir_in(cache)?;
    let mut get = Command::new("apt-get");
    get.args(["-qq", "download", &format!("{}={}", pin.name, pin.version)]).current_dir(folder.path());
    let done = get.output().context("running apt-get")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "apt-get cannot download {} {}: {}", pin.name, pin.version, said.trim());
    let got = fs::read_dir(folder.path())?.next().context("apt-get downloaded nothing")??.path();
    let digest = hex(&protocol::bytes::Digest::of(&fs::read(&got)?).0);
    ensure!(
        digest == pin.sha256,
        "{} {} has another digest than the pinned one: {digest}",
        pin.name,
        pin.version
    );
    fs::rename(&got, &file)?;
    Ok(file)
}
