//! HQ's answer by telephone: the site registers the machine itself, until HQ's own registration takes over.

use protocol::bytes::{B64u, Digest};
use protocol::claim::{self, Code};
use protocol::clock::DAY;
use protocol::id::Id;
use protocol::record::{Auth, Match, Policy, Record, Sites, Status};
use protocol::refusal::{Refusal, Refused};
use protocol::report::Approved;
use protocol::voucher::VOICE_EPOCH;
use serde::{Deserialize, Serialize};

use super::admit::Entry;
use super::claims::Claim;
use super::machine::{KubeletState, Machine};
use super::store::{Change, EVENTS, HOLDERS, IDS, KEYS, Look, MACHINES, RECORDS, StoreError, VOICES, number};
use super::word::save_record;
use super::{KeyEntry, Site, broken, report};
use crate::model::Role;

/// Wrong codes that a claim survives, and wrong codes a day.
const WRONG_PER_CLAIM: u32 = 5;
const WRONG_PER_DAY: usize = 20;

/// A registration that the site made, and the event by which HQ hears of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Made {
    record: Record,
    event: u64,
}

fn unfit(case: char, detail: &str) -> Refused {
    Refused::new(Refusal::ApprovalRefused, case, detail)
}

impl Site {
    /// HQ's answer by voice, typed at the provisioner: R43, R40d. Registration, key, slot and the event for HQ are on
    /// disk together before this answers: the id of the registration.
    pub async fn approve_by_voice(&self, slot: &str, text: &str) -> Result<String, Refused> {
        let answer =
            Code::parse(text).map_err(|error| Refused::new(Refusal::CodeWrong, 'a', error.to_string()))?;
        if !self.trust().0.allow_phone() {
            let detail = "the owner does not allow it: ask HQ for an approval by file or link";
            return Err(Refused::new(Refusal::VoiceRefused, 'a', detail));
        }
        self.check_rebuilt()?;
        match self.word().slots.get(slot) {
            None => return Err(unfit('c', "this site has no such slot: `provisioner slots` lists them")),
            Some(plan) => check_role(plan.role)?,
        }
        let (claim, code) = self.answered(slot, answer)?;
        let record = self.record_of(&claim, slot);
        let (id, s) = (record.id.clone(), claim.s);
        let (current, sight) = (self.check_current(), self.sight());
        let saved = self.store.write(move |tx| {
            let canonical = record.canonical_id();
            let Some(auth) = record.auth.iter().find(|auth| canonical == Some(auth.id())) else {
                return Ok(Err(unfit('d', "the machine has proved no key")));
            };
            let (kind, proven, hw) = (auth.kind().to_owned(), auth.id(), Some(claim.hw.clone()));
            let entry = Entry { s, kind, proven, hw, sight, current };
            register(tx, &record, code, &entry)
        });
        saved.await.map_err(broken)??;
        // Not before it is saved: until then the same code may be typed again.
        self.forget_claims(&s);
        Ok(id)
    }

    /// The claim that shows the code which HQ answered.
    fn answered(&self, slot: &str, answer: Code) -> Result<(Claim, Code), Refused> {
        let wrong = |case, detail: &str| Refused::new(Refusal::CodeWrong, case, detail);
        let identity = &self.keys.identity;
        let key = claim::approve_key(&identity.grant.approve_key.0, &identity.grant.hq_approve.0)
            .map_err(broken)?;
        let (site, now) = (self.name(), self.now());
        let _ = self.claims();
        let mut memory = self.memory();
        memory.wrong_codes.retain(|at| now.since(*at) < DAY.unsigned_abs());
        if memory.wrong_codes.len() >= WRONG_PER_DAY {
            return Err(wrong('c', "too many wrong codes today: HQ can send an approval file"));
        }
        let fits = |claim: &Claim| {
            let code = claim.code.filter(|sas| claim::voice_code(&key, site, *sas, slot) == answer)?;
            Some((claim.clone(), code))
        };
        if let Some(found) = memory.claims.values().find_map(fits) {
            return Ok(found);
        }
        memory.wrong_codes.push(now);
        memory.claims.values_mut().for_each(|claim| claim.wrong += 1);
        memory.claims.retain(|_, claim| claim.wrong < WRONG_PER_CLAIM);
        Err(wrong('b', "it answers no code that a machine shows for this slot"))
    }

    /// What the site registers: the proven ids as HQ would, for one slot, and with no epoch of HQ's.
    fn record_of(&self, claim: &Claim, slot: &str) -> Record {
        let auth = claim.ids().into_iter().filter_map(|id| match id {
            Id::Ek(sha256) => Some(Auth::TpmEk { alg: String::new(), sha256 }),
            Id::Idevid(sha256) => Some(Auth::Idevid { sha256 }),
            Id::Key(sha256) => Some(Auth::DevKey { sha256 }),
            Id::Serial(_) => None,
        });
        Record {
            id: claim.name(),
            epoch: VOICE_EPOCH,
            status: Status::Active,
            site: Sites::One(self.name().to_owned()),
            slot: Some(slot.to_owned()),
            roles: vec![],
            hints: Match::default(),
            auth: auth.collect(),
            policy: Policy::default(),
        }
    }
}

/// R40d: a voice is not enough for a control-plane machine.
pub(crate) fn check_role(role: Role) -> Result<(), Refused> {
    match role {
        Role::Worker => Ok(()),
        Role::ControlPlane => {
            let detail = "not by voice: HQ registers control-plane machines and sends a bundle";
            Err(Refused::new(Refusal::NotControlPlane, 'd', detail))
        }
    }
}

/// One machine of HQ's telephone answer: checked first, since what was written stays.
fn register(
    tx: &Change<'_>,
    record: &Record,
    code: Code,
    entry: &Entry,
) -> Result<Result<(), Refused>, StoreError> {
    let slot = record.slot.clone().unwrap_or_default();
    if tx.get::<String>(HOLDERS, &slot)?.is_some() {
        return Ok(Err(unfit('c', "another machine holds the slot: `provisioner retire` it if it is gone")));
    }
    for auth in &record.auth {
        if tx.get::<String>(IDS, &auth.id().to_string())?.is_some() {
            return Ok(Err(unfit('d', "this machine is registered meanwhile: it goes on by itself")));
        }
    }
    save_record(tx, record)?;
    if let Err(refused) = entry.bind(tx)? {
        forget(tx, record)?;
        return Ok(Err(refused));
    }
    let approved = Approved {
        machine: record.id.clone(),
        slot,
        ids: record.auth.iter().map(Auth::id).collect(),
        by: "voice".to_owned(),
        sas: B64u(code.0.to_vec()),
    };
    let event = report::note(tx, &report::Event::Approved(approved))?;
    tx.put(VOICES, &record.id, &Made { record: record.clone(), event })?;
    Ok(Ok(()))
}

fn forget(tx: &Change<'_>, record: &Record) -> Result<(), StoreError> {
    for auth in &record.auth {
        let id = auth.id().to_string();
        if tx.get::<String>(IDS, &id)?.as_ref() == Some(&record.id) {
            tx.remove(IDS, &id)?;
        }
    }
    tx.remove(VOICES, &record.id)?;
    tx.remove(RECORDS, &record.id)
}

/// After a bundle and its acknowledgements: each registration of ours gives way to HQ's of the same machine; it ends
/// where HQ has heard of it and made none; and it stands where HQ has not heard of it yet.
pub(crate) fn hand_over(tx: &Change<'_>) -> Result<(), StoreError> {
    for (id, made) in tx.list::<Made>(VOICES)? {
        let mut heir = None;
        for auth in &made.record.auth {
            heir = heir.or(tx.get::<String>(IDS, &auth.id().to_string())?.filter(|heir| *heir != id));
        }
        if let Some(heir) = heir {
            rename(tx, &id, &heir)?;
            forget(tx, &made.record)?;
        } else if tx.bytes(EVENTS, &number(made.event))?.is_none() {
            forget(tx, &made.record)?;
        } else {
            save_record(tx, &made.record)?;
        }
    }
    Ok(())
}

/// The machine stays what and where it is, under HQ's name for it.
fn rename(tx: &Change<'_>, from: &str, to: &str) -> Result<(), StoreError> {
    let Some(mut machine) = tx.get::<Machine>(MACHINES, from)? else { return Ok(()) };
    // An installation of the same machine that HQ's registration had here before is a former one.
    if let Some(old) = tx.get::<Machine>(MACHINES, to)? {
        machine.former.extend(old.node().filter(|_| old.kubelet != KubeletState::None));
        machine.former.extend(old.former);
        for (slot, _) in tx.list::<String>(HOLDERS)?.iter().filter(|(_, holder)| holder == to) {
            tx.remove(HOLDERS, slot)?;
        }
        if let Some(s) = old.s.filter(|s| machine.s != Some(*s)) {
            tx.put(KEYS, &s.to_string(), &KeyEntry { machine: to.to_owned(), current: false })?;
        }
    }
    for (slot, _) in tx.list::<String>(HOLDERS)?.iter().filter(|(_, holder)| holder == from) {
        tx.put(HOLDERS, slot, &to)?;
    }
    for (key, entry) in tx.list::<KeyEntry>(KEYS)? {
        if entry.machine == from {
            tx.put(KEYS, &key, &KeyEntry { machine: to.to_owned(), ..entry })?;
        }
    }
    to.clone_into(&mut machine.id);
    tx.remove(MACHINES, from)?;
    tx.put(MACHINES, to, &machine)
}

impl Claim {
    /// The site's own name for the machine, until HQ has one.
    pub(crate) fn name(&self) -> String {
        format!("claim-{}", self.s.short_hex())
    }

    /// What a registration of it is made of: its strong names; else its device key; else the key that speaks, which
    /// changes with every installation.
    pub(crate) fn ids(&self) -> Vec<Id> {
        let own = Id::Key(self.s);
        let strong: Vec<Id> = self.proven.iter().filter(|id| !matches!(id, Id::Key(_))).cloned().collect();
        let device: Vec<Id> = self.proven.iter().filter(|id| **id != own).cloned().collect();
        [strong, device, vec![own]].into_iter().find(|ids| !ids.is_empty()).unwrap_or_default()
    }
}

impl Site {
    /// A machine that is registered shows no code any more.
    pub(crate) fn forget_claims(&self, s: &Digest) {
        self.memory().claims.retain(|_, claim| claim.s != *s);
    }
}
