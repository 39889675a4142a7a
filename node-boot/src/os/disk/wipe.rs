//! The end of an installation: what opens the disk is erased first, then what it holds, then that it was ours. A power cut
//! anywhere leaves a disk on which this goes on at the next start.

use std::convert::Infallible;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use layout::{STATE, WIPING, part};
use rustix::system::{RebootCommand, reboot};

use super::device::{discard, zero};
use super::file_system::is_formatted;
use super::start::Parts;
use super::{boot, header, partitions_of, table};
use crate::console::{ends, say};

/// How much is overwritten at once.
const PIECE: u64 = 64 * 1024 * 1024;
/// So long a person can read that it is done.
const LAST_WORDS: Duration = Duration::from_mins(1);

/// From here on the disk is not used any more: its partition is called so, and nobody can open it. The rest is done when the
/// machine starts anew.
pub fn begin() -> Result<()> {
    begin_on(&partitions_of(STATE).or_else(|| partitions_of(WIPING)).context("there is no disk of ours")?)
}

/// In this order: a disk without its secret that is not called so would be one that was lost.
pub(super) fn begin_on(parts: &Parts) -> Result<()> {
    table::rename(&parts.disk, &[(part::STATE, WIPING)])?;
    forget_secret(parts)
}

/// A partition in the clear has no header, and is still to be told from one whose header was erased.
fn forget_secret(parts: &Parts) -> Result<()> {
    for partition in [&parts.state, &parts.volumes] {
        if !is_formatted(partition)? {
            header::erase(partition)?;
        }
    }
    Ok(())
}

/// Goes on until the machine is a blank one, and switches it off.
pub(super) fn go_on(parts: &Parts) -> Result<Infallible> {
    say("Wiping this machine's disk.");
    forget_secret(parts)?;
    for partition in [&parts.state, &parts.volumes] {
        empty(partition).with_context(|| format!("emptying {}", partition.display()))?;
    }
    // A machine without such an entry starts what it finds.
    let _ = boot::forget();
    table::forget(&parts.disk)?;
    ends("This machine is wiped. It can be installed anew, or go to somebody else. It switches itself off.");
    std::thread::sleep(LAST_WORDS);
    reboot(RebootCommand::PowerOff).context("switching off")?;
    loop {
        std::thread::sleep(LAST_WORDS);
    }
}

/// Tells the disk to forget a partition. What was not encrypted is overwritten as well, from its end: the sign that it was
/// not goes last.
fn empty(partition: &Path) -> Result<()> {
    let file = File::options().read(true).write(true).open(partition)?;
    let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
    if is_formatted(partition)? {
        overwrite(&file, size)?;
    }
    // Not every disk can.
    let _ = discard(&file, 0, size);
    // One that can may still show what was there.
    file.write_all_at(&vec![0; usize::try_from(header::LENGTH)?], 0)?;
    file.sync_all()?;
    Ok(())
}

fn overwrite(file: &File, size: u64) -> Result<()> {
    for at in (0..size.div_ceil(PIECE)).rev().map(|piece| piece * PIECE) {
        zero(file, at, PIECE.min(size - at))?;
    }
    file.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn nothing_that_opens_a_disk_is_left_on_it_once_its_end_has_begun() {
        let folder = tempfile::tempdir().unwrap();
        let part = |name: &str| {
            let path = folder.path().join(name);
            File::create(&path).unwrap().set_len(2 * header::LENGTH).unwrap();
            header::tests::header(1).write(&path).unwrap();
            path
        };
        let parts = Parts { disk: PathBuf::new(), state: part("state"), volumes: part("volumes") };
        forget_secret(&parts).unwrap();
        for partition in [&parts.state, &parts.volumes] {
            assert_eq!(header::Header::read(partition).unwrap(), None, "{}", partition.display());
        }
    }

    #[test]
    fn what_was_not_encrypted_is_overwritten_to_its_end() {
        if let Some(missing) = harness::missing_for_recorder() {
            return harness::skip(&missing);
        }
        let size = PIECE + header::LENGTH;
        let recorder = harness::Recorder::new(size).unwrap();
        let part = recorder.part(0..size).unwrap();
        let file = File::options().read(true).write(true).open(part.path()).unwrap();
        for at in [0, header::LENGTH, PIECE - 7, size - 7] {
            file.write_all_at(b"letters", at).unwrap();
        }
        // Without the discard, which not every disk can.
        overwrite(&file, size).unwrap();
        let mut left = vec![1; usize::try_from(size).unwrap()];
        file.read_exact_at(&mut left, 0).unwrap();
        assert!(left.iter().all(|byte| *byte == 0));
    }
}
