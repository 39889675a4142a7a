//! Name servers and search domains that IPv6 routers tell (RFC 8106), and whether they call for DHCPv6. Their addresses and
//! ways the kernel takes by itself.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::{Duration, Instant};

use protocol::dns;
use socket2::{Domain, Protocol, Socket, Type};

use super::dhcp::is_domain;

/// Kinds of a message (RFC 4861) and of an option.
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
const SERVERS: u8 = 25;
const DOMAINS: u8 = 31;
/// Flags: a DHCPv6 server gives addresses, or other things (RFC 4861 section 4.2); and how long they hold, as a router's
/// word does at most (section 6.2.1).
const ADDRESSES: u8 = 0x80;
const OTHERS: u8 = 0x40;
const FLAGS_HOLD: Duration = Duration::from_mins(150);
/// All routers on a cable.
const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// How often a cable's routers are asked, and how long after each question they are waited for (RFC 4861 section 10).
const QUESTIONS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(4);
/// More routers, and more words of one, do not count; nor are more messages read at a time.
const MOST: usize = 16;
const AT_ONCE: usize = 64;

/// A word of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Server(Ipv6Addr),
    Domain(String),
    /// One of the two flags.
    Flag(u8),
}

/// What is to be asked for by DHCPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// An address.
    pub addresses: bool,
    /// Name servers and search domains.
    pub names: bool,
}

/// What the routers on all cables say.
#[derive(Debug, Default)]
pub struct Routers {
    socket: Option<Socket>,
    /// By interface and router: each word, and until when it holds.
    heard: BTreeMap<(u32, Ipv6Addr), Vec<(Word, Instant)>>,
    /// How often each interface's routers were asked, and when they are to be again.
    asked: BTreeMap<u32, (u32, Instant)>,
}

impl Routers {
    /// Asks and hears on the interfaces of these numbers. Without a socket there is nobody to hear.
    pub fn tick(&mut self, links: &[u32], now: Instant) {
        let Some(socket) = self.socket.take().or_else(|| open().ok()) else { return };
        self.asked.retain(|link, _| links.contains(link));
        self.heard.retain(|(link, _), words| {
            words.retain(|(_, until)| now < *until);
            links.contains(link) && !words.is_empty()
        });
        for link in links {
            let (asked, next) = self.asked.entry(*link).or_insert((0, now));
            if *asked < QUESTIONS && now >= *next {
                (*asked, *next) = (*asked + 1, now + PAUSE);
                // One that has no address of its own yet is asked again.
                let _ = socket.set_multicast_if_v6(*link).and_then(|()| {
                    let to = SocketAddrV6::new(ROUTERS, 0, 0, *link);
                    socket.send_to(&[SOLICITATION, 0, 0, 0, 0, 0, 0, 0], &to.into())
                });
            }
        }
        let mut buffer = [MaybeUninit::uninit(); 1500];
        for _ in 0..AT_ONCE {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { break };
            // SAFETY: the kernel has written so many bytes.
            #[allow(unsafe_code)]
            let message = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            if let Some(from) = from.as_socket_ipv6() {
                self.hear(message, &from, now);
            }
        }
        self.socket = Some(socket);
    }

    /// A router's own words take the place of its earlier ones. Nobody from elsewhere has a link-local address here.
    fn hear(&mut self, message: &[u8], from: &SocketAddrV6, now: Instant) {
        let who = (from.scope_id(), *from.ip());
        let room = self.heard.len() < MOST || self.heard.contains_key(&who);
        if !from.ip().is_unicast_link_local() || !self.asked.contains_key(&who.0) || !room {
            return;
        }
        let Some(words) = read(message) else { return };
        self.asked.insert(who.0, (QUESTIONS, now));
        let known = self.heard.entry(who).or_default();
        for (word, lasts) in words {
            known.retain(|(one, _)| *one != word);
            if !lasts.is_zero() && known.len() < MOST {
                known.push((word, now + lasts));
            }
        }
    }

    /// Name servers as the resolver's file has them; `name` is an interface's.
    pub fn servers(&self, name: impl Fn(u32) -> Option<String>) -> Vec<String> {
        let text = |link: u32, word: &Word| match word {
            Word::Server(ip) => named(*ip, link, &name),
            Word::Domain(_) | Word::Flag(_) => None,
        };
        let words =
            self.heard.iter().flat_map(|((link, _), words)| words.iter().map(|word| (*link, &word.0)));
        words.filter_map(|(link, word)| text(link, word)).collect()
    }

    /// Search domains.
    pub fn domains(&self) -> Vec<String> {
        let domain = |(word, _): &(Word, Instant)| match word {
            Word::Domain(name) => Some(name.clone()),
            Word::Server(_) | Word::Flag(_) => None,
        };
        self.heard.values().flatten().filter_map(domain).collect()
    }

    /// What those on one interface's cable call for; none where they are not listened to.
    pub fn call(&self, link: u32) -> Option<Calls> {
        self.asked.get(&link)?;
        let words = || self.heard.iter().filter(|((on, _), _)| *on == link).flat_map(|(_, words)| words);
        let says = |flag: u8| words().any(|(word, _)| *word == Word::Flag(flag));
        Some(Calls { addresses: says(ADDRESSES), names: says(OTHERS) })
    }
}

/// A name server as the resolver's file has it: one that is known to its neighbours alone with the interface's name.
pub fn named(ip: Ipv6Addr, link: u32, name: impl Fn(u32) -> Option<String>) -> Option<String> {
    if ip.is_unicast_link_local() { Some(format!("{ip}%{}", name(link)?)) } else { Some(ip.to_string()) }
}

fn open() -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_nonblocking(true)?;
    // Routers believe nobody who is further away.
    socket.set_multicast_hops_v6(255)?;
    Ok(socket)
}

/// The words of an advertisement, and how long each holds; none where it is damaged or something else.
fn read(message: &[u8]) -> Option<Vec<(Word, Duration)>> {
    let &[ADVERTISEMENT, 0, _, _, _, flags, _, _, _, _, _, _, _, _, _, _, ref rest @ ..] = message else {
        return None;
    };
    let holds = |flag: u8| if flags & flag == 0 { Duration::ZERO } else { FLAGS_HOLD };
    let mut words = [ADDRESSES, OTHERS].map(|flag| (Word::Flag(flag), holds(flag))).to_vec();
    let mut rest = rest;
    while let &[kind, eights, ..] = rest {
        let length = usize::from(eights) * 8;
        // One without a length would never end.
        let option = rest.get(..length).filter(|_| length > 0)?;
        rest = &rest[length..];
        if length < 16 || !matches!(kind, SERVERS | DOMAINS) {
            continue;
        }
        let lasts = Duration::from_secs(u32::from_be_bytes(option[4..8].try_into().ok()?).into());
        if kind == SERVERS {
            let servers = option[8..].chunks_exact(16).filter_map(|bytes| <[u8; 16]>::try_from(bytes).ok());
            let good = |ip: &Ipv6Addr| !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast());
            let servers = servers.map(Ipv6Addr::from).filter(good).map(Word::Server);
            words.extend(servers.map(|word| (word, lasts)));
        } else {
            let names = dns::names(&option[8..]).unwrap_or_default().into_iter().filter(is_domain);
            words.extend(names.map(|name| (Word::Domain(name), lasts)));
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertisement(options: &[&[u8]]) -> Vec<u8> {
        [&[ADVERTISEMENT][..], &[0; 15], &options.concat()].concat()
    }

    fn servers(lasts: u8, ip: &str) -> Vec<u8> {
        let ip: Ipv6Addr = ip.parse().unwrap();
        [&[SERVERS, 3, 0, 0, 0, 0, 0, lasts][..], &ip.octets()].concat()
    }

    #[test]
    fn a_routers_servers_and_domains_hold_for_as_long_as_it_says() {
        let now = Instant::now();
        let mut routers = Routers::default();
        routers.asked.insert(3, (1, now));
        let from = |text: &str| text.parse::<SocketAddrV6>().unwrap();
        let names = [&[DOMAINS, 3, 0, 0, 0, 0, 0, 60][..], b"\x04site\x04test\0\x03a\nb\0"].concat();
        let said = advertisement(&[&servers(60, "fd00::1"), &servers(9, "fe80::9"), &names]);
        routers.hear(&said, &from("[fe80::1%3]:0"), now);
        routers.hear(&advertisement(&[&servers(60, "fd00::66")]), &from("[fd00::66]:0"), now);
        routers.hear(&advertisement(&[&servers(60, "fd00::67")]), &from("[fe80::1%4]:0"), now);
        let name = |link: u32| Some(format!("eth{link}"));
        assert_eq!(routers.servers(name), ["fd00::1", "fe80::9%eth3"]);
        assert_eq!(routers.domains(), ["site.test"], "no line of its own");
        assert_eq!(routers.asked[&3].0, QUESTIONS, "it need not be asked again");
        routers.tick(&[3], now + Duration::from_secs(10));
        assert_eq!(routers.servers(name), ["fd00::1"]);
        routers.hear(&advertisement(&[&servers(0, "fd00::1")]), &from("[fe80::1%3]:0"), now);
        assert_eq!(routers.servers(name), [""; 0]);
        routers.tick(&[], now);
        assert_eq!(routers.domains(), [""; 0], "its cable is out");
    }

    #[test]
    fn a_router_calls_for_dhcpv6_until_it_says_otherwise_or_falls_silent() {
        let now = Instant::now();
        let mut routers = Routers::default();
        routers.asked.insert(3, (1, now));
        let from = "[fe80::1%3]:0".parse::<SocketAddrV6>().unwrap();
        let mut say = |flags: u8, seconds: u64| {
            let mut said = advertisement(&[]);
            said[5] = flags;
            let then = now + Duration::from_secs(seconds);
            routers.hear(&said, &from, then);
            routers.tick(&[3], then);
            assert_eq!(routers.call(4), None, "it is not listened to");
            routers.call(3).unwrap()
        };
        assert_eq!(say(ADDRESSES | OTHERS, 0), Calls { addresses: true, names: true });
        assert_eq!(say(OTHERS, 1), Calls { addresses: false, names: true });
        assert_eq!(say(0, 2), Calls::default());
        assert_eq!(say(ADDRESSES, 3), Calls { addresses: true, names: false });
        routers.tick(&[3], now + Duration::from_secs(3) + FLAGS_HOLD);
        assert_eq!(routers.call(3), Some(Calls::default()));
    }

    #[test]
    fn damaged_advertisements_are_none_and_a_flood_of_routers_fills_nothing() {
        let whole = advertisement(&[&servers(60, "fd00::1")]);
        for cut in 0..whole.len() {
            assert!((16..18).contains(&cut) || read(&whole[..cut]).is_none(), "cut at {cut}");
        }
        assert_eq!(read(&advertisement(&[&[SERVERS, 0, 0, 0, 0, 0, 0, 0]])), None, "no length");
        let now = Instant::now();
        let mut routers = Routers::default();
        routers.asked.insert(3, (1, now));
        for one in 0..99 {
            let from = SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, one), 0, 0, 3);
            routers.hear(&whole, &from, now);
        }
        assert_eq!(routers.heard.len(), MOST);
    }
}
