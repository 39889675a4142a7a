//! Where a machine stands, why, since when, what happens next and by when: in plain words.

mod find; // which machine a person means
mod prospects; // what a machine that never spoke will meet
mod words; // the sentences

use anyhow::{Context, Result};
use protocol::clock::Time;
use protocol::record::Record;
use serde::{Deserialize, Serialize};

pub use self::find::{Known, find_machine};
use self::prospects::prospect;
pub use self::words::span;
use self::words::{
    claim_row, of_claim, of_machine, of_poser, of_record, of_slot, posed_as, poser_row, row, unseen_row,
};
use super::machine::Machine;
use super::rebuild::Stage;
use super::store::{HOLDERS, Look, MACHINES, RECORDS};
use super::{Bound, Site};

/// No machine can join without either.
pub(super) const NO_CLUSTER: &str = "not attached to a cluster: run `provisioner attach KUBECONFIG`";
pub(super) const NO_BUNDLE: &str = "no bundle from HQ yet: run `provisioner apply BUNDLE`";

/// One machine in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The id of its registration, or `key:…` where there is none.
    pub machine: String,
    /// Its serial.
    pub serial: String,
    /// Where it stands, in the words of the state diagram; `registered` for one that never spoke here.
    pub life: String,
    /// The stable word of the reason.
    pub reason: String,
    /// Its slot.
    pub slot: String,
    /// Its Node.
    pub node: String,
    /// Since when it stands there: RFC 3339; empty for one that never spoke here.
    pub since: String,
    /// For how long, seconds.
    pub seconds: u64,
}

/// One slot in a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRow {
    /// Its name.
    pub slot: String,
    /// `worker` or `control-plane`.
    pub role: String,
    /// The machine that holds it; empty when it is free.
    pub machine: String,
    /// The Node in it.
    pub node: String,
    /// Where the holder stands.
    pub life: String,
}

/// A machine that shows a code. Never the code itself: the provisioner asks for that.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRow {
    /// Its node key.
    pub machine: String,
    /// Its serial.
    pub serial: String,
    /// Its maker and model.
    pub model: String,
    /// The slot that HQ approved it for; empty while it waits.
    pub slot: String,
    /// For how long it has shown its code, seconds.
    pub seconds: u64,
}

/// Everything about one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Its row.
    pub row: Row,
    /// What a person at the machine is told.
    pub person: String,
    /// What an engineer wants to know.
    pub engineer: String,
    /// What happens next.
    pub next: String,
    /// By when, or until what.
    pub deadline: String,
    /// More that is known: name and value.
    pub facts: Vec<(String, String)>,
}

/// Every machine, for a table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// The machines, and keys that were refused of late because what they showed is another machine's.
    pub machines: Vec<Row>,
    /// How many more are registered and never spoke here.
    pub unseen: usize,
}

/// The reason why a machine is where it is, by the same code as everywhere.
pub fn reason(site: &Site, machine: &Machine) -> Result<decide::Reason> {
    let (seen, _) = site.sight().of(&site.store.look()?, machine)?;
    Ok(decide::reason(machine.life, &seen))
}

/// Every machine that spoke here; with `all`, those too that HQ registered and that never did.
pub fn machines(site: &Site, all: bool) -> Result<Listed> {
    let (look, sight) = (site.store.look()?, site.sight());
    let mut listed = Listed::default();
    for machine in site.machines()? {
        let record = look.get(RECORDS, &machine.id)?;
        listed.machines.push(row(&machine, record.as_ref(), reason(site, &machine)?, site.now()));
    }
    listed.machines.extend(site.posers().iter().map(|poser| poser_row(poser, site.now())));
    for (id, record) in look.list::<Record>(RECORDS)? {
        if look.bytes(MACHINES, &id)?.is_some() {
            continue;
        }
        if all {
            listed.machines.push(unseen_row(&record, prospect(&sight, &look, &record)?.reason));
        } else {
            listed.unseen += 1;
        }
    }
    Ok(listed)
}

/// Every slot.
pub fn slots(site: &Site) -> Result<Vec<SlotRow>> {
    let look = site.store.look()?;
    let line = |slot: &crate::model::Slot| {
        let holder: Option<String> = look.get(HOLDERS, &slot.name)?;
        let machine: Option<Machine> =
            holder.as_deref().map(|id| look.get(MACHINES, id)).transpose()?.flatten();
        Ok(SlotRow {
            slot: slot.name.clone(),
            role: slot.role.word().to_owned(),
            node: machine.as_ref().and_then(Machine::node).unwrap_or_default(),
            life: machine.map(|machine| machine.life.word().to_owned()).unwrap_or_default(),
            machine: holder.unwrap_or_default(),
        })
    };
    site.word().slots.slots.iter().map(line).collect()
}

/// Machines that show a code.
pub fn claims(site: &Site) -> Vec<ClaimRow> {
    site.claims().iter().map(|claim| claim_row(claim, site.now())).collect()
}

/// Everything about one machine.
pub fn explain(site: &Site, wanted: &str) -> Result<Explained> {
    let now = site.now();
    match find::find(site, wanted)? {
        Known::Machine(mut machine) => {
            machine.heard = heard(site, &machine);
            let record = site.record(&machine.id)?;
            let mut it = of_machine(&machine, record.as_ref(), reason(site, &machine)?, now);
            let profile = site.word().profiles.of(&machine.hw).map(|(_, why)| why);
            it.facts.extend(profile.map(|why| ("profile".to_owned(), why)));
            it.facts.extend(site.ways(&machine, &machine.banks)?.iter().filter_map(words::wanted));
            it.facts.extend(posing(site, &machine.id, machine.s.is_some()));
            it.facts.extend(record.filter(Record::by_voice).map(|_| words::by_voice()));
            it.facts.extend(health(site).into_iter().map(|wrong| ("this site".to_owned(), wrong)));
            Ok(it)
        }
        Known::Registered(record) => {
            let mut it = of_record(&record, prospect(&site.sight(), &site.store.look()?, &record)?);
            it.facts.extend(posing(site, &record.id, false));
            Ok(it)
        }
        Known::Claim(claim) => Ok(of_claim(&claim, now)),
        Known::Poser(poser) => Ok(of_poser(&poser, now)),
        Known::Free(name) => free(site, &name),
    }
}

/// When a machine was heard last, by a message or a heartbeat. Heartbeats are not saved.
pub fn heard(site: &Site, machine: &Machine) -> Time {
    let silence = machine.s.and_then(|s| site.alive.silence(&s));
    let silence = silence.and_then(|silence| i64::try_from(silence.as_secs()).ok());
    silence.map_or(machine.heard, |silence| machine.heard.max(site.now().plus(-silence)))
}

/// Who was refused of late in the name of a registration.
fn posing(site: &Site, id: &str, known: bool) -> Vec<(String, String)> {
    let (posers, now) = (site.posers(), site.now());
    posers
        .iter()
        .rev()
        .filter(|poser| poser.of == id)
        .map(|poser| posed_as(poser, known, now))
        .take(3)
        .collect()
}

fn free(site: &Site, name: &str) -> Result<Explained> {
    let (look, word) = (site.store.look()?, site.word());
    let kept_for = super::slots::reserved(&look, &word, name, "")?;
    let record: Option<Record> = kept_for.map(|id| look.get(RECORDS, &id)).transpose()?.flatten();
    Ok(of_slot(word.slots.get(name).context("HQ's plan has no such slot any more")?, record.as_ref()))
}

/// What is wrong with the provisioner itself; empty when all is well.
pub fn health(site: &Site) -> Vec<String> {
    let mut wrong = Vec::from_iter(site.withdrawn());
    let memory = site.memory();
    if !memory.blind_why.is_empty() {
        wrong.push(memory.blind_why.clone());
    }
    wrong.extend(memory.unsafe_why.clone());
    drop(memory);
    if site.cluster().is_none() {
        wrong.push(NO_CLUSTER.to_owned());
    }
    if site.word().seq == 0 {
        wrong.push(NO_BUNDLE.to_owned());
    }
    match site.rebuild() {
        Some(Stage::Bundle) => wrong.push("the store was lost: apply HQ's latest bundle again".to_owned()),
        Some(Stage::Nodes) => {
            wrong.push("the store was lost: waiting for a look at the cluster's Nodes".to_owned());
        }
        None | Some(Stage::Machines) => {}
    }
    if site.clock().uncertain {
        wrong.push("time-uncertain: the clock of this computer cannot be right".to_owned());
    }
    wrong
}

/// The files that a machine would be sent now: path and text.
pub fn render(site: &Site, wanted: &str) -> Result<Vec<(String, String)>> {
    let machine = find_machine(site, wanted)?;
    let record = site.record(&machine.id)?.context("the machine has no registration any more")?;
    let (slot, node) =
        machine.slot.clone().zip(machine.node()).context("the machine has no slot: nothing to render for")?;
    let cluster = site.cluster().context(NO_CLUSTER)?;
    let address = machine.addresses.first().copied();
    let bound = Bound { machine, record };
    let files = site.rendered(&bound, &slot, &node, address, Some(cluster.ca_pem()))?;
    Ok(files
        .into_iter()
        .map(|file| (file.path, String::from_utf8_lossy(&file.data.0).into_owned()))
        .collect())
}

#[cfg(test)]
mod tests;
