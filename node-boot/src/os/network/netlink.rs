//! What the kernel is told, and asked, of links, addresses and routes (rtnetlink(7)).

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::net;

use super::range::Range;

/// Numbers of `linux/rtnetlink.h`, `linux/if_addr.h`, `linux/if_link.h` and `linux/netlink.h`.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
/// Made where there is none, put in the place of one that there is.
const CREATE: u16 = 0x400 | 0x100;
const HEADER: usize = 16;
const UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_BOND_MODE: u16 = 1;
const IFLA_BOND_MIIMON: u16 = 3;
const ACTIVE_BACKUP: u8 = 1;
/// How often a bond looks whether its cables work, milliseconds.
const LOOK: u32 = 100;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
const IFA_RT_PRIORITY: u16 = 9;
const IFA_PROTO: u16 = 11;
/// Flag of an address that no clock takes away.
const PERMANENT: u32 = 0x80;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
/// A gateway that is taken to be on the cable, whatever the addresses there are.
const ON_LINK: u32 = 4;
const TABLE_MAIN: u8 = 254;
const UNICAST: u8 = 1;
const LINK: u8 = 253;
const INET: u8 = 2;
const INET6: u8 = 10;
/// Who made a route or gave an address: this program. A number that nobody has (`/etc/iproute2/rt_protos`).
const OURS: u8 = 78;
/// A time without end.
const FOREVER: u32 = u32::MAX;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub link: u32,
    /// The address, and the length of its prefix.
    pub own: Range,
    /// How long the kernel keeps it; none for ever.
    pub lasts: Option<Duration>,
    /// How long new connections may come from it; none for ever.
    pub prefers: Option<Duration>,
    /// Weight of the way to its neighbours: the least one is taken.
    pub metric: u32,
    /// Whether this program gave it.
    pub is_ours: bool,
}

/// A way to a range of addresses that this program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: Range,
    /// The neighbour who passes it on; none where it is on the cable itself.
    pub via: Option<IpAddr>,
    /// The interface; none where the kernel finds it.
    pub link: Option<u32>,
    /// Weight: the least one is taken.
    pub metric: u32,
}

/// Switches an interface on.
pub fn up(index: u32) -> Result<()> {
    tell(NEW_LINK, 0, &link(index, UP, UP)).context("switching it on")
}

/// Switches an interface off.
pub fn down(index: u32) -> Result<()> {
    tell(NEW_LINK, 0, &link(index, 0, UP)).context("switching it off")
}

/// Makes an interface whose packets have a tag on another one.
pub fn add_vlan(name: &str, tag: u16, on: u32) -> Result<()> {
    let data = attribute(IFLA_VLAN_ID, &tag.to_ne_bytes());
    add_link(name, "vlan", &data, &number(IFLA_LINK, on))
}

/// Makes an interface of several, of which one works at a time.
pub fn add_bond(name: &str) -> Result<()> {
    let data = [attribute(IFLA_BOND_MODE, &[ACTIVE_BACKUP]), number(IFLA_BOND_MIIMON, LOOK)].concat();
    add_link(name, "bond", &data, &[])
}

fn add_link(name: &str, kind: &str, data: &[u8], more: &[u8]) -> Result<()> {
    let kind = attribute(IFLA_INFO_KIND, kind.as_bytes());
    let info = attribute(IFLA_LINKINFO, &[kind, attribute(IFLA_INFO_DATA, data)].concat());
    let name = attribute(IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
    tell(NEW_LINK, CREATE, &[&link(0, 0, 0)[..], &name, more, &info].concat())
}

/// Makes an interface, which is off, a part of another one.
pub fn bind(index: u32, to: u32) -> Result<()> {
    tell(NEW_LINK, 0, &[link(index, 0, 0), number(IFLA_MASTER, to)].concat())
}

/// Takes an interface away that this program made.
pub fn remove_link(index: u32) -> Result<()> {
    tell(DELETE_LINK, 0, &link(index, 0, 0))
}

/// Sets the longest packet of an interface, bytes.
pub fn set_mtu(index: u32, mtu: u32) -> Result<()> {
    let message = [link(index, 0, 0), number(IFLA_MTU, mtu)].concat();
    tell(NEW_LINK, 0, &message).with_context(|| format!("giving it an MTU of {mtu}"))
}

/// Gives an interface an address; one that it has gets the time and weight named.
pub fn add_address(address: &Address) -> Result<()> {
    let seconds = |time: Option<Duration>| {
        time.map_or(FOREVER, |time| u32::try_from(time.as_secs()).unwrap_or(FOREVER - 1)).to_ne_bytes()
    };
    // `struct ifa_cacheinfo`: how long it is preferred, how long it is good; two stamps.
    let times = [&seconds(address.prefers)[..], &seconds(address.lasts), &[0; 8]].concat();
    let parts = [
        of_address(address),
        attribute(IFA_CACHEINFO, &times),
        number(IFA_RT_PRIORITY, address.metric),
        attribute(IFA_PROTO, &[OURS]),
    ];
    tell(NEW_ADDRESS, CREATE, &parts.concat())
        .with_context(|| format!("giving it the address {}", address.own))
}

/// Takes an address away.
pub fn remove_address(address: &Address) -> Result<()> {
    tell(DELETE_ADDRESS, 0, &of_address(address)).with_context(|| format!("taking {} away", address.own))
}

/// Adds a route, in place of the one that there was.
pub fn add_route(route: &Route) -> Result<()> {
    tell(NEW_ROUTE, CREATE, &of_route(route)).context("adding the route")
}

/// Takes a route away.
pub fn remove_route(route: &Route) -> Result<()> {
    tell(DELETE_ROUTE, 0, &of_route(route)).context("taking the route away")
}

/// Every address of every interface.
pub fn addresses() -> Result<Vec<Address>> {
    let found = ask(GET_ADDRESS, &[0; 8])?;
    Ok(found.iter().filter_map(|message| read_address(message)).collect())
}

/// Every route that this program made.
pub fn routes() -> Result<Vec<Route>> {
    let found = ask(GET_ROUTE, &[0; 12])?;
    Ok(found.iter().filter_map(|message| read_route(message)).collect())
}

/// `struct ifinfomsg`: family, kind, index, flags, and which of them change.
fn link(index: u32, flags: u32, change: u32) -> Vec<u8> {
    [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &change.to_ne_bytes()].concat()
}

fn of_address(address: &Address) -> Vec<u8> {
    // `struct ifaddrmsg`: family, prefix, flags, scope, index.
    let head = [family(address.own.ip), address.own.prefix, 0, 0];
    let [local, same] = [IFA_LOCAL, IFA_ADDRESS].map(|kind| attribute(kind, &bytes(address.own.ip)));
    [&head[..], &address.link.to_ne_bytes(), &local, &same].concat()
}

fn of_route(route: &Route) -> Vec<u8> {
    // `struct rtmsg`: family, prefixes, service, table, who made it, scope, kind, flags.
    let scope = if route.via.is_none() { LINK } else { 0 };
    let head = [family(route.to.ip), route.to.prefix, 0, 0, TABLE_MAIN, OURS, scope, UNICAST];
    let on_link = route.link.is_some() && route.via.is_some();
    let mut parts = vec![head.to_vec(), if on_link { ON_LINK } else { 0 }.to_ne_bytes().to_vec()];
    parts.push(attribute(RTA_DST, &bytes(route.to.ip)));
    parts.extend(route.via.map(|via| attribute(RTA_GATEWAY, &bytes(via))));
    parts.extend(route.link.map(|link| number(RTA_OIF, link)));
    parts.push(number(RTA_PRIORITY, route.metric));
    parts.concat()
}

fn read_address(message: &[u8]) -> Option<Address> {
    let &[family, prefix, flags, _, a, b, c, d, ref rest @ ..] = message else { return None };
    let found = attributes(rest);
    let get = |kind: u16| found.iter().find(|(of, _)| *of == kind).map(|(_, value)| *value);
    let flags = get(IFA_FLAGS).and_then(read_number).unwrap_or(u32::from(flags));
    let seconds = |part: std::ops::Range<usize>| {
        let seconds = get(IFA_CACHEINFO).and_then(|times| read_number(times.get(part)?));
        seconds.filter(|seconds| *seconds != FOREVER).map(|seconds| Duration::from_secs(seconds.into()))
    };
    Some(Address {
        link: u32::from_ne_bytes([a, b, c, d]),
        // The far end's address stands in the other one where there is one.
        own: Range { ip: read_ip(family, get(IFA_LOCAL).or_else(|| get(IFA_ADDRESS))?)?, prefix },
        lasts: seconds(4..8).filter(|_| flags & PERMANENT == 0),
        prefers: seconds(0..4),
        metric: get(IFA_RT_PRIORITY).and_then(read_number).unwrap_or(0),
        is_ours: get(IFA_PROTO) == Some(&[OURS]),
    })
}

fn read_route(message: &[u8]) -> Option<Route> {
    let &[family, prefix, _, _, _, OURS, _, _, _, _, _, _, ref rest @ ..] = message else { return None };
    let found = attributes(rest);
    let get = |kind: u16| found.iter().find(|(of, _)| *of == kind).map(|(_, value)| *value);
    let nowhere = if family == INET { [0; 4].to_vec() } else { [0; 16].to_vec() };
    Some(Route {
        to: Range { ip: read_ip(family, get(RTA_DST).unwrap_or(&nowhere))?, prefix },
        via: get(RTA_GATEWAY).and_then(|value| read_ip(family, value)),
        link: get(RTA_OIF).and_then(read_number),
        metric: get(RTA_PRIORITY).and_then(read_number).unwrap_or(0),
    })
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { INET } else { INET6 }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(four) => four.octets().to_vec(),
        IpAddr::V6(six) => six.octets().to_vec(),
    }
}

fn read_ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        INET => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        INET6 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

fn read_number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_ne_bytes)
}

/// `struct rtattr` with its value, filled up to whole words.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_ne_bytes())
}

fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let &[a, b, c, d, ref rest @ ..] = bytes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = length.checked_sub(4).and_then(|length| rest.get(..length)) else { break };
        found.push((u16::from_ne_bytes([c, d]), value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// Sends a message; the socket for the answer.
fn send(kind: u16, how: u16, message: &[u8]) -> Result<rustix::fd::OwnedFd> {
    let length = u32::try_from(HEADER + message.len())?;
    // `struct nlmsghdr`: length, kind, flags, number, port.
    let head =
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &(REQUEST | how).to_ne_bytes(), &[0; 8]].concat();
    let socket = net::socket(net::AddressFamily::NETLINK, net::SocketType::RAW, None)?;
    net::connect(&socket, &net::netlink::SocketAddrNetlink::new(0, 0))?;
    net::send(&socket, &[&head[..], message].concat(), net::SendFlags::empty())?;
    Ok(socket)
}

/// Tells the kernel, and waits until it has done so.
fn tell(kind: u16, how: u16, message: &[u8]) -> Result<()> {
    let socket = send(kind, ACKNOWLEDGE | how, message)?;
    let mut answer = [0; 4096];
    let (length, _) = net::recv(&socket, &mut answer[..], net::RecvFlags::empty())?;
    verdict(answer.get(..length).unwrap_or_default())
}

/// Every message that the kernel has of a kind, without their heads.
fn ask(kind: u16, message: &[u8]) -> Result<Vec<Vec<u8>>> {
    let socket = send(kind, DUMP, message).context("asking the kernel")?;
    let (mut found, mut answer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let (length, _) = net::recv(&socket, &mut answer[..], net::RecvFlags::empty())?;
        if read_many(answer.get(..length).unwrap_or_default(), &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads the messages of one answer; whether the last one is among them.
fn read_many(mut answer: &[u8], found: &mut Vec<Vec<u8>>) -> Result<bool> {
    while let &[a, b, c, d, e, f, ..] = answer {
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d]))?;
        match u16::from_ne_bytes([e, f]) {
            DONE => return Ok(true),
            ERROR => return verdict(answer).map(|()| true),
            _ => found.push(answer.get(HEADER..length).context("the kernel's answer is none")?.to_vec()),
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// What the kernel answered: `NLMSG_ERROR` with a number, 0 where all is well.
fn verdict(answer: &[u8]) -> Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let number =
        answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match number.filter(|_| kind == Some(ERROR)).context("the kernel's answer is none")? {
        0 => Ok(()),
        number => Err(std::io::Error::from_raw_os_error(-number).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_no_with_a_number() {
        let answer = |kind: u16, number: i32| {
            let head = [&36u32.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], &number.to_ne_bytes()];
            verdict(&head.concat()).map_err(|error| error.to_string())
        };
        assert_eq!(answer(ERROR, 0), Ok(()));
        assert!(answer(ERROR, -17).unwrap_err().contains("exists"));
        assert!(answer(16, 0).is_err() && verdict(&[]).is_err());
    }

    #[test]
    fn what_the_kernel_shows_is_read_as_it_was_told() {
        let address = Address {
            link: 3,
            own: "10.7.0.13/24".parse().unwrap(),
            lasts: Some(Duration::from_mins(2)),
            prefers: Some(Duration::from_mins(1)),
            metric: 9,
            is_ours: true,
        };
        let times = attribute(IFA_CACHEINFO, &[60u32, 120, 0, 0].map(u32::to_ne_bytes).concat());
        let more = [number(IFA_RT_PRIORITY, 9), attribute(IFA_PROTO, &[OURS])].concat();
        let shown = [of_address(&address), times, more].concat();
        assert_eq!(read_address(&shown), Some(address));
        let to = "10.244.2.0/24".parse().unwrap();
        let route = Route { to, via: Some("10.7.0.12".parse().unwrap()), link: Some(3), metric: 7 };
        let mut shown = of_route(&route);
        assert_eq!(read_route(&shown), Some(route));
        shown[5] = 4;
        assert_eq!(read_route(&shown), None, "an administrator's");
        for cut in 0..shown.len() {
            shown[5] = OURS;
            let _ = read_route(&shown[..cut]);
        }
    }

    #[test]
    fn an_answer_of_several_messages_is_read_to_its_end() {
        let one = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEADER + body.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
        };
        let (mut found, both) = (vec![], [one(20, &[1; 8]), one(20, &[2; 8])].concat());
        assert!(!read_many(&both, &mut found).unwrap());
        assert!(read_many(&one(DONE, &[0; 4]), &mut found).unwrap());
        assert_eq!(found, [[1; 8], [2; 8]]);
        assert!(read_many(&both[..20], &mut vec![]).is_err(), "it is cut");
    }
}
