//! The ports of this machine, and which of them have a cable.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// A port whose link is gone for less than this still counts as one with a cable: a card that is set up anew loses its
/// link for a moment.
const GRACE: Duration = Duration::from_secs(3);
/// Flag of an interface that is switched on.
const UP: u32 = 1;

/// A port, or an interface that is made of some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Number of its interface.
    pub index: u32,
    /// Name of its interface.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The longest packet that it sends, bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub is_up: bool,
    /// Whether the other end of a cable answers.
    pub has_link: bool,
}

/// Every port: cards of Ethernet, and nothing that is made of others.
pub fn ports() -> Vec<Port> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| port(&entry.path())).collect();
    found.sort_by_key(|port| port.index);
    found
}

fn port(folder: &Path) -> Option<Port> {
    let name = folder.file_name()?.to_string_lossy().into_owned();
    // A bridge, a VLAN and a radio say what they are; a Pod's end of a cable has no device and another name.
    let is_card = read(folder, "type") == "1" && !read(folder, "uevent").contains("DEVTYPE=");
    if !is_card || !(folder.join("device").exists() || name.starts_with("eth")) {
        return None;
    }
    link(&name)
}

fn read(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default().trim().to_owned()
}

/// Any interface of Ethernet, by its name.
pub fn link(name: &str) -> Option<Port> {
    let folder = Path::new("/sys/class/net").join(name);
    let read = |file: &str| read(&folder, file);
    let mut mac = [0; 6];
    for (place, part) in read("address").split(':').enumerate() {
        *mac.get_mut(place)? = u8::from_str_radix(part, 16).ok()?;
    }
    let flags = u32::from_str_radix(read("flags").trim_start_matches("0x"), 16).ok()?;
    let has_link = read("carrier") == "1";
    let (index, mtu) = (read("ifindex").parse().ok()?, read("mtu").parse().ok()?);
    Some(Port { index, name: name.to_owned(), mac, mtu, is_up: flags & UP != 0, has_link })
}

/// Which ports have a cable, seen over time.
#[derive(Debug, Default)]
pub struct Cables(BTreeMap<u32, Cable>);

#[derive(Debug)]
struct Cable {
    port: Port,
    linked: Instant,
}

impl Cables {
    /// Takes in how the ports are now; numbers of those whose link was gone and is back.
    pub fn look(&mut self, ports: &[Port], now: Instant) -> Vec<u32> {
        let back =
            |port: &&Port| port.has_link && self.0.get(&port.index).is_some_and(|old| !old.port.has_link);
        let back = ports.iter().filter(back).map(|port| port.index).collect();
        self.0.retain(|index, _| ports.iter().any(|port| port.index == *index));
        for port in ports {
            let before = self.0.get(&port.index).map(|cable| cable.linked);
            if let Some(linked) = Some(now).filter(|_| port.has_link).or(before) {
                self.0.insert(port.index, Cable { port: port.clone(), linked });
            }
        }
        self.0.retain(|_, cable| now.saturating_duration_since(cable.linked) < GRACE);
        back
    }

    /// Those with a cable.
    pub fn plugged(&self) -> impl Iterator<Item = &Port> {
        self.0.values().map(|cable| &cable.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_is_gone_for_a_moment_is_still_there_and_a_cable_that_was_moved_is_not() {
        let now = Instant::now();
        let port = |index: u32, has_link: bool| Port {
            index,
            name: format!("eth{index}"),
            mac: [0; 6],
            mtu: 1500,
            is_up: true,
            has_link,
        };
        let mut cables = Cables::default();
        let mut at = |seconds: u64, links: [bool; 2]| {
            let ports = [port(1, links[0]), port(2, links[1])];
            let back = cables.look(&ports, now + Duration::from_secs(seconds));
            (cables.plugged().map(|port| port.index).collect::<Vec<_>>(), back)
        };
        assert_eq!(at(0, [true, false]), (vec![1], vec![]));
        assert_eq!(at(1, [false, false]), (vec![1], vec![]));
        assert_eq!(at(2, [true, false]), (vec![1], vec![1]));
        assert_eq!(at(3, [false, true]), (vec![1, 2], vec![]));
        assert_eq!(at(6, [false, true]), (vec![2], vec![]));
        assert_eq!(at(9, [true, true]), (vec![1, 2], vec![]));
    }
}
