//! One interface and kind of address: a socket of its own, so that what comes in and goes out is on that cable.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::Instant;

use protocol::mdns::{GROUP_V4, GROUP_V6, PORT};
use protocol::responder::{Cable, Net, Service};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::May;

/// Datagrams read from one cable before the others have their turn.
const TURN: usize = 16;

pub(crate) struct Wire {
    interface: Interface,
    group: SocketAddr,
    pub(crate) socket: UdpSocket,
    pub(crate) cable: Cable,
}

/// What makes a wire another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Interface {
    name: String,
    index: u32,
    six: bool,
}

/// Opens what came, closes what went; an interface whose addresses have changed is announced anew.
pub(crate) fn refresh(wires: &mut Vec<Wire>, may: &May, now: Instant) {
    let Ok(addresses) = if_addrs::get_if_addrs() else { return };
    let mut by_interface: BTreeMap<(String, u32), Vec<Net>> = BTreeMap::new();
    for found in addresses {
        let (ip, prefix) = match &found.addr {
            if_addrs::IfAddr::V4(four) => (IpAddr::V4(four.ip), four.prefixlen),
            if_addrs::IfAddr::V6(six) => (IpAddr::V6(six.ip), six.prefixlen),
        };
        let Some(index) = found.index.filter(|_| found.is_oper_up() && may(&found.name, ip)) else {
            continue;
        };
        by_interface.entry((found.name, index)).or_default().push(Net { ip, prefix });
    }
    let wanted: Vec<_> = by_interface
        .into_iter()
        .flat_map(|((name, index), nets)| {
            [false, true].map(|six| (Interface { name: name.clone(), index, six }, nets.clone()))
        })
        .filter(|(interface, nets)| nets.iter().any(|net| net.ip.is_ipv6() == interface.six))
        .collect();
    wires.retain(|wire| {
        wanted.iter().any(|(interface, nets)| *interface == wire.interface && nets == wire.cable.nets())
    });
    for (interface, nets) in wanted {
        if !wires.iter().any(|wire| wire.interface == interface) {
            wires.extend(Wire::open(interface, nets, now));
        }
    }
}

impl Wire {
    fn open(interface: Interface, nets: Vec<Net>, now: Instant) -> Result<Self> {
        let domain = if interface.six { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        // Others on this computer may browse, too.
        socket.set_reuse_address(true)?;
        socket.bind_device(Some(interface.name.as_bytes()))?;
        // RFC 6762 section 11: 255 shows that no router has passed it on.
        let (any, group) = if interface.six {
            socket.set_only_v6(true)?;
            socket.set_multicast_hops_v6(255)?;
            socket.set_unicast_hops_v6(255)?;
            socket.join_multicast_v6(&GROUP_V6, interface.index)?;
            let group = SocketAddrV6::new(GROUP_V6, PORT, 0, interface.index).into();
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), group)
        } else {
            socket.set_multicast_ttl_v4(255)?;
            socket.set_ttl_v4(255)?;
            socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(interface.index))?;
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), (GROUP_V4, PORT).into())
        };
        socket.bind(&SocketAddr::new(any, PORT).into())?;
        Ok(Self { interface, group, socket: socket.into(), cable: Cable::new(nets, now) })
    }

    /// Says what is due. What is lost is like a lost datagram: whoever needs it asks.
    pub(crate) fn speak(&mut self, service: &Service, now: Instant) {
        if let Some(words) = self.cable.speak(service, now) {
            let _ = self.socket.send_to(&words, self.group);
        }
    }

    /// The last word.
    pub(crate) fn part(&self, service: &Service) {
        let _ = self.socket.send_to(&self.cable.farewell(service), self.group);
    }

    /// Reads what came, and answers those who asked alone.
    pub(crate) fn listen(&mut self, service: &Service) -> Result<()> {
        let mut buffer = [0; 1500];
        for _ in 0..TURN {
            let (length, source) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => break,
                Err(error) => return Err(error),
            };
            let answer = self.cable.heard(service, &buffer[..length], source, Instant::now());
            if let Some(answer) = answer {
                let _ = self.socket.send_to(&answer, source);
            }
        }
        Ok(())
    }
}
