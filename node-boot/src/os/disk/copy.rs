//! Partitions, stretches of a disk and folders, copied so that a power cut shows.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::console;

/// How much is copied at once.
const PIECE: usize = 1024 * 1024;
/// How much is copied before the screen hears of it.
const SPAN: usize = 16 * PIECE;
/// Of a partition: what says which file system it holds. A disk writes so much whole or not at all.
const BEGINNING: usize = 512;

/// Copies partitions, each to the beginning of another one, and waits until they are there.
pub(super) fn copy_all(copies: &[(PathBuf, PathBuf)]) -> Result<()> {
    let size = |path: &Path| {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))
    };
    let mut sizes = Vec::new();
    for (from, _) in copies {
        sizes.push(size(from).with_context(|| format!("reading {}", from.display()))?);
    }
    let (mut done, all) = (0, sizes.iter().sum());
    for ((from, to), size) in copies.iter().zip(sizes) {
        copy(from, to, size, &mut |part| console::progress(done + part, all))
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        done += size;
    }
    Ok(())
}

/// Copies so many bytes, and waits until they are there; `so_far` hears how many are copied. Without its beginning a file
/// system is none: firmware that looks at a partition half copied does not start what is on it.
fn copy(from: &Path, to: &Path, size: u64, so_far: &mut dyn FnMut(u64)) -> std::io::Result<()> {
    let source = File::open(from)?;
    let target = File::options().read(true).write(true).open(to)?;
    target.write_all_at(&[0; BEGINNING], 0)?;
    target.sync_all()?;
    for at in (0..size).step_by(SPAN) {
        so_far(at);
        copy_range(&source, &target, at.max(BEGINNING as u64)..size.min(at + SPAN as u64))?;
    }
    target.sync_all()?;
    copy_range(&source, &target, 0..size.min(BEGINNING as u64))?;
    target.sync_all()?;
    so_far(size);
    Ok(())
}

/// Copies bytes to the same place of another device, as far as the source has any. Zeros that are there already are not
/// written again: most of a partition is room for later.
pub(super) fn copy_range(source: &File, target: &File, range: Range<u64>) -> std::io::Result<()> {
    let (mut piece, mut there, mut at) = (vec![0; PIECE], vec![0; PIECE], range.start);
    while at < range.end {
        let room = usize::try_from(range.end - at).unwrap_or(PIECE).min(PIECE);
        let length = source.read_at(&mut piece[..room], at)?;
        if length == 0 {
            return Ok(());
        }
        let (new, old) = (&piece[..length], &mut there[..length]);
        let is_zero = new.iter().all(|byte| *byte == 0);
        if !is_zero || target.read_exact_at(old, at).is_err() || old.iter().any(|byte| *byte != 0) {
            target.write_all_at(new, at)?;
        }
        at += length as u64;
    }
    Ok(())
}

/// Copies a folder with what is in it, as far as that is folders and files.
pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            // What else there may be, such as a socket, is of the run that ends here.
            fs::copy(entry.path(), &target).with_context(|| format!("copying to {}", target.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_whatever_was_there_and_writes_no_zeros_over_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let mut source = vec![0; 3 * PIECE + 5];
        source[PIECE + 7] = 7;
        let size = source.len() as u64;
        fs::write(&from, &source).unwrap();
        for filled in [0, 9] {
            let mut target = vec![filled; 4 * PIECE];
            fs::write(&to, &target).unwrap();
            copy(&from, &to, size, &mut |_| {}).unwrap();
            target[..source.len()].copy_from_slice(&source);
            assert!(fs::read(&to).unwrap() == target, "over {filled}");
        }
        let holes = File::create(&to).unwrap();
        holes.set_len(4 * PIECE as u64).unwrap();
        let mut heard = Vec::new();
        copy(&from, &to, size, &mut |so_far| heard.push(so_far)).unwrap();
        assert_eq!(heard, [0, size], "from nothing to everything");
        let used = std::os::unix::fs::MetadataExt::blocks(&holes.metadata().unwrap()) * 512;
        assert!(used <= PIECE as u64 + 65_536, "{used} bytes");
    }
}
