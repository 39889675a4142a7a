//! Secure Boot: what the firmware says of it, whom it believes, and at the depot, that it comes to believe the owner.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use protocol::bytes::B64;
use protocol::firmware::{ATTRIBUTES, CERTIFICATES, DB, GLOBAL, KEK, PK, Variable};
use protocol::inventory::SecureBoot;
use protocol::section::FirmwareKeys;
use uuid::Uuid;

use super::variables::{self, FOLDER};

/// What a person does where the firmware takes no new keys.
const TO_SETUP: &str = "switch the machine on, press the key for the firmware's setup (often F2 or Del), and in its page on \
                        Secure Boot choose \"Reset to Setup Mode\" or \"Clear Secure Boot Keys\"; save, and start from \
                        this stick again";

/// What the firmware does with programs, and whose it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Whether it asks who signed them.
    pub state: SecureBoot,
    /// Certificates that it believes, DER.
    pub believed: Vec<Vec<u8>>,
}

/// What this machine's firmware does.
pub fn look() -> Firmware {
    Firmware { state: state(), believed: certificates(&get(Path::new(FOLDER), &DB).unwrap_or_default()) }
}

/// Whether this machine's firmware asks who signed what it starts.
pub fn state() -> SecureBoot {
    state_in(Path::new(FOLDER))
}

fn state_in(folder: &Path) -> SecureBoot {
    let is = |name| get(folder, &Variable { name, vendor: GLOBAL }).and_then(|value| value.first().copied());
    match (is("SecureBoot"), is("SetupMode")) {
        (Some(1), _) => SecureBoot::On,
        (_, Some(1)) => SecureBoot::Setup,
        (Some(_), _) => SecureBoot::Off,
        (None, _) => SecureBoot::Unknown,
    }
}

/// The state in words.
pub fn words(state: SecureBoot) -> &'static str {
    match state {
        SecureBoot::On => "Secure Boot is on",
        SecureBoot::Off => "Secure Boot is off",
        SecureBoot::Setup => "Secure Boot is off, and the firmware has no owner yet",
        SecureBoot::Unknown => "no Secure Boot",
    }
}

/// Has this machine's firmware believe the owner from its next start on; what was done. What a power cut left half done is
/// done again: the key that ends it is written last.
pub fn enrol(keys: &FirmwareKeys) -> Result<&'static str> {
    enrol_in(Path::new(FOLDER), keys)
}

fn enrol_in(folder: &Path, keys: &FirmwareKeys) -> Result<&'static str> {
    let is_there = [(&PK, &keys.pk), (&KEK, &keys.kek), (&DB, &keys.db)]
        .into_iter()
        .all(|(variable, update)| get(folder, variable).is_some_and(|held| is_of(&held, update)));
    match state_in(folder) {
        _ if is_there => return Ok("the firmware believes the owner's keys already"),
        SecureBoot::Setup => {}
        SecureBoot::Unknown => {
            bail!("this machine's firmware has no Secure Boot, or was started without UEFI")
        }
        SecureBoot::On | SecureBoot::Off => bail!("the firmware has another owner's keys: {TO_SETUP}"),
    }
    for (variable, update) in [(&DB, &keys.db), (&KEK, &keys.kek), (&PK, &keys.pk)] {
        put(folder, variable, update)
            .with_context(|| format!("the firmware does not take {}", variable.name))?;
    }
    ensure!(state_in(folder) != SecureBoot::Setup, "the firmware took the keys, and asks for some still");
    Ok("the firmware believes the owner's keys from its next start on")
}

/// Whether a variable holds what this update would put there, behind its signature.
fn is_of(held: &[u8], update: &B64) -> bool {
    !held.is_empty() && update.0.ends_with(held)
}

fn file(folder: &Path, variable: &Variable) -> PathBuf {
    variables::file(folder, variable.name, variable.vendor)
}

fn get(folder: &Path, variable: &Variable) -> Option<Vec<u8>> {
    variables::get(&file(folder, variable))
}

fn put(folder: &Path, variable: &Variable, update: &B64) -> Result<()> {
    let file = file(folder, variable);
    variables::unprotect(&file)?;
    variables::put(&file, ATTRIBUTES, &update.0)
}

/// Certificates in lists of the firmware (UEFI 2.10 section 32.4.1). What is cut off or of another kind is left out.
fn certificates(mut lists: &[u8]) -> Vec<Vec<u8>> {
    /// Bytes before the entries of a list: its type, its size, its header's, an entry's; and before a certificate, whose
    /// it is.
    const HEADER: usize = 28;
    const OWNER: usize = 16;
    let kind = CERTIFICATES.parse::<Uuid>().unwrap_or_default().to_bytes_le();
    let mut found = Vec::new();
    while let Some(head) = lists.get(..HEADER) {
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (size, header, entry) = (number(16), number(20), number(24));
        let Some(list) = lists.get(..size).filter(|list| list.len() >= HEADER && entry > OWNER) else {
            break;
        };
        if head[..16] == kind {
            let entries = list.get(HEADER.saturating_add(header)..).unwrap_or_default().chunks_exact(entry);
            found.extend(entries.map(|entry| entry[OWNER..].to_vec()));
        }
        lists = &lists[size..];
    }
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A list of certificates as the firmware keeps it.
    fn list(kind: &str, certificates: &[&[u8]]) -> Vec<u8> {
        let entry = 16 + certificates[0].len();
        let mut list = kind.parse::<Uuid>().unwrap().to_bytes_le().to_vec();
        for number in [28 + entry * certificates.len(), 0, entry] {
            list.extend(u32::try_from(number).unwrap().to_le_bytes());
        }
        for certificate in certificates {
            list.extend([&[9; 16][..], certificate].concat());
        }
        list
    }

    fn keys() -> FirmwareKeys {
        let update =
            |certificate: &[u8]| B64([&b"a signature"[..], &list(CERTIFICATES, &[certificate])].concat());
        FirmwareKeys { pk: update(b"pk"), kek: update(b"kek"), db: update(b"db") }
    }

    fn firmware(secure: u8, setup: u8) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, value) in [("SecureBoot", secure), ("SetupMode", setup)] {
            fs::write(file(dir.path(), &Variable { name, vendor: GLOBAL }), [6, 0, 0, 0, value]).unwrap();
        }
        dir
    }

    #[test]
    fn a_firmware_says_whether_it_asks_who_signed_and_whom_it_believes() {
        for (secure, setup, wanted) in
            [(1, 0, SecureBoot::On), (0, 0, SecureBoot::Off), (0, 1, SecureBoot::Setup)]
        {
            assert_eq!(state_in(firmware(secure, setup).path()), wanted);
        }
        assert_eq!(state_in(Path::new("/no/such/folder")), SecureBoot::Unknown);
        let hashes = list("c1c41626-504c-4092-aca9-41f936934328", &[b"hash"]);
        let db = [hashes, list(CERTIFICATES, &[b"one"]), list(CERTIFICATES, &[b"two", b"six"])].concat();
        assert_eq!(certificates(&db), [b"one", b"two", b"six"]);
        for cut in 0..db.len() {
            assert!(certificates(&db[..cut]).len() < 3, "cut at {cut}");
        }
        for hostile in [[0xff; 64], [0; 64]] {
            assert!(certificates(&hostile).is_empty());
        }
    }

    #[test]
    fn keys_go_in_only_where_the_firmware_asks_for_them_the_last_one_ends_that_and_twice_is_once() {
        let dir = firmware(0, 0);
        let said = enrol_in(dir.path(), &keys()).unwrap_err().to_string();
        assert!(said.contains("another owner's keys") && said.contains("Setup Mode"), "{said}");
        assert!(get(dir.path(), &DB).is_none());
        let said = enrol_in(Path::new("/no/such/folder"), &keys()).unwrap_err().to_string();
        assert!(said.contains("no Secure Boot"), "{said}");
        // A firmware whose keys are gone but for the one that a power cut has left.
        let dir = firmware(0, 1);
        fs::write(file(dir.path(), &DB), b"\x27\0\0\0left").unwrap();
        let said = enrol_in(dir.path(), &keys()).unwrap_err().to_string();
        assert!(said.contains("asks for some still"), "no firmware is here that would go on: {said}");
        for (variable, update) in [(&PK, &keys().pk), (&KEK, &keys().kek), (&DB, &keys().db)] {
            let written = fs::read(file(dir.path(), variable)).unwrap();
            assert_eq!(written, [&[0x27, 0, 0, 0], update.0.as_slice()].concat(), "{}", variable.name);
            // What a firmware keeps of it is the list.
            let kept = [&[0x27, 0, 0, 0], &update.0[b"a signature".len()..]].concat();
            fs::write(file(dir.path(), variable), kept).unwrap();
        }
        assert!(enrol_in(dir.path(), &keys()).unwrap().contains("already"));
    }
}
