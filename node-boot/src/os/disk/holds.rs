//! What a disk holds: nothing, our system, or what somebody has to say yes to before it is overwritten.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result};
use layout::{MARK, MIB};
use protocol::bytes::{Digest, hex};

use super::choose::{Foreign, Holds, marked};
use super::device::{block_of, discard, open};
use super::{header, install, table, tables, text};

/// How much of a disk's beginning and end tells whether it is empty.
pub(super) const LOOK: u64 = MIB;
/// Names of partitions that are shown, and symbols of each.
const NAMES: usize = 6;
const NAME: usize = 24;
/// Bytes of a mark.
const SHORT: usize = 4;
/// Partitions whose beginnings count for it, and how much of each.
const PARTS: usize = 16;
const HEAD: usize = 4096;

/// What file systems and the like put where.
const SIGNS: &[(usize, &[u8], &str)] = &[
    (3, b"NTFS    ", "a Windows file system (NTFS)"),
    (0, b"LUKS\xba\xbe", "something encrypted (LUKS)"),
    (0, b"XFSB", "a Linux file system (XFS)"),
    (1080, b"\x53\xef", "a Linux file system (ext)"),
    (65_600, b"_BHRfS_M", "a Linux file system (Btrfs)"),
    (512, b"LABELONE", "a part of a volume group (LVM)"),
    (4096, b"\xfc\x4e\x2b\xa9", "a part of an array of disks (Linux RAID)"),
    (510, b"\x55\xaa", "a partition table"),
];

/// What is on the disk.
pub(super) fn holds(device: &Path) -> Result<Holds> {
    let reading = || format!("reading {}", device.display());
    let mut file = File::open(device).with_context(reading)?;
    let size = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut begin = Vec::new();
    (&file).take(LOOK).read_to_end(&mut begin).with_context(reading)?;
    if begin.starts_with(MARK) {
        return Ok(Holds::Ours);
    }
    file.seek(SeekFrom::Start(size.saturating_sub(LOOK)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).with_context(reading)?;
    if begin.iter().chain(&end).all(|byte| *byte == 0) {
        return Ok(Holds::Nothing);
    }
    let parts = tables::read(&file).map(|table| table.parts).unwrap_or_default();
    let block = block_of(&file)?.as_u64();
    let starts: Vec<_> =
        parts.values().take(PARTS).map(|part| part.first_lba.saturating_mul(block)).collect();
    let mark = mark(&identity(device), size, &[begin.as_slice(), &heads(&file, &starts)].concat());
    let names: Vec<_> = parts.values().map(|part| shown(&part.name)).collect();
    Ok(Holds::Foreign(Foreign { what: what(&names, &begin), mark }))
}

/// How the partitions of a table begin: there file systems write when they are used.
fn heads(file: &File, starts: &[u64]) -> Vec<u8> {
    let mut all = vec![0; starts.len() * HEAD];
    for (head, at) in all.chunks_mut(HEAD).zip(starts) {
        // One that lies behind the disk's end has none.
        let _ = file.read_exact_at(head, *at);
    }
    all
}

/// What stands for a disk and the beginnings of it and of its partitions: of another disk, or of this one once somebody has used
/// it, it is another one.
fn mark(identity: &str, size: u64, begin: &[u8]) -> String {
    let all = [identity.as_bytes(), &[0], &size.to_be_bytes(), begin].concat();
    hex(&Digest::of(&all).0[..SHORT])
}

/// What its maker calls this very disk; nothing where the kernel does not know it.
fn identity(device: &Path) -> String {
    let folder = Path::new("/sys/block").join(device.file_name().unwrap_or_default());
    let names = ["wwid", "device/wwid", "serial", "device/serial"];
    names.map(|name| text(&folder.join(name))).join(" ")
}

/// What it looks like, for a person who knows what was on it.
fn what(names: &[String], begin: &[u8]) -> String {
    if !names.is_empty() {
        let more = if names.len() > NAMES { ", …" } else { "" };
        let listed = names.iter().take(NAMES).map(String::as_str).collect::<Vec<_>>().join(", ");
        return format!("a partition table ({listed}{more})");
    }
    let sign =
        SIGNS.iter().find(|(at, sign, _)| begin.get(*at..).is_some_and(|there| there.starts_with(sign)));
    sign.map_or("data", |(_, _, what)| *what).to_owned()
}

/// A partition's name as a screen may show it.
fn shown(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let name: String = name.trim().chars().take(NAME).map(safe).collect();
    if name.is_empty() { "one without a name".to_owned() } else { name }
}

/// Empties the disk of this mark, to which a person has said yes; whether there is such a disk still.
pub fn overwrite(rule: &Path, mark: &str) -> Result<bool> {
    let disks = install::disks();
    let Some(disk) = marked(&disks, &install::rule(rule)?, mark) else { return Ok(false) };
    let device = Path::new("/dev").join(&disk.name);
    empty(&device).with_context(|| format!("emptying {}", device.display()))?;
    Ok(true)
}

/// Nothing of what was there is taken for ours: neither where our partitions will be, nor at the end. The beginning goes last:
/// until then the disk is somebody's, and a power cut has a person asked again.
fn empty(device: &Path) -> Result<()> {
    let file = open(device)?;
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
    let parts = table::layout(size)?.into_iter().map(|(_, _, at, _)| (at, header::LENGTH));
    // Not every disk can, and one that can may still show what was there.
    let _ = discard(&file, LOOK, size.saturating_sub(LOOK));
    for (at, length) in parts.chain([(size.saturating_sub(LOOK), LOOK), (0, LOOK)]) {
        file.write_all_at(&vec![0; usize::try_from(length)?], at)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 8 GiB with these bytes at these places.
    fn disk(folder: &Path, holds: &[(u64, &[u8])]) -> std::path::PathBuf {
        let path = folder.join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 30).unwrap();
        for (at, bytes) in holds {
            file.write_all_at(bytes, *at).unwrap();
        }
        path
    }

    fn foreign(path: &Path) -> Foreign {
        match holds(path).unwrap() {
            Holds::Foreign(foreign) => foreign,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_disk_is_empty_ours_or_somebody_elses() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(holds(&disk(folder.path(), &[])).unwrap(), Holds::Nothing);
        assert_eq!(holds(&disk(folder.path(), &[(0, MARK), (510, &[0x55, 0xaa])])).unwrap(), Holds::Ours);
        let last = (8 << 30) - 1;
        for (at, bytes, what) in [
            (last, &b"x"[..], "data"),
            (4096, b"a letter", "data"),
            (510, &[0x55, 0xaa], "a partition table"),
            (1080, &[0x53, 0xef], "a Linux file system (ext)"),
            (3, b"NTFS    ", "a Windows file system (NTFS)"),
        ] {
            assert_eq!(foreign(&disk(folder.path(), &[(at, bytes)])).what, what);
        }
    }

    #[test]
    fn partitions_are_shown_by_their_names_and_no_name_moves_the_screen() {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path(), &[]);
        table::make(&path).unwrap();
        table::rename(&path, &[(3, "Photos\u{1b}[2J"), (7, "")]).unwrap();
        open(&path).unwrap().write_all_at(&[0; 440], 0).unwrap();
        let what = foreign(&path).what;
        assert!(what.contains(", Photos?[2J, ") && what.ends_with(", …)"), "{what}");
        assert_eq!(shown(" "), "one without a name");
    }

    #[test]
    fn a_yes_is_for_what_was_seen_and_for_nothing_that_came_later() {
        let seen = mark("wwn-1", 10, b"letters");
        assert_eq!((seen.len(), &seen), (8, &mark("wwn-1", 10, b"letters")));
        let others =
            [mark("wwn-2", 10, b"letters"), mark("wwn-1", 11, b"letters"), mark("wwn-1", 10, b"more")];
        assert!(!others.contains(&seen));
    }

    #[test]
    fn a_partition_that_was_used_meanwhile_changes_the_mark_of_its_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path(), &[]);
        table::make(&path).unwrap();
        let file = open(&path).unwrap();
        file.write_all_at(&[0; 440], 0).unwrap();
        let before = foreign(&path);
        assert_eq!(foreign(&path), before);
        let start = table::places(&path).unwrap()[&7].start;
        // When ext4 was written to last (`s_wtime`).
        file.write_all_at(b"now", start + 1024 + 48).unwrap();
        assert!(foreign(&path).what == before.what && foreign(&path).mark != before.mark);
    }

    #[test]
    fn an_emptied_disk_holds_nothing_that_an_installation_would_take_for_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = disk(folder.path(), &[]);
        table::make(&path).unwrap();
        let (places, file) = (table::places(&path).unwrap(), open(&path).unwrap());
        let last = header::LENGTH - 1;
        for place in places.values() {
            file.write_all_at(b"x", place.start).unwrap();
            file.write_all_at(b"x", place.start + last).unwrap();
        }
        file.write_all_at(&[0; 440], 0).unwrap();
        let before = foreign(&path);
        empty(&path).unwrap();
        assert_eq!(holds(&path).unwrap(), Holds::Nothing);
        for place in places.values() {
            let mut head = vec![1; usize::try_from(header::LENGTH).unwrap()];
            file.read_exact_at(&mut head, place.start).unwrap();
            assert!(head.iter().all(|byte| *byte == 0), "{place:?}");
        }
        assert_eq!(before.what.split(' ').take(3).collect::<Vec<_>>().join(" "), "a partition table");
    }
}
