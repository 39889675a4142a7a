//! DHCPv6 as bytes (RFC 8415, 3646): what this machine asks, and what it believes of an answer.

pub mod card; // an interface that asks where its router says so
pub mod client; // what is asked when
mod exchange; // a question that is asked again
mod wire; // the socket

use std::net::Ipv6Addr;
use std::time::Duration;

use protocol::dns;
use protocol::record::is_junk;
use uuid::Uuid;

use super::dhcp::is_domain;

/// Ports of servers and clients (section 7.2).
const SERVER: u16 = 547;
const CLIENT: u16 = 546;
/// Options (section 21).
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const ASKED: u16 = 6;
const PREFERENCE: u16 = 7;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const DNS: u16 = 23;
const SEARCH: u16 = 24;
const REFRESH: u16 = 32;
/// Where the options of an address stand in it, and those of an IA.
const IN_ADDRESS: usize = 24;
const IN_IA: usize = 12;
/// A name of a client or server is no longer (section 11.1), and has two bytes that say of which kind it is.
const DUIDS: std::ops::RangeInclusive<usize> = 3..=130;
/// More servers and domains than this are not taken.
const MOST: usize = 16;
/// An address lasts no shorter, and no server is asked for more time sooner than half of that, whatever it says.
const SHORTEST: Duration = Duration::from_secs(20);
/// Names hold for so long where the server says nothing of that, and are asked for no more often (section 21.23).
const REFRESHES: Duration = Duration::from_hours(24);
const SOONEST: Duration = Duration::from_mins(10);

/// What a message is (section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who gives addresses here?
    Solicit = 1,
    /// This one may be had.
    Advertise = 2,
    /// It is to be mine.
    Request = 3,
    /// More time from who gave it.
    Renew = 5,
    /// More time from anybody.
    Rebind = 6,
    /// So it is.
    Reply = 7,
    /// Which name servers are there?
    Inform = 11,
}

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The machine (section 11).
    pub duid: Vec<u8>,
    /// Its interface.
    pub iaid: [u8; 4],
}

/// What this machine asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// What it is.
    pub kind: Kind,
    /// Which answers are to this.
    pub id: [u8; 3],
    /// Since when it asks, hundredths of a second.
    pub since: u16,
    /// The server that is meant; none means everybody.
    pub server: Option<&'a [u8]>,
    /// The address that it wants.
    pub wanted: Option<Ipv6Addr>,
}

/// What a server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// [`Kind::Advertise`] or [`Kind::Reply`].
    pub kind: Kind,
    /// The question's.
    pub id: [u8; 3],
    /// Whose question it was.
    pub client: Vec<u8>,
    /// The server, as it names itself.
    pub by: Vec<u8>,
    /// How much it wants to be the one; 255 waits for nobody else.
    pub preference: u8,
    /// How it went.
    pub status: Status,
    /// Every address: those of all IAs of this machine's, with what is to be known of them.
    pub given: Vec<([u8; 4], Lease)>,
    /// Name servers and search domains.
    pub names: Names,
    /// For how long those hold.
    pub refresh: Duration,
}

/// How it went (section 21.13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Well.
    #[default]
    Success,
    /// There are no addresses.
    NoAddresses,
    /// The server knows of no address of this machine's.
    NoBinding,
    /// The address is of another network.
    NotHere,
    /// In another way, which may be better the next time.
    Failure,
}

/// Name servers and search domains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Search domains.
    pub search: Vec<String>,
}

/// An address for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub own: Ipv6Addr,
    /// How long new connections may come from it; none for ever.
    pub prefers: Option<Duration>,
    /// When it ends; none never does, and zero is at once.
    pub lasts: Option<Duration>,
    /// When its server is asked for more time.
    pub renew: Duration,
    /// When every server is.
    pub rebind: Duration,
}

impl Own {
    /// The same at every start: the machine is named by its maker's UUID (RFC 6355), or else by the interface's hardware
    /// address (section 11.4). The interface is told by that too, so that machines of one UUID get addresses of their own.
    pub fn new(uuid: &str, mac: [u8; 6]) -> Self {
        let uuid = Some(uuid.trim()).filter(|uuid| !is_junk(uuid)).and_then(|uuid| uuid.parse::<Uuid>().ok());
        let duid = match uuid {
            Some(uuid) => [&[0, 4][..], uuid.as_bytes()].concat(),
            // Of Ethernet.
            None => [&[0, 3, 0, 1][..], &mac].concat(),
        };
        Self { duid, iaid: [mac[2], mac[3], mac[4], mac[5]] }
    }
}

impl Question<'_> {
    /// As a message.
    pub fn bytes(&self, own: &Own) -> Vec<u8> {
        let mut out = vec![self.kind as u8];
        out.extend(self.id);
        option(&mut out, CLIENT_ID, &own.duid);
        if let Some(server) = self.server {
            option(&mut out, SERVER_ID, server);
        }
        option(&mut out, ELAPSED, &self.since.to_be_bytes());
        // How seldom it is to ask (SOL_MAX_RT) is not asked for: one word of a stranger would make it silent for a day.
        let asked: &[u16] = if self.kind == Kind::Inform { &[DNS, SEARCH, REFRESH] } else { &[DNS, SEARCH] };
        option(&mut out, ASKED, &asked.iter().flat_map(|one| one.to_be_bytes()).collect::<Vec<_>>());
        if self.kind != Kind::Inform {
            let mut ia = [&own.iaid[..], &[0; 8]].concat();
            if let Some(wanted) = self.wanted {
                option(&mut ia, IA_ADDRESS, &[&wanted.octets()[..], &[0; 8]].concat());
            }
            option(&mut out, IA_NA, &ia);
        }
        out
    }
}

/// Adds an option (section 21.1).
fn option(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    out.extend(value);
}

/// Reads a server's message; none where it is damaged or something else.
pub fn read(message: &[u8]) -> Option<Answer> {
    let &[kind, a, b, c, ref rest @ ..] = message else { return None };
    let kind = [Kind::Advertise, Kind::Reply].into_iter().find(|one| *one as u8 == kind)?;
    let all = options(rest)?;
    let name = |kind: u16| get(&all, kind).filter(|name| DUIDS.contains(&name.len())).map(<[u8]>::to_vec);
    let (mut status, mut given) = (read_status(&all)?, Vec::new());
    for (_, ia) in all.iter().filter(|(kind, _)| *kind == IA_NA) {
        let (iaid, of_ia, leases) = read_ia(ia)?;
        status = if status == Status::Success { of_ia } else { status };
        given.extend(leases.into_iter().map(|lease| (iaid, lease)));
    }
    given.truncate(MOST);
    let search = get(&all, SEARCH).and_then(dns::names).unwrap_or_default();
    let servers = get(&all, DNS).unwrap_or_default().chunks_exact(16).filter_map(read_ip);
    let refresh = get(&all, REFRESH).and_then(read_number).map_or(REFRESHES, seconds);
    Some(Answer {
        kind,
        id: [a, b, c],
        client: name(CLIENT_ID)?,
        by: name(SERVER_ID)?,
        preference: get(&all, PREFERENCE).and_then(<[u8]>::first).copied().unwrap_or(0),
        status,
        given,
        names: Names {
            dns: servers.take(MOST).collect(),
            search: search.into_iter().filter(is_domain).take(MOST).collect(),
        },
        refresh: refresh.max(SOONEST),
    })
}

/// Every option with its number; none where one is cut off.
fn options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut found = Vec::new();
    while let &[a, b, c, d, ref rest @ ..] = bytes {
        let length = usize::from(u16::from_be_bytes([c, d]));
        found.push((u16::from_be_bytes([a, b]), rest.get(..length)?));
        bytes = &rest[length..];
    }
    bytes.is_empty().then_some(found)
}

fn get<'a>(options: &[(u16, &'a [u8])], kind: u16) -> Option<&'a [u8]> {
    options.iter().find(|(one, _)| *one == kind).map(|(_, value)| *value)
}

fn read_status(options: &[(u16, &[u8])]) -> Option<Status> {
    let Some(value) = get(options, STATUS) else { return Some(Status::Success) };
    Some(match *value.first_chunk()? {
        [0, 0] => Status::Success,
        [0, 2] => Status::NoAddresses,
        [0, 3] => Status::NoBinding,
        [0, 4] => Status::NotHere,
        // Also where it wants to be spoken to alone (5): that is never done.
        _ => Status::Failure,
    })
}

/// Whose it is, how it went and its addresses (section 21.4); none of these where its times contradict each other.
fn read_ia(ia: &[u8]) -> Option<([u8; 4], Status, Vec<Lease>)> {
    let (head, rest) = ia.split_at_checked(IN_IA)?;
    let [renew, rebind] = [read_number(&head[4..8])?, read_number(&head[8..])?].map(seconds);
    let (all, mut leases) = (options(rest)?, Vec::new());
    for (_, value) in all.iter().filter(|(kind, _)| *kind == IA_ADDRESS) {
        let (head, rest) = value.split_at_checked(IN_ADDRESS)?;
        let [prefers, lasts] = [read_number(&head[16..20])?, read_number(&head[20..])?].map(seconds);
        let is_good = prefers <= lasts && read_status(&options(rest)?)? == Status::Success;
        if let Some(own) = read_ip(&head[..16]).filter(|own| is_good && !own.is_unicast_link_local()) {
            leases.push(lease(own, prefers, lasts, renew, rebind));
        }
    }
    leases.retain(|_| rebind.is_zero() || renew <= rebind);
    Some((*head.first_chunk()?, read_status(&all)?, leases))
}

/// Times that the server leaves open are the usual parts of the time for which the address is good (section 21.4).
fn lease(own: Ipv6Addr, prefers: Duration, lasts: Duration, renew: Duration, rebind: Duration) -> Lease {
    let whole = if lasts.is_zero() { lasts } else { lasts.max(SHORTEST) };
    let base = if prefers.is_zero() || prefers == FOREVER { whole } else { prefers };
    let or = |time: Duration, usual: Duration| if time.is_zero() { usual } else { time };
    let rebind = or(rebind, base / 5 * 4).clamp(SHORTEST / 2, whole.max(SHORTEST));
    let renew = or(renew, base / 2).clamp(SHORTEST / 2, rebind);
    let end = |time: Duration| (time != FOREVER).then_some(time);
    Lease { own, prefers: end(prefers), lasts: end(whole), renew, rebind }
}

/// All bits of a time are none (section 7.7).
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

fn seconds(number: u32) -> Duration {
    Duration::from_secs(number.into())
}

fn read_number(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// An address that somebody can have.
fn read_ip(bytes: &[u8]) -> Option<Ipv6Addr> {
    let ip = Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?);
    let is_old = ip.to_ipv4_mapped().is_some();
    (!(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_old)).then_some(ip)
}

#[cfg(test)]
mod tests;
