//! Where the plan's address goes: a port, several of them as one (bonding), or a tag on either (802.1Q).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::netlink;
use super::plan::{Bond, Plan};
use super::ports::{Port, link};

/// The interface that several ports make together.
const BOND: &str = "uplink";
/// What the names of those with a tag begin with; the tag follows.
const TAGGED: &str = "vlan";

/// Where the plan's address goes.
#[derive(Clone, Debug)]
pub struct Place {
    /// The interface that has the address.
    pub link: Port,
    /// The one below its tag: the same where there is none.
    pub base: Port,
    /// Ports that it is made of.
    pub ports: Vec<u32>,
}

impl Place {
    /// Whether it is this interface, with its tag or without.
    pub fn has(&self, link: u32) -> bool {
        [self.base.index, self.link.index].contains(&link)
    }
}

/// Makes what the plan calls for out of `port`, or of all ports with a cable, and takes away what it does not call for.
pub fn lay(plan: &Plan, port: &Port, plugged: &[Port]) -> Result<Place> {
    let tagged = plan.vlan.map(|tag| format!("{TAGGED}{tag}"));
    let base = if plan.bond.is_some() { link(BOND).map(|bond| bond.index) } else { Some(port.index) };
    // A tag stays where it is on the right interface.
    let is_wanted = |old: &Port| match old.name.as_str() {
        BOND => plan.bond.is_some(),
        name => Some(name) == tagged.as_deref() && below(name) == base,
    };
    for old in ours().iter().filter(|old| !is_wanted(old)) {
        netlink::remove_link(old.index).with_context(|| format!("taking {} away", old.name))?;
    }
    let (base, ports) = match plan.bond {
        None => (port.clone(), vec![port.index]),
        Some(Bond::ActiveBackup) => (bond(plugged)?, plugged.iter().map(|port| port.index).collect()),
    };
    let link = match (plan.vlan, &tagged) {
        (Some(tag), Some(name)) => with_tag(tag, name, &base)?,
        _ => base.clone(),
    };
    for made in [&base, &link].into_iter().filter(|made| !made.is_up) {
        netlink::up(made.index)?;
    }
    Ok(Place { link, base, ports })
}

/// Interfaces that this program made.
fn ours() -> Vec<Port> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name == BOND || name.starts_with(TAGGED)).filter_map(|name| link(&name)).collect()
}

/// All ports as one: the first whose link works carries everything, another one takes over when it fails.
fn bond(plugged: &[Port]) -> Result<Port> {
    if link(BOND).is_none() {
        netlink::add_bond(BOND).context("binding the ports together")?;
    }
    let bond = link(BOND).context("the ports are not bound together")?;
    for port in plugged.iter().filter(|port| !is_bound(&port.name)) {
        let bound = netlink::down(port.index).and_then(|()| netlink::bind(port.index, bond.index));
        bound.with_context(|| format!("binding {} to the other ports", port.name))?;
    }
    // It has their hardware address now.
    link(BOND).context("the ports are not bound together")
}

/// Whether an interface is a part of another one.
pub fn is_bound(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("master").exists()
}

/// The interface that one with a tag is on.
fn below(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/iflink")).ok()?;
    text.trim().parse().ok()
}

fn with_tag(tag: u16, name: &str, base: &Port) -> Result<Port> {
    if link(name).is_none() {
        netlink::add_vlan(name, tag, base.index).with_context(|| format!("speaking with the tag {tag}"))?;
    }
    link(name).with_context(|| format!("there is no {name}"))
}
