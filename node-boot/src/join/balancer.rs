//! The API servers on our own loopback: a dead one is not noticed by anybody on this machine.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::messages::BALANCER_PORT;

/// A server that does not take a connection within this time is passed over.
const CONNECT: Duration = Duration::from_secs(2);
/// Connections at a time: kubelet holds a handful.
const CONNECTIONS: usize = 256;

/// API servers, `address:port`; the one that worked last is tried first.
#[derive(Clone, Default)]
pub struct Servers(Arc<RwLock<Vec<String>>>);

impl Servers {
    /// Uses these from now on.
    pub fn set(&self, servers: &[String]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = servers.to_vec();
    }

    fn list(&self) -> Vec<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn prefer(&self, server: &str) {
        let mut servers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = servers.iter().position(|known| known == server) {
            servers[..=place].rotate_right(1);
        }
    }

    fn connect(&self) -> Option<TcpStream> {
        for server in self.list() {
            let addresses = server.to_socket_addrs().into_iter().flatten();
            for address in addresses {
                if let Ok(stream) = TcpStream::connect_timeout(&address, CONNECT) {
                    self.prefer(&server);
                    return Some(stream);
                }
            }
        }
        None
    }
}

/// Listens on loopback, in the background, until the program ends.
pub fn start(servers: &Servers) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, BALANCER_PORT)).with_context(|| {
        format!("listening on 127.0.0.1:{BALANCER_PORT}, where kubelet looks for the API servers")
    })?;
    let (servers, open) = (servers.clone(), Arc::new(AtomicUsize::new(0)));
    let serve = move || {
        for client in listener.incoming().flatten() {
            if open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS {
                open.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (servers, place) = (servers.clone(), Place(Arc::clone(&open)));
            let one = move || {
                if let Some(server) = servers.connect() {
                    carry(client, server);
                }
                drop(place);
            };
            // Out of threads: this client is turned away and tries again.
            let _ = small().spawn(one);
        }
    };
    small().spawn(serve).context("starting the balancer")?;
    Ok(())
}

/// One connection's place, given back whether its thread ran or could not be started.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A thread that copies bytes needs no more.
fn small() -> std::thread::Builder {
    std::thread::Builder::new().stack_size(64 * 1024)
}

fn carry(client: TcpStream, server: TcpStream) {
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (Ok(from), Ok(to)) = (client.try_clone(), server.try_clone()) else { return };
    let up = small().spawn(move || copy(from, to));
    copy(server, client);
    if let Ok(up) = up {
        let _ = up.join();
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_server_is_passed_over_and_the_living_one_is_tried_first_afterwards() {
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let servers = Servers::default();
        let living = alive.local_addr().unwrap().to_string();
        servers.set(&[dead.clone(), living.clone()]);
        assert_eq!(servers.connect().unwrap().peer_addr().unwrap().to_string(), living);
        assert_eq!(servers.list(), [living, dead]);
    }
}
