//! What a stick brings beside the system: the site's bundle, and what makes machines its provisioners.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use layout::{BUNDLE, FIRMWARE, PROVISIONERS, STICK};
use rustix::mount::MountFlags;

use super::file_system::Place;
use super::{is_memory, on_stick, partition, was_installed};
use crate::state::write_file;

/// Where it is kept while the machine runs: the stick itself may be pulled out.
pub const KIT: &str = "/run/kit";
/// No bundle is longer, bytes: `protocol::bundle::FILE_LIMIT`, which machines have no code for.
const BUNDLE_SIZE: u64 = 16 * 1024 * 1024;
/// No file that makes a provisioner is longer, bytes.
const PROVISIONER: u64 = 256 * 1024;
const STICK_AT: &str = "/run/stick";

/// Reads what is on the stick of these files; where there is none, what came onto the disk with the system. `provisioners` make
/// this machine a provisioner.
pub fn read_kit(provisioners: &[String]) -> Result<()> {
    let stick = stick();
    let count = if may_make_provisioner(stick.is_some(), was_installed()) { provisioners } else { &[] };
    let Some(device) = stick.or_else(|| partition(FIRMWARE)).or_else(|| partition(STICK)) else {
        return Ok(());
    };
    with_volume(&device, MountFlags::RDONLY, |volume| {
        let files = count.iter().map(|file| (file.as_str(), PROVISIONER));
        files.chain([(BUNDLE, BUNDLE_SIZE)]).try_for_each(|file| take(volume, Path::new(KIT), file))
    })
}

/// On the disk they are for its first installation. After that nothing but a person who plugs a stick in makes a machine a
/// provisioner that has lost its memory.
fn may_make_provisioner(has_stick: bool, was_installed: bool) -> bool {
    has_stick || !was_installed
}

/// Copies a file where there is one. Whoever made the stick may have put anything there, and this is memory.
fn take(from: &Path, to: &Path, (name, most): (&str, u64)) -> Result<()> {
    let (source, target) = (from.join(name), to.join(name));
    let Ok(file) = File::open(&source) else { return Ok(()) };
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).with_context(|| format!("reading {name}"))?;
    ensure!(bytes.len() as u64 <= most, "{name} is longer than any of its kind");
    write_file(&target, &bytes, 0o600)
}

/// What made this machine a provisioner is in its state from now on. Nobody is to find it where everybody can read: with it
/// and a moment at this machine's TPM he has the keys of the site.
pub fn forget_provisioners() -> Result<()> {
    partition(FIRMWARE).map_or(Ok(()), |device| forget_on(&device))
}

/// The same on a disk that the system has just been put on.
pub(super) fn forget_on(device: &Path) -> Result<()> {
    // What is only read cannot be damaged by a power cut: most disks have nothing of that.
    if !with_volume(device, MountFlags::RDONLY, |volume| Ok(volume.join(PROVISIONERS).exists()))? {
        return Ok(());
    }
    with_volume(device, MountFlags::empty(), |volume| scrub(&volume.join(PROVISIONERS)))
        .context("overwriting what made this machine a provisioner")
}

/// Overwrites the files of a folder and removes them: a file that is only removed is still there.
fn scrub(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let mut file = File::options().write(true).open(&path)?;
        io::copy(&mut io::repeat(0).take(file.metadata()?.len()), &mut file)?;
        file.sync_all()?;
        fs::remove_file(path)?;
    }
    Ok(fs::remove_dir(folder)?)
}

/// Mounts what the firmware reads for as long as `work` takes: a stick may be pulled out at any other time.
fn with_volume<T>(device: &Path, access: MountFlags, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let flags = access | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Of one that a power cut has damaged as much is read, and overwritten, as can be.
    let options = Some(c"errors=continue");
    Place { at: STICK_AT, kind: "vfat", flags, options }.with(device, work)
}

/// The device of what the firmware reads of a stick.
pub fn stick() -> Option<PathBuf> {
    on_stick(STICK).ok().map(|(device, _)| device)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_stick_only_what_is_named_is_taken_and_nothing_that_is_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let (stick, kit) = (folder.path().join("stick"), folder.path().join("kit"));
        take(&stick, &kit, (BUNDLE, 4)).unwrap();
        assert!(!kit.exists(), "there is none");
        fs::create_dir_all(stick.join("nodeboot")).unwrap();
        fs::write(stick.join("nodeboot/film.mkv"), "12345").unwrap();
        fs::write(stick.join(BUNDLE), "1234").unwrap();
        take(&stick, &kit, (BUNDLE, 4)).unwrap();
        assert_eq!(fs::read(kit.join(BUNDLE)).unwrap(), b"1234");
        assert_eq!(fs::read_dir(kit.join("nodeboot")).unwrap().count(), 1);
        let said = take(&stick, &kit, (BUNDLE, 3)).unwrap_err().to_string();
        assert!(said.contains("site.nbb is longer"), "{said}");
    }

    #[test]
    fn a_disk_makes_a_machine_a_provisioner_the_first_time_and_after_that_a_stick_alone() {
        assert!(may_make_provisioner(false, false));
        assert!(!may_make_provisioner(false, true), "nobody is there who wants it");
        assert!(may_make_provisioner(true, true) && may_make_provisioner(true, false));
    }

    #[test]
    fn what_makes_a_provisioner_is_overwritten_before_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (kit, beside) = (folder.path().join("provisioners"), folder.path().join("beside"));
        fs::create_dir(&kit).unwrap();
        fs::write(kit.join("key.json"), vec![7; 10_000]).unwrap();
        // The same bytes of the disk by another name.
        fs::hard_link(kit.join("key.json"), &beside).unwrap();
        scrub(&kit).unwrap();
        assert!(!kit.exists());
        assert!(fs::read(&beside).unwrap() == vec![0; 10_000]);
    }
}
