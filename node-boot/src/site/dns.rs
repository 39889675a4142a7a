//! Where is the registrar, as the site's DNS has it? For networks that carry no multicast.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use protocol::dns::{Kind, Record, question, read_answer};
use protocol::messages::REGISTRAR_SERVICE;

use super::discover::Candidate;

/// The resolver's file, as the system's own resolver reads it.
const FILE: &str = "/etc/resolv.conf";
const PORT: u16 = 53;
/// How many servers, search domains and hosts of a service are looked at: the file's own limits, and ours.
const SERVERS: usize = 3;
const DOMAINS: usize = 6;
const HOSTS: usize = 8;
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

    /// Hands on every address that the registrar's service has, until `over` says so or `enough` does.
    pub fn ask(mut self, over: impl Fn() -> bool, mut enough: impl FnMut(&Candidate) -> bool) {
        let end = Instant::now() + PATIENCE;
        let over = || over() || crate::cli::stopping() || Instant::now() >= end;
        let service = REGISTRAR_SERVICE.trim_end_matches("local");
        for domain in std::mem::take(&mut self.domains) {
            let services = self.look_up(&format!("{service}{domain}"), Kind::Service, &over);
            for (port, host) in services.iter().filter_map(service_of).take(HOSTS) {
                for kind in [Kind::V6, Kind::V4] {
                    let known = self.look_up(host, kind, &over);
                    if known.iter().filter_map(|record| candidate(record, port)).any(|one| enough(&one)) {
                        return;
                    }
                }
            }
        }
    }

    /// What the first server that answers has; it is the first to be asked from then on.
    fn look_up(&mut self, name: &str, kind: Kind, over: &impl Fn() -> bool) -> Vec<Record> {
        for place in 0..self.servers.len() {
            if over() {
                break;
            }
            if let Some(records) = ask_one(self.servers[place], name, kind, over) {
                self.servers.swap(0, place);
                return records;
            }
        }
        Vec::new()
    }
}

/// A service without a host is decidedly not there (RFC 2782).
fn service_of(record: &Record) -> Option<(u16, &str)> {
    match record {
        Record::Service(port, host) if *port != 0 && !host.is_empty() => Some((*port, host)),
        _ => None,
    }
}

fn candidate(record: &Record, port: u16) -> Option<Candidate> {
    match record {
        Record::Address(ip) if !ip.is_unspecified() => {
            Some(Candidate { address: SocketAddr::new(*ip, port), by: "named by DNS", own: String::new() })
        }
        _ => None,
    }
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
fn ask_one(server: SocketAddr, name: &str, kind: Kind, over: &impl Fn() -> bool) -> Option<Vec<Record>> {
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
                if let Some(records) = read_answer(buffer.get(..length)?, id) {
                    return Some(records);
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
    fn a_server_that_is_not_there_costs_no_time() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = taken.local_addr().unwrap();
        drop(taken);
        let begin = Instant::now();
        assert_eq!(ask_one(nobody, "a.test", Kind::V4, &|| false), None);
        assert!(begin.elapsed() < ANSWER);
    }
}
