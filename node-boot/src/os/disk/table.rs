//! The partitions of the machine's disk: for the firmware, two banks each for system and Kubernetes, state, volumes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize::{self, Lb512, Lb4096};
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{EFI, LINUX_FS, Type};
use protocol::crypto::random;
use uuid::Uuid;

use super::choose::Holds;
use super::{FIRMWARE, STATE, UNFINISHED, VOLUMES};

const MIB: u64 = 1024 * 1024;
/// Stands where old firmware looks for a program: written first, so that a table that was cut off is known as ours.
const MARK: &[u8; 16] = b"node-boot's disk";
/// How much of a disk's beginning and end tells whether it is empty.
const LOOK: u64 = MIB;
/// Banks that hold nothing.
const EMPTY_OS: &str = "os-empty";
const EMPTY_KUBERNETES: &str = "kubernetes-empty";
/// Sizes, MiB.
const FIRMWARE_SIZE: u64 = 256;
const OS_SIZE: u64 = 512;
const KUBERNETES_SIZE: u64 = 1024;

/// Numbers of the partitions.
pub(super) const PART_FIRMWARE: u32 = 1;
pub(super) const PART_OS: u32 = 2;
pub(super) const PART_STATE: u32 = 6;
pub(super) const PART_VOLUMES: u32 = 7;

/// A partition as the firmware's boot entry names it.
pub(super) struct Placed {
    pub number: u32,
    pub first: u64,
    pub sectors: u64,
    pub id: Uuid,
}

/// What is on the disk.
pub(super) fn holds(device: &Path) -> Result<Holds> {
    let mut file = File::open(device).with_context(|| format!("reading {}", device.display()))?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut begin = Vec::new();
    (&file).take(LOOK).read_to_end(&mut begin)?;
    if begin.starts_with(MARK) {
        return Ok(Holds::Ours);
    }
    file.seek(SeekFrom::Start(size.saturating_sub(LOOK)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    if begin.iter().chain(&end).all(|byte| *byte == 0) {
        return Ok(Holds::Nothing);
    }
    let has_table = begin.get(510..512) == Some(&[0x55, 0xaa]);
    Ok(Holds::Foreign(if has_table { "a partition table" } else { "data" }.to_owned()))
}

/// Makes the table on a disk, with a state that is not finished.
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
    let config = gpt::GptConfig::new().writable(true).logical_block_size(block);
    let mut disk = config.create_from_device(file, Some(new_id()?))?;
    let mut table = BTreeMap::new();
    for (number, (name, kind, at, length)) in (1..).zip(parts) {
        let (first_lba, last_lba) = (at / sector, (at + length) / sector - 1);
        let part_guid = new_id()?;
        table.insert(
            number,
            Partition { part_type_guid: kind, part_guid, first_lba, last_lba, flags: 0, name },
        );
    }
    disk.update_partitions(table)?;
    let file = disk.write()?;
    file.sync_all()?;
    read_again(&file)
}

/// Names and places of the partitions of a disk of this size, bytes.
fn layout(size: u64) -> Result<Vec<(String, Type, u64, u64)>> {
    let fixed = [
        (FIRMWARE, EFI, FIRMWARE_SIZE),
        (EMPTY_OS, LINUX_FS, OS_SIZE),
        (EMPTY_OS, LINUX_FS, OS_SIZE),
        (EMPTY_KUBERNETES, LINUX_FS, KUBERNETES_SIZE),
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
pub(super) fn finish(device: &Path, system: &str) -> Result<Placed> {
    let file = open(device)?;
    let block = block_of(&file)?;
    let mut disk = gpt::GptConfig::new().writable(true).logical_block_size(block).open_from_device(file)?;
    let mut table = disk.partitions().clone();
    let mut name = |number: u32, name: &str| -> Result<()> {
        name.clone_into(&mut table.get_mut(&number).context("a partition is missing")?.name);
        Ok(())
    };
    name(PART_OS, system)?;
    name(PART_STATE, STATE)?;
    let firmware = table.get(&PART_FIRMWARE).context("a partition is missing")?;
    let sectors = firmware.last_lba - firmware.first_lba + 1;
    let placed = Placed { number: PART_FIRMWARE, first: firmware.first_lba, sectors, id: firmware.part_guid };
    disk.update_partitions(table)?;
    let mut file = disk.write()?;
    file.flush()?;
    file.sync_all()?;
    Ok(placed)
}

fn open(device: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("opening {}", device.display()))
}

fn new_id() -> Result<Uuid> {
    Ok(uuid::Builder::from_random_bytes(random::<16>()?).into_uuid())
}

/// Sectors of a disk; a file has those of most disks.
fn block_of(file: &File) -> Result<LogicalBlockSize> {
    /// `BLKSSZGET` (`linux/fs.h`).
    const SECTOR_SIZE: u64 = 0x1268;
    let mut size: libc::c_int = 512;
    // SAFETY: the kernel writes one int there, or nothing.
    #[allow(unsafe_code)]
    unsafe {
        libc::ioctl(file.as_raw_fd(), SECTOR_SIZE as _, &raw mut size);
    }
    match size {
        512 => Ok(Lb512),
        4096 => Ok(Lb4096),
        other => anyhow::bail!("sectors of {other} bytes"),
    }
}

/// Has the kernel look at the table again.
fn read_again(file: &File) -> Result<()> {
    /// `BLKRRPART` (`linux/fs.h`).
    const READ_TABLE: u64 = 0x125f;
    // SAFETY: there is no argument.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), READ_TABLE as _, 0) };
    ensure!(done == 0, "the kernel does not read the new table: {}", std::io::Error::last_os_error());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_disk_is_empty_ours_or_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        let disk = File::create(&file).unwrap();
        disk.set_len(64 * MIB).unwrap();
        assert_eq!(holds(&file).unwrap(), Holds::Nothing);
        let put = |at: u64, bytes: &[u8]| {
            let mut open = File::options().write(true).open(&file).unwrap();
            open.seek(SeekFrom::Start(at)).unwrap();
            open.write_all(bytes).unwrap();
        };
        put(63 * MIB + 9, b"x");
        assert_eq!(holds(&file).unwrap(), Holds::Foreign("data".into()));
        put(510, &[0x55, 0xaa]);
        assert_eq!(holds(&file).unwrap(), Holds::Foreign("a partition table".into()));
        put(0, MARK);
        assert_eq!(holds(&file).unwrap(), Holds::Ours);
    }
}
