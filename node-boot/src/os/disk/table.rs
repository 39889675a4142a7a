//! The partitions of the machine's disk: for the firmware, two banks each for system and Kubernetes, state, volumes.

use std::collections::BTreeMap;
use std::io::{Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{EFI, LINUX_FS, Type};
use layout::{
    EMPTY_KUBERNETES, EMPTY_OS, FIRMWARE, FIRMWARE_SIZE, KUBERNETES_SIZE, MARK, MIB, OS_SIZE, STATE, STICK,
    UNFINISHED, VOLUMES, part,
};
use protocol::crypto::random;
use uuid::Uuid;

use super::device::{add, block_of, open, read_again};
use super::holds::LOOK;
use super::tables::{self, Table};

/// An attribute of the state's partition: an installation was finished on this disk, whatever became of it since. What the
/// bits above 47 mean, the type of the partition says (UEFI 2.10 section 5.3.3).
const FINISHED: u64 = 1 << 48;

/// A partition as the firmware's boot entry names it.
pub(super) struct Placed {
    pub number: u32,
    pub first: u64,
    pub sectors: u64,
    pub id: Uuid,
}

/// How far a disk is when the installation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It has our partitions, and nothing in them that is to be used.
    Empty,
    /// The system that is to be there is there: from before, or since the depot has written a stick's bits on the disk.
    WithSystem,
}

/// Begins on a disk: its state is not finished from here on. A table of ours stays as it is; a stick's gets the partitions
/// that it lacks; any other is made anew.
pub(super) fn begin(device: &Path, banks: &Names) -> Result<Begun> {
    let begun = again(device, banks)?;
    let begun = if begun.is_none() && complete(device, banks)? { Some(Begun::WithSystem) } else { begun };
    if let Some(begun) = begun {
        return Ok(begun);
    }
    make(device)?;
    read_again(&open(device)?)?;
    Ok(Begun::Empty)
}

/// Names of the partitions that hold what is to be used: operating system and Kubernetes.
pub(super) struct Names {
    pub os: String,
    pub kubernetes: String,
}

impl Names {
    fn placed(&self) -> [(u32, &str); 2] {
        [(part::OS, &self.os), (part::KUBERNETES, &self.kubernetes)]
    }

    fn are_among(&self, names: &BTreeMap<u32, String>) -> bool {
        self.placed().iter().all(|(number, name)| names.get(number).is_some_and(|there| there == name))
    }
}

/// Whether the disk has what is to be used where it is to be.
pub(super) fn has_system(device: &Path, banks: &Names) -> bool {
    names(device).is_ok_and(|names| banks.are_among(&names))
}

/// Whether the disk has a table, an installed disk's or a stick's.
pub(super) fn has_table(device: &Path) -> bool {
    read(device).is_ok_and(|table| !table.parts.is_empty())
}

fn read(device: &Path) -> Result<Table> {
    tables::read(&open(device)?)
}

/// Begins again on a disk that has all of our partitions; none where it has not.
pub(super) fn again(device: &Path, banks: &Names) -> Result<Option<Begun>> {
    let Ok(names) = names(device) else { return Ok(None) };
    if names.get(&part::FIRMWARE).is_none_or(|name| name != FIRMWARE) || !names.contains_key(&part::VOLUMES) {
        return Ok(None);
    }
    // A name is given only once its content is whole.
    if banks.are_among(&names) {
        rename(device, &[(part::STATE, UNFINISHED)])?;
        return Ok(Some(Begun::WithSystem));
    }
    // What is in the other banks belongs to a state that is over.
    rename(
        device,
        &[
            (part::OS, EMPTY_OS),
            (part::KUBERNETES, EMPTY_KUBERNETES),
            (part::OS_B, EMPTY_OS),
            (part::KUBERNETES_B, EMPTY_KUBERNETES),
            (part::STATE, UNFINISHED),
        ],
    )?;
    Ok(Some(Begun::Empty))
}

/// Names of its partitions, by number.
pub(super) fn names(device: &Path) -> Result<BTreeMap<u32, String>> {
    Ok(read(device)?.parts.into_iter().map(|(number, part)| (number, part.name)).collect())
}

/// Where they are, bytes.
pub(super) fn places(device: &Path) -> Result<BTreeMap<u32, Range<u64>>> {
    let file = open(device)?;
    let sector = block_of(&file)?.as_u64();
    let place = |part: &Partition| part.first_lba * sector..(part.last_lba + 1) * sector;
    Ok(tables::read(&file)?.parts.iter().map(|(number, part)| (*number, place(part))).collect())
}

/// Adds to a stick's table on the machine's disk what an installed one has more. Whether it was a stick's.
fn complete(device: &Path, banks: &Names) -> Result<bool> {
    let mut file = open(device)?;
    let (block, size) = (block_of(&file)?, file.seek(SeekFrom::End(0))?);
    let Ok(Table { parts: mut table, .. }) = tables::read(&file) else { return Ok(false) };
    let is = |number: u32, name: &str| table.get(&number).is_some_and(|part| part.name == name);
    let has_banks = banks.placed().iter().all(|(number, name)| is(*number, name));
    if !(table.len() == 3 && is(part::FIRMWARE, STICK) && has_banks) {
        return Ok(false);
    }
    let sector = block.as_u64();
    let mut added = Vec::new();
    for (number, (name, kind, at, length)) in (1..).zip(layout(size)?) {
        let (first_lba, last_lba) = (at / sector, (at + length) / sector - 1);
        if let Some(there) = table.get_mut(&number) {
            // The stick's last one is as long as what is in it.
            let fits = there.first_lba == first_lba && there.last_lba <= last_lba;
            ensure!(fits, "the stick's partitions are elsewhere");
            there.last_lba = last_lba;
            continue;
        }
        added.push((number, at, length));
        table.insert(
            number,
            Partition { part_type_guid: kind, part_guid: new_id()?, first_lba, last_lba, flags: 0, name },
        );
    }
    if let Some(firmware) = table.get_mut(&part::FIRMWARE) {
        FIRMWARE.clone_into(&mut firmware.name);
    }
    tables::write(&file, Table { id: new_id()?, parts: table })?;
    // The system runs from this disk: the kernel takes new partitions, and no new table.
    for (number, at, length) in added {
        add(&file, number, at, length)?;
    }
    Ok(true)
}

pub(super) fn make(device: &Path) -> Result<()> {
    let mut file = open(device)?;
    let (block, size) = (block_of(&file)?, file.seek(SeekFrom::End(0))?);
    let sector = block.as_u64();
    let parts = layout(size)?;
    let sectors = u32::try_from(size / sector - 1).unwrap_or(u32::MAX);
    let mut boot = ProtectiveMBR::with_lb_size(sectors);
    let mut mark = [0; 440];
    mark[..MARK.len()].copy_from_slice(MARK);
    boot.set_bootcode(mark);
    boot.overwrite_lba0(&mut file)?;
    file.sync_all()?;
    let mut table = BTreeMap::new();
    for (number, (name, kind, at, length)) in (1..).zip(parts) {
        let (first_lba, last_lba) = (at / sector, (at + length) / sector - 1);
        let part_guid = new_id()?;
        table.insert(
            number,
            Partition { part_type_guid: kind, part_guid, first_lba, last_lba, flags: 0, name },
        );
    }
    tables::write(&file, Table { id: new_id()?, parts: table })
}

/// Names and places of the partitions of a disk of this size, bytes.
pub(super) fn layout(size: u64) -> Result<Vec<(String, Type, u64, u64)>> {
    let fixed = [
        (FIRMWARE, EFI, FIRMWARE_SIZE),
        (EMPTY_OS, LINUX_FS, OS_SIZE),
        (EMPTY_KUBERNETES, LINUX_FS, KUBERNETES_SIZE),
        (EMPTY_OS, LINUX_FS, OS_SIZE),
        (EMPTY_KUBERNETES, LINUX_FS, KUBERNETES_SIZE),
    ];
    let used: u64 = fixed.iter().map(|(.., size)| size).sum();
    // A MiB each before the first and behind the last is for the tables.
    let rest = (size / MIB).saturating_sub(used + 2);
    ensure!(rest >= 1024, "the disk is too small for the system");
    let half = rest / 2;
    let mut at = 1;
    let parts = fixed.into_iter().chain([(UNFINISHED, LINUX_FS, half), (VOLUMES, LINUX_FS, rest - half)]);
    Ok(parts
        .map(|(name, kind, size)| {
            let part = (name.to_owned(), kind, at * MIB, size * MIB);
            at += size;
            part
        })
        .collect())
}

/// Everything is in its place: from here on the disk is a system. Where the firmware's partition is.
pub(super) fn finish(device: &Path, banks: &Names) -> Result<Placed> {
    let [os, kubernetes] = banks.placed();
    change(device, &[os, kubernetes, (part::STATE, STATE)], FINISHED)
}

/// Whether an installation was ever finished on the disk. One of an earlier version has only its name to tell it.
pub(super) fn was_finished(device: &Path) -> bool {
    let table = read(device).map(|table| table.parts).unwrap_or_default();
    table.get(&part::STATE).is_some_and(|state| state.name == STATE || state.flags & FINISHED != 0)
}

/// Where the firmware's partition of a disk of ours is.
pub(super) fn firmware(device: &Path) -> Result<Placed> {
    placed(&read(device)?.parts)
}

fn placed(table: &BTreeMap<u32, Partition>) -> Result<Placed> {
    let firmware = table.get(&part::FIRMWARE).filter(|part| part.name == FIRMWARE);
    let firmware = firmware.context("the disk has no table of ours")?;
    let sectors = firmware.last_lba - firmware.first_lba + 1;
    Ok(Placed { number: part::FIRMWARE, first: firmware.first_lba, sectors, id: firmware.part_guid })
}

/// Gives partitions of ours other names, in one write; where the firmware's one is.
pub(super) fn rename(device: &Path, names: &[(u32, &str)]) -> Result<Placed> {
    change(device, names, 0)
}

fn change(device: &Path, names: &[(u32, &str)], state: u64) -> Result<Placed> {
    let file = open(device)?;
    let mut table = tables::read(&file)?;
    let firmware = placed(&table.parts)?;
    for (number, name) in names {
        (*name).clone_into(&mut table.parts.get_mut(number).context("a partition is missing")?.name);
    }
    table.parts.entry(part::STATE).and_modify(|part| part.flags |= state);
    tables::write(&file, table)?;
    Ok(firmware)
}

/// Forgets that a disk is ours. Its copy at the end goes first, the mark last: until then it is known as ours.
pub(super) fn forget(device: &Path) -> Result<()> {
    let mut file = open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let block = block_of(&file)?.as_u64();
    for (at, end) in [(size.saturating_sub(LOOK), size), (block, LOOK), (0, block)] {
        let zeros = vec![0; usize::try_from(end - at)?];
        file.write_all_at(&zeros, at)
            .and_then(|()| file.sync_all())
            .context("forgetting the disk's table")?;
    }
    Ok(())
}

fn new_id() -> Result<Uuid> {
    Ok(uuid::Builder::from_random_bytes(random::<16>()?).into_uuid())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::choose::Holds;
    use super::super::holds::holds;
    use super::*;

    fn banks(os: &str) -> Names {
        Names { os: os.into(), kubernetes: "kubernetes-2d".into() }
    }

    #[test]
    fn partitions_stand_side_by_side_and_fill_the_disk() {
        for gib in [8u64, 20, 2000] {
            let parts = layout(gib << 30).unwrap();
            assert_eq!(parts.len(), 7);
            let mut at = MIB;
            for (name, _, begin, length) in &parts {
                assert_eq!((*begin, begin % MIB, length % MIB), (at, 0, 0), "{name}");
                at += length;
            }
            assert_eq!(at, (gib << 30) - MIB);
        }
        assert!(layout(4 << 30).is_err());
    }

    #[test]
    fn a_table_of_ours_stays_and_a_damaged_one_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        File::create(&file).unwrap().set_len(8 << 30).unwrap();
        make(&file).unwrap();
        assert_eq!((holds(&file).unwrap(), has_table(&file)), (Holds::Ours, true));
        let parts = || {
            let disk = gpt::GptConfig::new().open(&file).unwrap();
            let parts: Vec<_> =
                disk.partitions().values().map(|part| (part.name.clone(), part.part_guid)).collect();
            parts
        };
        let before = parts();
        assert_eq!((before[5].0.as_str(), was_finished(&file)), (UNFINISHED, false));
        let placed = finish(&file, &banks("os-0f")).unwrap();
        assert_eq!((placed.first, placed.id), (2048, before[0].1));
        let after = parts();
        assert_eq!([1, 2, 5].map(|place| after[place].0.as_str()), ["os-0f", "kubernetes-2d", STATE]);
        assert_eq!(again(&file, &banks("os-0f")).unwrap(), Some(Begun::WithSystem));
        assert_eq!((parts()[1].0.as_str(), parts()[5].0.as_str()), ("os-0f", UNFINISHED));
        assert_eq!(again(&file, &banks("os-1e")).unwrap(), Some(Begun::Empty));
        assert_eq!(parts(), before, "as it was begun, with the same partitions");
        assert!(was_finished(&file), "and it is not forgotten that it was installed once");
        // Both tables are gone, and with them whose disk it is; the mark is not.
        let open = File::options().write(true).open(&file).unwrap();
        for at in [512, (8 << 30) - 512] {
            std::os::unix::fs::FileExt::write_all_at(&open, &[0; 512], at).unwrap();
        }
        assert_eq!(again(&file, &banks("os-1e")).unwrap(), None);
        assert!(!complete(&file, &banks("os-1e")).unwrap());
        assert_eq!((holds(&file).unwrap(), has_table(&file)), (Holds::Ours, false));
    }

    #[test]
    fn a_disk_that_is_forgotten_is_an_empty_one_and_until_then_ours() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        File::create(&file).unwrap().set_len(8 << 30).unwrap();
        make(&file).unwrap();
        rename(&file, &[(part::STATE, layout::WIPING)]).unwrap();
        forget(&file).unwrap();
        assert_eq!(holds(&file).unwrap(), Holds::Nothing);
        // The power was cut before the mark was gone.
        let open = File::options().write(true).open(&file).unwrap();
        open.write_all_at(MARK, 0).unwrap();
        assert_eq!(holds(&file).unwrap(), Holds::Ours);
        assert_eq!(again(&file, &banks("os-0f")).unwrap(), None, "it has to be installed anew");
    }
}
