//! The socket of a card that may have no address yet: whole IP packets (packet(7)), of which only a DHCP server's come in.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::client::To;
use super::{Answer, CLIENT, Question, SERVER, read};

/// Ethernet's number of IPv4, and of UDP in it.
const IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const HEADS: usize = 28;
/// No more packets are read at a time.
const AT_ONCE: usize = 64;

/// A card's socket.
#[derive(Debug)]
pub struct Wire {
    packets: Socket,
    index: u32,
    name: String,
}

impl Wire {
    /// Of the interface of this number and name.
    pub fn open(index: u32, name: &str) -> Result<Self> {
        let doing = "opening a socket for DHCP";
        let packets = Socket::new(Domain::PACKET, Type::DGRAM, None).context(doing)?;
        packets.attach_filter(&filter()).context(doing)?;
        packets.set_nonblocking(true)?;
        packets.bind(&everybody(index)).context(doing)?;
        Ok(Self { packets, index, name: name.to_owned() })
    }

    /// Sends a question.
    pub fn send(&self, question: &Question, to: To) -> io::Result<()> {
        let own = question.own.unwrap_or(Ipv4Addr::UNSPECIFIED);
        match to {
            To::Everybody => {
                self.packets.send_to(&packet(own, &question.bytes()), &everybody(self.index)).map(drop)
            }
            // The kernel finds the way to a server that may be behind a router; its answer is read like any other.
            To::Server(server) => {
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
                socket.set_reuse_address(true)?;
                socket.bind_device(Some(self.name.as_bytes()))?;
                socket.bind(&SocketAddr::from((own, CLIENT)).into())?;
                socket.send_to(&question.bytes(), &SocketAddr::from((server, SERVER)).into()).map(drop)
            }
        }
    }

    /// Answers that have come; the rest of a flood has to wait.
    pub fn hear(&self) -> Vec<Answer> {
        let (mut answers, mut buffer) = (Vec::new(), [MaybeUninit::uninit(); 2048]);
        for _ in 0..AT_ONCE {
            let Ok(length) = self.packets.recv(&mut buffer) else { break };
            // SAFETY: the kernel has written so many bytes.
            #[allow(unsafe_code)]
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            answers.extend(message(bytes).and_then(read));
        }
        answers
    }
}

/// All of Ethernet on this interface, and IPv4 from there (`struct sockaddr_ll`).
#[allow(clippy::cast_possible_truncation)] // The types are those of C.
fn everybody(index: u32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the structure fits there, and zeros are a value of it.
    #[allow(unsafe_code)]
    let to: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = IPV4.to_be();
    to.sll_ifindex = index.cast_signed();
    to.sll_halen = 6;
    to.sll_addr[..6].fill(0xff);
    // SAFETY: the structure was filled in above.
    #[allow(unsafe_code)]
    unsafe {
        SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    }
}

/// Lets UDP to a client's port in, and no later parts of packets: a machine at work would drown in everything else.
fn filter() -> [SockFilter; 9] {
    // As in `linux/bpf_common.h`: what to do, how far to jump where it is so and where not, with what.
    let step = SockFilter::new;
    [
        step(0x30, 0, 0, 9),                 // the byte at 9, the protocol,
        step(0x15, 0, 6, UDP.into()),        // is UDP;
        step(0x28, 0, 0, 6),                 // of the two at 6, the place of this part
        step(0x45, 4, 0, 0x1fff),            // is none;
        step(0xb1, 0, 0, 0),                 // behind the head, however long,
        step(0x48, 0, 0, 2),                 // the two at 2, the port,
        step(0x15, 0, 1, u32::from(CLIENT)), // are a client's:
        step(0x06, 0, 0, u32::MAX),          // all of it
        step(0x06, 0, 0, 0),                 // or nothing
    ]
}

/// A message in UDP in IP, from `own` to everybody.
pub fn packet(own: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let short = |length: usize| u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    let mut ip = [&[0x45, 0][..], &short(HEADS + message.len()), &[0; 4], &[64, UDP, 0, 0]].concat();
    ip.extend(own.octets());
    ip.extend(Ipv4Addr::BROADCAST.octets());
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let length = short(8 + message.len());
    let mut udp = [&CLIENT.to_be_bytes()[..], &SERVER.to_be_bytes(), &length, &[0; 2], message].concat();
    // Over the addresses, the protocol and the length as well (RFC 768).
    let sum = checksum(&[&ip[12..20], &[0, UDP], &length, &udp].concat());
    udp[6..8].copy_from_slice(&sum);
    [ip, udp].concat()
}

/// RFC 1071. The one of a message that is zero is written as its other zero, since that means none.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).unwrap_or(0);
    if sum == 0 { [0xff; 2] } else { sum.to_be_bytes() }
}

/// What a packet from a server holds. Its checksum is left to the cards: between two computers of one machine there is
/// none yet, and what is damaged all the same is no message.
pub fn message(packet: &[u8]) -> Option<&[u8]> {
    let head = usize::from(packet.first()? & 15) * 4;
    let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let udp = packet.get(head..length)?;
    let is_whole =
        packet[0] >> 4 == 4 && head >= 20 && packet[9] == UDP && [packet[6] << 2, packet[7]] == [0; 2];
    let ports = [SERVER.to_be_bytes(), CLIENT.to_be_bytes()].concat();
    let length = usize::from(u16::from_be_bytes(udp.get(4..6)?.try_into().ok()?));
    if is_whole && udp.get(..4)? == ports { udp.get(8..length) } else { None }
}
