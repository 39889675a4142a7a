//! HQ's word in force: the bundle's sections, kept in the store and read once.

use std::collections::BTreeMap;

use protocol::bundle::{Index, Opened};
use protocol::bytes::Digest;
use protocol::id::Id;
use protocol::image::{Image, Images, Kind};
use protocol::json;
use protocol::record::{Match, Record, Status, is_junk};
use protocol::refusal::{Refusal, Refused};
use protocol::report::Burned;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::rebuild::NOBODY;
use super::store::{BURNED, Change, IDS, LABELS, Look, META, RECORDS, SECTIONS, StoreError, VOUCHERS};
use crate::model::{Site, Slots};
use crate::render::profile::{Profile, Profiles};
use crate::render::template::Templates;

/// The part of HQ's word that every decision needs, held in memory.
#[derive(Clone, Debug)]
pub struct Word {
    /// Number of the bundle in force, 0 before the first.
    pub seq: u64,
    /// Its index: JWS text.
    pub index: String,
    /// The site.
    pub site: Site,
    /// Its slots.
    pub slots: Slots,
    /// Slots that registrations name, and the registration that does.
    pub reserved: BTreeMap<String, String>,
    /// Templates.
    pub templates: Templates,
    /// Profiles.
    pub profiles: Profiles,
    /// What machines may run, and the bytes of the section that says so.
    pub images: (Images, Vec<u8>),
}

/// The parts of the `revocations` section.
#[derive(Deserialize)]
pub struct Revocations {
    /// Registrations that HQ ended, all of them ever.
    #[serde(default)]
    pub revoked: Vec<String>,
    /// The revoked document.
    #[serde(default)]
    pub doc: Option<Box<RawValue>>,
    /// The anchors document.
    #[serde(default)]
    pub anchors: Option<Box<RawValue>>,
    /// Single-use keys that were used at any site.
    #[serde(default)]
    pub burned: Vec<Burned>,
}

fn damaged(section: &str, why: impl std::fmt::Display) -> Refused {
    Refused::new(Refusal::BundleRefused, 'a', format!("section {section}: {why}"))
}

/// A bundle whose index was checked, read section by section before anything of it is believed.
pub struct Read {
    /// The index.
    pub index: Index,
    /// The index: JWS text.
    pub text: String,
    /// Bytes of every section that the bundle carries or the store holds.
    pub sections: BTreeMap<String, Vec<u8>>,
    /// Withdrawals.
    pub revocations: Option<Revocations>,
}

impl Read {
    /// Reads every section; those that are named but not carried are taken from `held`.
    pub fn of(
        index: Index,
        opened: Opened,
        held: &dyn Fn(&Digest) -> Option<Vec<u8>>,
    ) -> Result<Self, Refused> {
        let Opened { index: text, mut carried } = opened;
        let mut sections = BTreeMap::new();
        for section in &index.sections {
            // The sections of a site without machines are empty alike: what two of them name is needed twice.
            let again = index.sections.iter().filter(|other| other.sha256 == section.sha256).count() > 1;
            let bytes =
                if again { carried.get(&section.sha256).cloned() } else { carried.remove(&section.sha256) };
            let bytes = bytes.or_else(|| held(&section.sha256));
            let missing = || {
                Refused::new(Refusal::BundleRefused, 'f', format!("section {} is not there", section.name))
            };
            sections.insert(section.name.clone(), bytes.ok_or_else(missing)?);
        }
        records(&sections).try_for_each(|record| record.map(drop))?;
        vouchers(&sections).try_for_each(|voucher| voucher.map(drop))?;
        let revocations = sections.get("revocations").map(|bytes| json::parse(bytes));
        let revocations = revocations.transpose().map_err(|e| damaged("revocations", e))?;
        Word::read(&sections, index.seq, "")?;
        Ok(Self { index, text, sections, revocations })
    }

    /// Puts everything in force, in one change. Registrations are read once more, one after the other: all at once they
    /// would take several times the memory of their text.
    pub fn save(&self, tx: &Change<'_>) -> Result<(), StoreError> {
        if self.index.base.is_none() {
            for table in [RECORDS, IDS, LABELS, VOUCHERS, SECTIONS] {
                tx.clear(table)?;
            }
        }
        let ended = self.revocations.iter().flat_map(|revocations| &revocations.revoked);
        let ended: std::collections::BTreeSet<_> = ended.collect();
        for mut record in records(&self.sections).flatten() {
            if ended.contains(&record.id) && record.status == Status::Active {
                record.status = Status::Revoked;
            }
            save_record(tx, &record)?;
        }
        for burned in self.revocations.iter().flat_map(|revocations| &revocations.burned) {
            burn(tx, burned)?;
        }
        for (id, voucher) in vouchers(&self.sections).flatten() {
            tx.put_bytes(VOUCHERS, &id.to_string(), voucher)?;
        }
        for (name, bytes) in
            self.sections.iter().filter(|(name, _)| !matches!(name.as_str(), "records" | "vouchers"))
        {
            tx.put_bytes(SECTIONS, name, bytes)?;
        }
        tx.put(META, "seq", &self.index.seq)?;
        tx.put_bytes(META, "index", self.text.as_bytes())
    }
}

fn lines<'a>(
    sections: &'a BTreeMap<String, Vec<u8>>,
    name: &str,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let bytes = sections.get(name).map(Vec::as_slice).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn records(sections: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = Result<Record, Refused>> {
    lines(sections, "records").map(|line| json::parse(line).map_err(|e| damaged("records", e)))
}

fn vouchers(sections: &BTreeMap<String, Vec<u8>>) -> impl Iterator<Item = Result<(Id, &[u8]), Refused>> {
    lines(sections, "vouchers").map(|line| Ok((voucher_of(line)?, line)))
}

/// The machine that a voucher names.
fn voucher_of(line: &[u8]) -> Result<Id, Refused> {
    #[derive(Deserialize)]
    struct Outer {
        payload: String,
    }
    #[derive(Deserialize)]
    struct Inner {
        #[serde(rename = "ietf-voucher:voucher")]
        voucher: Named,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "serial-number")]
        id: Id,
    }
    let outer: Outer = json::parse(line).map_err(|e| damaged("vouchers", e))?;
    let payload = protocol::bytes::from_b64u(&outer.payload).map_err(|e| damaged("vouchers", e))?;
    let inner: Inner = json::parse(&payload).map_err(|e| damaged("vouchers", e))?;
    Ok(inner.voucher.id)
}

/// Another provisioner has seen this key used. What was seen here is not undone by that.
fn burn(tx: &Change<'_>, burned: &Burned) -> Result<(), StoreError> {
    let known: Option<Digest> = tx.get(BURNED, &burned.key.to_string())?;
    if known.is_none_or(|known| known == NOBODY) {
        tx.put(BURNED, &burned.key.to_string(), &burned.s)?;
    }
    Ok(())
}

/// Saves one registration with what it is found by.
pub fn save_record(tx: &Change<'_>, record: &Record) -> Result<(), StoreError> {
    for auth in &record.auth {
        tx.put(IDS, &auth.id().to_string(), &record.id)?;
    }
    for label in labels(&record.hints) {
        tx.put(LABELS, &label, &record.id)?;
    }
    tx.put(RECORDS, &record.id, record)
}

/// The labels that a machine may be recognised by, spelled alike; placeholders are left out.
pub fn labels(hints: &Match) -> Vec<String> {
    let texts = [&hints.product_serial, &hints.board_serial, &hints.system_uuid].into_iter().flatten();
    texts
        .map(|text| text.trim().to_ascii_lowercase())
        .filter(|text| !is_junk(text))
        .chain(hints.mac.iter().map(|mac| mac.to_ascii_lowercase()))
        .collect()
}

impl Word {
    /// Before the first bundle: a site without slots.
    pub fn none(site: &str) -> Self {
        let site = Site {
            name: site.to_owned(),
            network: crate::model::Network::default(),
            cluster: crate::model::ClusterPlan::default(),
            system: crate::model::SystemPlan::default(),
        };
        let (templates, profiles) = (Templates::built_in(), Profiles::built_in());
        Self {
            seq: 0,
            index: String::new(),
            site,
            slots: Slots::default(),
            reserved: BTreeMap::new(),
            templates,
            profiles,
            images: (Images::default(), vec![]),
        }
    }

    /// The image of this kind that machines are to run; none leaves each what it has.
    pub fn wanted(&self, kind: Kind) -> Option<&Image> {
        let version = self.site.system.version(kind)?;
        self.images.0.images.iter().find(|image| image.kind == kind && image.version == version)
    }

    /// The word in force, as saved.
    pub fn load(look: &impl Look, site: &str) -> Result<Self, StoreError> {
        let Some(seq) = look.get::<u64>(META, "seq")? else { return Ok(Self::none(site)) };
        let index = look.bytes(META, "index")?.unwrap_or_default();
        let sections: BTreeMap<_, _> = look.all(SECTIONS, "")?.into_iter().collect();
        // It was read before it was saved; a section of a later program's making is left aside.
        let word = Self::read(&sections, seq, &String::from_utf8_lossy(&index));
        let word = word.unwrap_or_else(|_| Self { seq, ..Self::none(site) });
        let mut reserved = BTreeMap::new();
        look.each(RECORDS, &mut |id, record: Record| {
            if record.status == Status::Active && record.site.contains(site) {
                reserved.extend(record.slot.map(|slot| (slot, id.to_owned())));
            }
        })?;
        Ok(Self { reserved, ..word })
    }

    fn read(sections: &BTreeMap<String, Vec<u8>>, seq: u64, index: &str) -> Result<Self, Refused> {
        let mut word = Self { seq, index: index.to_owned(), ..Self::none("") };
        if let Some(bytes) = sections.get("site") {
            word.site = json::parse(bytes).map_err(|e| damaged("site", e))?;
        }
        if let Some(bytes) = sections.get("slots") {
            word.slots = json::parse(bytes).map_err(|e| damaged("slots", e))?;
        }
        if let Some(bytes) = sections.get("templates") {
            let texts: BTreeMap<String, String> = json::parse(bytes).map_err(|e| damaged("templates", e))?;
            for (name, text) in &texts {
                word.templates.set(name, text);
            }
        }
        if let Some(bytes) = sections.get("profiles") {
            let profiles: Vec<Profile> = json::parse(bytes).map_err(|e| damaged("profiles", e))?;
            for profile in profiles {
                word.profiles.set(profile);
            }
        }
        if let Some(bytes) = sections.get("images") {
            word.images = (json::parse(bytes).map_err(|e| damaged("images", e))?, bytes.clone());
        }
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::store::Store;

    #[tokio::test]
    async fn a_key_that_was_used_here_stays_bound_whatever_another_site_says() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        let [here, lost, fresh, s, other] = [1, 2, 3, 4, 5].map(|n| Digest([n; 32]));
        let told = store.write(move |tx| {
            tx.put(BURNED, &here.to_string(), &s)?;
            tx.put(BURNED, &lost.to_string(), &NOBODY)?;
            [here, lost, fresh].into_iter().try_for_each(|key| burn(tx, &Burned { key, s: other }))
        });
        told.await.unwrap();
        let look = store.look().unwrap();
        let bound = [here, lost, fresh].map(|key| look.get(BURNED, &key.to_string()).unwrap());
        assert_eq!(bound, [Some(s), Some(other), Some(other)]);
    }
}
