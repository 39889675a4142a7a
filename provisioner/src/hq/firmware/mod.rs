//! What machines start: keys that their firmware believes, signed programs, and the owner's section beside them.

mod pkcs7; // signatures as firmware reads them
mod variable; // whom a firmware is to believe

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use protocol::bytes::{B64, b64};
use protocol::clock::Time;
use protocol::firmware::{DB, FirmwareSigner, KEK, PK};
use protocol::image::Image;
use protocol::issue::for_firmware;
use protocol::section::{self, Depot, FirmwareKeys};
use serde_json::value::RawValue;

use self::pkcs7::Key;
use super::{Hq, read, write};
use crate::model::FirstContact;

/// Names of the keys: whose a machine is, who may change what it believes, whose programs it starts.
pub(super) const KEYS: [&str; 3] = ["firmware-pk", "firmware-kek", "firmware-db"];

/// A key with its certificate.
struct Held {
    certificate: Vec<u8>,
    key: Box<dyn FirmwareSigner>,
}

impl Held {
    fn key(&self) -> Key<'_> {
        Key { certificate: &self.certificate, signer: &*self.key }
    }
}

impl Hq {
    /// Makes the keys that machines' firmware is to believe, and signs what puts them there: once, and offline. After that
    /// only the last one is needed.
    pub fn make_firmware_keys(&self, now: Time) -> Result<()> {
        let mut owner = self.owner()?;
        ensure!(
            !owner.certificates.contains_key(KEYS[0]),
            "there are keys for machines' firmware already, and nothing is left to do: `provisioner hq image add` and `site kit` \
             sign with them; machines that believe them would not believe new ones"
        );
        let mut held = Vec::new();
        for name in KEYS {
            let key = self.keys.make_for_firmware(name).context(
                "where an earlier attempt was cut off, delete the firmware-*.pem that it left: nobody believes them yet",
            )?;
            let words = format!("{} {}", owner.name, name.replace('-', " "));
            let certificate = for_firmware(&words, &key, now)?;
            owner.certificates.insert(name.to_owned(), b64(&certificate));
            held.push(Held { certificate, key: Box::new(key) });
        }
        let update = |variable, of: usize, by: usize| {
            let content = variable::list(&held[of].certificate)?;
            Ok::<_, anyhow::Error>(B64(variable::update(variable, &content, now, &held[by].key())?))
        };
        // Who may change a variable is who is one above it; nobody is above the first.
        let keys = FirmwareKeys { pk: update(&PK, 0, 0)?, kek: update(&KEK, 1, 0)?, db: update(&DB, 2, 1)? };
        write(&self.firmware_keys_file(), &keys)?;
        write(&self.dir.join("owner.yaml"), &owner)
    }

    fn firmware_keys_file(&self) -> PathBuf {
        self.dir.join("secure-boot.yaml")
    }

    /// The owner's keys as the firmware takes them.
    pub fn firmware_keys(&self) -> Result<FirmwareKeys> {
        read(&self.firmware_keys_file())
    }

    /// The key that signs what machines start.
    fn starts(&self) -> Result<Held> {
        let owner = self.owner()?;
        let name = KEYS[2];
        ensure!(
            owner.certificates.contains_key(name),
            "there is no key that machines' firmware could believe: run `provisioner hq secure-boot` once"
        );
        let key = self.keys.firmware_signer(name, owner.hooks.get(name))?;
        let certificate = self.certificate(name)?;
        ensure!(
            certificate.spki == key.spki(),
            "the certificate {name} in owner.yaml is not of the key {name}: which of them was replaced?"
        );
        Ok(Held { certificate: certificate.der, key })
    }

    /// A program as this owner's machines start it.
    pub fn sign_program(&self, program: &[u8]) -> Result<Vec<u8>> {
        let hash = image::authenticode::digest(program)?;
        image::authenticode::sign(program, &self.starts()?.key().program(hash)?)
    }

    /// The owner's section of a stick with these images: what `public/owner.json` says, as of now, and what the site's
    /// network asks of a first contact.
    pub fn section(
        &self,
        images: &[Image],
        depot: Option<&Depot>,
        first: Option<&FirstContact>,
        now: Time,
    ) -> Result<String> {
        let file = self.dir.join("public/owner.json");
        let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
        let mut section: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", file.display()))?;
        section.insert("image-time".to_owned(), serde_json::value::to_raw_value(&now)?);
        section.insert("images".to_owned(), serde_json::value::to_raw_value(images)?);
        if let Some(depot) = depot {
            section.insert("depot".to_owned(), serde_json::value::to_raw_value(depot)?);
        }
        if let Some(first) = first {
            section.insert("network".to_owned(), serde_json::value::to_raw_value(first)?);
        }
        let held = self.starts()?;
        Ok(section::sign(&protocol::json::to_vec(&section), &held.certificate, &*held.key)?)
    }
}

#[cfg(test)]
mod tests;
