//! The hash tree behind an image (dm-verity, version 1): the kernel checks every block against it as it is read.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use protocol::bytes::Digest;

/// Bytes of a block of data, and of hashes.
pub(crate) const BLOCK: usize = 4096;

/// What is needed to check an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// SHA-256 over the whole tree.
    pub root: Digest,
    /// Blocks of data; the tree follows at once.
    pub blocks: u64,
}

/// Fills an image up to whole blocks, and puts its tree behind it: the top first, each hash without salt.
pub(crate) fn seal(image: &Path) -> Result<Sealed> {
    let mut file = File::options().read(true).write(true).open(image)?;
    let blocks = file.metadata()?.len().div_ceil(BLOCK as u64);
    file.set_len(blocks * BLOCK as u64)?;
    let levels = tree(&mut file, blocks).with_context(|| format!("reading {}", image.display()))?;
    file.seek(SeekFrom::End(0))?;
    for level in levels.iter().rev() {
        file.write_all(level)?;
    }
    file.sync_all()?;
    let top = levels.last().context("an image without a block")?;
    Ok(Sealed { root: Digest::of(top), blocks })
}

/// Whether an image with its tree is what was sealed.
pub(crate) fn is_whole(image: &Path, sealed: Sealed) -> Result<bool> {
    let mut file = File::open(image)?;
    if file.metadata()?.len() < sealed.blocks * BLOCK as u64 {
        return Ok(false);
    }
    let levels = tree(&mut file, sealed.blocks)?;
    let mut behind = Vec::new();
    file.read_to_end(&mut behind)?;
    let is_sealed = levels.last().is_some_and(|top| Digest::of(top) == sealed.root);
    Ok(is_sealed && behind == levels.iter().rev().flatten().copied().collect::<Vec<_>>())
}

/// Levels of the tree, the one over the data first, each of whole blocks; the last is one block.
fn tree(file: &mut File, blocks: u64) -> Result<Vec<Vec<u8>>> {
    let mut level = Vec::new();
    let mut block = vec![0; BLOCK];
    file.seek(SeekFrom::Start(0))?;
    for _ in 0..blocks {
        file.read_exact(&mut block)?;
        level.extend(Digest::of(&block).0);
    }
    let mut levels = Vec::new();
    loop {
        level.resize(level.len().next_multiple_of(BLOCK), 0);
        let above: Vec<u8> = level.chunks(BLOCK).flat_map(|block| Digest::of(block).0).collect();
        let is_top = level.len() == BLOCK;
        levels.push(level);
        if is_top {
            return Ok(levels);
        }
        level = above;
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const IN_BLOCK: usize = BLOCK / 32;

    #[test]
    fn veritysetup_accepts_the_tree_and_nothing_that_was_altered() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        // Two levels, and a last block that is not full.
        std::fs::write(&image, vec![7; BLOCK * (IN_BLOCK + 3) + 5]).unwrap();
        let sealed = seal(&image).unwrap();
        assert_eq!(sealed.blocks, IN_BLOCK as u64 + 4);
        let accepts = || {
            let root = protocol::bytes::hex(&sealed.root.0);
            let mut tool = Command::new("veritysetup");
            tool.args([
                "verify",
                "--no-superblock",
                "--salt=-",
                "--data-block-size=4096",
                "--hash-block-size=4096",
            ]);
            tool.arg(format!("--data-blocks={}", sealed.blocks));
            tool.arg(format!("--hash-offset={}", sealed.blocks * BLOCK as u64));
            tool.arg(&image).arg(&image).arg(root).output()
        };
        let Ok(first) = accepts() else { return harness::skip("`veritysetup` is not installed") };
        assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
        assert!(is_whole(&image, sealed).unwrap());
        let mut bytes = std::fs::read(&image).unwrap();
        bytes[BLOCK * 2] ^= 1;
        std::fs::write(&image, bytes).unwrap();
        assert!(!accepts().unwrap().status.success() && !is_whole(&image, sealed).unwrap());
    }
}
