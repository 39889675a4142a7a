//! The network of a machine whose whole system is ours: links up at once, addresses as site and slot say.

use std::fs;
use std::net::{IpAddr, SocketAddr as Peer};
use std::path::Path;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use serde::Deserialize;

use crate::console::say;
use crate::site::discover;

/// Where the machine's configuration says what its network is.
const PLAN: &str = "etc/node-boot/network.json";

/// What site and slot say.
#[derive(Debug, Deserialize)]
struct Plan {
    /// Its address with the length of the prefix; none where it keeps what it has.
    address: Option<String>,
    /// Where the Pods of other machines are.
    routes: Vec<Way>,
    dns: Vec<IpAddr>,
    search: Vec<String>,
}

/// A way to a range of addresses.
#[derive(Debug, Deserialize)]
struct Way {
    /// `10.244.2.0/24`.
    to: String,
    /// The machine that has them.
    via: IpAddr,
}

/// Switches every link on, so that each cable gets its link-local address; says which one does not.
pub fn links_up() {
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let index = fs::read_to_string(entry.path().join("ifindex")).unwrap_or_default();
        let Ok(index) = index.trim().parse() else { continue };
        if let Err(error) = up(index) {
            say(&format!("The network interface {name} does not start: {error:#}."));
        }
    }
}

/// Makes the network what the configuration below `root` says, on the cable over which `site` is reached; before it was
/// reached on the first one that has a link.
pub fn apply(root: &Path, site: Option<Peer>) -> Result<()> {
    let text = fs::read(root.join(PLAN)).with_context(|| format!("reading {PLAN}"))?;
    let plan: Plan = serde_json::from_slice(&text).with_context(|| format!("reading {PLAN}"))?;
    if let Some(own) = &plan.address {
        let (address, prefix) = own.split_once('/').context("an address without the length of its prefix")?;
        let cable = match site {
            Some(Peer::V6(six)) if six.scope_id() != 0 => Some(six.scope_id()),
            _ => discover::interfaces().first().copied(),
        };
        add_address(cable.context("no network interface has a cable")?, address.parse()?, prefix.parse()?)?;
    }
    for way in &plan.routes {
        // One that leads nowhere, since its machine is on no cable of ours, keeps none of the others from being there.
        if let Err(error) = add_route(way) {
            say(&format!("There is no way to {}: {error:#}.", way.to));
        }
    }
    fs::write(root.join("etc/resolv.conf"), resolver(&plan)).context("writing etc/resolv.conf")
}

fn resolver(plan: &Plan) -> String {
    let mut lines: Vec<_> = plan.dns.iter().map(|server| format!("nameserver {server}")).collect();
    if !plan.search.is_empty() {
        lines.push(format!("search {}", plan.search.join(" ")));
    }
    lines.join("\n") + "\n"
}

fn up(index: u32) -> Result<()> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    tell(RouteNetlinkMessage::SetLink(link), 0).context("switching it on")
}

/// Gives an interface an address; one that it has stays.
fn add_address(index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
    let how = NLM_F_CREATE | NLM_F_REPLACE;
    tell(RouteNetlinkMessage::NewAddress(message), how)
        .with_context(|| format!("giving it the address {address}"))
}

/// A route, in place of the one that there was.
fn add_route(way: &Way) -> Result<()> {
    let (to, prefix) = way.to.split_once('/').context("a range without the length of its prefix")?;
    let to: IpAddr = to.parse()?;
    let mut message = RouteMessage::default();
    message.header.address_family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.destination_prefix_length = prefix.parse()?;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(to.into()), RouteAttribute::Gateway(way.via.into())];
    tell(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE).context("adding the route")
}

/// Tells the kernel (rtnetlink(7)), and waits until it has done so.
fn tell(message: RouteNetlinkMessage, how: u16) -> Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | how;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer =
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).context("the kernel's answer")?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io().into()),
        NetlinkPayload::Error(_) => Ok(()),
        other => bail!("the kernel answered {other:?}"),
    }
}
