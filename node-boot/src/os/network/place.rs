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

/// Makes what the plan calls for out of `port`, or of all ports with a cable, and takes away what it does not call for.
pub fn lay(plan: &Plan, port: &Port, plugged: &[Port]) -> Result<Place> {
    let tagged = plan.vlan.map(|tag| format!("{TAGGED}{tag}"));
    let wanted = |name: &str| (name == BOND && plan.bond.is_some()) || Some(name) == tagged.as_deref();
    for old in ours().iter().filter(|old| !wanted(&old.name)) {
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

fn with_tag(tag: u16, name: &str, base: &Port) -> Result<Port> {
    let of = fs::read_to_string(format!("/sys/class/net/{name}/iflink")).ok();
    let of = of.and_then(|text| text.trim().parse::<u32>().ok());
    if let Some(old) = link(name).filter(|_| of != Some(base.index)) {
        netlink::remove_link(old.index).with_context(|| format!("moving {name} to {}", base.name))?;
    }
    if link(name).is_none() {
        netlink::add_vlan(name, tag, base.index).with_context(|| format!("speaking with the tag {tag}"))?;
    }
    link(name).with_context(|| format!("there is no {name}"))
}
