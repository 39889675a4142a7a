//! An image into the bank that is not in use, and what the firmware starts: once, or from now on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::image::{Image, Program};
use rustix::mount::MountFlags;

use super::write::{Source, check_program, fetch_program, write};
use crate::os::disk::{self, Place};

/// Where the firmware's partition is while something is written to it.
const FIRMWARE: &str = "/run/firmware";
/// How a file's name ends while it is written.
const BESIDE: &str = "new";

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
            tidy(root, Some(&keep))?;
            let to = root.join(&keep[0]);
            if fs::read(&to).is_ok_and(|there| check_program(&there, program)) {
                return Ok(());
            }
            put(&to, &fetch_program(program, source)?)
        })?;
    }
    bank.rename(Some(&image.partition()))
}

/// Removes what is half written, and what other systems than these two were started by: there is room for some, not for all.
/// A power cut may leave a file whose blocks are free. While it is there, nothing may be written: it would take those blocks, and
/// lose them with the file.
fn tidy(root: &Path, keep: Option<&[PathBuf]>) -> Result<()> {
    let ours = root.join(layout::program_of("")).with_file_name("");
    for folder in [root.join(layout::PROGRAM).with_file_name(""), ours.clone()] {
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.is_file()) {
            let is_kept =
                folder != ours || keep.is_none_or(|keep| keep.iter().any(|kept| path == root.join(kept)));
            let is_half = path.extension().is_some_and(|end| end == BESIDE) || fs::read(&path).is_err();
            if is_half || !is_kept {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
    }
    rustix::fs::sync();
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
        tidy(root, None)?;
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

/// Writes a file whole beside, then under its name. What had the name before is freed when the name is another's on the disk, and
/// not together with that: half of both would be a name whose blocks are free.
fn put(to: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(doing)?;
    let beside = to.with_extension(BESIDE);
    let mut file = File::create(&beside).with_context(doing)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(doing)?;
    drop(file);
    // A file that is open is not freed.
    let before = File::open(to).ok();
    fs::rename(&beside, to).with_context(doing)?;
    rustix::fs::sync();
    drop(before);
    rustix::fs::sync();
    Ok(())
}

/// Does something with the firmware's partition mounted.
fn with_firmware<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let device =
        disk::partition(layout::FIRMWARE).context("this machine's disk has no firmware partition")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // A file that a power cut has left broken is still to be removed.
    let options = Some(c"errors=continue");
    Place { at: FIRMWARE, kind: "vfat", flags, options }.with(&device, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_half_written_or_of_no_use_goes_before_anything_is_written_and_a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let [one, two, three] = ["os-1", "os-2", "os-3"].map(layout::program_of);
        for path in [&one, &two, &three, layout::PROGRAM, layout::OWNER] {
            put(&root.join(path), b"before").unwrap();
            fs::write(root.join(path).with_extension(BESIDE), "half").unwrap();
        }
        tidy(root, None).unwrap();
        assert!([&one, &two, &three].iter().all(|path| root.join(path).exists()), "all may be of use");
        tidy(root, Some(&[(&two).into(), (&three).into()])).unwrap();
        let is_there = |path: &str| root.join(path).exists();
        assert!(!is_there(&one) && is_there(&two) && is_there(&three) && is_there(layout::PROGRAM));
        for path in [&two, layout::PROGRAM] {
            assert!(!root.join(path).with_extension(BESIDE).exists(), "{path}");
        }
        put(&root.join(layout::PROGRAM), b"after").unwrap();
        assert_eq!(fs::read(root.join(layout::PROGRAM)).unwrap(), b"after");
        assert!(is_there(layout::OWNER) && !root.join(layout::PROGRAM).with_extension(BESIDE).exists());
    }
}
