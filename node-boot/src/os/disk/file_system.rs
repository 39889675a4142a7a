//! File systems of a disk: mounted for a while; and those of the state and of Pods' volumes made, recognised, and mended where
//! that helps.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::console::say;
use crate::os::tool;

/// One is made within this time: first the disk is told what it may forget.
const FORMATTED: Duration = Duration::from_mins(10);
/// What mends one. Nobody has set a path yet.
const MENDER: &str = "/usr/sbin/e2fsck";
/// A large disk takes so long, a broken one longer.
const MENDING: Duration = Duration::from_mins(30);
/// Of it: everything was mended. Greater ones say that something was not.
const MENDED: i32 = 2;

/// Where one is mounted for a while, and how.
pub struct Place {
    /// The folder.
    pub at: &'static str,
    /// Its kind.
    pub kind: &'static str,
    /// What nobody may do there.
    pub flags: MountFlags,
    /// Options of its kind.
    pub options: Option<&'static CStr>,
}

impl Place {
    /// Mounts what is on a device for as long as `work` takes.
    pub fn with<T>(&self, device: &Path, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        fs::create_dir_all(self.at)?;
        mount(device, self.at, self.kind, self.flags, self.options)
            .with_context(|| format!("mounting {}", device.display()))?;
        let done = work(Path::new(self.at));
        let taken_off = unmount(self.at, UnmountFlags::empty())
            .with_context(|| format!("unmounting {}", device.display()));
        done.and_then(|done| taken_off.map(|()| done))
    }
}

/// Makes one.
pub(super) fn format(device: &Path, label: &str) -> Result<()> {
    let mut tool = Command::new("mke2fs");
    tool.stdout(Stdio::null()).args(["-q", "-F", "-t", "ext4", "-m", "0", "-L", label]).arg(device);
    tool::run(tool, &format!("mke2fs on {}", device.display()), FORMATTED)
}

/// Whether there is a file system of the kind that [`format`] makes.
pub(super) fn is_formatted(device: &Path) -> Result<bool> {
    /// `s_magic` of ext4, and where it is.
    const MAGIC: ([u8; 2], u64) = ([0x53, 0xef], 1024 + 56);
    let mut magic = [0; 2];
    let file = File::open(device).with_context(|| format!("reading {}", device.display()))?;
    file.read_exact_at(&mut magic, MAGIC.1).with_context(|| format!("reading {}", device.display()))?;
    Ok(magic == MAGIC.0)
}

/// Mounts a file system; where that fails, after it was mended.
pub(super) fn mount_mended(device: &Path, at: &str) -> Result<()> {
    fs::create_dir_all(at)?;
    let mounting = || format!("mounting {} on {at}", device.display());
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let Err(first) = mount(device, at, "ext4", flags, None) else { return Ok(()) };
    say(&format!("The file system on {} is damaged ({first}). Mending it.", device.display()));
    mend(device).with_context(mounting)?;
    mount(device, at, "ext4", flags, None).with_context(mounting)
}

/// Mends what can be mended without a person.
fn mend(device: &Path) -> Result<()> {
    let said = tool::note()?;
    let mut mender = Command::new(MENDER);
    // It says what is wrong on either.
    mender.args(["-f", "-y"]).arg(device).stdout(said.try_clone()?);
    tool::run_noting(mender, &format!("e2fsck on {}", device.display()), MENDING, MENDED, &said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_system_is_mended_and_what_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&file).status();
        if made.is_err() || !Path::new(MENDER).exists() {
            return harness::skip("e2fsprogs is not installed");
        }
        mend(&file).unwrap();
        let open = File::options().write(true).open(&file).unwrap();
        // The superblock, and the groups behind it.
        open.write_all_at(&[0; 16 * 1024], 0).unwrap();
        mend(&file).unwrap();
        let again = Command::new(MENDER).args(["-f", "-n"]).arg(&file).status().unwrap();
        assert_eq!(again.code(), Some(0), "nothing is left to mend");
        open.write_all_at(&vec![0xa5; 64 << 20], 0).unwrap();
        let said = mend(&file).unwrap_err().to_string();
        assert!(said.contains("e2fsck on") && said.contains("has failed"), "{said}");
    }
}
