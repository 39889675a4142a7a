//! Which machine gets which slot, and everything that is looked at to decide it: gathered in one way for the tick, for
//! a message and for a person's question.

use std::sync::Arc;

use decide::{Candidate, Needs, Offer, Seen, Skew};
use protocol::clock::Time;
use protocol::record::Record;

use super::alive::Alive;
use super::machine::{Around, Machine, NodeView};
use super::store::{Change, HOLDERS, Look, MACHINES, RECORDS, StoreError};
use super::word::Word;
use super::{Site, report};
use crate::cluster::nodes::View;

/// Seconds after which a machine that has said nothing is not taken for alive.
pub(super) const HEARD: u64 = 60;

/// What can be seen of the cluster.
#[derive(Clone)]
pub(crate) enum Eyes {
    /// There is none yet: no machine has a Node.
    NoCluster,
    /// It does not answer.
    Blind,
    /// What it showed last.
    Open(Arc<View>),
}

/// What machines are looked at with, at one moment.
#[derive(Clone)]
pub(crate) struct Sight {
    pub word: Arc<Word>,
    pub site: String,
    pub now: Time,
    pub eyes: Eyes,
    pub alive: Arc<Alive>,
}

impl Site {
    /// What there is to see now.
    pub(crate) fn sight(&self) -> Sight {
        let eyes = {
            let memory = self.memory();
            match (&memory.view, memory.blind_why.is_empty()) {
                (Some(view), true) => Eyes::Open(Arc::clone(view)),
                _ if !self.is_attached() => Eyes::NoCluster,
                _ => Eyes::Blind,
            }
        };
        Sight {
            word: self.word(),
            site: self.name().to_owned(),
            now: self.now(),
            eyes,
            alive: Arc::clone(&self.alive),
        }
    }
}

impl Sight {
    /// The facts about one machine, and the slot that is offered to it.
    pub fn of(&self, look: &impl Look, machine: &Machine) -> Result<(Seen, Option<String>), StoreError> {
        let record: Option<Record> = look.get(RECORDS, &machine.id)?;
        let (offer, slot) = match &record {
            Some(record) => offer(look, machine, record, &self.word)?,
            None => (Offer::Full, None),
        };
        let heard = self.now.since(machine.heard) < HEARD;
        let around = Around {
            record: record.as_ref(),
            site: &self.site,
            now: self.now,
            node: self.node(machine),
            offer,
            alive: heard || machine.s.is_some_and(|s| self.alive.is(&s)),
            skew: self.skew(machine),
        };
        Ok((machine.seen(&around), slot))
    }

    fn node(&self, machine: &Machine) -> NodeView {
        let view = match &self.eyes {
            Eyes::NoCluster => return NodeView::Absent,
            Eyes::Blind => return NodeView::Blind,
            Eyes::Open(view) => view,
        };
        let node = machine.node().and_then(|name| view.nodes.get(&name));
        node.map_or(NodeView::Absent, |node| NodeView::There { ready: node.ready })
    }

    /// Whether the kubelet on its disk fits the API server, where both are known.
    pub fn skew(&self, machine: &Machine) -> Option<Skew> {
        let Eyes::Open(view) = &self.eyes else { return None };
        let kubelet = decide::Version::parse(&machine.hw.kubelet)?;
        Some(kubelet.fits(decide::Version::parse(&view.version)?))
    }
}

/// Moves a machine's life on to where the facts lead, and gives it the slot it is for, or the best free one: both or
/// neither.
pub(crate) fn place(tx: &Change<'_>, machine: &mut Machine, sight: &Sight) -> Result<(), StoreError> {
    let (seen, slot) = sight.of(tx, machine)?;
    let wants = decide::wants_slot(machine.life, &seen);
    machine.settle(&seen, sight.now);
    if let (Offer::Free, Some(slot), true) = (seen.slot, slot, wants) {
        hold(tx, machine, slot)?;
    }
    Ok(())
}

/// Saves that a machine holds a slot, and tells HQ.
pub(crate) fn hold(tx: &Change<'_>, machine: &mut Machine, slot: String) -> Result<(), StoreError> {
    tx.put(HOLDERS, &slot, &machine.id)?;
    machine.slot = Some(slot.clone());
    report::note(tx, &report::Event::Filled(slot, machine.id.clone())).map(drop)
}

/// The other machine that a slot is kept for: HQ's registration names it, and nobody here has taken it out.
pub(super) fn reserved(
    look: &impl Look,
    word: &Word,
    slot: &str,
    machine: &str,
) -> Result<Option<String>, StoreError> {
    let Some(other) = word.reserved.get(slot).filter(|other| *other != machine) else { return Ok(None) };
    let known: Option<Machine> = look.get(MACHINES, other)?;
    let out = known.is_some_and(|known| known.check_said().is_err());
    Ok((!out).then(|| other.clone()))
}

/// What the site can offer one machine now.
pub(crate) fn offer(
    look: &impl Look,
    machine: &Machine,
    record: &Record,
    word: &Word,
) -> Result<(Offer, Option<String>), StoreError> {
    if let Some(slot) = &machine.slot {
        let holder: Option<String> = look.get(HOLDERS, slot)?;
        let mine = holder.as_ref() == Some(&machine.id);
        return Ok((if mine { Offer::Mine } else { Offer::Taken }, Some(slot.clone())));
    }
    let mut slots = Vec::with_capacity(word.slots.slots.len());
    for slot in &word.slots.slots {
        let mut needs = Needs::default();
        if let Some(profile) = &slot.requires.profile {
            needs.labels.insert("profile".into(), profile.clone());
        }
        if slot.requires.tpm {
            needs.labels.insert("tpm".into(), "yes".into());
        }
        if let Some(memory) = slot.requires.memory_mib {
            needs.amounts.insert("memory-mib".into(), memory);
        }
        slots.push(decide::Slot {
            name: slot.name.clone(),
            role: slot.role.word().to_owned(),
            needs,
            holder: look.get(HOLDERS, &slot.name)?,
            reserved: reserved(look, word, &slot.name, &machine.id)?,
        });
    }
    let mut has = Needs::default();
    let profile = word.profiles.of(&machine.hw).map(|(profile, _)| profile.name.clone());
    has.labels.extend(profile.map(|name| ("profile".to_owned(), name)));
    if !machine.hw.tpm.is_empty() {
        has.labels.insert("tpm".into(), "yes".into());
    }
    has.amounts.insert("memory-mib".into(), machine.hw.memory / (1024 * 1024));
    let roles = record.roles.iter().cloned().collect();
    let candidate = Candidate { machine: machine.id.clone(), slot: record.slot.clone(), roles, has };
    let offers = decide::assign(&slots, &[candidate]);
    Ok(offers.into_values().next().unwrap_or((Offer::Full, None)))
}
