//! The socket of an interface: UDP among neighbours, since servers, or who passes on to them, are on the cable.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddrV6};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Answer, CLIENT, SERVER, read};

/// All servers on a cable, and all who pass on to them (RFC 8415 section 7.1).
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// No more packets are read at a time.
const AT_ONCE: usize = 64;

/// An interface's socket.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    index: u32,
}

impl Wire {
    /// Of the interface of this number and name.
    pub fn open(index: u32, name: &str) -> Result<Self> {
        let open = || {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_only_v6(true)?;
            socket.set_nonblocking(true)?;
            socket.bind_device(Some(name.as_bytes()))?;
            socket.set_multicast_if_v6(index)?;
            socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT, 0, 0).into())?;
            io::Result::Ok(socket)
        };
        Ok(Self { socket: open().context("opening a socket")?, index })
    }

    /// Sends a question to everybody.
    pub fn send(&self, question: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(SERVERS, SERVER, 0, self.index);
        match self.socket.send_to(question, &to.into()) {
            // An interface that has no address of its own yet asks again.
            Err(error) if error.kind() != io::ErrorKind::AddrNotAvailable => Err(error),
            _ => Ok(()),
        }
    }

    /// Answers that have come, and from where; the rest of a flood has to wait. Nobody from elsewhere has a link-local
    /// address here.
    pub fn hear(&self) -> Vec<(Answer, Ipv6Addr)> {
        let (mut answers, mut buffer) = (Vec::new(), [MaybeUninit::uninit(); 2048]);
        for _ in 0..AT_ONCE {
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else { break };
            // SAFETY: the kernel has written so many bytes.
            #[allow(unsafe_code)]
            let bytes = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            let from = from.as_socket_ipv6().map(|from| *from.ip());
            let from = from.filter(Ipv6Addr::is_unicast_link_local);
            answers.extend(from.and_then(|from| Some((read(bytes)?, from))));
        }
        answers
    }
}
