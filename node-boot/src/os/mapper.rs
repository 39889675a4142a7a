//! Devices that the kernel makes of others (device-mapper): checked block by block, or encrypted.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use zeroize::Zeroizing;

/// Where device-mapper is spoken to (`linux/dm-ioctl.h`).
const CONTROL: &str = "/dev/mapper/control";
const CREATE: u64 = 3;
const REMOVE: u64 = 4;
const RESUME: u64 = 6;
const LOAD: u64 = 9;
/// Size of `struct dm_ioctl` and of `struct dm_target_spec`, and of the whole message.
const HEAD: usize = 312;
const TARGET: usize = 40;
const MESSAGE: usize = 1024;
const SIZES: [u32; 2] = [1024, 312];
/// Longest name, with the zero behind it.
const NAME: usize = 128;
const READ_ONLY: u32 = 1;
/// It goes once nobody has it open.
const DEFERRED: u32 = 1 << 17;
/// The kernel forgets the message after it was heard.
const SECRET: u32 = 1 << 15;

/// One device over others.
pub struct Device<'a> {
    /// Its name: none has it yet.
    pub name: &'a str,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// What makes it: `verity`, `crypt`.
    pub kind: &'a str,
    /// What that is told, as the kernel's documentation has it; it may hold a key.
    pub table: &'a str,
}

impl Device<'_> {
    /// Makes it; where it is.
    pub fn make(&self) -> Result<PathBuf> {
        let control = control()?;
        let message = || Message::new(self.name, SECRET | if self.read_only { READ_ONLY } else { 0 });
        tell(&control, CREATE, message()).with_context(|| format!("making the device {}", self.name))?;
        let load = message().with_target(self.sectors, self.kind, self.table)?;
        let made = tell(&control, LOAD, load).and_then(|_| tell(&control, RESUME, message()));
        if made.is_err() {
            // A half-made one would be in the way of the next try.
            let _ = remove(self.name);
        }
        let made = made.with_context(|| format!("the kernel does not make a {} device", self.kind))?;
        Ok(PathBuf::from(format!("/dev/dm-{}", made.minor())))
    }
}

/// Takes a device away as soon as nobody uses it any more.
pub fn remove_later(name: &str) -> Result<()> {
    let done = tell(&control()?, REMOVE, Message::new(name, DEFERRED));
    done.map(drop).with_context(|| format!("giving the device {name} up"))
}

/// Takes a device away that nobody uses; its key with it.
pub fn remove(name: &str) -> Result<()> {
    let done = tell(&control()?, REMOVE, Message::new(name, 0));
    done.map(drop).with_context(|| format!("taking the device {name} away"))
}

fn control() -> Result<File> {
    File::options().read(true).write(true).open(CONTROL).context("device-mapper")
}

/// `struct dm_ioctl` with what follows it.
struct Message(Zeroizing<[u8; MESSAGE]>);

impl Message {
    fn new(name: &str, flags: u32) -> Self {
        let mut message = Self(Zeroizing::new([0; MESSAGE]));
        // Version 4.0.0, size of all, start of what follows the head.
        message.put(0, &[4, 0, 0]);
        message.put(12, &SIZES);
        message.put(28, &[flags]);
        let name = &name.as_bytes()[..name.len().min(NAME - 1)];
        message.0[48..48 + name.len()].copy_from_slice(name);
        message
    }

    fn put(&mut self, at: usize, numbers: &[u32]) {
        for (place, number) in numbers.iter().enumerate() {
            self.0[at + place * 4..][..4].copy_from_slice(&number.to_ne_bytes());
        }
    }

    fn with_target(mut self, sectors: u64, kind: &str, table: &str) -> Result<Self> {
        ensure!(HEAD + TARGET + table.len() < MESSAGE && kind.len() < 16, "the table is too long");
        self.put(20, &[1]);
        self.0[HEAD + 8..][..8].copy_from_slice(&sectors.to_ne_bytes());
        self.0[HEAD + 24..][..kind.len()].copy_from_slice(kind.as_bytes());
        self.0[HEAD + TARGET..][..table.len()].copy_from_slice(table.as_bytes());
        Ok(self)
    }

    /// Minor number of the device, as the kernel's `huge_encode_dev` writes it.
    fn minor(&self) -> u64 {
        let device = u64::from_ne_bytes(self.0[40..48].try_into().unwrap_or_default());
        device & 0xff | (device >> 12) & !0xff
    }
}

#[allow(unsafe_code)]
fn tell(control: &File, what: u64, mut message: Message) -> Result<Message> {
    // `_IOWR(0xfd, what, struct dm_ioctl)`.
    let request = 3 << 30 | (HEAD as u64) << 16 | 0xfd << 8 | what;
    // SAFETY: the kernel reads and writes no more than the size that the message names, which is its own.
    #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    // The type differs between C libraries.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), request as _, message.0.as_mut_ptr()) };
    if done < 0 {
        return Err(std::io::Error::last_os_error()).context("device-mapper");
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_its_parts_where_the_kernel_reads_them() {
        let message = Message::new("system", READ_ONLY).with_target(8, "verity", "1 a b").unwrap().0;
        assert_eq!(SIZES.map(usize::try_from), [Ok(MESSAGE), Ok(HEAD)]);
        assert_eq!(message[12..16], SIZES[0].to_ne_bytes());
        assert_eq!(message[16..20], SIZES[1].to_ne_bytes());
        assert_eq!(message[20..24], 1u32.to_ne_bytes());
        assert_eq!(&message[48..54], b"system");
        assert_eq!(&message[HEAD + 24..HEAD + 30], b"verity");
        assert_eq!(&message[HEAD + TARGET..HEAD + TARGET + 5], b"1 a b");
        assert!(Message::new("system", 0).with_target(8, "verity", &"x".repeat(MESSAGE)).is_err());
    }
}
