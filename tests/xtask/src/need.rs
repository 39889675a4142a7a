//! What this computer needs before tests, demo and benches can run: Debian packages and Kubernetes programs.

use crate::kube;
use anyhow::{Result, bail, ensure};
use harness::assets::on_path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Debian packages that the tests call, beside what every Debian has.
const PACKAGES: [&str; 31] = [
    "avahi-daemon",
    "avahi-utils",
    "binutils",
    "conntrack",
    "cpio",
    "cryptsetup-bin",
    "dbus-daemon",
    "dnsmasq-base",
    "efitools",
    "erofs-utils",
    "gcc",
    "git",
    "iproute2",
    "iptables",
    "kmod",
    "libcharon-extra-plugins",
    "libseccomp-dev",
    "libstrongswan-extra-plugins",
    "libstrongswan-standard-plugins",
    "openssl",
    "ovmf",
    "pkg-config",
    "python3-zeroconf",
    "qemu-system-x86",
    "sbsigntool",
    "strace",
    "strongswan-pki",
    "swtpm",
    "swtpm-tools",
    "systemd-boot-efi",
    "tpm2-tools",
];

/// Brings everything that is missing; on a computer that has it all this takes a blink.
pub fn need() -> Result<()> {
    packages()?;
    kube::ensure()
}

/// The same for a story of virtual machines, whose images are built next.
pub fn for_machines() -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the demo needs root: it makes network namespaces");
    need()?;
    let missing = harness::missing_for_machine();
    ensure!(missing.is_none(), "{}", missing.unwrap_or_default());
    println!("building the programs and the images (a first build takes some minutes)");
    Ok(())
}

fn packages() -> Result<()> {
    if !on_path("dpkg-query") {
        eprintln!("packages: no dpkg here; please see to these yourself: {}", PACKAGES.join(" "));
        return Ok(());
    }
    let missing: Vec<_> = PACKAGES.into_iter().filter(|package| !installed(package)).collect();
    if missing.is_empty() {
        eprintln!("packages: all {} are installed", PACKAGES.len());
        return Ok(());
    }
    let list = missing.join(" ");
    if !rustix::process::geteuid().is_root() || !on_path("apt-get") {
        bail!("Debian packages are missing and only root can install them: apt-get install {list}");
    }
    let start = Instant::now();
    eprintln!("packages: installing {} of {}: {list}", missing.len(), PACKAGES.len());
    let mut install = vec!["install", "-y", "--no-install-recommends"];
    install.extend(&missing);
    if apt(&install).is_err() {
        apt(&["update"])?;
        apt(&install)?;
    }
    eprintln!("packages: installed in {} s", start.elapsed().as_secs());
    Ok(())
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"install ok installed")
}

fn apt(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=120"]).args(arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "apt-get {} failed: {}", arguments.join(" "), said.trim());
    Ok(())
}
