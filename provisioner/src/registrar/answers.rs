//! Questions "where is the registrar?" on the LAN (RFC 6762), answered at once and by unicast; and the standing
//! announcement for whoever browses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use mdns_sd::{ServiceDaemon, ServiceInfo};
use protocol::mdns::{self, Found, GROUP_V4, GROUP_V6};
use protocol::messages::{PROXY_SERVICE, REGISTRAR_SERVICE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use crate::site::Site;

/// Between two looks for new interfaces.
const INTERFACES: Duration = Duration::from_millis(500);

/// Answers until the program ends.
pub async fn serve(site: Arc<Site>, port: u16) -> Result<()> {
    let own = own(&site);
    let name = format!("{}-{}", site.name(), site.keys.identity.number);
    let _announced = announce(&name, port, &own);
    let answerer = Arc::new(Answerer { name, port, own });
    // A site without one of the two is still served by the other.
    let four = socket(Domain::IPV4).ok();
    let six = socket(Domain::IPV6).ok();
    tokio::join!(listen(Arc::clone(&answerer), four), listen(answerer, six));
    Ok(())
}

/// The first bytes of the site anchor's key: machines of other owners need not ask twice.
fn own(site: &Site) -> String {
    let anchors = site.trust().0.site_anchors();
    anchors.first().map(|anchor| anchor.key_hash.short_hex()).unwrap_or_default()
}

/// The standing announcement; kept alive by what is returned. Without it machines still find us: they ask.
fn announce(name: &str, port: u16, own: &str) -> Option<ServiceDaemon> {
    let daemon = ServiceDaemon::new().ok()?;
    for service in [REGISTRAR_SERVICE, PROXY_SERVICE] {
        let properties = [("txtvers", "1"), ("own", own)];
        let host = format!("{name}.local.");
        let info = ServiceInfo::new(&format!("{service}."), name, &host, "", port, &properties[..]).ok()?;
        if let Err(error) = daemon.register(info.enable_addr_auto()) {
            tracing::warn!(%error, "the registrar is not announced; machines that ask still find it");
        }
    }
    Some(daemon)
}

fn socket(domain: Domain) -> Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    let any: SocketAddr = if domain == Domain::IPV4 {
        (Ipv4Addr::UNSPECIFIED, mdns::PORT).into()
    } else {
        socket.set_only_v6(true)?;
        (Ipv6Addr::UNSPECIFIED, mdns::PORT).into()
    };
    socket.bind(&any.into())?;
    Ok(UdpSocket::from_std(socket.into())?)
}

struct Answerer {
    name: String,
    port: u16,
    own: String,
}

async fn listen(answerer: Arc<Answerer>, socket: Option<UdpSocket>) {
    let Some(socket) = socket else { return std::future::pending().await };
    let mut joined = BTreeSet::new();
    let mut buffer = [0; 1500];
    let mut look = tokio::time::interval(INTERFACES);
    loop {
        tokio::select! {
            _ = look.tick() => join(&socket, &mut joined),
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, source)) = received else { continue };
                if let Some(answer) = answerer.answer(&buffer[..length], source) {
                    let _ = socket.send_to(&answer, source).await;
                }
            }
        }
    }
}

/// Joins the group on every interface that came since.
fn join(socket: &UdpSocket, joined: &mut BTreeSet<u32>) {
    let present = interfaces();
    joined.retain(|index| present.contains(index));
    for index in present {
        let is_v4 = socket.local_addr().is_ok_and(|address| address.is_ipv4());
        let socket = socket2::SockRef::from(socket);
        let done = if is_v4 {
            socket.join_multicast_v4_n(&GROUP_V4, &socket2::InterfaceIndexOrAddress::Index(index))
        } else {
            socket.join_multicast_v6(&GROUP_V6, index)
        };
        if done.is_ok() {
            joined.insert(index);
        }
    }
}

/// Indices of all interfaces.
fn interfaces() -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let index = |entry: std::fs::DirEntry| {
        std::fs::read_to_string(entry.path().join("ifindex")).ok()?.trim().parse().ok()
    };
    entries.filter_map(index).collect()
}

impl Answerer {
    /// The answer to a one-shot question: those come from another port than 5353; standing browsers are served by the
    /// announcement.
    fn answer(&self, datagram: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
        if source.port() == mdns::PORT {
            return None;
        }
        let question = mdns::read_question(datagram)?;
        if !question.wants(REGISTRAR_SERVICE) && !question.wants(PROXY_SERVICE) {
            return None;
        }
        let addresses = local_towards(source).into_iter().collect();
        let found = Found { port: self.port, addresses, own: self.own.clone() };
        Some(mdns::answer(&question, &self.name, &found))
    }
}

/// Our address as the asker sees it: asking the routing table sends nothing.
fn local_towards(source: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if source.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = std::net::UdpSocket::bind(any).ok()?;
    socket.connect(source).ok()?;
    Some(socket.local_addr().ok()?.ip())
}
