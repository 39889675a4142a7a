//! The images that this site gives out: by digest, in files that anybody may bring and nobody can alter unnoticed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use decide::Store;
use image::Built;
use protocol::bytes::{Digest, hex};
use protocol::image::Image;
use protocol::messages::PIECE;

/// Their folder, in the provisioner's.
const FOLDER: &str = "images";

fn path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join(FOLDER).join(hex(&digest.0))
}

/// How much of an image is there.
pub fn holds(dir: &Path, image: &Image) -> Store {
    let is =
        |digest: &Digest, size: u64| fs::metadata(path(dir, digest)).is_ok_and(|found| found.len() == size);
    if !is(&image.root, image.size) {
        Store::NoImage
    } else if image.program.is_some_and(|program| !is(&program.sha256, program.size)) {
        Store::NoProgram
    } else {
        Store::Whole
    }
}

/// A piece of a file of the store, from a byte on, and the size of the whole; none where there is no such file.
pub fn piece(dir: &Path, digest: &Digest, from: u64, length: u64) -> Result<Option<(Vec<u8>, u64)>> {
    let file = match File::open(path(dir, digest)) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading image {}", hex(&digest.0))),
    };
    let size = file.metadata()?.len();
    let length = length.min(PIECE).min(size.saturating_sub(from));
    let mut bytes = vec![0; usize::try_from(length)?];
    file.read_exact_at(&mut bytes, from).with_context(|| format!("reading image {}", hex(&digest.0)))?;
    Ok(Some((bytes, size)))
}

/// Takes the images of a folder, as `hq image build` makes it. What is there already is written again, whole beside it first.
pub fn add(dir: &Path, folder: &Path) -> Result<Vec<Image>> {
    let built = Built::open(folder)?;
    built.check()?;
    fs::create_dir_all(dir.join(FOLDER))
        .with_context(|| format!("creating {}", dir.join(FOLDER).display()))?;
    for (image, file) in [&built.os, &built.kubernetes] {
        if let Some(program) = &image.program {
            built.program()?;
            take(dir, &program.sha256, &built.uki)?;
        }
        // A machine checks every block of it before it is written.
        take(dir, &image.root, file)?;
    }
    // What headquarters signed is named after its bytes, as the bundle names it.
    let signed = folder.join(image::SIGNED);
    if let Ok(bytes) = fs::read(&signed) {
        take(dir, &Digest::of(&bytes), &signed)?;
    }
    Ok(vec![built.os.0, built.kubernetes.0])
}

/// Copies a file, whole or not at all. One of the same length that is there may be damaged: bringing it again mends it.
fn take(dir: &Path, digest: &Digest, from: &Path) -> Result<()> {
    let to = path(dir, digest);
    let beside = to.with_extension("part");
    let copied = fs::copy(from, &beside).and_then(|_| File::open(&beside)?.sync_all());
    copied.with_context(|| format!("copying {} to {}", from.display(), beside.display()))?;
    let renamed = fs::rename(&beside, &to).and_then(|()| File::open(dir.join(FOLDER))?.sync_all());
    renamed.with_context(|| format!("writing {}", to.display()))
}

/// `bytes=FROM-TO` (RFC 9110 section 14.1.2), one range with both ends; none for anything else.
pub fn range(header: &str) -> Option<(u64, u64)> {
    let (from, to) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to).then(|| (from, (to - from).saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends_in_order() {
        assert_eq!(range("bytes=0-9"), Some((0, 10)));
        assert_eq!(range("bytes=5-5"), Some((5, 1)));
        assert_eq!(range("bytes=0-18446744073709551615"), Some((0, u64::MAX)));
        for wrong in
            ["", "bytes=", "bytes=5", "bytes=-5", "bytes=5-", "bytes=9-5", "bytes=0-1,3-4", "lines=0-9"]
        {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn pieces_are_cut_to_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        let digest = Digest::of(&bytes);
        fs::write(path(dir.path(), &digest), &bytes).unwrap();
        let piece = |from, length| piece(dir.path(), &digest, from, length).unwrap().unwrap();
        assert_eq!(piece(0, 16), (bytes[..16].to_vec(), 256));
        assert_eq!(piece(250, 100), (bytes[250..].to_vec(), 256));
        assert_eq!(piece(900, 100), (vec![], 256));
        assert_eq!(super::piece(dir.path(), &Digest([0; 32]), 0, 1).unwrap(), None);
    }

    #[test]
    fn an_image_that_was_damaged_in_the_store_is_mended_by_bringing_it_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(FOLDER)).unwrap();
        let (from, digest) = (dir.path().join("os"), Digest::of(b"whole"));
        fs::write(&from, "whole").unwrap();
        take(dir.path(), &digest, &from).unwrap();
        fs::write(path(dir.path(), &digest), "wh\0le").unwrap();
        let before = File::open(path(dir.path(), &digest)).unwrap();
        take(dir.path(), &digest, &from).unwrap();
        let mut there = [0; 5];
        before.read_exact_at(&mut there, 0).unwrap();
        assert_eq!(
            &there, b"wh\0le",
            "it is put in the place of the former one, and nothing is written over"
        );
        assert_eq!(fs::read(path(dir.path(), &digest)).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 1, "nothing else stays");
    }
}
