//! What a stick brings beside the system: the site's bundle, and what makes machines its provisioners.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use layout::{FIRMWARE, STICK};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::install::copy_folder;
use super::{is_removable, partition, partitions};

/// Where it is kept while the machine runs: the stick itself may be pulled out.
pub const KIT: &str = "/run/kit";
const FOLDER: &str = "nodeboot";
const STICK_AT: &str = "/run/stick";

/// Reads what is on the stick; where there is none, what came onto the disk with the system.
pub fn read_kit() -> Result<()> {
    let stick = partitions(STICK).into_iter().find(|(_, disk)| is_removable(disk)).map(|(device, _)| device);
    let Some(device) = stick.or_else(|| partition(FIRMWARE)).or_else(|| partition(STICK)) else {
        return Ok(());
    };
    fs::create_dir_all(STICK_AT)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(&device, STICK_AT, "vfat", flags, None).with_context(|| format!("reading {}", device.display()))?;
    let from = Path::new(STICK_AT).join(FOLDER);
    let read = if from.exists() { copy_folder(&from, &Path::new(KIT).join(FOLDER)) } else { Ok(()) };
    let taken_off = unmount(STICK_AT, UnmountFlags::empty()).context("leaving the stick");
    read.and(taken_off)
}
