//! An image into the bank that is not in use, and what the firmware starts: once, or from now on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::image::{Image, Program};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::write::{Source, check_program, fetch_program, write};
use crate::os::disk;

/// Where the firmware's partition is while something is written to it.
const FIRMWARE: &str = "/run/firmware";

/// Writes an image to the bank that does not hold `kept`, and gives that bank its name once everything is there. `told`
/// hears how many bytes are.
pub fn stage(image: &Image, kept: &Image, source: &mut dyn Source, told: &mut dyn FnMut(u64)) -> Result<()> {
    let bank = disk::free_bank(image.kind, &kept.partition())?;
    bank.rename(None)?;
    let open = File::options().read(true).write(true).open(&bank.device);
    write(image, &open.with_context(|| format!("opening {}", bank.device.display()))?, source, told)?;
    if let Some(program) = &image.program {
        let keep = [image, kept].map(|image| PathBuf::from(layout::program_of(&image.partition())));
        with_firmware(|root| {
            forget_others(root, &keep)?;
            let to = root.join(&keep[0]);
            if fs::read(&to).is_ok_and(|there| check_program(&there, program)) {
                return Ok(());
            }
            put(&to, &fetch_program(program, source)?)
        })?;
    }
    bank.rename(Some(&image.partition()))
}

/// What other systems than these two were started by: there is room for some, not for all.
fn forget_others(root: &Path, keep: &[PathBuf]) -> Result<()> {
    let folder = root.join(layout::program_of("")).with_file_name("");
    for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if !keep.iter().any(|kept| path == root.join(kept)) {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

/// Has the firmware start this system at the next start, and at that one only.
pub fn start_once(image: &Image) -> Result<()> {
    with_firmware(|root| check(root, image).map(drop))?;
    disk::start_next(&layout::program_of(&image.partition()))
}

/// Has the firmware start this system from now on, also where it has forgotten what it was told.
pub fn start_always(image: &Image) -> Result<()> {
    with_firmware(|root| {
        let bytes = check(root, image)?;
        // First what it was told, which names a whole file; only then the file that it looks for by itself.
        disk::start_first(&layout::program_of(&image.partition()))?;
        put(&root.join(layout::PROGRAM), &bytes)
    })
}

fn check(root: &Path, image: &Image) -> Result<Vec<u8>> {
    let path = root.join(layout::program_of(&image.partition()));
    let program: &Program = image.program.as_ref().context("an operating system without a program")?;
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    anyhow::ensure!(check_program(&bytes, program), "{} is damaged", path.display());
    Ok(bytes)
}

/// Writes a file whole beside, then under its name.
fn put(to: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(doing)?;
    let beside = to.with_extension("new");
    let mut file = File::create(&beside).with_context(doing)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(doing)?;
    drop(file);
    fs::rename(&beside, to).with_context(doing)?;
    rustix::fs::sync();
    Ok(())
}

/// Does something with the firmware's partition mounted.
fn with_firmware<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let device =
        disk::partition(layout::FIRMWARE).context("this machine's disk has no firmware partition")?;
    fs::create_dir_all(FIRMWARE)?;
    mount(&device, FIRMWARE, "vfat", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .with_context(|| format!("mounting {}", device.display()))?;
    let done = work(Path::new(FIRMWARE));
    let taken_off = unmount(FIRMWARE, UnmountFlags::empty()).context("unmounting the firmware's partition");
    done.and_then(|done| taken_off.map(|()| done))
}
