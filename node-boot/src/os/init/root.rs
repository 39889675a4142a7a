//! From the archive that the kernel starts from to the image that is the system.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use layout::OWNER_IN_ARCHIVE;
use rustix::mount::{MountFlags, mount, mount_move};

use super::verity::Root;
use crate::console::say;
use crate::os::disk::partitions;
use crate::trace::{self, Spent};

const SYSROOT: &str = "/sysroot";
/// The program in the image, which goes on from here.
const PROGRAM: &str = "/usr/bin/node-boot";
/// A stick takes seconds until the kernel knows it.
const PATIENCE: Duration = Duration::from_mins(1);
/// Argument of the kernel: which image, by the root of its tree.
const ROOT: &str = "nodeboot.root=";
/// Where the owner's file is from here on.
pub const OWNER: &str = "/run/owner.json";

/// Mounts the image, makes it the root, and goes on with the program in it.
pub fn switch() -> Result<std::convert::Infallible> {
    let root = root()?;
    let partition = wait_for(&root.partition())?;
    trace::ended("the disk with the system", Spent::Disk);
    let device = root.open("os", &partition)?;
    fs::create_dir_all(SYSROOT)?;
    mount(&device, SYSROOT, "erofs", MountFlags::RDONLY, None)
        .with_context(|| format!("mounting the system's image on {}", device.display()))?;
    if Path::new(OWNER_IN_ARCHIVE).exists() {
        fs::copy(OWNER_IN_ARCHIVE, OWNER)?;
    }
    for own in ["/proc", "/sys", "/dev", "/run"] {
        mount_move(own, format!("{SYSROOT}{own}")).with_context(|| format!("moving {own}"))?;
    }
    // What the archive holds would stay in memory for the life of the machine.
    for used in ["/init", "/modules"] {
        let path = Path::new(used);
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
    std::env::set_current_dir(SYSROOT)?;
    mount_move(".", "/").context("making the image the root")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    trace::ended("the system's image", Spent::Own);
    Err(Command::new(PROGRAM).arg0("init").exec()).with_context(|| format!("starting {PROGRAM}"))
}

/// Which image, by the kernel's command line.
pub fn root() -> Result<Root> {
    let line = fs::read_to_string("/proc/cmdline")?;
    let root = line.split_whitespace().find_map(|word| word.strip_prefix(ROOT));
    root.with_context(|| format!("the kernel's command line has no {ROOT}"))?.parse()
}

fn wait_for(name: &str) -> Result<PathBuf> {
    let until = Instant::now() + PATIENCE;
    loop {
        let mut devices = partitions(name).into_iter().map(|(device, _)| device);
        if let Some(device) = devices.find(|device| device.exists()) {
            return Ok(device);
        }
        anyhow::ensure!(Instant::now() < until, "no disk has the system's image ({name})");
        say("Looking for the disk with the system.");
        std::thread::sleep(Duration::from_millis(10));
    }
}
