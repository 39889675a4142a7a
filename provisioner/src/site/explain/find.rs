//! Which machine a person means.

use anyhow::{Context, Result, bail};
use protocol::bytes::Digest;
use protocol::record::Record;

use crate::site::Site;
use crate::site::claims::Claim;
use crate::site::machine::Machine;
use crate::site::posers::Poser;
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
    /// A key that was refused as somebody else.
    Poser(Box<Poser>),
    /// A slot that no machine holds.
    Free(String),
}

/// What kind of name something goes by: the weightier come later. A machine chooses what it says of itself, and that
/// never outweighs a name that HQ or this site gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// What a machine says that nobody vouches for.
    Said,
    /// A serial or MAC that HQ registered.
    Label,
    /// A Node or a slot.
    Place,
    /// The id of a registration, or one that a machine proves.
    Id,
}

/// By how much of which name something is meant. A whole name outweighs every beginning of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    No,
    Beginning(Kind),
    Whole(Kind),
}

/// Names with their kind, the one to call it by first.
pub(super) type Names = Vec<(Kind, String)>;

pub(super) fn fit(names: &Names, wanted: &str) -> Fit {
    let wanted = wanted.trim().to_ascii_lowercase();
    let fits = |(kind, name): &(Kind, String)| {
        let name = name.to_ascii_lowercase();
        let bare = name.split_once(':').filter(|_| *kind == Kind::Id).map_or("", |(_, bare)| bare);
        if !wanted.is_empty() && (name == wanted || bare == wanted) {
            Fit::Whole(*kind)
        } else if wanted.len() >= SHORTEST && (name.starts_with(&wanted) || bare.starts_with(&wanted)) {
            Fit::Beginning(*kind)
        } else {
            Fit::No
        }
    };
    names.iter().map(fits).max().unwrap_or(Fit::No)
}

fn names_of_record(record: &Record) -> Names {
    let hints = &record.hints;
    let serials = [&hints.product_serial, &hints.board_serial, &hints.system_uuid].into_iter().flatten();
    let mut names = vec![(Kind::Id, record.id.clone())];
    names.extend(record.auth.iter().map(|auth| (Kind::Id, auth.id().to_string())));
    names.extend(serials.chain(&hints.mac).map(|label| (Kind::Label, label.clone())));
    names
}

fn names_of_machine(machine: &Machine) -> Names {
    let ids = machine.s.map(|s| format!("key:{s}")).into_iter();
    let ids = ids.chain(machine.proven.iter().map(ToString::to_string));
    let places = machine.node().into_iter().chain(machine.slot.clone()).chain(machine.former.iter().cloned());
    let mut names = vec![(Kind::Id, machine.id.clone())];
    names.extend(ids.map(|id| (Kind::Id, id)));
    names.extend(places.map(|place| (Kind::Place, place)));
    names.push((Kind::Said, machine.hw.dmi.serial.clone()));
    names
}

/// What a claim is called. Its key is proven, and costs nothing: a beginning of it is no more than a saying.
fn names_of_claim(claim: &Claim) -> Names {
    names_of_key(&claim.s, &claim.hw.dmi.serial)
}

/// The log prints a key bare.
fn names_of_key(s: &Digest, serial: &str) -> Names {
    vec![(Kind::Said, format!("key:{s}")), (Kind::Said, s.to_string()), (Kind::Said, serial.to_owned())]
}

/// What a person means: by id, Node, slot, serial or MAC, or by a beginning that only one has.
pub fn find(site: &Site, wanted: &str) -> Result<Known> {
    let mut fitting = registered(site, wanted)?;
    for claim in site.claims() {
        let names = names_of_claim(&claim);
        consider(&mut fitting, wanted, names, Known::Claim(Box::new(claim)));
    }
    // Whoever was refused stands in nobody's way.
    let posers = if fitting.is_empty() { site.posers() } else { Vec::new() };
    for poser in posers {
        let names = names_of_key(&poser.s, &poser.serial);
        consider(&mut fitting, wanted, names, Known::Poser(Box::new(poser)));
    }
    decided(site, fitting, wanted)
}

type Fitting = Vec<(Fit, String, Known)>;

fn consider(fitting: &mut Fitting, wanted: &str, names: Names, known: Known) {
    let fit = fit(&names, wanted);
    if fit != Fit::No {
        fitting.push((fit, names.into_iter().next().map(|(_, name)| name).unwrap_or_default(), known));
    }
}

/// What HQ registered, and what proved itself here, that may be meant.
fn registered(site: &Site, wanted: &str) -> Result<Fitting> {
    let look = site.store.look()?;
    let mut fitting = Vec::new();
    let machines: std::collections::BTreeMap<String, Machine> =
        look.list::<Machine>(MACHINES)?.into_iter().collect();
    for (id, record) in look.list::<Record>(RECORDS)? {
        let names = names_of_record(&record);
        match machines.get(&id) {
            Some(machine) => {
                let names = [names, names_of_machine(machine)].concat();
                consider(&mut fitting, wanted, names, Known::Machine(Box::new(machine.clone())));
            }
            None => consider(&mut fitting, wanted, names, Known::Registered(Box::new(record))),
        }
    }
    for machine in machines.values() {
        if look.bytes(RECORDS, &machine.id)?.is_none() {
            let known = Known::Machine(Box::new(machine.clone()));
            consider(&mut fitting, wanted, names_of_machine(machine), known);
        }
    }
    Ok(fitting)
}

fn decided(site: &Site, fitting: Fitting, wanted: &str) -> Result<Known> {
    let best = fitting.iter().map(|(fit, ..)| *fit).max().unwrap_or(Fit::No);
    if best < Fit::Whole(Kind::Place) && site.word().slots.get(wanted).is_some() {
        return Ok(Known::Free(wanted.to_owned()));
    }
    the_one(fitting, wanted, site.word().seq)
}

pub(super) fn the_one(mut fitting: Fitting, wanted: &str, seq: u64) -> Result<Known> {
    let best = fitting.iter().map(|(fit, ..)| *fit).max();
    fitting.retain(|(fit, ..)| Some(*fit) == best);
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

/// The machine that is called `wanted` and has proved itself here. Nothing that did not can stand in its way.
pub fn find_machine(site: &Site, wanted: &str) -> Result<Machine> {
    let fitting = registered(site, wanted)?;
    let known = if fitting.is_empty() { find(site, wanted)? } else { decided(site, fitting, wanted)? };
    match known {
        Known::Machine(machine) => Ok(*machine),
        Known::Registered(record) => bail!(
            "{0} is registered and has not proved itself here yet, so there is nothing to say of it here: plug it in \
             (`provisioner explain {0}` says what it will meet), or let HQ change its registration",
            record.id
        ),
        Known::Free(slot) => {
            bail!("{slot} is a slot that no machine holds: name a machine (`provisioner explain {slot}`)")
        }
        Known::Poser(poser) => bail!(
            "{wanted} was refused ({}) and is no machine of this site: it is refused whenever it comes, until HQ \
             registers its key",
            poser.code.word()
        ),
        Known::Claim(_) => bail!("{wanted} shows a code and is not registered yet: see `provisioner claims`"),
    }
}
