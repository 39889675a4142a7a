//! What the firmware starts first: our entry in its variables (UEFI 2.10 sections 3.1 and 10.3).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::firmware::GLOBAL;

use super::table::Placed;
use crate::os::variables::{self, FOLDER};

/// Our entries' numbers: far from those that firmware gives by itself. What is started always, and once.
const ALWAYS: u16 = 0x6e62;
const ONCE: u16 = 0x6e63;
/// Kept over a power cut, seen by the firmware and by us.
const ATTRIBUTES: u32 = 7;
const ACTIVE: u32 = 1;
const NAME: &str = "node-boot";

/// Has the firmware start a file of the disk before anything else, sticks included.
pub(super) fn prefer(disk: &Placed, file: &str) -> Result<()> {
    put(&format!("Boot{ALWAYS:04X}"), &entry(disk, file)).context("the firmware's boot entry")?;
    let order = get("BootOrder").unwrap_or_default();
    put("BootOrder", &first(&order)).context("the firmware's order of starting")
}

/// Our entry is gone.
pub(super) fn forget() -> Result<()> {
    let order = get("BootOrder").unwrap_or_default();
    let others: Vec<_> = first(&order).split_off(2);
    if !others.is_empty() {
        put("BootOrder", &others)?;
    }
    let file = variable(&format!("Boot{ALWAYS:04X}"));
    fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))
}

/// Has the firmware start a file of the disk at the next start, and at that one only (`BootNext`).
pub(super) fn once(disk: &Placed, file: &str) -> Result<()> {
    put(&format!("Boot{ONCE:04X}"), &entry(disk, file)).context("the firmware's boot entry for one start")?;
    put("BootNext", &ONCE.to_le_bytes()).context("what the firmware starts next")?;
    // Some firmware takes everything and keeps nothing.
    anyhow::ensure!(
        get("BootNext").as_deref() == Some(&ONCE.to_le_bytes()),
        "this firmware cannot be told what to start once"
    );
    Ok(())
}

/// Whether what runs was started so.
pub(super) fn was_once() -> bool {
    get("BootCurrent").as_deref() == Some(&ONCE.to_le_bytes())
}

/// The order with our number at its head.
fn first(order: &[u8]) -> Vec<u8> {
    let ours = ALWAYS.to_le_bytes();
    let others = order.chunks_exact(2).filter(|number| *number != ours);
    ours.into_iter().chain(others.flatten().copied()).collect()
}

/// `EFI_LOAD_OPTION`: attributes, the length of the path, a name, the path.
fn entry(disk: &Placed, file: &str) -> Vec<u8> {
    let path = path(disk, file);
    let length = u16::try_from(path.len()).unwrap_or(0);
    let name: Vec<u8> = wide(NAME);
    [&ACTIVE.to_le_bytes()[..], &length.to_le_bytes(), &name, &path].concat()
}

/// The file on the partition, by the partition's id: wherever the disk is connected.
fn path(disk: &Placed, file: &str) -> Vec<u8> {
    let mut out = Vec::new();
    // Media, hard drive: number, first block, blocks, id, GPT, id is a GUID.
    out.extend([4, 1, 42, 0]);
    out.extend(disk.number.to_le_bytes());
    out.extend(disk.first.to_le_bytes());
    out.extend(disk.sectors.to_le_bytes());
    out.extend(disk.id.to_bytes_le());
    out.extend([2, 2]);
    // Media, file.
    let file = wide(&format!("\\{}", file.replace('/', "\\")));
    out.extend([4, 4]);
    out.extend(u16::try_from(file.len() + 4).unwrap_or(4).to_le_bytes());
    out.extend(file);
    out.extend([0x7f, 0xff, 4, 0]);
    out
}

/// UTF-16 with its end.
fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

fn variable(name: &str) -> PathBuf {
    variables::file(Path::new(FOLDER), name, GLOBAL)
}

fn get(name: &str) -> Option<Vec<u8>> {
    variables::get(&variable(name))
}

/// What stands there already is not written again.
fn put(name: &str, value: &[u8]) -> Result<()> {
    if get(name).as_deref() == Some(value) {
        return Ok(());
    }
    variables::put(&variable(name), ATTRIBUTES, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_the_firmware_reads_it() {
        let id = uuid::Uuid::from_u128(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff);
        let entry = entry(&Placed { number: 1, first: 2048, sectors: 524_288, id }, "EFI/a.efi");
        assert_eq!(entry[..4], [1, 0, 0, 0]);
        let name = wide(NAME);
        assert_eq!(entry[6..6 + name.len()], name);
        let path = &entry[6 + name.len()..];
        assert_eq!(usize::from(u16::from_le_bytes([entry[4], entry[5]])), path.len());
        assert_eq!(path[..8], [4, 1, 42, 0, 1, 0, 0, 0]);
        assert_eq!(path[24..28], [0x33, 0x22, 0x11, 0x00], "an id begins with its small end");
        assert_eq!(path[42..44], [4, 4], "the file follows after 42 bytes");
        let file = wide("\\EFI\\a.efi");
        assert_eq!(path[46..46 + file.len()], file);
        assert_eq!(path[path.len() - 4..], [0x7f, 0xff, 4, 0]);
    }

    #[test]
    fn our_entry_comes_first_and_only_once() {
        assert_eq!(first(&[]), [0x62, 0x6e]);
        assert_eq!(first(&[1, 0, 0x62, 0x6e, 2, 0]), [0x62, 0x6e, 1, 0, 2, 0]);
    }
}
