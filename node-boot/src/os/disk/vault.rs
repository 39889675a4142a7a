//! The secret of the machine's disk, the ways to it, and what it opens: the partitions for state and volumes.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::bytes::{B64u, Secret, hex};
use protocol::crypto::{gcm_open, gcm_seal, hkdf_sha256, random};
use protocol::messages::DiskKey;
use protocol::tpm::{self, Tpm};
use zeroize::Zeroizing;

use super::header::{self, Header};
use crate::os::mapper::{self, Device};

/// Bytes of a disk's secret, and of the key that the site keeps.
const SECRET: usize = 32;
/// Sectors of 512 bytes, in which device-mapper counts.
const SECTOR: u64 = 512;

/// A partition that is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    State,
    Volumes,
}

impl Part {
    /// What its device is called while it is open.
    fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Volumes => "volumes",
        }
    }
}

/// A disk whose secret is known.
pub(super) struct Vault {
    header: Header,
    secret: Zeroizing<[u8; SECRET]>,
}

impl Vault {
    /// A new disk's, and the key that the site is to keep. It takes the place of the header `number`.
    pub fn new(tpm: &mut Tpm, number: u64) -> Result<(Self, DiskKey)> {
        let secret = Zeroizing::new(random::<SECRET>()?);
        let tpm = tpm.seal(&secret[..]).context("sealing the disk's secret")?;
        let header = Header { disk: B64u(random::<16>()?.to_vec()), number, tpm, site: None };
        let mut vault = Self { header, secret };
        let key = vault.with_site()?;
        Ok((vault, key))
    }

    /// By the TPM, without anybody's help.
    pub fn by_tpm(header: &Header, tpm: &mut Tpm) -> Result<Self, tpm::Error> {
        let secret = tpm.unseal(&header.tpm)?;
        let fits = secret.as_slice().try_into().map(Zeroizing::new);
        let secret = fits.map_err(|_| tpm::Error::Length(secret.len()))?;
        Ok(Self { header: header.clone(), secret })
    }

    /// By the key that the site keeps; none where it is another disk's.
    pub fn by_site(header: &Header, key: &[u8]) -> Option<Self> {
        let wrapped = header.site.as_ref()?;
        let secret = gcm_open(&wrapping(key), &header.disk.0, &wrapped.0)?;
        let secret = Zeroizing::new(secret.as_slice().try_into().ok()?);
        Some(Self { header: header.clone(), secret })
    }

    /// A new key for the site. The former one opens nothing any more.
    pub fn with_site(&mut self) -> Result<DiskKey> {
        let key = Zeroizing::new(random::<SECRET>()?);
        let wrapped = gcm_seal(&wrapping(&key[..]), &self.header.disk.0, &self.secret[..]);
        self.header.site = Some(B64u(wrapped.context("wrapping the disk's secret")?));
        Ok(DiskKey { disk: self.header.disk.clone(), key: Secret(Zeroizing::new(key.to_vec())) })
    }

    /// Without a key at the site: it does not keep one.
    pub fn without_site(&mut self) {
        self.header.site = None;
    }

    /// Seals the secret to how the machine was started now.
    pub fn seal(&mut self, tpm: &mut Tpm) -> Result<(), tpm::Error> {
        self.header.tpm = tpm.seal(&self.secret[..])?;
        Ok(())
    }

    /// Saves the ways to the secret on these partitions, one after the other.
    pub fn save(&mut self, partitions: &[&Path]) -> Result<()> {
        self.header.number += 1;
        partitions.iter().try_for_each(|partition| self.header.write(partition))
    }

    /// Opens a partition; the device through which it is read and written.
    pub fn open(&self, part: Part, partition: &Path) -> Result<PathBuf> {
        let opening = || format!("opening {}", partition.display());
        let size = File::open(partition).and_then(|mut file| file.seek(SeekFrom::End(0)));
        let size = size.with_context(opening)?.checked_sub(header::LENGTH).with_context(opening)?;
        let table = self.table(part, partition);
        let sectors = size / SECTOR;
        let device = Device { name: part.name(), read_only: false, sectors, kind: "crypt", table: &table };
        device.make().with_context(opening)
    }

    /// `linux/Documentation/admin-guide/device-mapper/dm-crypt.rst`. Partitions begin and end at a MiB: sectors of 4096
    /// bytes fit always. What is deleted is told to the disk, which shows which blocks are in use and nothing else.
    fn table(&self, part: Part, partition: &Path) -> Zeroizing<String> {
        let info = format!("nodeboot-disk-v1 {}", part.name());
        let key = hkdf_sha256::<64>(&self.secret[..], &self.header.disk.0, info.as_bytes());
        let key = Zeroizing::new(hex(&key[..]));
        let (device, begin) = (partition.display(), header::LENGTH / SECTOR);
        let options = "2 allow_discards sector_size:4096";
        Zeroizing::new(format!("aes-xts-plain64 {} 0 {device} {begin} {options}", *key))
    }
}

/// Closes a partition that nobody uses.
pub(super) fn close(part: Part) -> Result<()> {
    mapper::remove(part.name())
}

fn wrapping(key: &[u8]) -> Zeroizing<[u8; 32]> {
    hkdf_sha256(key, &[], b"nodeboot-disk-v1 site")
}

/// The header of a disk whose partitions for state and volumes these are: either has it, and one may be damaged.
pub(super) fn header_of(partitions: &[&Path]) -> Result<Option<Header>> {
    let mut found: Option<Header> = None;
    for partition in partitions {
        let header = Header::read(partition)?;
        if header.as_ref().map(|header| header.number) > found.as_ref().map(|found| found.number) {
            found = header;
        }
    }
    Ok(found)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::header::tests::header;
    use super::*;

    /// The header of a disk whose key the site has, and that key.
    pub(in super::super) fn known_to_site(header: &Header) -> (Header, DiskKey) {
        let mut vault = Vault { header: header.clone(), secret: Zeroizing::new([5; SECRET]) };
        let key = vault.with_site().unwrap();
        (vault.header, key)
    }

    fn vault() -> Vault {
        Vault { header: header(1), secret: Zeroizing::new([5; SECRET]) }
    }

    #[test]
    fn the_sites_key_opens_this_disk_and_no_other_one_and_a_newer_key_ends_it() {
        let mut vault = vault();
        let key = vault.with_site().unwrap();
        assert_eq!(*Vault::by_site(&vault.header, &key.key.0).unwrap().secret, [5; SECRET]);
        assert!(Vault::by_site(&vault.header, &[1; SECRET]).is_none());
        let mut other = vault.header.clone();
        other.disk = B64u(vec![9; 16]);
        assert!(Vault::by_site(&other, &key.key.0).is_none());
        let newer = vault.with_site().unwrap();
        assert!(Vault::by_site(&vault.header, &key.key.0).is_none());
        assert!(Vault::by_site(&vault.header, &newer.key.0).is_some());
        vault.without_site();
        assert!(Vault::by_site(&vault.header, &newer.key.0).is_none());
    }

    #[test]
    fn each_partition_has_a_key_of_its_own_and_begins_behind_the_header() {
        let at = Path::new("/dev/sda6");
        let (state, volumes) = (vault().table(Part::State, at), vault().table(Part::Volumes, at));
        let words: Vec<_> = state.split(' ').collect();
        assert_eq!((words[0], words[1].len()), ("aes-xts-plain64", 128));
        assert_eq!(words[2..].join(" "), "0 /dev/sda6 2048 2 allow_discards sector_size:4096");
        assert_ne!(*state, *volumes);
        assert!(!state.contains(&hex(&[5; SECRET])));
    }

    #[test]
    fn the_later_of_two_headers_counts_and_one_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let [state, volumes] = ["state", "volumes"].map(|name| folder.path().join(name));
        for path in [&state, &volumes] {
            File::create(path).unwrap().set_len(2 * header::LENGTH).unwrap();
        }
        let both: [&Path; 2] = [&state, &volumes];
        assert!(header_of(&both).unwrap().is_none());
        vault().save(&[&volumes]).unwrap();
        assert_eq!(header_of(&both).unwrap().unwrap().number, 2);
        let mut later = vault();
        later.header.number = 6;
        later.save(&[&state]).unwrap();
        assert_eq!(header_of(&both).unwrap().unwrap().number, 7);
        header::erase(&state).unwrap();
        assert_eq!(header_of(&both).unwrap().unwrap().number, 2);
    }
}
