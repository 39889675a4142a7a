//! The network of a machine whose whole system is ours: links up at once, addresses as site and slot say.

use std::fs;
use std::net::{IpAddr, SocketAddr as Peer};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::net;
use serde::Deserialize;

use crate::console::say;
use crate::site::discover;

/// Numbers of `linux/rtnetlink.h`, `linux/if_addr.h` and `linux/netlink.h`.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// Made where there is none, put in the place of one that there is.
const CREATE: u16 = 0x400 | 0x100;
const HEADER: usize = 16;
const UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const BY_ADMINISTRATOR: u8 = 4;
const UNICAST: u8 = 1;
const INET: u8 = 2;
const INET6: u8 = 10;
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
    // `struct ifinfomsg`: family, kind, index, flags, and which of them change.
    let message = [&[0; 4][..], &index.to_ne_bytes(), &UP.to_ne_bytes(), &UP.to_ne_bytes()].concat();
    tell(NEW_LINK, 0, &message).context("switching it on")
}

/// Gives an interface an address; one that it has stays.
fn add_address(index: u32, address: IpAddr, prefix: u8) -> Result<()> {
    // `struct ifaddrmsg`: family, prefix, flags, scope, index.
    let head = [family(address), prefix, 0, 0];
    let bytes = bytes(address);
    let parts =
        [&head[..], &index.to_ne_bytes(), &attribute(IFA_LOCAL, &bytes), &attribute(IFA_ADDRESS, &bytes)];
    tell(NEW_ADDRESS, CREATE, &parts.concat()).with_context(|| format!("giving it the address {address}"))
}

/// A route, in place of the one that there was.
fn add_route(way: &Way) -> Result<()> {
    let (to, prefix) = way.to.split_once('/').context("a range without the length of its prefix")?;
    let to: IpAddr = to.parse()?;
    // `struct rtmsg`: family, prefixes, service, table, who made it, scope, kind, flags.
    let head = [family(to), prefix.parse()?, 0, 0, TABLE_MAIN, BY_ADMINISTRATOR, 0, UNICAST, 0, 0, 0, 0];
    let parts = [&head[..], &attribute(RTA_DST, &bytes(to)), &attribute(RTA_GATEWAY, &bytes(way.via))];
    tell(NEW_ROUTE, CREATE, &parts.concat()).context("adding the route")
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

/// `struct rtattr` with its value; both kinds of address fill whole words.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
}

/// Tells the kernel (rtnetlink(7)), and waits until it has done so.
fn tell(kind: u16, how: u16, message: &[u8]) -> Result<()> {
    let length = u32::try_from(HEADER + message.len())?;
    // `struct nlmsghdr`: length, kind, flags, number, port.
    let head = [
        &length.to_ne_bytes()[..],
        &kind.to_ne_bytes(),
        &(REQUEST | ACKNOWLEDGE | how).to_ne_bytes(),
        &[0; 8],
    ];
    let socket = net::socket(net::AddressFamily::NETLINK, net::SocketType::RAW, None)?;
    net::connect(&socket, &net::netlink::SocketAddrNetlink::new(0, 0))?;
    net::send(&socket, &[&head.concat()[..], message].concat(), net::SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = net::recv(&socket, &mut answer[..], net::RecvFlags::empty())?;
    verdict(answer.get(..length).unwrap_or_default())
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
    fn a_resolver_has_a_line_for_each_server_and_one_for_where_to_search() {
        let dns = vec!["10.7.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let search = vec!["a.test".to_owned(), "b.test".to_owned()];
        let plan = Plan { address: None, routes: vec![], dns, search };
        assert_eq!(resolver(&plan), "nameserver 10.7.0.1\nnameserver fd00::1\nsearch a.test b.test\n");
    }
}
