//! Who may come in: vouchers for those who say they are registered (M2), slots for those who prove it (M4).

use std::sync::Arc;

use decide::{Alarm, Code};
use protocol::attest::Proven;
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::id::Id;
use protocol::inventory::Facts;
use protocol::messages::Outcome;
use protocol::pvr::Pvr;
use protocol::record::{Record, Status};
use protocol::refusal::{Refusal, Refused, Wait};
use protocol::report::Burned;

use super::machine::{KubeletState, Machine};
use super::rebuild::Stage;
use super::slots::Sight;
use super::store::{BURNED, Change, IDS, KEYS, LABELS, Look, MACHINES, RECORDS, StoreError, VOUCHERS};
use super::word::{Word, labels};
use super::{Answer, KeyEntry, Peer, Site, broken, posers, report, slots};
use crate::plain;

/// Seconds after which a machine asks again.
pub const RETRY: u32 = 5;

/// A voucher, and the machine it was given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The id of its registration.
    pub machine: String,
    /// JWS text.
    pub voucher: String,
}

/// How a machine was found.
enum Found {
    /// One of its provable ids is registered.
    ById(Record),
    /// Only a label fits.
    ByLabel(Record),
    /// Nothing fits.
    Not,
}

fn find(look: &impl Look, ids: &[Id], hw: &Facts) -> Result<Found, StoreError> {
    for id in ids.iter().filter(|id| id.provable()) {
        if let Some(record) = look.get::<String>(IDS, &id.to_string())?
            && let Some(record) = look.get(RECORDS, &record)?
        {
            return Ok(Found::ById(record));
        }
    }
    let serials = ids.iter().filter_map(|id| match id {
        Id::Serial(serial) => Some(serial.trim().to_ascii_lowercase()),
        _ => None,
    });
    for label in serials.chain(labels(&hw.labels())) {
        if let Some(record) = look.get::<String>(LABELS, &label)?
            && let Some(record) = look.get::<Record>(RECORDS, &record)?
            && record.hinted_by(&with_serials(ids, hw))
        {
            return Ok(Found::ByLabel(record));
        }
    }
    Ok(Found::Not)
}

fn with_serials(ids: &[Id], hw: &Facts) -> protocol::record::Match {
    let mut labels = hw.labels();
    if labels.product_serial.is_none() {
        labels.product_serial = ids.iter().find_map(|id| match id {
            Id::Serial(serial) => Some(serial.clone()),
            _ => None,
        });
    }
    labels
}

/// R21b, R22, R23: whether HQ wants this machine here and now.
pub(crate) fn check_standing(record: &Record, site: &str, now: Time) -> Result<(), Refused> {
    match record.status {
        Status::Lost => return Err(Refusal::Lost.into()),
        Status::Revoked => return Err(Refusal::Revoked.into()),
        Status::Rma => return Err(Refusal::Rma.into()),
        Status::Active => {}
    }
    if !record.site.contains(site) {
        return Err(Refused::new(Refusal::Unknown, 'b', format!("{} belongs to another site", record.id)));
    }
    let policy = &record.policy;
    if policy.not_before.is_some_and(|start| now < start) || policy.not_after.is_some_and(|end| now > end) {
        return Err(Refusal::NotNow.into());
    }
    Ok(())
}

impl Site {
    /// M2. What is said here is not proven: no record changes, no slot is kept.
    pub async fn request_voucher(&self, peer: &Peer, pvr: &Pvr) -> Result<Answer<Given>, Refused> {
        self.check_bundle_of(peer)?;
        self.note_hardware(peer, &plain::facts(pvr.claims.hw.clone())).await?;
        let mut ids = vec![pvr.id.clone()];
        ids.extend(pvr.claims.ids.iter().cloned());
        let found = find(&self.store.look().map_err(broken)?, &ids, &pvr.claims.hw).map_err(broken)?;
        let record = match found {
            Found::ById(record) => record,
            Found::ByLabel(record) => return self.only_a_label(peer, &record, &pvr.claims.hw).await,
            Found::Not => return self.unknown(peer),
        };
        check_standing(&record, self.name(), self.now())?;
        let look = self.store.look().map_err(broken)?;
        let voucher = record.canonical_id().map(|id| look.bytes(VOUCHERS, &id.to_string())).transpose();
        match voucher.map_err(broken)?.flatten() {
            Some(voucher) => {
                let voucher = String::from_utf8_lossy(&voucher).into_owned();
                Ok(Answer::Now(Given { machine: record.id, voucher }))
            }
            None if record.by_voice() => Ok(Answer::Wait(Wait::Approved, RETRY)),
            None => Ok(self.without_voucher(peer)),
        }
    }

    /// A machine that is bound already says what it is made of today: a new disk, more memory, another kubelet.
    async fn note_hardware(&self, peer: &Peer, hw: &Facts) -> Result<(), Refused> {
        let Ok(bound) = self.bound(&peer.s) else { return Ok(()) };
        if bound.machine.hw == *hw {
            return Ok(());
        }
        let (id, hw) = (bound.machine.id, hw.clone());
        let noted = self.store.write(move |tx| {
            let Some(mut machine) = tx.get::<Machine>(MACHINES, &id)? else { return Ok(()) };
            machine.hw = hw;
            tx.put(MACHINES, &id, &machine)
        });
        noted.await.map_err(broken)
    }

    /// A label fits, the hardware does not: R25. A registration of mere labels takes the human path.
    async fn only_a_label(&self, peer: &Peer, record: &Record, hw: &Facts) -> Result<Answer<Given>, Refused> {
        if record.auth.is_empty() {
            return self.unknown(peer);
        }
        self.note_poser(peer, Refusal::AuthMismatch, &record.id, hw);
        self.alarm(Alarm::Reason(Code::AuthMismatch), &record.id).await;
        Err(Refused::new(Refusal::AuthMismatch, ' ', format!("the label of {}", record.id)))
    }

    /// R21a: a machine nobody registered is told to wait while somebody here says that he plugs one in.
    fn unknown(&self, peer: &Peer) -> Result<Answer<Given>, Refused> {
        if let Some(wait) = self.claim_state(&peer.s) {
            return Ok(Answer::Wait(wait, RETRY));
        }
        if self.window_open() {
            return Ok(Answer::Wait(Wait::Unknown, RETRY));
        }
        Err(Refused::new(
            Refusal::Unknown,
            'a',
            "no registration, and nobody here says that he plugs a machine in",
        ))
    }

    fn without_voucher(&self, peer: &Peer) -> Answer<Given> {
        Answer::Wait(self.claim_state(&peer.s).unwrap_or(Wait::PendingHq), RETRY)
    }

    /// M3: what the machine thinks of the voucher. `given` is the registration whose voucher this connection got. A key
    /// costs nothing: one that neither got a voucher nor is a machine's is heard, and nobody is told.
    pub async fn voucher_status(&self, peer: &Peer, given: Option<String>, outcome: &Outcome) {
        let reason = plain::word(outcome.reason.as_deref().unwrap_or_default());
        let about = given.or_else(|| self.bound(&peer.s).ok().map(|bound| bound.machine.id));
        let Some(machine) = about.filter(|_| !outcome.status) else { return };
        tracing::warn!(machine, reason, "the machine refuses this site");
        self.alarm_said(&reason, Alarm::VoucherRefused, &machine).await;
    }

    /// M4: `proven` was proven on this connection by `kind`. Binds the key, for good where it is a device key, gives a
    /// slot where one is free, and supersedes the machine's former key. R24, R25, R26, R30, R31, R32.
    pub async fn prove(
        &self,
        peer: &Peer,
        kind: &str,
        proven: Id,
        hw: Option<Facts>,
    ) -> Result<Proven, Refused> {
        let mut sight = self.sight();
        match self.rebuild() {
            Some(Stage::Bundle) => self.check_rebuilt()?,
            // Which slots are free is not known yet: it stands by until it is.
            Some(Stage::Nodes) => sight.word = Arc::new(Word::none(self.name())),
            None | Some(Stage::Machines) => {}
        }
        let current = self.check_current();
        let said = hw.clone().unwrap_or_default();
        let entry = Entry { s: peer.s, kind: kind.to_owned(), proven: proven.clone(), hw, sight, current };
        let bound = self.store.write(move |tx| entry.bind(tx)).await.map_err(broken)?;
        let ids = vec![proven.clone(), Id::Key(peer.s)];
        match bound {
            Ok(machine) => {
                if machine.is_some() {
                    self.forget_claims(&peer.s);
                    self.memory().posers.forget(&peer.s);
                }
                Ok(Proven { ids, machine, disk: None })
            }
            Err(refused) => {
                if let Some(code) = posers::poses(refused.refusal) {
                    let of = self.store.look().and_then(|look| look.get::<String>(IDS, &proven.to_string()));
                    self.note_poser(peer, refused.refusal, &of.ok().flatten().unwrap_or_default(), &said);
                    self.alarm(Alarm::Reason(code), &proven.to_string()).await;
                }
                Err(refused)
            }
        }
    }
}

/// One proof, to be bound.
pub(crate) struct Entry {
    pub s: Digest,
    /// How it was proven: `tpm-ek`, `idevid`, `dev-key`.
    pub kind: String,
    pub proven: Id,
    pub hw: Option<Facts>,
    pub sight: Sight,
    /// Whether new keys may be bound: R24.
    pub current: Result<(), Refused>,
}

impl Entry {
    /// Everything is checked before anything is written. The id of the registration; none where nothing accepts the proof.
    pub fn bind(&self, tx: &Change<'_>) -> Result<Result<Option<String>, Refused>, StoreError> {
        let mut machine = match self.check(tx)? {
            Ok(Some(machine)) => machine,
            Ok(None) => return Ok(Ok(None)),
            Err(refused) => return Ok(Err(refused)),
        };
        let id = machine.id.clone();
        if let Id::Key(hash) = self.proven
            && tx.bytes(BURNED, &hash.to_string())?.is_none()
        {
            tx.put(BURNED, &hash.to_string(), &self.s)?;
            report::note(tx, &report::Event::Burned(Burned { key: hash, s: self.s }))?;
        }
        if let Some(old) = machine.s.filter(|old| *old != self.s) {
            tx.put(KEYS, &old.to_string(), &KeyEntry { machine: id.clone(), current: false })?;
            machine.former.extend(machine.node().filter(|_| machine.kubelet != KubeletState::None));
            machine.kubelet = KubeletState::None;
        }
        if machine.s != Some(self.s) {
            // What was ordered, and done, was about the installation before this one.
            (machine.wipe, machine.wiped) = (false, None);
        }
        tx.put(KEYS, &self.s.to_string(), &KeyEntry { machine: id.clone(), current: true })?;
        machine.s = Some(self.s);
        machine.heard = self.sight.now;
        if let Some(hw) = &self.hw {
            machine.hw = hw.clone();
        }
        if !machine.proven.contains(&self.proven) {
            machine.proven.push(self.proven.clone());
            report::note(tx, &report::Event::Proven(id.clone(), self.proven.clone()))?;
        }
        slots::place(tx, &mut machine, &self.sight)?;
        tx.put(MACHINES, &id, &machine)?;
        Ok(Ok(Some(id)))
    }

    /// The machine that it is, where HQ and the site let it in with this key: R22 to R24, R26, R30 to R32.
    fn check(&self, tx: &Change<'_>) -> Result<Result<Option<Machine>, Refused>, StoreError> {
        let Some(id) = tx.get::<String>(IDS, &self.proven.to_string())? else { return Ok(Ok(None)) };
        let Some(record) = tx.get::<Record>(RECORDS, &id)? else { return Ok(Ok(None)) };
        let known: Option<KeyEntry> = tx.get(KEYS, &self.s.to_string())?;
        let mut machine: Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
        machine.id = id;
        let verdict = check_standing(&record, &self.sight.site, self.sight.now)
            .and_then(|()| self.check_kind(&record))
            .and_then(|()| match known {
                Some(known) if !known.current => Err(Refusal::Superseded.into()),
                _ => machine.check_said(),
            })
            .and_then(|()| if machine.s == Some(self.s) { Ok(()) } else { self.current.clone() });
        if let Err(refused) = verdict {
            return Ok(Err(refused));
        }
        if let Id::Key(hash) = self.proven {
            let burned: Option<Digest> = tx.get(BURNED, &hash.to_string())?;
            if burned.is_some_and(|bound| bound != self.s) {
                return Ok(Err(Refusal::Duplicate.into()));
            }
            let alive = &self.sight.alive;
            let may_run = alive.is_young() && machine.kubelet == KubeletState::Issued;
            if machine.s.is_some_and(|old| old != self.s && (may_run || alive.beats(&old))) {
                return Ok(Err(Refusal::MemberAlive.into()));
            }
        }
        Ok(Ok(Some(machine)))
    }

    fn check_kind(&self, record: &Record) -> Result<(), Refused> {
        let accepted = record.accepted().any(|auth| auth.id() == self.proven && auth.kind() == self.kind);
        if accepted { Ok(()) } else { Err(Refusal::ProofTooWeak.into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::slots::Eyes;
    use crate::site::store::Store;
    use crate::site::word::save_record;

    /// What becomes of a new key of a machine whose former key got this far, at a site that has just started.
    async fn comes_anew(kubelet: KubeletState, kind: &str, proven: Id) -> (Result<(), String>, Machine) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        let (old, new) = (Digest([1; 32]), Digest([2; 32]));
        let (word, site, alive) = (Arc::new(Word::none("ship-7")), "ship-7".to_owned(), Arc::default());
        let sight = Sight { word, site, now: Time(1_800_000_000), eyes: Eyes::NoCluster, alive };
        let entry =
            Entry { s: new, kind: kind.to_owned(), proven: proven.clone(), hw: None, sight, current: Ok(()) };
        let bound = store.write(move |tx| {
            let sha256 = Digest([9; 32]);
            let auth = if matches!(proven, Id::Key(_)) { "dev-key" } else { "tpm-ek" };
            let record = serde_json::json!({"id": "mc_01", "epoch": 1, "site": "ship-7", "slot": "node-1",
                "auth": [{"type": auth, "sha256": sha256}]});
            save_record(tx, &serde_json::from_value(record).unwrap())?;
            let (id, slot) = ("mc_01".to_owned(), Some("node-1".to_owned()));
            let machine = Machine { id, s: Some(old), slot, kubelet, ..Machine::default() };
            tx.put(MACHINES, "mc_01", &machine)?;
            entry.bind(tx)
        });
        let bound = bound.await.unwrap().map(drop).map_err(|refused| refused.id());
        (bound, store.look().unwrap().get(MACHINES, "mc_01").unwrap().unwrap())
    }

    #[tokio::test]
    async fn r31_a_site_that_has_just_started_takes_a_member_for_alive_and_lets_no_new_device_key_in() {
        let key = || Id::Key(Digest([9; 32]));
        let (refused, machine) = comes_anew(KubeletState::Issued, "dev-key", key()).await;
        assert_eq!((refused, machine.s), (Err("R31".to_owned()), Some(Digest([1; 32]))));
        let (bound, machine) = comes_anew(KubeletState::None, "dev-key", key()).await;
        assert_eq!((bound, machine.s), (Ok(()), Some(Digest([2; 32]))), "it never became a member");
    }

    #[tokio::test]
    async fn the_node_of_a_former_installation_is_remembered_until_it_is_denied() {
        let ek = || Id::Ek(Digest([9; 32]));
        let former = protocol::id::node_name("node-1", &Digest([1; 32]));
        let (bound, machine) = comes_anew(KubeletState::Issued, "tpm-ek", ek()).await;
        assert_eq!((bound, machine.former, machine.kubelet), (Ok(()), vec![former], KubeletState::None));
        let (_, machine) = comes_anew(KubeletState::None, "tpm-ek", ek()).await;
        assert_eq!(machine.former, Vec::<String>::new());
    }
}
