//! What the kernel tells of a disk, and what it is told of its partitions.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use gpt::disk::LogicalBlockSize::{self, Lb512, Lb4096};

/// Opens a disk, to be read and written.
pub(super) fn open(device: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("opening {}", device.display()))
}

/// Sectors of a disk; a file has those of most disks.
pub(super) fn block_of(file: &File) -> Result<LogicalBlockSize> {
    /// `BLKSSZGET` (`linux/fs.h`).
    const SECTOR_SIZE: u64 = 0x1268;
    let mut size: libc::c_int = 512;
    // SAFETY: the kernel writes one int there, or nothing.
    #[allow(unsafe_code)]
    unsafe {
        libc::ioctl(file.as_raw_fd(), SECTOR_SIZE as _, &raw mut size);
    }
    match size {
        512 => Ok(Lb512),
        4096 => Ok(Lb4096),
        other => anyhow::bail!("sectors of {other} bytes"),
    }
}

/// Tells the kernel of a partition on a disk that is in use.
pub(super) fn add(disk: &File, number: u32, at: u64, length: u64) -> Result<()> {
    /// `BLKPG` and `BLKPG_ADD_PARTITION` (`linux/blkpg.h`).
    const PARTITIONS: u64 = 0x1269;
    const ADD: libc::c_int = 1;
    #[repr(C)]
    struct New {
        start: libc::c_longlong,
        length: libc::c_longlong,
        number: libc::c_int,
        names: [u8; 128],
    }
    #[repr(C)]
    struct Asked {
        what: libc::c_int,
        flags: libc::c_int,
        size: libc::c_int,
        new: *mut New,
    }
    let size = libc::c_int::try_from(size_of::<New>())?;
    let number = libc::c_int::try_from(number)?;
    let mut new = New { start: i64::try_from(at)?, length: i64::try_from(length)?, number, names: [0; 128] };
    let mut asked = Asked { what: ADD, flags: 0, size, new: &raw mut new };
    // SAFETY: both structures are as the kernel's header has them, and live until it answers.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(disk.as_raw_fd(), PARTITIONS as _, &raw mut asked) };
    ensure!(done == 0, "the kernel does not take partition {number}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Has the kernel look at the table again.
pub(super) fn read_again(file: &File) -> Result<()> {
    /// `BLKRRPART` (`linux/fs.h`).
    const READ_TABLE: u64 = 0x125f;
    // SAFETY: there is no argument.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), READ_TABLE as _, 0) };
    ensure!(done == 0, "the kernel does not read the new table: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Tells a disk that nobody needs what is on a stretch of it, bytes.
pub(super) fn discard(file: &File, at: u64, length: u64) -> Result<()> {
    /// `BLKDISCARD` (`linux/fs.h`).
    const DISCARD: u64 = 0x1277;
    tell(file, DISCARD, [at, length])
}

/// Has a disk put zeros on a stretch of it, bytes.
pub(super) fn zero(file: &File, at: u64, length: u64) -> Result<()> {
    /// `BLKZEROOUT` (`linux/fs.h`).
    const ZERO: u64 = 0x127f;
    tell(file, ZERO, [at, length])
}

fn tell(file: &File, what: u64, stretch: [u64; 2]) -> Result<()> {
    // SAFETY: the kernel reads two 64-bit numbers there.
    #[allow(unsafe_code)]
    let done = unsafe { libc::ioctl(file.as_raw_fd(), what as _, stretch.as_ptr()) };
    if done < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}
