//! The machine's disk: which one, what stands where on it, and how the system gets there.

mod boot; // what the firmware starts first
mod choose; // which disk
mod install; // the system onto it
mod kit; // what a stick brings beside the system
mod table; // its partitions

use std::fs;
use std::path::{Path, PathBuf};

pub use install::{RULE, install};
pub use kit::{KIT, read_kit};

fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The device of a partition of this name, on a disk that cannot be pulled out.
pub fn partition(name: &str) -> Option<PathBuf> {
    partitions(name).into_iter().find(|(_, disk)| !is_removable(disk)).map(|(device, _)| device)
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
