//! Which machine a person means.

use anyhow::{Context, Result, bail};
use protocol::record::Record;

use crate::site::Site;
use crate::site::claims::Claim;
use crate::site::machine::Machine;
use crate::site::store::{Look, MACHINES, RECORDS};

/// The shortest beginning of a name that counts as one.
const SHORTEST: usize = 3;

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

/// By how much of a name something is meant.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    No,
    Beginning,
    Whole,
}

pub(super) fn fit(names: &[String], wanted: &str) -> Fit {
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

pub(super) fn the_one(mut fitting: Vec<(Fit, String, Known)>, wanted: &str, seq: u64) -> Result<Known> {
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
