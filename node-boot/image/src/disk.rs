//! A disk as bytes: partitions (GPT), the first of them what the firmware reads (FAT).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize::Lb512;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{EFI, LINUX_FS, Type};
use layout::{MARK, MIB};
use protocol::bytes::Digest;
use uuid::Uuid;

const SECTOR: u64 = 512;
/// How much is looked at at once.
const PIECE: usize = 64 * 1024;
/// Every volume has the same one: it is told apart by what is on it.
const VOLUME: u32 = 0x6e6f_6465;

/// What stands in a partition.
pub(crate) enum Content {
    /// Files by path, for the firmware.
    Firmware(Vec<(String, Vec<u8>)>),
    /// A file of this computer, as it is.
    Image(PathBuf),
}

/// A partition to be.
pub(crate) struct Part {
    pub name: String,
    pub content: Content,
    /// MiB.
    pub size: u64,
}

/// Whether a disk can be written there: a stick itself is none of our business, nor is a folder.
pub fn check_place(out: &Path) -> Result<()> {
    ensure!(
        out.is_file() || !out.exists(),
        "{} is no file: have one written, and copy it onto the stick as a whole",
        out.display()
    );
    Ok(())
}

/// Writes a disk with these partitions; the same partitions make the same bytes. What was there stays until all of it is written.
pub(crate) fn write(parts: &[Part], out: &Path) -> Result<()> {
    let size: u64 = parts.iter().map(|part| part.size).sum();
    let writing = || format!("writing {} ({size} MiB at most)", out.display());
    check_place(out)?;
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(writing)?;
    write_parts(parts, file.as_file_mut()).with_context(writing)?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(out).with_context(writing).map(drop)
}

fn write_parts(parts: &[Part], file: &mut File) -> Result<()> {
    let mut table = BTreeMap::new();
    let mut at = MIB;
    for (number, part) in (1..).zip(parts) {
        let length = part.size * MIB;
        file.seek(SeekFrom::Start(at))?;
        let (kind, used) = match &part.content {
            Content::Firmware(files) => {
                write_used(file, at, &fat(files, length)?)?;
                (EFI, length)
            }
            Content::Image(image) => {
                let mut from = File::open(image).with_context(|| format!("reading {}", image.display()))?;
                (LINUX_FS, std::io::copy(&mut from, file)?)
            }
        };
        ensure!(used <= length, "{} does not fit into {} MiB", part.name, part.size);
        table.insert(number, partition(&part.name, kind, at / SECTOR, length / SECTOR));
        at += length;
    }
    file.set_len(at + MIB)?;
    let sectors = u32::try_from((at + MIB) / SECTOR - 1)?;
    let mut boot = ProtectiveMBR::with_lb_size(sectors);
    let mut mark = [0; 440];
    mark[..MARK.len()].copy_from_slice(MARK);
    boot.set_bootcode(mark);
    boot.overwrite_lba0(file)?;
    let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
    let id = Some(guid(&names.join(" ")));
    let mut disk =
        gpt::GptConfig::new().writable(true).logical_block_size(Lb512).create_from_device(file, id)?;
    disk.update_partitions(table)?;
    disk.write()?.sync_all()?;
    Ok(())
}

fn partition(name: &str, kind: Type, first: u64, sectors: u64) -> Partition {
    Partition {
        part_type_guid: kind,
        part_guid: guid(&format!("partition {name}")),
        first_lba: first,
        last_lba: first + sectors - 1,
        flags: 0,
        name: name.to_owned(),
    }
}

/// The same name has the same id.
fn guid(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Digest::of(name.as_bytes()).0[..16]);
    // Version 8 (RFC 9562 section 5.8): made by a rule of one's own.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid::from_bytes(bytes)
}

/// Writes what is not zero: the rest stays a hole of the file.
fn write_used(file: &mut File, at: u64, data: &[u8]) -> Result<()> {
    for (piece, begin) in data.chunks(PIECE).zip((at..).step_by(PIECE)) {
        if piece.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start(begin))?;
            file.write_all(piece)?;
        }
    }
    Ok(())
}

/// A FAT volume of this size with these files.
fn fat(files: &[(String, Vec<u8>)], size: u64) -> Result<Vec<u8>> {
    let mut volume = Cursor::new(vec![0; usize::try_from(size)?]);
    let options = fatfs::FormatVolumeOptions::new().volume_id(VOLUME).volume_label(*b"NODE-BOOT  ");
    fatfs::format_volume(&mut volume, options).context("making a FAT volume")?;
    {
        let system = fatfs::FileSystem::new(&mut volume, fatfs::FsOptions::new())?;
        for (path, data) in files {
            for (end, _) in path.match_indices('/') {
                system.root_dir().create_dir(&path[..end])?;
            }
            system
                .root_dir()
                .create_file(path)?
                .write_all(data)
                .with_context(|| format!("writing {path}"))?;
        }
    }
    Ok(volume.into_inner())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_disk_has_its_partitions_and_files_and_the_same_bytes_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::write(&image, [7; 5000]).unwrap();
        let make = |name: &str| {
            let files = vec![("EFI/BOOT/BOOTX64.EFI".to_owned(), b"program".to_vec())];
            let parts = [
                Part { name: "esp".to_owned(), content: Content::Firmware(files), size: 40 },
                Part { name: "os-0f".to_owned(), content: Content::Image(image.clone()), size: 2 },
            ];
            let out = folder.path().join(name);
            write(&parts, &out).unwrap();
            out
        };
        let (one, two) = (make("one"), make("two"));
        assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());
        let disk = gpt::GptConfig::new().open(&one).unwrap();
        let names: Vec<_> = disk.partitions().values().map(|part| part.name.clone()).collect();
        assert_eq!(names, ["esp", "os-0f"]);
        let at = |part: u32| usize::try_from(disk.partitions()[&part].first_lba * SECTOR).unwrap();
        let bytes = fs::read(&one).unwrap();
        assert_eq!(bytes[at(2)..at(2) + 5001], [&[7; 5000][..], &[0]].concat());
        let volume = Cursor::new(bytes[at(1)..at(2)].to_vec());
        let system = fatfs::FileSystem::new(volume, fatfs::FsOptions::new()).unwrap();
        let mut file = system.root_dir().open_file("EFI/BOOT/BOOTX64.EFI").unwrap();
        let mut read = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut read).unwrap();
        assert_eq!(read, b"program");
    }
}
