//! What a stick brings beside the system: the site's bundle, and what makes machines its provisioners.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use layout::{FIRMWARE, STICK};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::install::copy_folder;
use super::{is_memory, is_removable, partition, partitions};

/// Where it is kept while the machine runs: the stick itself may be pulled out.
pub const KIT: &str = "/run/kit";
const FOLDER: &str = "nodeboot";
const STICK_AT: &str = "/run/stick";

/// Reads what is on the stick; where there is none, what came onto the disk with the system.
pub fn read_kit() -> Result<()> {
    let Some(device) = stick().or_else(|| partition(FIRMWARE)).or_else(|| partition(STICK)) else {
        return Ok(());
    };
    with_volume(&device, MountFlags::RDONLY, |volume| {
        let from = volume.join(FOLDER);
        if from.exists() { copy_folder(&from, &Path::new(KIT).join(FOLDER)) } else { Ok(()) }
    })
}

/// Mounts what the firmware reads for as long as `work` takes: a stick may be pulled out at any other time.
fn with_volume<T>(device: &Path, access: MountFlags, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    fs::create_dir_all(STICK_AT)?;
    let flags = access | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(device, STICK_AT, "vfat", flags, None).with_context(|| format!("mounting {}", device.display()))?;
    let done = work(Path::new(STICK_AT));
    let taken_off = unmount(STICK_AT, UnmountFlags::empty()).context("leaving the stick");
    let done = done?;
    taken_off.map(|()| done)
}

/// The device of what the firmware reads of a stick.
pub fn stick() -> Option<PathBuf> {
    partitions(STICK).into_iter().find(|(_, disk)| is_removable(disk)).map(|(device, _)| device)
}

/// Whether the stick is memory, which forgets what is written to it when the machine is switched off.
pub fn stick_is_memory() -> bool {
    stick().and_then(|device| Some(is_memory(&device.file_name()?.to_string_lossy()))).unwrap_or_default()
}

/// Reads and writes what the firmware reads of the stick; what was written is there when this returns.
pub fn with_stick<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let device = stick().context("the stick is not there any more: put it back in, and start anew")?;
    with_volume(&device, MountFlags::empty(), work)
}
