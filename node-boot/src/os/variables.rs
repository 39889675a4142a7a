//! The firmware's variables (UEFI 2.10 section 8.2), as the kernel shows them: a file each, attributes before the value.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

/// Where they are.
pub(super) const FOLDER: &str = "/sys/firmware/efi/efivars";

/// The file of a variable; `vendor` is whose name that is, a GUID as text.
pub(super) fn file(folder: &Path, name: &str, vendor: &str) -> PathBuf {
    folder.join(format!("{name}-{vendor}"))
}

/// A variable's value.
pub(super) fn get(file: &Path) -> Option<Vec<u8>> {
    fs::read(file).ok()?.get(size_of::<u32>()..).map(<[u8]>::to_vec)
}

/// Writes a variable, in one piece: the firmware gets every write as a whole.
pub(super) fn put(file: &Path, attributes: u32, value: &[u8]) -> Result<()> {
    fs::write(file, [&attributes.to_le_bytes(), value].concat())
        .with_context(|| format!("writing {}", file.display()))
}

/// The kernel protects most variables that are there against a slip of the hand.
pub(super) fn unprotect(file: &Path) -> Result<()> {
    let Ok(there) = File::open(file) else { return Ok(()) };
    let done = match ioctl_getflags(&there) {
        Ok(flags) => ioctl_setflags(&there, flags - IFlags::IMMUTABLE),
        // A file system without such flags protects nothing.
        Err(Errno::NOTTY | Errno::OPNOTSUPP) => Ok(()),
        Err(error) => Err(error),
    };
    done.with_context(|| format!("opening {} for a change", file.display()))
}
