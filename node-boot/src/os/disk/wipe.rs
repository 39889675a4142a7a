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
    let parts = partitions_of(STATE).or_else(|| partitions_of(WIPING)).context("there is no disk of ours")?;
    table::rename(&parts.disk, &[(part::STATE, WIPING)])?;
    forget_secret(&parts)
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
        for at in (0..size.div_ceil(PIECE)).rev().map(|piece| piece * PIECE) {
            zero(&file, at, PIECE.min(size - at))?;
        }
        file.sync_all()?;
    }
    // Not every disk can.
    let _ = discard(&file, 0, size);
    // One that can may still show what was there.
    file.write_all_at(&vec![0; usize::try_from(header::LENGTH)?], 0)?;
    file.sync_all()?;
    Ok(())
}
