//! DHCP as bytes (RFC 2131, 2132, 3396, 3442): what this machine asks, and what it believes of an answer.

pub mod client; // what is asked when
pub mod wire; // the socket

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use protocol::dns;

use super::range::Range;

/// Ports of servers and clients.
pub const SERVER: u16 = 67;
/// See [`SERVER`].
pub const CLIENT: u16 = 68;
/// Before the options; where the two fields are that may hold more of them.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const HEAD: usize = 236;
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// A message is filled up to this length: old relays drop shorter ones (RFC 1542 section 2.1).
const LEAST: usize = 300;
/// Options.
const MASK: u8 = 1;
const ROUTER: u8 = 3;
const DNS: u8 = 6;
const DOMAIN: u8 = 15;
const MTU: u8 = 26;
const WANTED: u8 = 50;
const TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const KIND: u8 = 53;
const BY: u8 = 54;
const ASKED: u8 = 55;
const LONGEST: u8 = 57;
const RENEW: u8 = 58;
const REBIND: u8 = 59;
const SEARCH: u8 = 119;
const ROUTES: u8 = 121;
const END: u8 = 255;
/// More servers, domains and routes than this are not taken.
const MOST: usize = 16;
/// What a network says of its packets counts in these bounds: less would switch IPv6 off, and whether more gets through is
/// for headquarters to say.
const MTUS: std::ops::RangeInclusive<u16> = 1280..=1500;
/// A lease is never shorter: who gives one second is asked no more often than this.
const SHORTEST: u32 = 20;

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who gives addresses here?
    Discover = 1,
    /// This one may be had.
    Offer = 2,
    /// It is to be mine.
    Request = 3,
    /// It is.
    Ack = 5,
    /// It is not.
    Nak = 6,
}

/// What this machine asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// [`Kind::Discover`] or [`Kind::Request`].
    pub kind: Kind,
    /// Which answers are to this.
    pub id: u32,
    /// The card's hardware address.
    pub mac: [u8; 6],
    /// Since when it asks, seconds.
    pub since: u16,
    /// The address that it has already.
    pub own: Option<Ipv4Addr>,
    /// The address that it wants, and the server that offered it.
    pub wanted: Option<(Ipv4Addr, Ipv4Addr)>,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question's.
    pub id: u32,
    /// Whose question it was.
    pub mac: [u8; 6],
    /// The server, as it names itself.
    pub by: Ipv4Addr,
    /// What it says.
    pub said: Said,
}

/// An address, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It may be had.
    Offer(Lease),
    /// It is this machine's.
    Ack(Lease),
    /// It is not.
    Nak,
}

/// An address for a while, and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address, with the length of its prefix.
    pub own: Range,
    /// The server.
    pub by: Ipv4Addr,
    /// Where to, and by which neighbour; none where the range is on the cable itself.
    pub routes: Vec<(Range, Option<IpAddr>)>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
    /// Longest packet.
    pub mtu: Option<u16>,
    /// When it ends; none never does.
    pub lasts: Option<Duration>,
    /// When its server is asked for more time.
    pub renew: Duration,
    /// When every server is.
    pub rebind: Duration,
}

impl Question {
    /// As a message.
    pub fn bytes(&self) -> Vec<u8> {
        // Request, Ethernet, six bytes of address, no relay.
        let mut out = vec![1, 1, 6, 0];
        out.extend(self.id.to_be_bytes());
        out.extend(self.since.to_be_bytes());
        out.extend([0; 2]);
        out.extend(self.own.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        out.extend([0; 12]);
        out.extend(self.mac);
        out.resize(HEAD, 0);
        out.extend(COOKIE);
        out.extend([KIND, 1, self.kind as u8]);
        if let Some((address, by)) = self.wanted {
            out.extend([WANTED, 4]);
            out.extend(address.octets());
            out.extend([BY, 4]);
            out.extend(by.octets());
        }
        // What every Ethernet carries, without the heads of IP and UDP.
        out.extend([LONGEST, 2]);
        out.extend(1472u16.to_be_bytes());
        // Routes stand before the router (RFC 3442).
        let asked = [MASK, ROUTES, ROUTER, DNS, DOMAIN, MTU, TIME, BY, RENEW, REBIND, SEARCH];
        out.extend([ASKED, asked.len().try_into().unwrap_or(0)]);
        out.extend(asked);
        out.push(END);
        out.resize(out.len().max(LEAST), 0);
        out
    }
}

/// Reads a server's message; none where it is damaged, or gives no address that a machine can have.
pub fn read(message: &[u8]) -> Option<Answer> {
    let fixed = message.get(..HEAD)?;
    if fixed[..3] != [2, 1, 6] || message.get(HEAD..HEAD + 4)? != COOKIE {
        return None;
    }
    let options = Options::read(message)?;
    let address = |kind: u8| read_ip(options.get(kind));
    let by = address(BY)?;
    let lease = || lease(read_ip(&fixed[16..20])?, by, &options);
    let said = match options.get(KIND) {
        [kind] if *kind == Kind::Offer as u8 => Said::Offer(lease()?),
        [kind] if *kind == Kind::Ack as u8 => Said::Ack(lease()?),
        [kind] if *kind == Kind::Nak as u8 => Said::Nak,
        _ => return None,
    };
    let id = u32::from_be_bytes(fixed[4..8].try_into().ok()?);
    Some(Answer { id, mac: fixed[28..34].try_into().ok()?, by, said })
}

/// What each option holds, by its number; nothing where it is not there.
struct Options(Vec<Vec<u8>>);

impl Options {
    fn get(&self, kind: u8) -> &[u8] {
        self.0.get(usize::from(kind)).map(Vec::as_slice).unwrap_or_default()
    }

    /// All of a message, parts of one put together (RFC 3396), from the fields that may hold more of them too.
    fn read(message: &[u8]) -> Option<Self> {
        let mut found = Self(vec![Vec::new(); 256]);
        found.add(message.get(HEAD + 4..)?)?;
        let more = found.get(OVERLOAD).first().copied().unwrap_or(0);
        for (bit, field) in [(1, FILE), (2, SNAME)] {
            if more & bit != 0 {
                found.add(message.get(field)?)?;
            }
        }
        Some(found)
    }

    fn add(&mut self, mut bytes: &[u8]) -> Option<()> {
        loop {
            match bytes {
                [] | [END, ..] => return Some(()),
                [0, rest @ ..] => bytes = rest,
                [kind, length, rest @ ..] => {
                    let length = usize::from(*length);
                    self.0.get_mut(usize::from(*kind))?.extend(rest.get(..length)?);
                    bytes = &rest[length..];
                }
                _ => return None,
            }
        }
    }
}

fn lease(address: Ipv4Addr, by: Ipv4Addr, options: &Options) -> Option<Lease> {
    let mask = u32::from_be_bytes(options.get(MASK).try_into().ok()?);
    let is_whole = mask.leading_ones() + mask.trailing_zeros() == 32 && mask != 0;
    if !is_whole || !can_be_had(address, mask) {
        return None;
    }
    let seconds = |kind: u8| options.get(kind).try_into().ok().map(u32::from_be_bytes);
    let time = seconds(TIME)?.max(SHORTEST);
    let whole = Duration::from_secs(time.into());
    let within = |kind: u8| seconds(kind).map(|time| Duration::from_secs(time.into()));
    let rebind = within(REBIND).filter(|time| *time < whole).unwrap_or(whole / 8 * 7);
    let renew =
        within(RENEW).filter(|time| *time < rebind && !time.is_zero()).unwrap_or(rebind.min(whole / 2));
    let mut search = dns::names(options.get(SEARCH)).unwrap_or_default();
    if search.is_empty() {
        search.extend(String::from_utf8(options.get(DOMAIN).to_vec()).ok());
    }
    let mtu = options.get(MTU).try_into().ok().map(u16::from_be_bytes);
    Some(Lease {
        own: Range { ip: address.into(), prefix: u8::try_from(mask.leading_ones()).ok()? },
        by,
        routes: routes(options),
        dns: ips(options.get(DNS)).collect(),
        search: search
            .into_iter()
            .map(|name| name.trim_matches('\0').to_owned())
            .filter(is_domain)
            .take(MOST)
            .collect(),
        mtu: mtu.filter(|mtu| MTUS.contains(mtu)),
        lasts: (time != u32::MAX).then_some(whole),
        renew,
        rebind,
    })
}

/// Whether a machine can have an address; its net's own number and everybody there are none.
fn can_be_had(address: Ipv4Addr, mask: u32) -> bool {
    let host = u32::from(address) & !mask;
    let is_end = mask.leading_ones() < 31 && (host == 0 || host == !mask);
    let first = address.octets()[0];
    !(is_end || first == 0 || first >= 224 || address.is_loopback() || address.is_link_local())
}

/// The classless routes where there are any; else the first router (RFC 3442).
fn routes(options: &Options) -> Vec<(Range, Option<IpAddr>)> {
    let bytes = options.get(ROUTES);
    if bytes.is_empty() {
        let all = Range { ip: Ipv4Addr::UNSPECIFIED.into(), prefix: 0 };
        let routers = options.get(ROUTER);
        return ips(routers).take(1).map(|router| (all, Some(router))).collect();
    }
    let (mut rest, mut found) = (bytes, Vec::new());
    while let [prefix, after @ ..] = rest
        && found.len() < MOST
    {
        let count = usize::from(prefix.div_ceil(8));
        let (true, Some(begin), Some(via)) = (*prefix <= 32, after.get(..count), after.get(count..count + 4))
        else {
            break;
        };
        let mut to = [0; 4];
        to[..count].copy_from_slice(begin);
        let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
        let to = Ipv4Addr::from(u32::from(Ipv4Addr::from(to)) & mask);
        let via = read_ip(via);
        if !to.is_loopback() && !to.is_multicast() {
            found.push((Range { ip: to.into(), prefix: *prefix }, via.map(IpAddr::from)));
        }
        rest = &after[count + 4..];
    }
    found
}

/// Addresses of others, one after the other.
fn ips(bytes: &[u8]) -> impl Iterator<Item = IpAddr> {
    bytes.chunks_exact(4).filter_map(read_ip).filter(|ip| !ip.is_loopback()).map(IpAddr::from).take(MOST)
}

/// An address that somebody can have.
fn read_ip(bytes: &[u8]) -> Option<Ipv4Addr> {
    let ip = Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?);
    (!ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast()).then_some(ip)
}

/// A name that can stand in the resolver's file without being anything else there.
#[allow(clippy::ptr_arg)] // As a filter of owned ones takes it.
pub fn is_domain(name: &String) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !name.is_empty() && name.len() < 200 && name.chars().all(good)
}

#[cfg(test)]
mod tests;
