//! The machine's disk: which one, what stands where on it, and how the system gets there.

mod boot; // what the firmware starts first
mod choose; // which disk
mod copy; // of the system, so that a power cut shows
#[cfg(test)]
mod cuts; // every power cut, in tests
mod device; // what the kernel knows of a disk
mod file_system; // made, mounted, mended
mod flash; // a stick's bits, at the depot
mod found; // what stands on one that a power cut has left
mod header; // what stands before what is encrypted
mod holds; // whose it is
mod install; // the system onto it
mod kit; // what a stick brings beside the system
mod start; // opened, mended, or shut
mod table; // its partitions
mod tables; // where that stands, twice
mod vault; // the ways to its secret
mod wipe; // a blank machine again

use std::fs;
use std::path::{Path, PathBuf};

pub use file_system::Place;
pub use flash::flash;
pub use found::{BANKS, Found, begins_again, found};
pub use holds::overwrite;
pub use install::{RULE, Site, System, install};
pub use kit::{KIT, forget_provisioners, read_kit, stick, stick_is_memory, with_stick};
pub use start::{Shut, kept, mount_own, name_of_locked, unlock};
pub use wipe::begin as wipe;

use anyhow::{Context, Result};
use choose::Holds;
use layout::part as number;
use protocol::image::Kind;
use start::Parts;

const NO_DISK: &str =
    "no disk has this machine's system: see to its cable, and switch the machine off and on";
const NO_BANK: &str = "the disk has no second bank: `provisioner wipe` erases it, and the site's stick installs the machine anew";

fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// The device of a partition of this name, on a disk that cannot be pulled out.
pub fn partition(name: &str) -> Option<PathBuf> {
    on_disks(name).next().map(|(device, _)| device)
}

/// The same on what can be pulled out, with the disk that this is.
fn on_stick(name: &str) -> Result<(PathBuf, String)> {
    let found = partitions(name).into_iter().find(|(_, disk)| is_removable(disk));
    found.with_context(|| format!("no stick has the partition {name}; plug the site's stick in"))
}

/// Partitions of these names, all of them on the same stick: what two sticks bring does not belong together.
fn on_one_stick(names: &[&str]) -> Result<Vec<PathBuf>> {
    let all = names.iter().map(|name| partitions(name)).collect::<Vec<_>>();
    let mut sticks = all.iter().flatten().map(|(_, disk)| disk).filter(|disk| is_removable(disk));
    let found = sticks.find_map(|stick| one_of_each(&all, stick));
    found.with_context(|| {
        format!("no stick has the partitions {}; plug the site's stick in", names.join(", "))
    })
}

/// From each list the device that is on this disk; none where one has none.
fn one_of_each(all: &[Vec<(PathBuf, String)>], disk: &str) -> Option<Vec<PathBuf>> {
    let on_it = |list: &Vec<(PathBuf, String)>| {
        list.iter().find(|(_, on)| on == disk).map(|(device, _)| device.clone())
    };
    all.iter().map(on_it).collect()
}

/// The disk whose state is called so: one that cannot be pulled out, and has our partitions.
fn partitions_of(state: &str) -> Option<Parts> {
    let mut found = on_disks(state).filter_map(|(state, disk)| {
        let disk = Path::new("/dev").join(disk);
        let volumes = part(&disk, layout::part::VOLUMES).ok()?;
        Some(Parts { disk, state, volumes })
    });
    found.next()
}

/// The device of a partition of this name: the machine's disk goes before a stick.
pub fn any_partition(name: &str) -> Option<PathBuf> {
    let named = |disk: PathBuf| {
        let names = table::names(&disk).ok()?;
        let number = names.into_iter().find_map(|(number, there)| (there == name).then_some(number))?;
        part(&disk, number).ok()
    };
    // What the table says counts: the kernel reads it once, when nothing of the disk is in use.
    own().and_then(named).or_else(|| partitions(name).into_iter().next().map(|(device, _)| device))
}

/// The disk that the machine is installed on.
fn own() -> Option<PathBuf> {
    on_disks(layout::STATE).next().map(|(_, disk)| Path::new("/dev").join(disk))
}

/// A bank of the machine's disk.
pub struct BankPart {
    /// Its device.
    pub device: PathBuf,
    disk: PathBuf,
    number: u32,
    empty: &'static str,
}

impl BankPart {
    /// Gives it the name of what it holds; without one it holds nothing that counts.
    pub fn rename(&self, name: Option<&str>) -> Result<()> {
        let name = name.unwrap_or(self.empty);
        table::rename(&self.disk, &[(self.number, name)])
            .map(drop)
            .with_context(|| format!("naming partition {} of {} {name}", self.number, self.disk.display()))
    }
}

/// The bank of this kind that does not hold `kept`.
pub fn free_bank(kind: Kind, kept: &str) -> Result<BankPart> {
    let disk = own().context(NO_DISK)?;
    let (numbers, empty) = match kind {
        Kind::Os => ([number::OS, number::OS_B], layout::EMPTY_OS),
        Kind::Kubernetes => ([number::KUBERNETES, number::KUBERNETES_B], layout::EMPTY_KUBERNETES),
    };
    let names = table::names(&disk)?;
    let is_free = |number: &u32| names.get(number).is_some_and(|name| name != kept);
    let number = numbers.into_iter().find(is_free).context(NO_BANK)?;
    Ok(BankPart { device: part(&disk, number)?, disk, number, empty })
}

/// Has the firmware start this file of the machine's disk once.
pub fn start_next(file: &str) -> Result<()> {
    boot::once(&firmware()?, file)
}

/// Whether the firmware has started what runs for that one start.
pub fn was_started_once() -> bool {
    boot::was_once()
}

/// Has the firmware start this file of the machine's disk from now on.
pub fn start_first(file: &str) -> Result<()> {
    boot::prefer(&firmware()?, file)
}

fn firmware() -> Result<table::Placed> {
    table::firmware(&own().context(NO_DISK)?)
}

/// Whether this machine was installed on a disk that it has, whatever became of that since.
pub fn was_installed() -> bool {
    on_disks(layout::VOLUMES).any(|(_, disk)| table::was_finished(&Path::new("/dev").join(disk)))
}

/// Whether a disk of this machine holds a system of ours, or the beginning of one; an error where nobody knows.
pub fn holds_ours() -> Result<bool> {
    let mut is_ours = false;
    for disk in install::disks().into_iter().filter(|disk| !disk.is_guest) {
        match disk.holds {
            Holds::Unreadable(why) => anyhow::bail!("{} cannot be read: {why}", disk.name),
            holds => is_ours |= holds == Holds::Ours,
        }
    }
    Ok(is_ours)
}

/// The device of a partition of a disk.
fn part(disk: &Path, number: u32) -> Result<PathBuf> {
    let name = disk.file_name().context("a disk without a name")?;
    let folder = Path::new("/sys/block").join(name);
    let is_it = |entry: &fs::DirEntry| text(&entry.path().join("partition")) == number.to_string();
    let found =
        fs::read_dir(&folder)?.flatten().find(is_it).map(|entry| Path::new("/dev").join(entry.file_name()));
    found.with_context(|| format!("{} has no partition {number}", disk.display()))
}

/// Those of [`partitions`] that are on disks which cannot be pulled out.
fn on_disks(name: &str) -> impl Iterator<Item = (PathBuf, String)> {
    partitions(name).into_iter().filter(|(_, disk)| !is_removable(disk))
}

/// Devices of the partitions of this name, with their disks.
pub fn partitions(name: &str) -> Vec<(PathBuf, String)> {
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

/// A stick's bits in memory, where the firmware put them that fetched them over the network.
fn is_memory(disk: &str) -> bool {
    disk.starts_with("pmem")
}

/// A stick, a card, whatever hangs on USB, what the firmware fetched into memory: nothing that the machine keeps.
fn is_removable(disk: &str) -> bool {
    if is_memory(disk) {
        return true;
    }
    let folder = Path::new("/sys/block").join(disk);
    let on_usb = fs::canonicalize(&folder).is_ok_and(|path| path.display().to_string().contains("/usb"));
    on_usb || text(&folder.join("removable")) == "1"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_sticks_have_between_them_no_stick_has() {
        let list = |disks: &[&str]| {
            disks.iter().map(|disk| (PathBuf::from(format!("/dev/{disk}1")), (*disk).to_owned())).collect()
        };
        let all: [Vec<_>; 2] = [list(&["sda", "sdb"]), list(&["sdb", "sdc"])];
        assert_eq!(["sda", "sdc"].map(|disk| one_of_each(&all, disk)), [None, None]);
        assert_eq!(one_of_each(&all, "sdb").map(|parts| parts.len()), Some(2));
    }
}
