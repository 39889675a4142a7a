//! The system onto the machine's disk: from the stick that it was started from, in an order in which a power cut leaves
//! either the disk as it was or one that is done again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use layout::{STICK, part as number};
use protocol::bytes::{B64u, Secret};
use protocol::inventory::Disk;
use protocol::messages::{DiskKey, NoDisk};
use protocol::tpm::Tpm;
use rustix::mount::MountFlags;

use super::choose::{Holds, Rule, Seen, choose};
use super::copy::{copy_all, copy_folder};
use super::file_system::{Place, format, is_formatted};
use super::header::Header;
use super::holds::holds;
use super::table::{Begun, Names};
use super::vault::{self, Part, Vault, header_of};
use super::{boot, is_removable, kit, on_one_stick, part, table};
use crate::console::say;
use crate::os::bank::Banks;
use crate::os::inventory;

/// Where the machine's configuration says which disk.
pub const RULE: &str = "etc/node-boot/disk.json";
/// Where the new state is while it is filled.
const NEW: &str = "/run/new";

/// What goes on the disk.
pub struct System<'a> {
    /// The profile's rule: which disk.
    pub rule: &'a Path,
    /// Folders of the state, what the machine has become so far.
    pub folders: &'a [&'a Path],
    /// The images that are in use.
    pub banks: &'a Banks,
    /// What encrypts the disk; none on a machine without TPM, whose disk is not encrypted.
    pub tpm: Option<&'a Mutex<Tpm>>,
}

/// Who keeps the second way in.
pub trait Site {
    /// The key of the disk of this name, where the site has one that this machine gave it.
    fn key_of(&mut self, disk: &B64u) -> Result<Option<Secret>>;
    /// Gives it one, before that opens anything; whether it keeps it.
    fn keep(&mut self, key: &DiskKey) -> Result<bool>;
}

/// Puts the images that are in use on the disk that the rule names, and folders of the state with them, after `hold_still`.
/// Nothing that is not ours is touched. Where there is no such disk: what was found, for a person.
pub fn install(
    system: &System<'_>,
    site: &mut dyn Site,
    hold_still: impl FnOnce(),
) -> Result<Option<NoDisk>> {
    let disks = disks();
    let disk = match choose(&disks, &rule(system.rule)?, is_early()) {
        Ok(disk) => Path::new("/dev").join(&disk.name),
        Err(none) => return Ok(Some(none)),
    };
    let (os, kubernetes) = (&system.banks.os.kept, &system.banks.kubernetes.kept);
    let names = Names { os: os.partition(), kubernetes: kubernetes.partition() };
    if let Err(missing) = check_sources(&disk, &names) {
        let found = format!("Nothing is installed on {}: {missing:#}.", disk.display());
        return Ok(Some(NoDisk { found, marks: vec![] }));
    }
    say(&format!("Installing on {}.", disk.display()));
    let begun = table::begin(&disk, &names)?;
    // First, while the site listens: copying takes longer than it does.
    let [state, volumes] = opened(&disk, system.tpm, site)?;
    let mut copies = Vec::new();
    for (from, to) in sources(begun, &names, on_one_stick)? {
        copies.push((from, part(&disk, to)?));
    }
    say(&format!("Copying the system to {}.", disk.display()));
    copy_all(&copies)?;
    make_file_systems(&state, &volumes)?;
    hold_still();
    fill(&state, system.folders)?;
    let firmware = table::finish(&disk, &names)?;
    // Not before: a disk that was flashed has it nowhere else until then. Where it fails, the next start does it.
    if let Err(error) = kit::forget_on(&part(&disk, number::FIRMWARE)?) {
        say(&format!("{error:#}."));
    }
    // Firmware that keeps no variables starts what it finds; the disk has the file where every firmware looks.
    if let Err(error) = boot::prefer(&firmware, layout::PROGRAM) {
        say(&format!("The firmware was not told to start this disk first: {error:#}. Pull the stick out."));
    }
    Ok(None)
}

/// Whether a disk that cannot be read may still come to itself.
fn is_early() -> bool {
    const EARLY: i64 = 300;
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec < EARLY
}

/// Reads the rule.
pub(super) fn rule(path: &Path) -> Result<Rule> {
    let reading = || format!("reading {}", path.display());
    serde_json::from_slice(&fs::read(path).with_context(reading)?).with_context(reading)
}

/// What a disk holds is given up only where a stick has what takes its place: until then the machine starts from it.
fn check_sources(disk: &Path, names: &Names) -> Result<()> {
    if table::has_system(disk, names) {
        return Ok(());
    }
    on_one_stick(&[STICK, &names.os, &names.kubernetes]).map(drop)
}

/// What is copied from the stick, and into which partition.
fn sources(
    begun: Begun,
    names: &Names,
    on_one_stick: impl Fn(&[&str]) -> Result<Vec<PathBuf>>,
) -> Result<Vec<(PathBuf, u32)>> {
    let all = [STICK, &names.os, &names.kubernetes];
    let found = match begun {
        Begun::Empty => on_one_stick(&all)?,
        // A disk that was flashed has its owner's file; a stick may be of another owner than the one before. What the firmware
        // starts is for one system: by that of a stick with another one the disk would start what it has not.
        Begun::WithSystem => on_one_stick(&all[..2]).unwrap_or_default().into_iter().take(1).collect(),
    };
    Ok(found.into_iter().zip([number::FIRMWARE, number::OS, number::KUBERNETES]).collect())
}

/// The devices for state and volumes: encrypted where the machine has a TPM. A disk that was encrypted before by this machine
/// keeps its secret, and with it what is in its volumes.
fn opened(disk: &Path, tpm: Option<&Mutex<Tpm>>, site: &mut dyn Site) -> Result<[PathBuf; 2]> {
    let parts = [part(disk, number::STATE)?, part(disk, number::VOLUMES)?];
    let both: [&Path; 2] = [&parts[0], &parts[1]];
    let header = header_of(&both)?;
    let Some(tpm) = tpm else {
        ensure!(
            header.is_none(),
            "the disk is encrypted by a TPM that is not there: switch it on in the firmware setup"
        );
        say("This machine has no TPM: its disk is not encrypted.");
        return Ok(parts);
    };
    ensure!(
        header.is_some() || !is_formatted(&parts[1])?,
        "the disk holds volumes that are not encrypted; they can be erased by `provisioner wipe`"
    );
    let before = header.as_ref().map(|header| known(header, site)).transpose()?.flatten();
    if header.is_some() && before.is_none() {
        say(
            "The site has no key that opens this disk: it may be somebody else's who knows its secret. Pods' volumes are emptied.",
        );
    }
    let mut tpm = tpm.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut vault, key) = match before {
        Some((mut vault, key)) => {
            vault.seal(&mut tpm).context("sealing the disk's secret")?;
            (vault, key)
        }
        None => Vault::new(&mut tpm, header.map_or(0, |header| header.number))?,
    };
    drop(tpm);
    if !site.keep(&key)? {
        say("The site keeps no key of this disk: where the TPM does not open it, nobody can.");
        vault.without_site();
    }
    vault.save(&both)?;
    let open = |part: Part, partition: &Path| {
        // An earlier try may have left it open.
        let _ = vault::close(part);
        vault.open(part, partition)
    };
    Ok([open(Part::State, both[0])?, open(Part::Volumes, both[1])?])
}

/// A disk that the site knows, and its key. What the TPM gives out is no proof: whoever had it for a moment, with a system of his
/// own, can have sealed a secret that he knows. What the site's key opens was this machine's while it was a member.
fn known(header: &Header, site: &mut dyn Site) -> Result<Option<(Vault, DiskKey)>> {
    let Some(key) = site.key_of(&header.disk)? else { return Ok(None) };
    let vault = Vault::by_site(header, &key.0);
    Ok(vault.map(|vault| (vault, DiskKey { disk: header.disk.clone(), key })))
}

/// Every disk of the machine. One that fails, or a reader without a card, is one of which nobody knows what it holds.
pub(super) fn disks() -> Vec<Seen> {
    let seen = |disk: Disk| {
        let held = holds(&Path::new("/dev").join(&disk.name));
        let holds = held.unwrap_or_else(|error| Holds::Unreadable(format!("{:#}", error.root_cause())));
        let is_guest = is_removable(&disk.name);
        Seen { name: disk.name, transport: disk.transport, size: disk.size, is_guest, holds }
    };
    inventory::disks().into_iter().map(seen).collect()
}

/// The state's is made anew. What Pods have kept in their volumes outlives the system.
fn make_file_systems(state: &Path, volumes: &Path) -> Result<()> {
    format(state, "state")?;
    if is_formatted(volumes)? { Ok(()) } else { format(volumes, "volumes") }
}

/// What the machine has become so far goes with it.
fn fill(device: &Path, folders: &[&Path]) -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Place { at: NEW, kind: "ext4", flags, options: None }.with(device, |new| {
        let mut there = folders.iter().filter(|folder| folder.exists());
        let filled = there.try_for_each(|folder| {
            copy_folder(folder, &new.join(folder.strip_prefix("/var").unwrap_or(folder)))
        });
        rustix::fs::sync();
        filled
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    use super::super::header::tests::header;
    use super::*;

    /// A site that has one key, whatever the disk is called.
    struct Has(Option<Secret>);

    impl Site for Has {
        fn key_of(&mut self, _: &B64u) -> Result<Option<Secret>> {
            Ok(self.0.clone())
        }

        fn keep(&mut self, _: &DiskKey) -> Result<bool> {
            Ok(true)
        }
    }

    #[test]
    fn a_disk_keeps_its_secret_only_where_the_sites_key_opens_it() {
        let (header, key) = vault::tests::known_to_site(&header(3));
        let found = |key| known(&header, &mut Has(key)).unwrap().map(|(_, key)| key);
        assert_eq!(found(Some(key.key.clone())), Some(key));
        assert_eq!(
            found(Some(Secret(vec![9; 32].into()))),
            None,
            "sealed by somebody who had the TPM for a moment"
        );
        assert_eq!(found(None), None);
    }

    #[test]
    fn a_new_installation_makes_the_state_anew_and_leaves_volumes_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let [state, volumes] = ["state", "volumes"].map(|name| folder.path().join(name));
        for path in [&state, &volumes] {
            File::create(path).unwrap().set_len(16 << 20).unwrap();
            assert!(!is_formatted(path).unwrap());
        }
        if Command::new("mke2fs").arg("-V").stderr(Stdio::null()).status().is_err() {
            return harness::skip("e2fsprogs is not installed");
        }
        let mut before = Vec::new();
        for kept in [false, true] {
            make_file_systems(&state, &volumes).unwrap();
            let now = [&state, &volumes].map(|path| fs::read(path).unwrap());
            assert!(is_formatted(&state).unwrap() && is_formatted(&volumes).unwrap());
            assert!(!kept || before[0] != now[0], "the state is a new one");
            assert!(!kept || before[1] == now[1], "what Pods have kept is there");
            before = now.to_vec();
        }
    }

    #[test]
    fn what_the_firmware_starts_comes_from_a_stick_with_the_same_system_alone() {
        let names = Names { os: "os-0f".to_owned(), kubernetes: "kubernetes-2d".to_owned() };
        let copied = |begun, stick: &[&str]| {
            let on_one_stick = |names: &[&str]| {
                ensure!(names.iter().all(|name| stick.contains(name)), "it is not there");
                Ok(names.iter().map(PathBuf::from).collect())
            };
            let found = sources(begun, &names, on_one_stick).ok()?;
            Some(found.into_iter().map(|(_, number)| number).collect::<Vec<_>>())
        };
        let (same, newer) = ([STICK, "os-0f", "kubernetes-2d"], [STICK, "os-1e", "kubernetes-2d"]);
        let all = vec![number::FIRMWARE, number::OS, number::KUBERNETES];
        assert_eq!(copied(Begun::Empty, &same), Some(all));
        assert_eq!(copied(Begun::WithSystem, &same), Some(vec![number::FIRMWARE]), "its owner's file");
        assert_eq!(copied(Begun::WithSystem, &newer), Some(vec![]), "it would start os-1e");
        assert_eq!(copied(Begun::WithSystem, &[]), Some(vec![]));
        assert_eq!((copied(Begun::Empty, &newer), copied(Begun::Empty, &[])), (None, None));
    }

    #[test]
    fn a_disk_whose_system_is_another_one_keeps_it_until_a_stick_has_what_takes_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        File::create(&disk).unwrap().set_len(8 << 30).unwrap();
        let names = |os: &str| Names { os: os.to_owned(), kubernetes: "kubernetes-2d".to_owned() };
        assert!(check_sources(&disk, &names("os-0f")).is_err(), "it is empty");
        table::make(&disk).unwrap();
        table::finish(&disk, &names("os-0f")).unwrap();
        check_sources(&disk, &names("os-0f")).unwrap();
        let said = check_sources(&disk, &names("os-1e")).unwrap_err().to_string();
        assert!(said.contains("plug the site's stick in"), "{said}");
    }
}
