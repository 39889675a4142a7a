//! The network of a site: one switch, and a cable to each machine that can be pulled.

use crate::error::Result;
use crate::folder::Folder;
use crate::room::{Plan, Room};
use ring::digest::{SHA256, digest};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A switch, and nothing else: no router, no DHCP, no DNS. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Lan(Arc<Switch>);

#[derive(Debug)]
struct Switch {
    name: String,
    room: Room,
    ports: AtomicU32,
    folder: Folder,
}

impl Lan {
    /// Makes a LAN; it ends with its last clone and the last thing plugged into it.
    pub fn new(name: &str) -> Result<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // Multicast goes to every port at once: a switch that first has to learn would lose the first question.
        let setup =
            "ip link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0; ip link set br0 up";
        let room = Room::open(Plan { name, setup, path, ..Plan::default() })?;
        Ok(Self(Arc::new(Switch {
            name: name.to_owned(),
            room,
            ports: AtomicU32::new(0),
            folder: Folder::new(name)?,
        })))
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The address `10.77.0.<host>` that a thing on this LAN may be given.
    pub fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, host)
    }

    /// The folder of the authority that certifies the TPMs on this LAN.
    pub(crate) fn tpm_authority(&self) -> &Path {
        self.0.folder.path()
    }

    /// Plugs a room in as its interface `eth0`, with an IPv6 link-local address and, if asked for, an IPv4 one.
    pub(crate) fn attach(&self, room: &Room, name: &str, address: Option<Ipv4Addr>) -> Result<Port> {
        let port = format!("port{}", self.0.ports.fetch_add(1, Ordering::Relaxed));
        let (pid, mac) = (room.pid().to_string(), mac(name));
        let switch = &self.0.room;
        let peer = ["peer", "name", "eth0", "address", &mac, "netns", &pid];
        switch.ip(&[&["link", "add", &port, "type", "veth"], &peer[..]].concat())?;
        switch.ip(&["link", "set", &port, "master", "br0", "up"])?;
        if let Some(address) = address {
            room.ip(&["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
        }
        room.ip(&["link", "set", "eth0", "up"])?;
        Ok(Port { lan: self.clone(), socket: port, mac })
    }
}

/// The end of a cable in the switch.
#[derive(Debug)]
pub struct Port {
    lan: Lan,
    socket: String,
    mac: String,
}

impl Port {
    /// Pulls the cable: the other end sees that the carrier is gone.
    pub fn unplug(&self) -> Result<()> {
        self.lan.0.room.ip(&["link", "set", &self.socket, "down"]).map(drop)
    }

    /// Puts the cable back.
    pub fn plug(&self) -> Result<()> {
        self.lan.0.room.ip(&["link", "set", &self.socket, "up"]).map(drop)
    }

    /// The hardware address of the interface at the other end, as `02:...`; the same at every power-on.
    pub fn mac(&self) -> &str {
        &self.mac
    }
}

fn mac(name: &str) -> String {
    let hash = digest(&SHA256, name.as_bytes());
    let bytes: Vec<_> = hash.as_ref().iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    format!("02:{}", bytes.join(":"))
}
