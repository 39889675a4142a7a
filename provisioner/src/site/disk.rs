//! M14, and M4 of a machine that cannot open its disk: the second way in. And the order to wipe it.

use decide::Alarm;
use protocol::attest::Disk;
use protocol::bytes::{B64u, Secret};
use protocol::clock::Time;
use protocol::id::Id;
use protocol::inventory::SecureBoot;
use protocol::messages::{Act, DiskKey, Order, StatusAnswer, StatusRequest};
use protocol::record::Record;
use protocol::refusal::{Refusal, Refused, Wait};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::store::{Change, DISKS, IDS, KEYS, Look, MACHINES, RECORDS, StoreError};
use super::{Answer, Bound, KeyEntry, Peer, Site, admit, broken};

/// Bytes of a disk's name, and of its key.
const NAME: usize = 16;
const KEY: usize = 32;
/// Disks of one machine whose keys are kept: the latest.
const MOST: usize = 8;
/// Name of the order.
const WIPE: &str = "wipe";

/// Seconds after which a machine that waits for a person asks again.
const RETRY: u32 = 30;

/// The key of one disk. Only the store holds it, and backups of that.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// The endorsement keys of the machine that gave it: one of them has to be proved by who asks for it.
    eks: Vec<Id>,
    key: Secret,
    /// Rises with each key that is given.
    number: u64,
    /// Whether the firmware of the machine that has the disk open checked what it started: the latest that it said.
    #[serde(default)]
    secure_boot: SecureBoot,
}

impl Kept {
    fn is_of(&self, eks: &[Id]) -> bool {
        self.eks.iter().any(|ek| eks.contains(ek))
    }

    /// Whether a machine with this firmware starts more than the one did that had the disk open. Of a key that was given to an
    /// earlier version, what the machine said last counts.
    fn is_weaker(&self, firmware: SecureBoot, machine: &Machine) -> bool {
        let known = self.secure_boot != SecureBoot::Unknown;
        let before = if known { self.secure_boot } else { machine.hw.secure_boot };
        before == SecureBoot::On && firmware != SecureBoot::On
    }
}

fn eks(machine: &Machine) -> Vec<Id> {
    machine.proven.iter().filter(|id| matches!(id, Id::Ek(_))).cloned().collect()
}

impl Site {
    /// M14. The key of a disk is the latest that its machine gave; nobody can put another one in the place of somebody else's.
    pub async fn keep_disk_key(&self, bound: &Bound, given: DiskKey) -> Result<(), Refused> {
        let wrong = |what| Refused::new(Refusal::PvrMalformed, 'b', what);
        if given.disk.0.len() != NAME || given.key.0.len() != KEY {
            return Err(wrong("a disk has a name of 16 bytes and a key of 32"));
        }
        let (eks, name) = (eks(&bound.machine), protocol::bytes::hex(&given.disk.0));
        if eks.is_empty() {
            return Err(wrong("a machine without TPM has no key to give"));
        }
        let secure_boot = bound.machine.hw.secure_boot;
        let known = self.store.look().and_then(|look| look.get::<Kept>(DISKS, &name)).map_err(broken)?;
        match known {
            Some(known) if !known.is_of(&eks) => {
                return Err(wrong("this disk's key was given by another machine"));
            }
            Some(known) if known.key == given.key && known.eks == eks && known.secure_boot == secure_boot => {
                return Ok(());
            }
            _ => {}
        }
        let kept = Kept { eks, key: given.key, number: 0, secure_boot };
        self.store.write(move |tx| keep(tx, &name, kept)).await.map_err(broken)
    }

    /// What there is to say of the disk of a machine that has proved `ek` on this connection, cannot open it, and says this of
    /// its firmware: R22, R23. A key is given to whoever has the machine, so nobody gets it unasked for a machine that starts
    /// more than it did: with that every stick would read the disk from then on.
    pub async fn disk(
        &self,
        peer: &Peer,
        ek: &Id,
        disk: &B64u,
        firmware: SecureBoot,
    ) -> Result<Answer<Disk>, Refused> {
        let look = self.store.look().map_err(broken)?;
        let unknown = || Refused::new(Refusal::Unknown, 'a', "no registration names this TPM");
        let id: String = look.get(IDS, &ek.to_string()).map_err(broken)?.ok_or_else(unknown)?;
        let record: Record = look.get(RECORDS, &id).map_err(broken)?.ok_or_else(unknown)?;
        let machine: Machine = look.get(MACHINES, &id).map_err(broken)?.unwrap_or_default();
        if machine.is_to_be_wiped(&record) {
            return Ok(Answer::Now(Disk { key: None, wipe: true }));
        }
        admit::check_standing(&record, self.name(), self.now())?;
        machine.check_said()?;
        let kept = look.get::<Kept>(DISKS, &protocol::bytes::hex(&disk.0)).map_err(broken)?;
        let kept = kept.filter(|kept| kept.is_of(std::slice::from_ref(ek)));
        self.alarm(Alarm::DiskShut, &id).await;
        let free =
            record.policy.auto && !kept.as_ref().is_some_and(|kept| kept.is_weaker(firmware, &machine));
        let waits = kept.is_some() && !free && machine.opens.is_none_or(|until| self.now() > until);
        let key = kept.filter(|_| !waits).map(|kept| kept.key);
        let outcome = match (&key, waits) {
            (Some(_), _) => "given",
            (None, true) => "waits for a person",
            (None, false) => "none is known",
        };
        self.note_disk(&id, waits).await.map_err(broken)?;
        let who = format!("key:{}", peer.s);
        self.audit(&who, &format!("ask for the key of a disk of {id}"), outcome).await.map_err(broken)?;
        Ok(if waits {
            Answer::Wait(Wait::PendingHuman, RETRY)
        } else {
            Answer::Now(Disk { key, wipe: false })
        })
    }

    /// Notes that a machine waits for a person's yes to its disk, or that it does not any more: a yes is good once.
    async fn note_disk(&self, id: &str, waits: bool) -> Result<(), StoreError> {
        let (id, shut) = (id.to_owned(), waits.then(|| self.now()));
        let noted = self.store.write(move |tx| {
            let Some(mut machine) = tx.get::<Machine>(MACHINES, &id)? else { return Ok(()) };
            (machine.shut, machine.opens) = (shut, None);
            tx.put(MACHINES, &id, &machine)
        });
        noted.await
    }

    /// The order to wipe, where a person or HQ gave it; for one that is told nothing else any more, too. None where there is none.
    pub async fn farewell(
        &self,
        peer: &Peer,
        asked: &StatusRequest,
    ) -> Result<Option<StatusAnswer>, Refused> {
        let look = self.store.look().map_err(broken)?;
        let key: Option<KeyEntry> = look.get(KEYS, &peer.s.to_string()).map_err(broken)?;
        let Some(key) = key.filter(|key| key.current) else { return Ok(None) };
        let machine: Option<Machine> = look.get(MACHINES, &key.machine).map_err(broken)?;
        let record: Option<Record> = look.get(RECORDS, &key.machine).map_err(broken)?;
        let Some((machine, record)) = machine.zip(record) else { return Ok(None) };
        if !machine.is_to_be_wiped(&record) {
            return Ok(None);
        }
        let state = machine.life.word().to_owned();
        if asked.done.iter().any(|done| done.id == WIPE && done.ok) {
            let (id, now) = (machine.id.clone(), self.now());
            self.store.write(move |tx| forget(tx, &id, now)).await.map_err(broken)?;
            self.audit(&machine.id, "be wiped", "done").await.map_err(broken)?;
            return Ok(Some(StatusAnswer { state, ..StatusAnswer::default() }));
        }
        let orders = vec![Order { id: WIPE.to_owned(), act: Act::Wipe }];
        Ok(Some(StatusAnswer { state, orders, ..StatusAnswer::default() }))
    }
}

fn keep(tx: &Change<'_>, name: &str, kept: Kept) -> Result<(), StoreError> {
    let mut own: Vec<_> = tx
        .list::<Kept>(DISKS)?
        .into_iter()
        .filter(|(other, of)| other != name && of.is_of(&kept.eks))
        .collect();
    own.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.number));
    for (oldest, _) in own.iter().skip(MOST - 1) {
        tx.remove(DISKS, oldest)?;
    }
    let kept = Kept { number: tx.next("disk-key")?, ..kept };
    tx.put(DISKS, name, &kept)
}

/// A machine has said that its disk cannot be opened any more: its keys open nothing.
fn forget(tx: &Change<'_>, id: &str, now: Time) -> Result<(), StoreError> {
    let Some(mut machine) = tx.get::<Machine>(MACHINES, id)? else { return Ok(()) };
    let eks = eks(&machine);
    for (name, _) in tx.list::<Kept>(DISKS)?.into_iter().filter(|(_, kept)| kept.is_of(&eks)) {
        tx.remove(DISKS, &name)?;
    }
    (machine.wipe, machine.wiped) = (false, Some(now));
    tx.put(MACHINES, id, &machine)
}
