//! Where is the registrar? The machine asks; it does not wait for an announcement.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use announce::is_cable;
use anyhow::Result;
use protocol::mdns::{self, Found, GROUP_V4, GROUP_V6};
use protocol::messages::{PORT, REGISTRAR_SERVICE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_ip_multicast_if_with_ifindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::dns;

/// How long it waits before it looks whether the program is to end.
const GLANCE: Duration = Duration::from_millis(200);

/// By what a registrar was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// It proved itself before.
    Before,
    /// The owner's file.
    Owner,
    /// It answered on the LAN.
    Lan,
    /// The site's DNS.
    Dns,
    /// It runs on this machine.
    Own,
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "known from before",
            Self::Owner => "named by the owner",
            Self::Lan => "asked on the LAN",
            Self::Dns => "named by DNS",
            Self::Own => "on this very machine",
        })
    }
}

/// A registrar that may be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where.
    pub address: SocketAddr,
    /// By what.
    pub by: By,
    /// The hint of its owner, hexadecimal; empty where unknown.
    pub own: String,
}

/// Asks on every interface and hands each answer on, until `wait` is over or `enough` says so.
pub fn ask(wait: Duration, enough: impl FnMut(&Candidate) -> bool) -> Result<()> {
    ask_unless(wait, || false, enough)
}

/// The same; ends also soon after `over` says so, or after something around this machine has changed.
pub fn ask_unless(
    wait: Duration,
    over: impl Fn() -> bool,
    mut enough: impl FnMut(&Candidate) -> bool,
) -> Result<()> {
    let id = u16::from_be_bytes(protocol::crypto::random::<2>()?);
    let question = mdns::question(id, REGISTRAR_SERVICE);
    let around = surroundings();
    let sockets = questions(&around.cables, &question);
    let deadline = Instant::now() + wait;
    let mut fds: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || over() || crate::stop::stopping() || surroundings() != around {
            return Ok(());
        }
        let glance = Timespec::try_from(left.min(GLANCE))?;
        // A signal ends the wait before its time; whether the program is to end is looked at above.
        let _ = poll(&mut fds, Some(&glance));
        for (socket, fd) in sockets.iter().zip(&fds) {
            if fd.revents().contains(PollFlags::IN)
                && let Some(candidate) = receive(socket)
                && enough(&candidate)
            {
                return Ok(());
            }
        }
    }
}

/// One socket for each interface and kind of address, each with the question sent.
fn questions(cables: &[u32], question: &[u8]) -> Vec<UdpSocket> {
    let mut sockets = Vec::new();
    for &index in cables {
        let mut send = |domain, target: SocketAddr| -> std::io::Result<()> {
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_nonblocking(true)?;
            if domain == Domain::IPV4 {
                let any = Ipv4Addr::UNSPECIFIED;
                set_ip_multicast_if_with_ifindex(&socket, &any, &any, index)?;
            } else {
                socket.set_multicast_if_v6(index)?;
            }
            socket.send_to(question, &SockAddr::from(target))?;
            sockets.push(socket.into());
            Ok(())
        };
        // An interface without one of the two kinds of address is asked by the other.
        let _ = send(Domain::IPV6, SocketAddrV6::new(GROUP_V6, mdns::PORT, 0, index).into());
        let _ = send(Domain::IPV4, (GROUP_V4, mdns::PORT).into());
    }
    sockets
}

/// What of this machine's network decides who can be found.
#[derive(Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Indices of the interfaces that have a cable.
    pub cables: Vec<u32>,
    /// When the resolver's file was written: a DHCP server may have named others to ask.
    resolver: Option<SystemTime>,
}

/// As they are now.
pub fn surroundings() -> Surroundings {
    let resolver = fs::metadata(dns::FILE).and_then(|file| file.modified()).ok();
    Surroundings { cables: interfaces(), resolver }
}

/// Indices of the interfaces that have a cable.
pub fn interfaces() -> Vec<u32> {
    let read = |entry: &fs::DirEntry, file: &str| {
        fs::read_to_string(entry.path().join(file)).map(|text| text.trim().to_owned()).unwrap_or_default()
    };
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let up = entries
        .filter(|entry| is_cable(&entry.file_name().to_string_lossy()) && read(entry, "carrier") == "1")
        // What is a part of another interface speaks through that.
        .filter(|entry| !entry.path().join("master").exists());
    let mut found: Vec<_> = up.filter_map(|entry| read(&entry, "ifindex").parse().ok()).collect();
    found.sort_unstable();
    found
}

fn receive(socket: &UdpSocket) -> Option<Candidate> {
    let mut buffer = [0; 1500];
    let (length, source) = socket.recv_from(&mut buffer).ok()?;
    candidate(source, &mdns::read_answer(buffer.get(..length)?)?)
}

/// The address to connect to: who answered is who is reachable; what it says of itself is only its port.
fn candidate(source: SocketAddr, found: &Found) -> Option<Candidate> {
    let mut address = source;
    address.set_port(found.port);
    (!source.ip().is_unspecified()).then(|| Candidate { address, by: By::Lan, own: found.own.clone() })
}

/// Addresses that the owner's file, or an earlier life, knows.
pub fn known(texts: &[String], by: By) -> Vec<Candidate> {
    let read = |text: &String| {
        let address: Option<SocketAddr> = text.parse().ok();
        address.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, PORT)))
    };
    let good = |address: &SocketAddr| {
        let ip = address.ip();
        ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    };
    texts
        .iter()
        .filter_map(read)
        .filter(good)
        .map(|address| Candidate { address, by, own: String::new() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_is_asked_whatever_the_answer_claims() {
        let found = Found { port: 7443, addresses: vec!["6.6.6.6".parse().unwrap()], own: "aa".into() };
        let candidate = candidate("[fe80::1%3]:5353".parse().unwrap(), &found).unwrap();
        assert_eq!(candidate.address.to_string(), "[fe80::1%3]:7443");
    }

    #[test]
    fn known_addresses_get_the_default_port() {
        let texts =
            ["10.7.0.2".to_owned(), "10.7.0.3:99".to_owned(), "nonsense".to_owned(), "0.0.0.0".to_owned()];
        let found: Vec<_> =
            known(&texts, By::Owner).into_iter().map(|candidate| candidate.address.to_string()).collect();
        assert_eq!(found, ["10.7.0.2:7443", "10.7.0.3:99"]);
    }
}
