//! The first MiB of an encrypted partition: which disk it is, and what is kept of the ways to its secret. Written twice, so
//! that a torn write loses nothing.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use protocol::bytes::{B64u, Digest};
use protocol::tpm::Sealed;
use serde::{Deserialize, Serialize};

/// Bytes before what is encrypted.
pub(super) const LENGTH: u64 = 1024 * 1024;
/// Where its copies are, and how long one is at most.
const COPIES: [u64; 2] = [0, LENGTH / 2];
const COPY: usize = 16 * 1024;
const MAGIC: &[u8; 16] = b"node-boot's key\n";
/// Where the parts of a copy stand: what it is, a hash of the rest, the length of the text, the text.
const HASH: usize = 16;
const SIZE: usize = 48;
const TEXT: usize = 52;

/// What a header says. The secret itself is not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Name of the disk, 16 random bytes.
    pub disk: B64u,
    /// Rises with each change: of two copies the later one counts.
    pub number: u64,
    /// The secret, sealed to the machine's TPM and to how it was started.
    pub tpm: Sealed,
    /// The secret, under the key that the site keeps; none where the site keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<B64u>,
}

impl Header {
    /// Reads the latest copy that is whole; none where there is none.
    pub fn read(partition: &Path) -> Result<Option<Self>> {
        let file = File::open(partition).with_context(|| format!("reading {}", partition.display()))?;
        Ok(Self::read_at(&file, 0))
    }

    /// The same of a partition that begins there, bytes.
    pub fn read_at(file: &File, begin: u64) -> Option<Self> {
        let mut found: Option<Self> = None;
        for at in COPIES {
            let mut copy = vec![0; COPY];
            // A part of a disk that cannot be read any more is what there are two copies for.
            let whole = file.read_exact_at(&mut copy, begin + at).ok().and_then(|()| parse(&copy));
            if let Some(header) = whole
                && found.as_ref().is_none_or(|found| found.number < header.number)
            {
                found = Some(header);
            }
        }
        found
    }

    /// Writes both copies, one after the other: a power cut leaves the old one or the new one.
    pub fn write(&self, partition: &Path) -> Result<()> {
        let writing = || format!("writing the header of {}", partition.display());
        let copy = self.to_bytes()?;
        let file = File::options().write(true).open(partition).with_context(writing)?;
        for at in COPIES {
            file.write_all_at(&copy, at).and_then(|()| file.sync_all()).with_context(writing)?;
        }
        Ok(())
    }

    fn to_bytes(&self) -> Result<Vec<u8>> {
        let text = protocol::json::to_vec(self);
        ensure!(TEXT + text.len() <= COPY, "the header is too long");
        let rest = [&u32::try_from(text.len())?.to_be_bytes()[..], &text].concat();
        let mut copy = [&MAGIC[..], &Digest::of(&rest).0, &rest].concat();
        copy.resize(COPY, 0);
        Ok(copy)
    }
}

fn parse(copy: &[u8]) -> Option<Header> {
    if !copy.starts_with(MAGIC) {
        return None;
    }
    let size = u32::from_be_bytes(copy.get(SIZE..TEXT)?.try_into().ok()?);
    let end = TEXT.checked_add(usize::try_from(size).ok()?)?;
    let rest = copy.get(SIZE..end)?;
    if Digest::of(rest).0 != copy[HASH..SIZE] {
        return None;
    }
    protocol::json::parse(&rest[TEXT - SIZE..]).ok()
}

/// Overwrites a partition's header: without it nobody gets at the secret, nor at what is encrypted.
pub(super) fn erase(partition: &Path) -> Result<()> {
    let erasing = || format!("erasing the header of {}", partition.display());
    let file = File::options().write(true).open(partition).with_context(erasing)?;
    let length = usize::try_from(LENGTH)?;
    for filled in [0xff, 0] {
        file.write_all_at(&vec![filled; length], 0).and_then(|()| file.sync_all()).with_context(erasing)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn header(number: u64) -> Header {
        let tpm = serde_json::from_str(r#"{"private":"AAEC","public":"AwQF"}"#).unwrap();
        Header { disk: B64u(vec![7; 16]), number, tpm, site: Some(B64u(vec![8; 48])) }
    }

    fn partition() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partition");
        File::create(&path).unwrap().set_len(2 * LENGTH).unwrap();
        (folder, path)
    }

    #[test]
    fn a_write_torn_anywhere_leaves_the_old_header_or_the_new_one() {
        let (_folder, path) = partition();
        assert_eq!(Header::read(&path).unwrap(), None);
        let (old, new) = (header(1), header(2));
        let copy = new.to_bytes().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let steps: Vec<_> = (0..=COPY).step_by(512).chain([1, TEXT, TEXT + 1]).collect();
        for (place, at) in COPIES.into_iter().enumerate() {
            for written in &steps {
                old.write(&path).unwrap();
                for before in &COPIES[..place] {
                    file.write_all_at(&copy, *before).unwrap();
                }
                file.write_all_at(&copy[..*written], at).unwrap();
                let found = Header::read(&path).unwrap().unwrap();
                assert!(found == old || found == new, "{written} bytes at {at}");
            }
        }
        assert_eq!(Header::read(&path).unwrap(), Some(new));
    }

    #[test]
    fn a_copy_that_is_damaged_is_not_believed_and_after_an_erasure_there_is_none() {
        let (_folder, path) = partition();
        header(3).write(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for at in [0, u64::try_from(HASH).unwrap(), 60] {
            header(3).write(&path).unwrap();
            file.write_all_at(&[0xa5], at).unwrap();
            assert_eq!(Header::read(&path).unwrap(), Some(header(3)), "the other copy");
            file.write_all_at(&[0xa5], COPIES[1] + at).unwrap();
            assert_eq!(Header::read(&path).unwrap(), None, "{at}");
        }
        header(4).write(&path).unwrap();
        erase(&path).unwrap();
        assert_eq!(Header::read(&path).unwrap(), None);
        assert!(std::fs::read(&path).unwrap()[..1024 * 1024].iter().all(|byte| *byte == 0));
    }
}
