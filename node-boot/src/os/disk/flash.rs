//! A stick's bits onto the machine's disk, at the depot: the machine completes them when it is switched on at its site.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail};
use layout::{FIRMWARE_SIZE, MIB, OS_SIZE};

use super::choose::{Holds, Rule, Seen, choose};
use super::copy::copy_range;
use super::install::disks;
use super::{on_stick, table};
use crate::console::say;
use crate::os::bank::Banks;

/// The depot knows no profile: any disk that a system of ours fits on.
fn rule() -> Rule {
    let transports = ["nvme", "ata", "virtio", "mmc"].map(str::to_owned).to_vec();
    Rule { transports, min_gib: 8 }
}

/// Writes the stick with these images on the machine's disk; what was done. A disk of ours stays as it is.
pub fn flash(banks: &Banks) -> Result<String> {
    let system = banks.os.kept.partition();
    let (_, stick) = on_stick(&system)?;
    let size = (FIRMWARE_SIZE + OS_SIZE) * MIB + banks.kubernetes.kept.size.next_multiple_of(MIB);
    let disks = disks();
    let device = |name: &str| Path::new("/dev").join(name);
    let chosen = match choose(&disks, &rule(), false) {
        Ok(disk) if is_done(disk, &device(&disk.name)) => {
            return Ok(format!("{} has a system of ours already, and is left as it is", disk.name));
        }
        Ok(disk) => disk.name.clone(),
        Err(none) => bail!("{}", none.found.trim_end_matches('.')),
    };
    say(&format!("Writing the system on {chosen}."));
    write(&device(&stick), &device(&chosen), size)
        .with_context(|| format!("writing the system on {chosen}"))?;
    Ok(format!("the system is on {chosen}; it needs no stick at its site"))
}

/// Whether a disk has a system of ours. One on which a power cut ended this has no table yet.
fn is_done(disk: &Seen, device: &Path) -> bool {
    disk.holds == Holds::Ours && table::has_table(device)
}

fn write(stick: &Path, disk: &Path, size: u64) -> Result<()> {
    let source = File::open(stick).with_context(|| format!("opening {}", stick.display()))?;
    let target = File::options().read(true).write(true).open(disk);
    let target = target.with_context(|| format!("opening {}", disk.display()))?;
    for range in in_order(size) {
        copy_range(&source, &target, range)?;
        target.sync_all()?;
    }
    Ok(())
}

/// What the table describes, `size` bytes, comes first: before it the disk is empty to whoever looks. Then the sector that
/// says whose it is, and the table last: a disk that is ours without one is done again.
fn in_order(size: u64) -> [Range<u64>; 3] {
    const SECTOR: u64 = 512;
    [MIB..MIB + size, 0..SECTOR, SECTOR..MIB]
}

#[cfg(test)]
mod tests {
    use super::super::holds::holds;
    use super::*;

    #[test]
    fn what_is_on_the_stick_is_on_the_disk_and_nothing_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let (stick, disk) = (folder.path().join("stick"), folder.path().join("disk"));
        let size = 3 * MIB;
        let from = File::create(&stick).unwrap();
        from.set_len(size + 4096).unwrap();
        File::create(&disk).unwrap().set_len(size + 8192).unwrap();
        let marks = [0, 512, MIB, size - 1, size];
        for at in marks {
            std::os::unix::fs::FileExt::write_all_at(&from, &[7], at).unwrap();
        }
        write(&stick, &disk, 2 * MIB).unwrap();
        let written = File::open(&disk).unwrap();
        let byte = |at: u64| {
            let mut byte = [0];
            std::os::unix::fs::FileExt::read_exact_at(&written, &mut byte, at).unwrap();
            byte[0]
        };
        assert_eq!(marks.map(byte), [7, 7, 7, 7, 0]);
        assert_eq!(written.metadata().unwrap().len(), size + 8192);
    }

    #[test]
    fn a_disk_that_has_a_system_of_ours_is_not_written_again_and_one_that_a_power_cut_left_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let is_done = || {
            let (name, transport) = (String::new(), String::new());
            let holds = holds(&path).unwrap();
            super::is_done(&Seen { name, transport, size: 0, is_guest: false, holds }, &path)
        };
        File::create(&path).unwrap().set_len(8 << 30).unwrap();
        assert!(!is_done());
        std::fs::write(&path, [&layout::MARK[..], &vec![0; 2 << 20]].concat()).unwrap();
        assert!(!is_done(), "it is ours, and nothing is on it");
        File::create(&path).unwrap().set_len(8 << 30).unwrap();
        table::make(&path).unwrap();
        assert!(is_done());
    }

    #[test]
    fn a_power_cut_leaves_an_empty_disk_or_one_that_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let stick = folder.path().join("stick");
        let mut bytes = vec![7; usize::try_from(3 * MIB).unwrap()];
        bytes[..layout::MARK.len()].copy_from_slice(layout::MARK);
        std::fs::write(&stick, bytes).unwrap();
        let from = File::open(&stick).unwrap();
        for done in 0..=3 {
            let path = folder.path().join("disk");
            let disk = File::create(&path).unwrap();
            disk.set_len(9 * MIB).unwrap();
            drop(disk);
            let disk = File::options().read(true).write(true).open(&path).unwrap();
            for range in in_order(2 * MIB).into_iter().take(done) {
                copy_range(&from, &disk, range).unwrap();
            }
            let wanted = if done < 2 { Holds::Nothing } else { Holds::Ours };
            assert_eq!(holds(&path).unwrap(), wanted, "after {done}");
            assert!(!table::has_table(&path), "nothing of what is here is one: it is done again");
        }
    }
}
