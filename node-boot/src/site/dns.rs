//! Where is the registrar, as the site's DNS has it? For networks that carry no multicast.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use protocol::dns::{Answer, Kind, Record, question, read_answer};
use protocol::messages::REGISTRAR_SERVICE;

use super::discover::{By, Candidate};

/// The resolver's file, as the system's own resolver reads it.
pub(super) const FILE: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// How many servers and search domains of the file count, and how many addresses are handed on in all.
const SERVERS: usize = 3;
const DOMAINS: usize = 6;
const MOST: usize = 16;
/// How long a server is waited for, and everything together.
const ANSWER: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks whether it is over.
const GLANCE: Duration = Duration::from_millis(200);

/// Whom to ask, and under which domains.
#[derive(Debug, PartialEq, Eq)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    domains: Vec<String>,
}

impl Resolver {
    /// As this machine is configured; none where there is no server to ask or no domain to look under.
    pub fn of_this_machine() -> Option<Self> {
        let read = Self::read(&fs::read_to_string(FILE).ok()?);
        (!read.servers.is_empty() && !read.domains.is_empty()).then_some(read)
    }

    /// Where it looks, for people.
    pub fn domains(&self) -> String {
        self.domains.join(", ")
    }

    /// `resolv.conf(5)`: the last line of `search` or `domain` counts.
    fn read(text: &str) -> Self {
        let (mut servers, mut domains) = (Vec::new(), Vec::new());
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => servers.extend(words.next().and_then(server)),
                Some("search" | "domain") => domains = words.map(|word| word.trim_matches('.')).collect(),
                _ => {}
            }
        }
        let useful = |domain: &&str| !domain.is_empty() && *domain != "local" && domain.len() < 200;
        let domains = domains.into_iter().filter(useful).take(DOMAINS).map(str::to_owned).collect();
        servers.truncate(SERVERS);
        Self { servers, domains }
    }

    /// Hands on the addresses that the registrar's service has, until `over` says so or `enough` does. Whether any server
    /// answered.
    pub fn ask(mut self, over: impl Fn() -> bool, mut enough: impl FnMut(&Candidate) -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        let over = || over() || crate::stop::stopping() || Instant::now() >= end;
        let service = REGISTRAR_SERVICE.trim_end_matches("local");
        let (mut answered, mut handed) = (false, 0);
        for domain in std::mem::take(&mut self.domains) {
            let services = self.look_up(&format!("{service}{domain}"), Kind::Service, &over);
            answered |= services.is_some();
            for (port, host) in services.iter().flatten().filter_map(service_of) {
                // Some forwarders drop questions for the other kind.
                for kind in [Kind::V4, Kind::V6] {
                    for record in self.look_up(host, kind, &over).unwrap_or_default() {
                        let Some(candidate) = candidate(&record, port) else { continue };
                        handed += 1;
                        if enough(&candidate) || handed == MOST {
                            return true;
                        }
                    }
                }
            }
        }
        answered
    }

    /// What the first server that answers has; it is the first to be asked from then on. None where nobody answers.
    fn look_up(&mut self, name: &str, kind: Kind, over: &impl Fn() -> bool) -> Option<Vec<Record>> {
        for place in 0..self.servers.len() {
            if over() {
                break;
            }
            if let Some(Answer::Records(records)) = ask_one(self.servers[place], name, kind, over) {
                self.servers.swap(0, place);
                return Some(records);
            }
        }
        None
    }
}

/// A service without a host is decidedly not there (RFC 2782).
fn service_of(record: &Record) -> Option<(u16, &str)> {
    match record {
        Record::Service(port, host) if *port != 0 && !host.is_empty() => Some((*port, host)),
        _ => None,
    }
}

/// An address that another machine can have.
fn candidate(record: &Record, port: u16) -> Option<Candidate> {
    let Record::Address(ip) = record else { return None };
    let ip = ip.to_canonical();
    let is_nobody = match ip {
        IpAddr::V4(four) => four.is_broadcast(),
        // Without the name of an interface it leads nowhere.
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    let is_nobody = is_nobody || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast();
    (!is_nobody).then(|| Candidate { address: SocketAddr::new(ip, port), by: By::Dns, own: String::new() })
}

/// A server as the file names it; a link-local one may have its interface's name behind it.
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, PORT));
    }
    let (ip, interface) = text.split_once('%')?;
    let index = || {
        let file = format!("/sys/class/net/{interface}/ifindex");
        (!interface.contains('/')).then(|| fs::read_to_string(file).ok())??.trim().parse().ok()
    };
    Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, index()?).into())
}

/// None where there is no answer in time.
fn ask_one(server: SocketAddr, name: &str, kind: Kind, over: &impl Fn() -> bool) -> Option<Answer> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let id = u16::from_be_bytes(protocol::crypto::random::<2>().ok()?);
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(server).ok()?;
    socket.set_read_timeout(Some(GLANCE)).ok()?;
    socket.send(&question(id, name, kind)).ok()?;
    let end = Instant::now() + ANSWER;
    let mut buffer = [0; 1500];
    while !over() && Instant::now() < end {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let answer = read_answer(buffer.get(..length)?, id);
                if answer.is_some() {
                    return answer;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted
                ) => {}
            // Nobody is there.
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_and_domains_are_read_as_the_system_reads_them() {
        let text = "# made by dhcp\nnameserver 10.7.0.1\nnameserver fd00::1\nnameserver fe80::1%lo\nnameserver junk\n\
                    nameserver fe80::1%../../x\nsearch old.test\noptions ndots:5\nsearch a.test b.test. local .\n";
        let read = Resolver::read(text);
        let servers: Vec<_> = read.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.7.0.1:53", "[fd00::1]:53", "[fe80::1%1]:53"]);
        assert_eq!(read.domains, ["a.test", "b.test"]);
        assert_eq!(Resolver::read("domain a.test\n").domains, ["a.test"]);
    }

    #[test]
    fn a_service_that_is_decidedly_not_there_has_no_host() {
        assert_eq!(service_of(&Record::Service(7443, String::new())), None);
        assert_eq!(service_of(&Record::Service(0, "a.test".into())), None);
        assert_eq!(service_of(&Record::Service(1, "a.test".into())), Some((1, "a.test")));
    }

    #[test]
    fn addresses_that_no_other_machine_has_are_left_out() {
        let named = |ip: &str| {
            candidate(&Record::Address(ip.parse().unwrap()), 7443).map(|one| one.address.to_string())
        };
        for nobody in [
            "0.0.0.0",
            "127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "ff02::1",
            "fe80::1",
        ] {
            assert_eq!(named(nobody), None, "{nobody}");
        }
        assert_eq!(named("10.7.0.2").unwrap(), "10.7.0.2:7443");
        assert_eq!(named("fd00::2").unwrap(), "[fd00::2]:7443");
    }

    #[test]
    fn a_server_that_is_not_there_costs_no_time() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = taken.local_addr().unwrap();
        drop(taken);
        let begin = Instant::now();
        assert_eq!(ask_one(nobody, "a.test", Kind::V4, &|| false), None);
        assert!(begin.elapsed() < ANSWER);
    }
}
