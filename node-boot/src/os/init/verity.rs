//! An image behind dm-verity: from here on the kernel checks every block that it reads.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::bytes::{Digest, hex};
use protocol::image::Image;

use crate::os::mapper::Device;

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

    /// Its hash.
    pub fn hash(&self) -> Result<Digest> {
        let pairs = self.hash.as_bytes().chunks(2);
        let bytes: Option<Vec<u8>> =
            pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect();
        Ok(Digest(bytes.and_then(|bytes| bytes.try_into().ok()).context("no root of an image")?))
    }

    /// Of an image.
    pub fn of(image: &Image) -> Self {
        Self { blocks: image.blocks, hash: hex(&image.root.0) }
    }

    /// The device called `name` through which the image on `device` is read: nothing else comes out of it than what was
    /// built.
    pub fn open(&self, name: &str, device: &Path) -> Result<PathBuf> {
        let table = format!(
            "1 {0} {0} {BLOCK} {BLOCK} {1} {1} sha256 {2} -",
            device.display(),
            self.blocks,
            self.hash
        );
        let sectors = self.blocks * BLOCK / SECTOR;
        let checked = Device { name, read_only: true, sectors, kind: "verity", table: &table };
        checked.make().with_context(|| format!("the tree over the image {name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_on_the_command_line_is_blocks_and_a_hash() {
        let hash = "0f".repeat(32);
        let root: Root = format!("12:{hash}").parse().unwrap();
        assert_eq!(root.hash().unwrap(), Digest([0x0f; 32]));
        assert_eq!(root, Root { blocks: 12, hash });
        for wrong in
            ["", "12", "12:0f", "x:", &format!("-1:{}", "0f".repeat(32)), &format!("1:{}", "xx".repeat(32))]
        {
            assert!(wrong.parse::<Root>().is_err(), "{wrong}");
        }
    }
}
