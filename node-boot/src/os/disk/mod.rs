//! The machine's disk: which one, what stands where on it, and how the system gets there.

mod boot; // what the firmware starts first
mod choose; // which disk
mod device; // what the kernel knows of a disk
mod flash; // a stick's bits, at the depot
mod header; // what stands before what is encrypted
mod install; // the system onto it
mod kit; // what a stick brings beside the system
mod start; // opened, mended, or shut
mod table; // its partitions
mod vault; // the ways to its secret
mod wipe; // a blank machine again

use std::fs;
use std::path::{Path, PathBuf};

pub use flash::flash;
pub use install::{RULE, System, install};
pub use kit::{KIT, read_kit, stick, with_stick};
pub use start::{Shut, kept, mount_own, name_of_locked, unlock};
pub use wipe::begin as wipe;

use start::Parts;

fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The device of a partition of this name, on a disk that cannot be pulled out.
fn partition(name: &str) -> Option<PathBuf> {
    partitions(name).into_iter().find(|(_, disk)| !is_removable(disk)).map(|(device, _)| device)
}

/// The disk whose state is called so: one that cannot be pulled out, and has our partitions.
fn partitions_of(state: &str) -> Option<Parts> {
    let disks = partitions(state).into_iter().filter(|(_, disk)| !is_removable(disk));
    let mut found = disks.filter_map(|(state, disk)| {
        let disk = Path::new("/dev").join(disk);
        let volumes = install::part(&disk, layout::part::VOLUMES).ok()?;
        Some(Parts { disk, state, volumes })
    });
    found.next()
}

/// The device of a partition of this name: the machine's disk goes before a stick.
pub fn any_partition(name: &str) -> Option<PathBuf> {
    partition(name).or_else(|| partitions(name).into_iter().next().map(|(device, _)| device))
}

/// Devices of the partitions of this name, with their disks.
fn partitions(name: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir("/sys/class/block").into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        text(&entry.path().join("uevent")).lines().any(|line| line.strip_prefix("PARTNAME=") == Some(name))
    });
    let device = |entry: fs::DirEntry| {
        let disk = fs::canonicalize(entry.path()).ok()?.parent()?.file_name()?.to_string_lossy().into_owned();
        Some((Path::new("/dev").join(entry.file_name()), disk))
    };
    named.filter_map(device).collect()
}

/// A stick, a card, whatever hangs on USB: nothing that the machine keeps.
fn is_removable(disk: &str) -> bool {
    let folder = Path::new("/sys/block").join(disk);
    let on_usb = fs::canonicalize(&folder).is_ok_and(|path| path.display().to_string().contains("/usb"));
    on_usb || text(&folder.join("removable")) == "1"
}
