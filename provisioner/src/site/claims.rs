//! The human code (M10): a machine nobody registered, a person who reads eight symbols to HQ.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use protocol::bytes::{B64u, Digest};
use protocol::claim::{self, Code, Open, Opened, Reveal};
use protocol::clock::Time;
use protocol::id::Id;
use protocol::inventory::Facts;
use protocol::refusal::{Refusal, Refused, Wait};
use protocol::report::Approved;

use super::{Peer, Site, broken, report};
use crate::plain;
use crate::registrar::limits::{Party, network, party};

/// How long a code is good for, seconds.
const CODE_LIFE: i64 = 3600;
/// Claims that wait at the same time.
const MOST_CLAIMS: usize = 64;
/// Claims from one address: it stands for the network card, which a connection does not show.
const A_SOURCE: usize = 2;
/// Claims opened within a minute, by sources that opened one within it before. A source that comes for the first time
/// always has room, or three addresses would keep everybody from showing a code.
const A_MINUTE: usize = 6;
const MINUTE: u64 = 60;
/// Openings that are remembered; they count for a minute.
const OPENINGS: usize = 1024;
/// A machine shows its second nonce at once: a claim that waits for it longer is the first to go, seconds.
const SLOW: u64 = 10;

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
    /// The slot that HQ approved it for.
    pub approved: Option<String>,
    /// Wrong codes that were typed meanwhile.
    pub(super) wrong: u32,
    source: IpAddr,
    party: Party,
    commit: Digest,
    ns: [u8; 16],
}

/// Who opened a claim within the last minute. To open one anew does not undo the first.
#[derive(Default)]
pub(crate) struct Openings(VecDeque<(IpAddr, Time)>);

impl Openings {
    /// Whether `source` may open one more; counted from here on.
    fn admit(&mut self, source: IpAddr, now: Time) -> bool {
        self.0.retain(|(_, at)| *at <= now && now.since(*at) < MINUTE);
        let again = self.0.iter().any(|(other, _)| *other == source);
        if again && self.0.len() >= A_MINUTE {
            return false;
        }
        if self.0.len() >= OPENINGS {
            self.0.pop_front();
        }
        self.0.push_back((source, now));
        true
    }
}

/// The claim that makes room: one whose code is overdue; else the oldest of the party that has most, and one that HQ
/// approved after all others.
fn least(claims: &HashMap<[u8; 16], Claim>, now: Time) -> Option<[u8; 16]> {
    let mut parties: HashMap<Party, usize> = HashMap::new();
    for claim in claims.values() {
        *parties.entry(claim.party).or_insert(0) += 1;
    }
    let rank = |claim: &Claim| {
        let overdue = claim.code.is_none() && now.since(claim.since) >= SLOW;
        let share = parties.get(&claim.party).copied().unwrap_or(0);
        (!overdue, claim.approved.is_some(), Reverse(share), claim.since)
    };
    claims.iter().min_by_key(|(_, claim)| rank(claim)).map(|(id, _)| *id)
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
        self.claims().iter().any(|claim| claim.s == *s && claim.code.is_some()).then_some(Wait::PendingHq)
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
        let source = network(peer.source.ip());
        let others = memory.claims.values().filter(|claim| claim.source == source && claim.s != peer.s);
        if others.count() >= A_SOURCE || !memory.openings.admit(source, now) {
            return Err(Refusal::TooManyClaims.into());
        }
        memory.claims.retain(|_, claim| claim.s != peer.s);
        if memory.claims.len() >= MOST_CLAIMS
            && let Some(gone) = least(&memory.claims, now)
        {
            memory.claims.remove(&gone);
        }
        let claim = Claim {
            s: peer.s,
            proven: known,
            hw: plain::facts(open.hw.clone()),
            since: now,
            code: None,
            approved: None,
            source,
            party: party(peer.source),
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
            claim.approved = Some(slot.to_owned());
            claim.clone()
        };
        let approved = Approved {
            machine: claim.name(),
            slot: slot.to_owned(),
            ids: claim.ids(),
            by: "hq".to_owned(),
            sas: B64u(code.0.to_vec()),
        };
        let noted = self.store.write(move |tx| report::note(tx, &report::Event::Approved(approved)));
        noted.await.map(drop).map_err(broken)
    }
}
