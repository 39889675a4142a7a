//! An image behind dm-verity: from here on the kernel checks every block that it reads.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::bytes::hex;
use protocol::image::Image;

/// Where device-mapper is spoken to (`linux/dm-ioctl.h`).
const CONTROL: &str = "/dev/mapper/control";
const CREATE: u64 = 3;
const RESUME: u64 = 6;
const LOAD: u64 = 9;
/// Size of `struct dm_ioctl` and of `struct dm_target_spec`, and of the whole message.
const HEAD: usize = 312;
const TARGET: usize = 40;
const MESSAGE: usize = 1024;
const SIZES: [u32; 2] = [1024, 312];
const READ_ONLY: u32 = 1;
const BLOCK: u64 = 4096;
const SECTOR: u64 = 512;

/// An image and the root of its tree, as the kernel's command line names them: `<blocks>:<SHA-256, hexadecimal>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    blocks: u64,
    hash: String,
}

impl std::str::FromStr for Root {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (blocks, hash) = text.split_once(':').context("no root of an image")?;
        let is_hash = hash.len() == 64 && hash.bytes().all(|symbol| symbol.is_ascii_hexdigit());
        anyhow::ensure!(is_hash, "no root of an image: {text:?}");
        Ok(Self { blocks: blocks.parse()?, hash: hash.to_owned() })
    }
}

impl Root {
    /// Name of the partition that holds the image.
    pub fn partition(&self) -> String {
        format!("os-{}", &self.hash[..16])
    }

    /// Of an image.
    pub fn of(image: &Image) -> Self {
        Self { blocks: image.blocks, hash: hex(&image.root.0) }
    }

    /// The device called `name` through which the image on `device` is read: nothing else comes out of it than what was
    /// built.
    pub fn open(&self, name: &str, device: &Path) -> Result<PathBuf> {
        let control = File::options().read(true).write(true).open(CONTROL).context("device-mapper")?;
        let message = || Message::new(name, READ_ONLY);
        tell(&control, CREATE, message())?;
        let table = format!(
            "1 {0} {0} {BLOCK} {BLOCK} {1} {1} sha256 {2} -",
            device.display(),
            self.blocks,
            self.hash
        );
        let load = message().with_target(self.blocks * BLOCK / SECTOR, "verity", &table)?;
        tell(&control, LOAD, load).with_context(|| format!("the tree over the image {name}"))?;
        let answer = tell(&control, RESUME, message())?;
        Ok(PathBuf::from(format!("/dev/dm-{}", answer.minor())))
    }
}

/// `struct dm_ioctl` with what follows it.
struct Message([u8; MESSAGE]);

impl Message {
    fn new(name: &str, flags: u32) -> Self {
        let mut message = Self([0; MESSAGE]);
        // Version 4.0.0, size of all, start of what follows the head.
        message.put(0, &[4, 0, 0]);
        message.put(12, &SIZES);
        message.put(28, &[flags]);
        // 128 bytes are for the name, the last of them zero.
        let name = &name.as_bytes()[..name.len().min(127)];
        message.0[48..48 + name.len()].copy_from_slice(name);
        message
    }

    fn put(&mut self, at: usize, numbers: &[u32]) {
        for (place, number) in numbers.iter().enumerate() {
            self.0[at + place * 4..][..4].copy_from_slice(&number.to_ne_bytes());
        }
    }

    fn with_target(mut self, sectors: u64, kind: &str, table: &str) -> Result<Self> {
        anyhow::ensure!(HEAD + TARGET + table.len() < MESSAGE, "the table is too long");
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
    fn the_root_on_the_command_line_is_blocks_and_a_hash() {
        let hash = "0f".repeat(32);
        assert_eq!(format!("12:{hash}").parse::<Root>().unwrap(), Root { blocks: 12, hash });
        for wrong in
            ["", "12", "12:0f", "x:", &format!("-1:{}", "0f".repeat(32)), &format!("1:{}", "xx".repeat(32))]
        {
            assert!(wrong.parse::<Root>().is_err(), "{wrong}");
        }
    }

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
        assert!(Message::new("x", 0).with_target(8, "verity", &"x".repeat(MESSAGE)).is_err());
    }
}
