//! Documents as a mistake or an attacker makes them, signed with whatever keys the test may have.

use std::collections::BTreeMap;

use protocol::bundle::{self, Index, Section};
use protocol::bytes::{Digest, from_b64u};
use protocol::cert::Cert;
use protocol::crypto::Signer;
use protocol::json;
use protocol::jws::{self, typ};
use protocol::record::Record;
use provisioner::hq;
use provisioner::site::{keys, system_clock};
use tests::stage::{Hq, SITE};

use crate::Served;

/// The payload of a signed document.
pub fn payload<T: serde::de::DeserializeOwned>(text: &str) -> T {
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    json::parse(&from_b64u(document["payload"].as_str().unwrap()).unwrap()).unwrap()
}

/// The document with one bit of its signature turned.
pub fn damaged(text: &str) -> String {
    let mut document: serde_json::Value = serde_json::from_str(text).unwrap();
    let value = &mut document["signatures"][0]["signature"];
    let mut signature = from_b64u(value.as_str().unwrap()).unwrap();
    signature[40] ^= 1;
    *value = protocol::bytes::b64u(&signature).into();
    document.to_string()
}

/// Headquarters with its keys at hand.
pub struct Desk(pub hq::Hq);

impl Desk {
    /// Sits down at it.
    pub fn of(hq: &Hq) -> Self {
        let keys = hq::keys::Keys::new(hq.path("keys"), Some(&hq.path("passphrase"))).unwrap();
        Self(hq::Hq { dir: hq.dir(), keys })
    }

    /// Its signer.
    pub fn signer(&self) -> (Cert, Box<dyn Signer>) {
        (self.0.certificate("signer").unwrap(), self.0.key("signer").unwrap())
    }

    /// Changes the only registration there is.
    pub fn amend(&self, change: impl FnOnce(&mut Record)) {
        let mut records = self.0.records().unwrap();
        assert_eq!(records.len(), 1);
        let mut record = records.remove(0);
        change(&mut record);
        self.0.save_record(&record).unwrap();
    }

    /// The next bundle as headquarters makes it, not sealed.
    pub fn next(&self) -> Loose {
        let built = self.0.build_bundle(SITE, system_clock()).unwrap();
        let file = self.0.dir.join("next.nbb");
        self.0.send(&built, &file, |file| Ok(std::fs::write(file, &built.file)?)).unwrap();
        let key = self.0.keys.scalar("site-ship-7-bundle").unwrap();
        let opened = bundle::open(&built.file, SITE, &key[..]).unwrap();
        let index: Index = payload(&opened.index);
        let bytes = |section: &Section| (section.name.clone(), opened.carried[&section.sha256].clone());
        Loose { sections: index.sections.iter().map(bytes).collect(), text: opened.index, index }
    }

    /// Bytes, sealed to the site whatever they are.
    pub fn sealed(&self, packed: &[u8]) -> Vec<u8> {
        let key = bundle::public_of(&self.0.keys.scalar("site-ship-7-bundle").unwrap()[..]).unwrap();
        let head = [&bundle::MAGIC[..], &Digest::of(&key).0[..8]].concat();
        let info = [b"nodeboot-bundle-v1\0", SITE.as_bytes()].concat();
        let (enc, ct) = bundle::hpke_seal(&key, &info, packed, &head).unwrap();
        [head, enc, ct].concat()
    }
}

/// A bundle in its parts, to be changed and put together again.
pub struct Loose {
    /// What it says of itself.
    pub index: Index,
    /// The same as headquarters signed it: JWS text.
    pub text: String,
    /// Bytes of each section.
    pub sections: BTreeMap<String, Vec<u8>>,
}

impl Loose {
    /// Puts other bytes into a section, and says so in the index.
    pub fn set(&mut self, name: &str, bytes: Vec<u8>) {
        let section = self.index.sections.iter_mut().find(|section| section.name == name).unwrap();
        section.sha256 = Digest::of(&bytes);
        section.size = bytes.len() as u64;
        self.sections.insert(name.to_owned(), bytes);
    }

    /// The file, its index signed by this signer and sealed to the site of `desk`.
    pub fn file(&self, desk: &Desk, (certificate, key): &(Cert, Box<dyn Signer>)) -> Vec<u8> {
        let text = jws::sign(&json::to_vec(&self.index), typ::BUNDLE, &certificate.der, &**key).unwrap();
        self.file_of(desk, &text)
    }

    /// The file with this text as its index.
    pub fn file_of(&self, desk: &Desk, text: &str) -> Vec<u8> {
        let key = bundle::public_of(&desk.0.keys.scalar("site-ship-7-bundle").unwrap()[..]).unwrap();
        let carried: Vec<_> = self.sections.values().map(Vec::as_slice).collect();
        bundle::seal(text, &carried, SITE, &key).unwrap()
    }
}

/// The keys of a provisioner, as one who broke into it has them.
pub fn stolen_keys(served: &Served) -> keys::Keys {
    keys::Keys::load(&served.path(), system_clock()).unwrap()
}

/// What a TPM says of its keys, from the specification's vectors.
pub mod tpm {
    const VECTORS: &str = include_str!("../../provisioner/protocol/tests/vectors/v1.json");

    fn vector(pointer: &str) -> String {
        let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
        vectors.pointer(pointer).unwrap().as_str().unwrap().to_owned()
    }

    fn bytes(pointer: &str) -> Vec<u8> {
        let text = vector(pointer);
        let byte = |place| u8::from_str_radix(&text[place..place + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect()
    }

    /// `TPMT_PUBLIC` of an endorsement key on P-256.
    pub fn ek() -> Vec<u8> {
        bytes("/tpm/ek-public")
    }

    /// Its hash, as headquarters registers it.
    pub fn ek_id() -> String {
        vector("/ids/ek").trim_start_matches("ek:").to_owned()
    }

    /// `TPMT_PUBLIC` of a node key.
    pub fn key() -> Vec<u8> {
        bytes("/tpm/key-public")
    }

    /// The same for another key on P-256: `unique` is the last part, two coordinates with their lengths.
    pub fn key_of(spki: &[u8]) -> Vec<u8> {
        let (x, y) = spki[spki.len() - 64..].split_at(32);
        let key = key();
        [&key[..key.len() - 68], &[0, 32], x, &[0, 32], y].concat()
    }
}
