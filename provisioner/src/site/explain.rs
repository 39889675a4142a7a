//! Where a machine stands, why, since when, what happens next and by when: in plain words.

use anyhow::{Context, Result, bail};
use protocol::clock::Time;
use protocol::record::Record;
use protocol::refusal::Wait;
use serde::{Deserialize, Serialize};

use super::claims::Claim;
use super::machine::{Around, KubeletState, Machine, NodeView};
use super::store::{HOLDERS, Look, MACHINES, RECORDS};
use super::{Bound, Site, admit};

/// The shortest beginning of a name that counts as one.
const SHORTEST: usize = 3;
/// The word for a machine that HQ registered and that never spoke here.
const REGISTERED: &str = "registered";

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
    /// The slot it was approved for; empty while it waits.
    pub slot: String,
    /// By whose word: `hq` or `voice`; empty while it waits.
    pub by: String,
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
    /// The machines.
    pub machines: Vec<Row>,
    /// How many more are registered and never spoke here.
    pub unseen: usize,
}

/// Something that a person may ask about.
#[derive(Debug)]
pub enum Known {
    /// A machine that proved itself here once.
    Machine(Box<Machine>),
    /// A registration that nobody used here.
    Registered(Box<Record>),
    /// A machine that shows a code.
    Claim(Box<Claim>),
}

/// The reason why a machine is where it is, by the same code as everywhere.
pub fn reason(site: &Site, machine: &Machine) -> Result<decide::Reason> {
    let look = site.store.look()?;
    let record: Option<Record> = look.get(RECORDS, &machine.id)?;
    let offer =
        record.as_ref().map(|record| admit::offer(&look, machine, record, &site.word())).transpose()?;
    let alive = site.alive_keys();
    let around = Around {
        record: record.as_ref(),
        site: site.name(),
        now: site.now(),
        node: node_view(site, machine),
        offer: offer.map_or(decide::Offer::Full, |(offer, _)| offer),
        alive: machine.s.is_some_and(|s| alive(&s)) || site.now().since(machine.heard) < 60,
        skew: None,
    };
    Ok(decide::reason(machine.life, &machine.seen(&around)))
}

fn node_view(site: &Site, machine: &Machine) -> NodeView {
    let memory = site.memory();
    let Some(view) = memory.view.as_ref().filter(|_| memory.blind_why.is_empty()) else {
        return NodeView::Blind;
    };
    match machine.node().and_then(|name| view.nodes.get(&name)) {
        Some(node) => NodeView::There { ready: node.ready },
        None => NodeView::Absent,
    }
}

fn row(machine: &Machine, record: Option<&Record>, reason: decide::Reason, now: Time) -> Row {
    let hinted = record.and_then(|record| record.hints.product_serial.clone());
    Row {
        machine: machine.id.clone(),
        serial: hinted.unwrap_or_else(|| machine.hw.dmi.serial.clone()),
        life: machine.life.word().to_owned(),
        reason: reason.code.word().to_owned(),
        slot: machine.slot.clone().unwrap_or_default(),
        node: machine.node().unwrap_or_default(),
        since: machine.since.to_string(),
        seconds: now.since(machine.since),
    }
}

fn unseen_row(record: &Record) -> Row {
    Row {
        machine: record.id.clone(),
        serial: record.hints.product_serial.clone().unwrap_or_default(),
        life: REGISTERED.to_owned(),
        reason: "not-seen".to_owned(),
        slot: record.slot.clone().unwrap_or_default(),
        ..Row::default()
    }
}

/// Every machine that spoke here; with `all`, those too that HQ registered and that never did.
pub fn machines(site: &Site, all: bool) -> Result<Listed> {
    let look = site.store.look()?;
    let mut listed = Listed::default();
    for machine in site.machines()? {
        let record = look.get(RECORDS, &machine.id)?;
        listed.machines.push(row(&machine, record.as_ref(), reason(site, &machine)?, site.now()));
    }
    for (id, record) in look.list::<Record>(RECORDS)? {
        if look.bytes(MACHINES, &id)?.is_some() {
            continue;
        }
        if all {
            listed.machines.push(unseen_row(&record));
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

fn claim_row(claim: &Claim, now: Time) -> ClaimRow {
    let (slot, by) = claim.approved.clone().unwrap_or_default();
    ClaimRow {
        machine: format!("key:{}", claim.s),
        serial: claim.hw.dmi.serial.clone(),
        model: format!("{} {}", claim.hw.dmi.vendor, claim.hw.dmi.product).trim().to_owned(),
        slot,
        by: by.to_owned(),
        seconds: now.since(claim.since),
    }
}

/// By how much of a name something is meant.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    Beginning,
    Whole,
}

fn fit(names: &[String], wanted: &str) -> Fit {
    let wanted = wanted.trim().to_ascii_lowercase();
    let fits = |name: &String| {
        let name = name.to_ascii_lowercase();
        let bare = name.split_once(':').map_or("", |(_, bare)| bare);
        if !wanted.is_empty() && (name == wanted || bare == wanted) {
            Fit::Whole
        } else if wanted.len() >= SHORTEST && (name.starts_with(&wanted) || bare.starts_with(&wanted)) {
            Fit::Beginning
        } else {
            Fit::No
        }
    };
    names.iter().map(fits).max().unwrap_or(Fit::No)
}

fn names_of_record(record: &Record) -> Vec<String> {
    let hints = &record.hints;
    let labels = [&hints.product_serial, &hints.board_serial, &hints.system_uuid].into_iter().flatten();
    let mut names = vec![record.id.clone()];
    names.extend(labels.cloned());
    names.extend(hints.mac.iter().cloned());
    names.extend(record.auth.iter().map(|auth| auth.id().to_string()));
    names
}

fn names_of_machine(machine: &Machine) -> Vec<String> {
    let mut names = vec![machine.id.clone(), machine.hw.dmi.serial.clone()];
    names.extend(machine.node());
    names.extend(machine.slot.clone());
    names.extend(machine.s.map(|s| format!("key:{s}")));
    names.extend(machine.proven.iter().map(ToString::to_string));
    names.extend(machine.former.iter().cloned());
    names
}

/// What a person means: by id, serial, MAC, Node, slot, `ek:` or `key:` id, or by a beginning that only one has.
pub fn find(site: &Site, wanted: &str) -> Result<Known> {
    let look = site.store.look()?;
    let mut fitting = Vec::new();
    let mut consider = |names: Vec<String>, known: Known| {
        let fit = fit(&names, wanted);
        if fit != Fit::No {
            fitting.push((fit, names.into_iter().next().unwrap_or_default(), known));
        }
    };
    let machines: std::collections::BTreeMap<String, Machine> =
        look.list::<Machine>(MACHINES)?.into_iter().collect();
    for (id, record) in look.list::<Record>(RECORDS)? {
        match machines.get(&id) {
            Some(machine) => consider(
                [names_of_record(&record), names_of_machine(machine)].concat(),
                Known::Machine(Box::new(machine.clone())),
            ),
            None => consider(names_of_record(&record), Known::Registered(Box::new(record))),
        }
    }
    for machine in machines.values() {
        if look.bytes(RECORDS, &machine.id)?.is_none() {
            consider(names_of_machine(machine), Known::Machine(Box::new(machine.clone())));
        }
    }
    for claim in site.claims() {
        let names = vec![format!("key:{}", claim.s), claim.hw.dmi.serial.clone()];
        consider(names, Known::Claim(Box::new(claim)));
    }
    if fitting.is_empty() && site.word().slots.get(wanted).is_some() {
        bail!(
            "{wanted} is a slot that no machine holds: a registered machine takes it when it is plugged in"
        );
    }
    the_one(fitting, wanted, site.word().seq)
}

fn the_one(mut fitting: Vec<(Fit, String, Known)>, wanted: &str, seq: u64) -> Result<Known> {
    if fitting.iter().any(|(fit, ..)| *fit == Fit::Whole) {
        fitting.retain(|(fit, ..)| *fit == Fit::Whole);
    }
    if fitting.len() > 1 {
        let names: Vec<_> = fitting.iter().take(5).map(|(_, name, _)| name.as_str()).collect();
        bail!(
            "{wanted} may be any of {} machines ({}): give more of the name",
            fitting.len(),
            names.join(", ")
        );
    }
    let none = || {
        format!(
            "nothing here is called {wanted}, and bundle {seq} registers no such machine: \
             `provisioner machines --all` lists what there is; a machine that HQ does not know needs `provisioner window`"
        )
    };
    fitting.pop().map(|(_, _, known)| known).with_context(none)
}

/// The machine that is called `wanted` and has spoken here.
pub fn find_machine(site: &Site, wanted: &str) -> Result<Machine> {
    match find(site, wanted)? {
        Known::Machine(machine) => Ok(*machine),
        Known::Registered(record) => bail!("{} is registered, and has not proved itself here yet", record.id),
        Known::Claim(_) => bail!("{wanted} shows a code and is not registered yet: see `provisioner claims`"),
    }
}

/// Everything about one machine.
pub fn explain(site: &Site, wanted: &str) -> Result<Explained> {
    let now = site.now();
    match find(site, wanted)? {
        Known::Machine(machine) => {
            let record = site.record(&machine.id)?;
            let mut it = of_machine(&machine, record.as_ref(), reason(site, &machine)?, now);
            let profile = site.word().profiles.of(&machine.hw).map(|(_, why)| why);
            it.facts.extend(profile.map(|why| ("profile".to_owned(), why)));
            it.facts.extend(health(site).into_iter().map(|wrong| ("this site".to_owned(), wrong)));
            Ok(it)
        }
        Known::Registered(record) => {
            let standing = admit::check_standing(&record, site.name(), now);
            Ok(of_record(&record, standing.err().as_ref()))
        }
        Known::Claim(claim) => Ok(of_claim(&claim, now)),
    }
}

fn of_machine(machine: &Machine, record: Option<&Record>, reason: decide::Reason, now: Time) -> Explained {
    Explained {
        row: row(machine, record, reason, now),
        person: reason.code.person().to_owned(),
        engineer: reason.code.engineer().to_owned(),
        next: reason.code.next().to_owned(),
        deadline: deadline(reason, machine.since, now),
        facts: facts(machine, now),
    }
}

fn deadline(reason: decide::Reason, since: Time, now: Time) -> String {
    match reason.deadline {
        None => "nothing is waited for".to_owned(),
        Some(decide::Deadline::Until(what)) => format!("until {what}"),
        Some(decide::Deadline::Within(patience)) => {
            let by = since.plus(i64::try_from(patience.as_secs()).unwrap_or(0));
            if now > by {
                format!("{by}: {} ago, so somebody should look", span(now.since(by)))
            } else {
                format!("{by}, in {}", span(by.since(now)))
            }
        }
    }
}

fn facts(machine: &Machine, now: Time) -> Vec<(String, String)> {
    let listed = |values: Vec<String>| (!values.is_empty()).then(|| values.join(" "));
    let heard = (machine.heard != Time::default()).then(|| format!("{} ago", span(now.since(machine.heard))));
    let kubelet = match machine.kubelet {
        KubeletState::None => None,
        KubeletState::Asked => Some("asked for".to_owned()),
        KubeletState::Issued => {
            Some(machine.kubelet_until.map_or("issued".to_owned(), |until| format!("until {until}")))
        }
    };
    [
        ("slot", machine.slot.clone()),
        ("Node", machine.node()),
        ("proven", listed(machine.proven.iter().map(ToString::to_string).collect())),
        ("node key", machine.s.map(|s| format!("key:{s}"))),
        ("addresses", listed(machine.addresses.iter().map(ToString::to_string).collect())),
        ("last heard", heard),
        ("certificate", kubelet),
        ("to be removed", listed(machine.former.clone())),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
    .collect()
}

fn of_record(record: &Record, refused: Option<&protocol::refusal::Refused>) -> Explained {
    let mut row = unseen_row(record);
    let ids: Vec<_> = record.auth.iter().map(|auth| auth.id().to_string()).collect();
    let facts = vec![("expects".to_owned(), ids.join(" "))];
    if let Some(refused) = refused {
        refused.refusal.code().clone_into(&mut row.reason);
        return Explained {
            row,
            person: refused.refusal.sentence().to_owned(),
            engineer: refused.detail.clone(),
            next: "It is refused when it speaks.".to_owned(),
            deadline: "until HQ changes its registration and a bundle brings that".to_owned(),
            facts,
        };
    }
    Explained {
        row,
        person: "HQ registered this machine; it has not spoken to this site yet.".to_owned(),
        engineer: "It has not proved itself here (M4): not plugged in, not powered, on another network, \
                   or refused; the log of `serve` names every refusal."
            .to_owned(),
        next: "It is admitted by itself when it is plugged in.".to_owned(),
        deadline: "until it is plugged in".to_owned(),
        facts,
    }
}

fn of_claim(claim: &Claim, now: Time) -> Explained {
    let shown = claim_row(claim, now);
    let wait = match claim.approved {
        Some((_, "voice")) => Wait::Approved,
        _ => Wait::PendingHq,
    };
    let (next, deadline) = match claim.approved {
        None => ("It goes on when HQ approves its code.", "until HQ says yes; a code is good for an hour"),
        Some((_, "voice")) => (
            "It goes on when the person at the machine confirms the site.",
            "until somebody presses the key at the machine",
        ),
        Some(_) => (
            "It goes on when a bundle brings its registration: send a report to HQ.",
            "until the next bundle is applied",
        ),
    };
    Explained {
        row: Row {
            machine: shown.machine,
            serial: shown.serial,
            life: decide::Life::Discovered.word().to_owned(),
            reason: wait.code().to_owned(),
            slot: shown.slot,
            since: claim.since.to_string(),
            seconds: shown.seconds,
            ..Row::default()
        },
        person: wait.sentence().to_owned(),
        engineer: "No registration names what it proved; it shows a code on its screen (M10).".to_owned(),
        next: next.to_owned(),
        deadline: deadline.to_owned(),
        facts: vec![(
            "proven".to_owned(),
            claim.proven.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        )],
    }
}

/// A span of time as people say it: the two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
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
        wrong.push("no bundle from HQ yet: run `provisioner apply BUNDLE`".to_owned());
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
    let cluster = site.cluster().context("not attached to a cluster: run `provisioner attach KUBECONFIG`")?;
    let address = machine.addresses.first().copied();
    let bound = Bound { machine, record };
    let files = site.rendered(&bound, &slot, &node, address, cluster.ca_pem())?;
    Ok(files
        .into_iter()
        .map(|file| (file.path, String::from_utf8_lossy(&file.data.0).into_owned()))
        .collect())
}

#[cfg(test)]
mod tests;
