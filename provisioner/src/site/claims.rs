//! The human code (M10): a machine nobody registered, a person who reads eight symbols to HQ.

use protocol::bytes::{B64u, Digest};
use protocol::claim::{self, Code, Open, Opened, Reveal};
use protocol::clock::Time;
use protocol::id::Id;
use protocol::inventory::Facts;
use protocol::refusal::{Refusal, Refused, Wait};
use protocol::report::Approved;

use super::{Peer, Site, broken, report};

/// How long a code is good for, seconds.
const CODE_LIFE: i64 = 3600;
/// Claims that wait at the same time.
const MOST_CLAIMS: usize = 64;
/// Claims a minute.
const A_MINUTE: usize = 6;
/// Wrong codes a claim survives, and wrong codes a day.
const WRONG_PER_CLAIM: u32 = 5;
const WRONG_PER_DAY: u32 = 20;

/// A machine that shows a code, or is going to.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Its node key.
    pub s: Digest,
    /// What it proved.
    pub proven: Vec<Id>,
    /// What it said of its hardware.
    pub hw: Facts,
    /// Since when.
    pub since: Time,
    /// The code, once both nonces are out.
    pub code: Option<Code>,
    /// The slot it was approved for, and by whose word.
    pub approved: Option<(String, &'static str)>,
    commit: Digest,
    ns: [u8; 16],
    wrong: u32,
}

impl Site {
    /// Somebody says: I am plugging in a machine.
    pub fn open_window(&self, minutes: u32) -> Time {
        let until = self.now().plus(i64::from(minutes) * 60);
        self.memory().window_until = until;
        until
    }

    /// Whether somebody says so.
    pub fn window_open(&self) -> bool {
        self.memory().window_until > self.now()
    }

    /// Machines that show a code.
    pub fn claims(&self) -> Vec<Claim> {
        let now = self.now();
        let mut memory = self.memory();
        memory.claims.retain(|_, claim| now.since(claim.since) < CODE_LIFE.unsigned_abs());
        memory.claims.values().cloned().collect()
    }

    /// Why the machine with this key waits, if it has a claim.
    pub(crate) fn claim_state(&self, s: &Digest) -> Option<Wait> {
        let claim = self.claims().into_iter().find(|claim| claim.s == *s && claim.code.is_some())?;
        Some(match claim.approved {
            Some((_, "voice")) => Wait::Approved,
            _ => Wait::PendingHq,
        })
    }

    /// M10, first step: R21c, R41, R42a.
    pub fn claim(&self, peer: &Peer, proven: &[Id], open: &Open) -> Result<Opened, Refused> {
        if !self.window_open() {
            return Err(Refused::new(Refusal::Unknown, 'c', "nobody here says that he plugs a machine in"));
        }
        let mut claimed = open.ids.clone();
        let mut known = proven.to_vec();
        claimed.sort();
        known.sort();
        if claimed != known {
            return Err(Refused::new(Refusal::ClaimWrong, 'a', "the ids are not those that were proven"));
        }
        let now = self.now();
        let (id, ns) =
            (protocol::crypto::random().map_err(broken)?, protocol::crypto::random().map_err(broken)?);
        let _ = self.claims();
        let mut memory = self.memory();
        memory.claims.retain(|_, claim| claim.s != peer.s);
        let recent = memory.claims.values().filter(|claim| now.since(claim.since) < 60).count();
        if memory.claims.len() >= MOST_CLAIMS || recent >= A_MINUTE {
            return Err(Refusal::TooManyClaims.into());
        }
        let claim = Claim {
            s: peer.s,
            proven: known,
            hw: open.hw.clone(),
            since: now,
            code: None,
            approved: None,
            commit: open.commit,
            ns,
            wrong: 0,
        };
        memory.claims.insert(id, claim);
        Ok(Opened { id: B64u(id.to_vec()), ns: B64u(ns.to_vec()) })
    }

    /// M10, second step: R42b, R42c.
    pub fn reveal(&self, peer: &Peer, id: &[u8], reveal: &Reveal) -> Result<(), Refused> {
        let wrong = |case, detail: &str| Refused::new(Refusal::ClaimWrong, case, detail);
        let p = self.keys.leaf().0.key_hash;
        let id: [u8; 16] = id.try_into().map_err(|_| wrong('c', "no such claim"))?;
        let nb: [u8; 16] =
            reveal.nb.0.as_slice().try_into().map_err(|_| wrong('b', "a nonce of 16 bytes"))?;
        let _ = self.claims();
        let mut memory = self.memory();
        let claim = memory.claims.get_mut(&id).filter(|claim| claim.s == peer.s && claim.code.is_none());
        let claim = claim.ok_or_else(|| wrong('c', "no such claim"))?;
        if claim::commit(&claim.s, &claim.proven, &nb) != claim.commit {
            memory.claims.remove(&id);
            return Err(wrong('b', "the nonce is not the one committed to"));
        }
        claim.code = Some(claim::sas(&claim.s, &p, &nb, &claim.ns));
        Ok(())
    }

    /// HQ's signed yes to a code: R46c, R46d. The machine's ids go to HQ, its registration comes back by bundle.
    pub(crate) async fn approve_by_hq(&self, code: Code, slot: &str) -> Result<(), Refused> {
        let unfit = |case, detail: &str| Refused::new(Refusal::ApprovalRefused, case, detail);
        if self.word().slots.get(slot).is_none() {
            return Err(unfit('c', "this site has no such slot"));
        }
        let held = self
            .store
            .look()
            .and_then(|look| super::store::Look::get::<String>(&look, super::store::HOLDERS, slot));
        if held.map_err(broken)?.is_some() {
            return Err(unfit('c', "another machine holds the slot"));
        }
        let claim = {
            let _ = self.claims();
            let mut memory = self.memory();
            let mut fitting: Vec<_> =
                memory.claims.values_mut().filter(|claim| claim.code == Some(code)).collect();
            let [claim] = fitting.as_mut_slice() else {
                return Err(unfit('d', "no single machine shows this code"));
            };
            claim.approved = Some((slot.to_owned(), "hq"));
            claim.clone()
        };
        self.report_approval(&claim, slot, "hq").await
    }

    async fn report_approval(&self, claim: &Claim, slot: &str, by: &str) -> Result<(), Refused> {
        let machine = format!("claim-{}", claim.s.short_hex());
        let ids = claim.proven.clone();
        let approved = Approved { machine, slot: slot.to_owned(), ids, by: by.to_owned() };
        self.store.write(move |tx| report::note(tx, &report::Event::Approved(approved))).await.map_err(broken)
    }

    /// HQ's answer by voice, typed at the provisioner: R43.
    pub async fn approve_by_voice(&self, slot: &str, text: &str) -> Result<String, Refused> {
        let wrong = |case, detail: &str| Refused::new(Refusal::CodeWrong, case, detail);
        let answer = Code::parse(text).map_err(|error| wrong('a', &error.to_string()))?;
        let identity = &self.keys.identity;
        let key = claim::approve_key(&identity.grant.approve_key.0, &identity.grant.hq_approve.0)
            .map_err(broken)?;
        let found = {
            let _ = self.claims();
            let mut memory = self.memory();
            if memory.wrong_codes >= WRONG_PER_DAY {
                return Err(wrong('c', "too many wrong codes today"));
            }
            let site = self.name().to_owned();
            let fits = |code: Option<Code>| {
                code.is_some_and(|sas| claim::voice_code(&key, &site, sas, slot) == answer)
            };
            let found = memory.claims.values_mut().find(|claim| fits(claim.code));
            if let Some(claim) = found {
                claim.approved = Some((slot.to_owned(), "voice"));
                Some(claim.clone())
            } else {
                memory.wrong_codes += 1;
                memory.claims.values_mut().for_each(|claim| claim.wrong += 1);
                memory.claims.retain(|_, claim| claim.wrong < WRONG_PER_CLAIM);
                None
            }
        };
        let claim = found.ok_or_else(|| wrong('b', "it answers no code that a machine shows"))?;
        self.report_approval(&claim, slot, "voice").await?;
        Ok(claim.s.to_string())
    }
}
