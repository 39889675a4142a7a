//! Where a machine stands, why, since when, and what happens next, in plain words.

use anyhow::{Context, Result};
use protocol::record::Record;
use serde::{Deserialize, Serialize};

use super::machine::{Around, Machine, NodeView};
use super::store::{HOLDERS, Look, RECORDS};
use super::{Bound, Site, admit};

/// One machine in a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The id of its registration.
    pub machine: String,
    /// Its serial.
    pub serial: String,
    /// Where it stands.
    pub life: String,
    /// The stable word of the reason.
    pub reason: String,
    /// Its slot.
    pub slot: String,
    /// Its Node.
    pub node: String,
    /// Since when.
    pub since: String,
}

/// One slot in a table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlotRow {
    /// Its name.
    pub slot: String,
    /// `worker` or `control-plane`.
    pub role: String,
    /// The machine that holds it.
    pub machine: String,
    /// The Node in it.
    pub node: String,
}

/// Everything about one machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    /// Its row.
    pub row: Row,
    /// What a person at the machine is told.
    pub person: String,
    /// What an engineer wants to know.
    pub engineer: String,
    /// What happens next.
    pub next: String,
    /// Until when.
    pub deadline: String,
    /// Its profile, and why this one.
    pub profile: String,
    /// What it has proven.
    pub proven: Vec<String>,
}

fn record(site: &Site, id: &str) -> Result<Option<Record>> {
    Ok(site.store.look()?.get(RECORDS, id)?)
}

/// The reason why a machine is where it is, by the same code as everywhere.
pub fn reason(site: &Site, machine: &Machine) -> Result<decide::Reason> {
    let record = record(site, &machine.id)?;
    let look = site.store.look()?;
    let offer =
        record.as_ref().map(|record| admit::offer(&look, machine, record, &site.word())).transpose()?;
    let node = {
        let memory = site.memory();
        match (&memory.view, memory.blind_why.is_empty()) {
            (Some(view), true) => match machine.node().and_then(|name| view.nodes.get(&name).cloned()) {
                Some(node) => NodeView::There { ready: node.ready },
                None => NodeView::Absent,
            },
            _ => NodeView::Blind,
        }
    };
    let alive = site.alive_keys();
    let around = Around {
        record: record.as_ref(),
        site: site.name(),
        now: site.now(),
        node,
        offer: offer.map_or(decide::Offer::Full, |(offer, _)| offer),
        alive: machine.s.is_some_and(|s| alive(&s)) || site.now().since(machine.heard) < 60,
        skew: None,
    };
    Ok(decide::reason(machine.life, &machine.seen(&around)))
}

fn row(site: &Site, machine: &Machine) -> Result<Row> {
    let hinted = record(site, &machine.id)?.and_then(|record| record.hints.product_serial);
    Ok(Row {
        machine: machine.id.clone(),
        serial: hinted.unwrap_or_else(|| machine.hw.dmi.serial.clone()),
        life: format!("{:?}", machine.life),
        reason: reason(site, machine)?.code.word().to_owned(),
        slot: machine.slot.clone().unwrap_or_default(),
        node: machine.node().unwrap_or_default(),
        since: machine.since.to_string(),
    })
}

/// Every machine.
pub fn machines(site: &Site) -> Result<Vec<Row>> {
    site.machines()?.iter().map(|machine| row(site, machine)).collect()
}

/// Every slot.
pub fn slots(site: &Site) -> Result<Vec<SlotRow>> {
    let look = site.store.look()?;
    let machines = site.machines()?;
    let line = |slot: &crate::model::Slot| {
        let holder: Option<String> = look.get(HOLDERS, &slot.name)?;
        let machine = machines.iter().find(|machine| Some(&machine.id) == holder.as_ref());
        Ok(SlotRow {
            slot: slot.name.clone(),
            role: slot.role.word().to_owned(),
            node: machine.and_then(Machine::node).unwrap_or_default(),
            machine: holder.unwrap_or_default(),
        })
    };
    site.word().slots.slots.iter().map(line).collect()
}

/// The machine that a person means: by id, Node, slot, serial or proven id, or by the beginning of one of these.
pub fn find(site: &Site, wanted: &str) -> Result<Machine> {
    let mut fitting = Vec::new();
    for machine in site.machines()? {
        let row = row(site, &machine)?;
        let mut names = vec![row.machine, row.node, row.slot, row.serial];
        names.extend(machine.proven.iter().map(ToString::to_string));
        if names.iter().any(|name| name.eq_ignore_ascii_case(wanted)) {
            return Ok(machine);
        }
        if wanted.len() >= 4 && names.iter().any(|name| name.starts_with(wanted)) {
            fitting.push(machine);
        }
    }
    anyhow::ensure!(
        fitting.len() < 2,
        "{} machines begin with {wanted}; give more of the name",
        fitting.len()
    );
    fitting
        .pop()
        .with_context(|| format!("no machine here is called {wanted}; `provisioner machines` lists them all"))
}

/// Everything about one machine.
pub fn explain(site: &Site, wanted: &str) -> Result<Explained> {
    let machine = find(site, wanted)?;
    let reason = reason(site, &machine)?;
    let word = site.word();
    Ok(Explained {
        row: row(site, &machine)?,
        person: reason.code.person().to_owned(),
        engineer: reason.code.engineer().to_owned(),
        next: reason.code.next().to_owned(),
        deadline: match reason.deadline {
            Some(decide::Deadline::Within(patience)) => format!("within {} minutes", patience.as_secs() / 60),
            Some(decide::Deadline::Until(what)) => format!("until {what}"),
            None => "it is not waiting".to_owned(),
        },
        profile: word.profiles.of(&machine.hw).map(|(_, why)| why).unwrap_or_default(),
        proven: machine.proven.iter().map(ToString::to_string).collect(),
    })
}

/// Machines that show a code: never the code itself, which the provisioner asks for.
pub fn claims(site: &Site) -> Vec<String> {
    let line = |claim: super::claims::Claim| {
        let serial = &claim.hw.dmi.serial;
        let state = match claim.approved {
            Some((slot, by)) => format!("approved for {slot} by {by}"),
            None => "shows a code; read it to HQ".to_owned(),
        };
        format!("key:{} serial {serial}: {state}", claim.s)
    };
    site.claims().into_iter().map(line).collect()
}

/// What is wrong with the provisioner itself; empty when all is well.
pub fn health(site: &Site) -> Vec<String> {
    let mut wrong = Vec::new();
    let memory = site.memory();
    if !memory.blind_why.is_empty() {
        wrong.push(memory.blind_why.clone());
    }
    wrong.extend(memory.unsafe_why.clone());
    drop(memory);
    if site.cluster().is_none() {
        wrong.push("not attached to a cluster: run `provisioner attach KUBECONFIG`".to_owned());
    }
    if site.word().seq == 0 {
        wrong.push("no bundle from HQ yet: put one into the inbox".to_owned());
    }
    if site.clock().uncertain {
        wrong.push("time-uncertain: the clock of this computer cannot be right".to_owned());
    }
    wrong
}

/// The files that a machine would be sent now: path and text.
pub fn render(site: &Site, wanted: &str) -> Result<Vec<(String, String)>> {
    let machine = find(site, wanted)?;
    let record = record(site, &machine.id)?.context("the machine has no registration any more")?;
    let (slot, node) = machine.slot.clone().zip(machine.node()).context("the machine has no slot")?;
    let cluster = site.cluster().context("not attached to a cluster")?;
    let address = machine.addresses.first().copied();
    let bound = Bound { machine, record };
    let files = site.rendered(&bound, &slot, &node, address, cluster.ca_pem())?;
    Ok(files
        .into_iter()
        .map(|file| (file.path, String::from_utf8_lossy(&file.data.0).into_owned()))
        .collect())
}
