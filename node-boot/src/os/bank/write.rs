//! An image onto a partition: its hash tree first, then each block, checked before it is written. What is there already is
//! not fetched again, so that a cut costs at most one piece.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};
use protocol::bytes::Digest;
use protocol::image::{BLOCK, Image, Program};

/// Where the bytes of images come from.
pub trait Source {
    /// So many bytes of the object with this digest, from a byte on, or fewer; none only at its end.
    fn read(&mut self, object: &Digest, from: u64, length: u64) -> Result<Vec<u8>>;
}

/// What helps where the site's copy of an image is damaged.
const AGAIN: &str = "bring the images to the site again: `provisioner images add FOLDER`";
/// Bytes of a hash.
const HASH: usize = 32;
/// Blocks that are fetched at once.
const AT_ONCE: u64 = 256;

#[allow(clippy::cast_possible_truncation)] // 4096.
const SIZE: usize = BLOCK as usize;

/// Writes an image, and waits until it is there; `told` hears how many bytes of it are.
pub fn write(image: &Image, to: &File, source: &mut dyn Source, told: &mut dyn FnMut(u64)) -> Result<()> {
    let leaves = tree(image, to, source)?;
    let mut piece = vec![0; SIZE * usize::try_from(AT_ONCE)?];
    for first in (0..image.blocks).step_by(usize::try_from(AT_ONCE)?) {
        let count = AT_ONCE.min(image.blocks - first);
        let piece = &mut piece[..SIZE * usize::try_from(count)?];
        let from = first * BLOCK;
        let wanted = &leaves[usize::try_from(first)? * HASH..];
        if to.read_exact_at(piece, from).is_err() || !is(piece, wanted) {
            let bytes = whole(source, &image.root, from, count * BLOCK)?;
            ensure!(
                bytes.len() == piece.len() && is(&bytes, wanted),
                "what was sent for {} {} is not what headquarters signed (at byte {from}); {AGAIN}",
                image.kind.word(),
                image.version
            );
            to.write_all_at(&bytes, from).context("writing to the bank")?;
        }
        told(from + count * BLOCK);
    }
    to.sync_all().context("writing to the bank")
}

/// So many bytes of an object, however short the pieces are that a provisioner sends.
fn whole(source: &mut dyn Source, object: &Digest, from: u64, length: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        let (at, left) = (from + bytes.len() as u64, length - bytes.len() as u64);
        let more = source.read(object, at, left)?;
        ensure!(!more.is_empty(), "what was sent ends too early (at byte {at})");
        bytes.extend(more);
    }
    Ok(bytes)
}

/// Whether an image is there whole, on a disk, from a byte on.
pub fn is_whole(image: &Image, disk: &File, begin: u64) -> Result<bool> {
    let mut tree = vec![0; usize::try_from(tree_size(image.blocks))?];
    disk.read_exact_at(&mut tree, begin + image.blocks * BLOCK)?;
    let Some(leaves) = leaves(&tree, image) else { return Ok(false) };
    let mut piece = vec![0; SIZE * usize::try_from(AT_ONCE)?];
    for first in (0..image.blocks).step_by(usize::try_from(AT_ONCE)?) {
        let piece = &mut piece[..SIZE * usize::try_from(AT_ONCE.min(image.blocks - first))?];
        disk.read_exact_at(piece, begin + first * BLOCK)?;
        if !is(piece, &leaves[usize::try_from(first)? * HASH..]) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether each block has its hash.
fn is(blocks: &[u8], hashes: &[u8]) -> bool {
    blocks.chunks(SIZE).zip(hashes.chunks(HASH)).all(|(block, hash)| Digest::of(block).0 == *hash)
}

/// The hashes of all blocks of data. The tree is on the partition when this returns.
fn tree(image: &Image, to: &File, source: &mut dyn Source) -> Result<Vec<u8>> {
    let (at, length) = (image.blocks * BLOCK, tree_size(image.blocks));
    ensure!(at + length == image.size, "{} {} has no tree of its size", image.kind.word(), image.version);
    let mut bytes = vec![0; usize::try_from(length)?];
    if to.read_exact_at(&mut bytes, at).is_ok()
        && let Some(leaves) = leaves(&bytes, image)
    {
        return Ok(leaves);
    }
    let fetched = whole(source, &image.root, at, length)?;
    let leaves = leaves(&fetched, image).with_context(|| {
        format!(
            "the tree that was sent for {} {} is not the signed one; {AGAIN}",
            image.kind.word(),
            image.version
        )
    })?;
    to.write_all_at(&fetched, at).context("writing to the bank")?;
    Ok(leaves)
}

/// Blocks of each level of a tree, the one over the data first; the last is one block.
fn levels(blocks: u64) -> Vec<u64> {
    let mut levels = vec![];
    let mut count = blocks;
    loop {
        count = count.div_ceil(BLOCK / HASH as u64);
        levels.push(count);
        if count <= 1 {
            return levels;
        }
    }
}

/// Bytes of the tree over so many blocks.
fn tree_size(blocks: u64) -> u64 {
    levels(blocks).iter().sum::<u64>() * BLOCK
}

/// The hashes of the data's blocks, where every block of the tree has its hash in the one above, up to the root.
fn leaves(tree: &[u8], image: &Image) -> Option<Vec<u8>> {
    let mut above = image.root.0.to_vec();
    let mut rest = tree;
    for count in levels(image.blocks).into_iter().rev() {
        let (level, after) = rest.split_at_checked(SIZE * usize::try_from(count).ok()?)?;
        if !is(level, &above) {
            return None;
        }
        above = level.to_vec();
        rest = after;
    }
    Some(above)
}

/// Fetches what the firmware starts: checked as a whole.
pub fn fetch_program(program: &Program, source: &mut dyn Source) -> Result<Vec<u8>> {
    let bytes = whole(source, &program.sha256, 0, program.size)?;
    ensure!(
        check_program(&bytes, program),
        "what the firmware is to start is not what headquarters signed; {AGAIN}"
    );
    Ok(bytes)
}

/// Whether these are its bytes.
pub fn check_program(bytes: &[u8], program: &Program) -> bool {
    bytes.len() as u64 == program.size && Digest::of(bytes) == program.sha256
}

#[cfg(test)]
pub(crate) mod tests {
    use protocol::image::Kind;

    use super::*;

    /// An image of so many blocks, as it is built: data, then the tree from the top.
    pub(crate) fn built(blocks: usize) -> (Image, Vec<u8>) {
        let data: Vec<u8> = (0..blocks).flat_map(|n| vec![u8::try_from(n % 251).unwrap(); SIZE]).collect();
        let mut below = data.clone();
        let mut levels = vec![];
        loop {
            let mut level: Vec<u8> = below.chunks(SIZE).flat_map(|block| Digest::of(block).0).collect();
            level.resize(level.len().next_multiple_of(SIZE), 0);
            levels.push(level.clone());
            if level.len() == SIZE {
                break;
            }
            below = level;
        }
        let root = Digest::of(levels.last().unwrap());
        let bytes = levels.iter().rev().fold(data, |bytes, level| [bytes, level.clone()].concat());
        let (kind, version, size) = (Kind::Kubernetes, "v1".to_owned(), bytes.len() as u64);
        (Image { kind, version, root, blocks: blocks as u64, size, program: None }, bytes)
    }

    /// A provisioner that counts what it sends, and whose cable comes out after so many bytes.
    struct Sender {
        bytes: Vec<u8>,
        sent: usize,
        cable: usize,
        piece: usize,
    }

    impl Source for Sender {
        fn read(&mut self, _: &Digest, from: u64, length: u64) -> Result<Vec<u8>> {
            let from = usize::try_from(from)?;
            let end = self.bytes.len().min(from + self.piece.min(usize::try_from(length)?));
            let piece = self.bytes.get(from..end).unwrap_or_default().to_vec();
            ensure!(self.sent + piece.len() <= self.cable, "the cable is out");
            self.sent += piece.len();
            Ok(piece)
        }
    }

    fn partition(size: usize) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size as u64).unwrap();
        file
    }

    fn content(file: &File, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn an_image_is_written_once_and_a_cut_costs_no_more_than_one_piece() {
        let (image, bytes) = built(1000);
        let file = partition(bytes.len() + SIZE);
        let mut sender = Sender { bytes: bytes.clone(), sent: 0, cable: bytes.len() / 2, piece: usize::MAX };
        assert!(write(&image, &file, &mut sender, &mut |_| {}).is_err());
        sender.cable = usize::MAX;
        let mut done = 0;
        write(&image, &file, &mut sender, &mut |bytes| done = bytes).unwrap();
        assert!(content(&file, bytes.len()) == bytes);
        assert_eq!((done, sender.sent), (1000 * BLOCK, bytes.len()), "nothing was sent twice");
        write(&image, &file, &mut sender, &mut |_| {}).unwrap();
        assert_eq!(sender.sent, bytes.len(), "what is there is not fetched again");
    }

    #[test]
    fn a_block_that_was_altered_is_never_written() {
        let (image, bytes) = built(300);
        for place in [0, 270 * SIZE + 9, 300 * SIZE, bytes.len() - 1] {
            let mut altered = bytes.clone();
            altered[place] ^= 1;
            let file = partition(bytes.len());
            let mut sender = Sender { bytes: altered.clone(), sent: 0, cable: usize::MAX, piece: usize::MAX };
            let said = write(&image, &file, &mut sender, &mut |_| {}).unwrap_err().to_string();
            assert!(
                said.contains("signed") && said.contains("`provisioner images add FOLDER`"),
                "{place}: {said}"
            );
            assert!(content(&file, bytes.len())[place] != altered[place] || altered[place] == 0, "{place}");
        }
        for cut in [0, 7, bytes.len() - SIZE] {
            let mut sender =
                Sender { bytes: bytes[..cut].to_vec(), sent: 0, cable: usize::MAX, piece: usize::MAX };
            assert!(write(&image, &partition(bytes.len()), &mut sender, &mut |_| {}).is_err(), "{cut}");
        }
    }

    #[test]
    fn a_bank_that_rotted_is_mended_where_it_did() {
        let (image, bytes) = built(600);
        let file = partition(bytes.len());
        let mut sender = Sender { bytes: bytes.clone(), sent: 0, cable: usize::MAX, piece: usize::MAX };
        write(&image, &file, &mut sender, &mut |_| {}).unwrap();
        file.write_all_at(b"rot", 5 * BLOCK).unwrap();
        assert!(!is_whole(&image, &file, 0).unwrap());
        sender.sent = 0;
        write(&image, &file, &mut sender, &mut |_| {}).unwrap();
        assert_eq!(sender.sent, SIZE * 256);
        assert!(content(&file, bytes.len()) == bytes && is_whole(&image, &file, 0).unwrap());
    }

    #[test]
    fn a_provisioner_that_sends_shorter_pieces_than_are_asked_for_is_as_good() {
        let (image, bytes) = built(300);
        for piece in [SIZE / 3, SIZE, 100_000] {
            let file = partition(bytes.len());
            let mut sender = Sender { bytes: bytes.clone(), sent: 0, cable: usize::MAX, piece };
            write(&image, &file, &mut sender, &mut |_| {}).unwrap();
            assert!(content(&file, bytes.len()) == bytes && sender.sent == bytes.len(), "{piece}");
            let program = Program { sha256: Digest::of(&bytes), size: bytes.len() as u64 };
            assert!(fetch_program(&program, &mut sender).unwrap() == bytes);
        }
    }
}
