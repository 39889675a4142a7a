//! A socket with one deadline over all that is read and written: an end that drips bytes gains nothing by it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A connection that fails once its time is over.
#[derive(Debug)]
pub struct Timed {
    socket: TcpStream,
    until: Instant,
}

impl Timed {
    /// Connects; `within` holds for that and for everything after it, until [`Timed::allow`] gives more.
    pub fn connect(address: SocketAddr, within: Duration) -> io::Result<Self> {
        let until = Instant::now() + within;
        let socket = TcpStream::connect_timeout(&address, within)?;
        socket.set_nodelay(true)?;
        Ok(Self { socket, until })
    }

    /// Everything from now on may take so long.
    pub fn allow(&mut self, time: Duration) {
        self.until = Instant::now() + time;
    }

    /// The other end.
    pub fn peer(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(too_slow()) } else { Ok(left) }
    }
}

fn too_slow() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the other end is too slow")
}

/// A timeout of the socket shows as "would block", which a TLS library takes for an invitation to ask again.
fn named(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { too_slow() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer).map_err(named)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_byte_now_and_then_does_not_move_the_deadline() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut timed = Timed::connect(listener.local_addr().unwrap(), Duration::from_millis(300)).unwrap();
        let begin = Instant::now();
        let dripping = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            while socket.write_all(b"x").is_ok() && begin.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let error = timed.read_exact(&mut [0; 1000]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        timed.allow(Duration::from_secs(2));
        assert!(timed.read(&mut [0; 1]).is_ok(), "more time was given");
        drop(timed);
        dripping.join().unwrap();
    }
}
