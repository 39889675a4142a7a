//! Who is connected. When there are too many, those go who took most of the room, so that anybody can always come in.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use protocol::bytes::Digest;
use tokio::sync::Notify;

use super::limits::{Party, network, party};

/// How long a handshake may take: a machine on the LAN needs milliseconds.
pub const KNOCK: Duration = Duration::from_secs(3);
/// Connections of one machine: it needs one or two.
const A_MACHINE: usize = 8;

/// How many there may be at a time.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Handshakes that are not finished. They cost nothing, not even a key.
    knocking: usize,
    /// Connections of keys that are not a machine's of the site, or not yet: a depot joins a thousand at once.
    strangers: usize,
    /// The same of one source.
    a_source: usize,
}

const LAN: Room = Room { knocking: 512, strangers: 1024, a_source: 64 };
/// Nobody on the LAN can speak from 127.0.0.1; a thousand machines there are a measurement.
const HOME: Room = Room { knocking: 2048, strangers: 2048, a_source: 2048 };

/// Everybody who is connected.
#[derive(Clone)]
pub struct Guests {
    lan: Arc<House>,
    home: Arc<House>,
}

struct House {
    room: Room,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    next: u64,
    /// By number, the oldest first.
    knocking: BTreeMap<u64, Entry>,
    strangers: BTreeMap<u64, Entry>,
    /// Strangers by source.
    sources: HashMap<IpAddr, usize>,
    machines: HashMap<Digest, BTreeMap<u64, Entry>>,
}

struct Entry {
    source: IpAddr,
    party: Party,
    leave: Arc<Notify>,
}

/// One connection, until dropped.
pub struct Guest {
    house: Arc<House>,
    number: u64,
    leave: Arc<Notify>,
    machine: OnceLock<Digest>,
}

impl Default for Guests {
    fn default() -> Self {
        let house = |room| Arc::new(House { room, inside: Mutex::default() });
        Self { lan: house(LAN), home: house(HOME) }
    }
}

impl Guests {
    /// Somebody has connected.
    pub fn enter(&self, source: SocketAddr) -> Guest {
        let ip = source.ip().to_canonical();
        let home = ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST;
        let house = if home { &self.home } else { &self.lan };
        let leave = Arc::new(Notify::new());
        let entry = Entry { source: network(ip), party: party(source), leave: Arc::clone(&leave) };
        let mut inside = house.inside();
        if inside.knocking.len() >= house.room.knocking {
            shed(&mut inside.knocking);
        }
        let number = inside.next;
        inside.next += 1;
        inside.knocking.insert(number, entry);
        Guest { house: Arc::clone(house), number, leave, machine: OnceLock::new() }
    }
}

impl House {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The oldest of the party that has most here leaves.
fn shed(entries: &mut BTreeMap<u64, Entry>) -> Option<Entry> {
    let mut parties: HashMap<Party, usize> = HashMap::new();
    for entry in entries.values() {
        *parties.entry(entry.party).or_insert(0) += 1;
    }
    let most = parties.values().max()?;
    let (number, _) = entries.iter().find(|(_, entry)| parties.get(&entry.party) == Some(most))?;
    let number = *number;
    let entry = entries.remove(&number)?;
    entry.leave.notify_one();
    Some(entry)
}

impl Inside {
    fn seat(&mut self, number: u64, entry: Entry, room: Room) {
        let own = self.sources.get(&entry.source).copied().unwrap_or(0);
        if own >= room.a_source {
            let oldest = self.strangers.iter().find(|(_, other)| other.source == entry.source);
            if let Some(oldest) = oldest.map(|(number, _)| *number)
                && let Some(gone) = self.unseat(oldest)
            {
                gone.leave.notify_one();
            }
        } else if self.strangers.len() >= room.strangers
            && let Some(gone) = shed(&mut self.strangers)
        {
            self.forget(gone.source);
        }
        *self.sources.entry(entry.source).or_insert(0) += 1;
        self.strangers.insert(number, entry);
    }

    fn unseat(&mut self, number: u64) -> Option<Entry> {
        let entry = self.strangers.remove(&number)?;
        self.forget(entry.source);
        Some(entry)
    }

    fn forget(&mut self, source: IpAddr) {
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

impl Guest {
    /// The handshake is finished.
    pub fn proven(&self) {
        let mut inside = self.house.inside();
        if let Some(entry) = inside.knocking.remove(&self.number) {
            inside.seat(self.number, entry, self.house.room);
        }
    }

    /// It is a machine of the site, and takes the place of no stranger any more.
    pub fn known(&self, s: Digest) {
        if self.machine.set(s).is_err() {
            return;
        }
        let mut inside = self.house.inside();
        let Some(entry) = inside.unseat(self.number) else { return };
        let own = inside.machines.entry(s).or_default();
        if own.len() >= A_MACHINE
            && let Some((_, oldest)) = own.pop_first()
        {
            oldest.leave.notify_one();
        }
        own.insert(self.number, entry);
    }

    /// Returns when others need the place.
    pub async fn must_leave(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inside = self.house.inside();
        if inside.knocking.remove(&self.number).is_some() || inside.unseat(self.number).is_some() {
            return;
        }
        let Some(s) = self.machine.get() else { return };
        if let Some(own) = inside.machines.get_mut(s) {
            own.remove(&self.number);
            if own.is_empty() {
                inside.machines.remove(s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(guest: &Guest) -> bool {
        let inside = guest.house.inside();
        let known = guest.machine.get().and_then(|s| inside.machines.get(s));
        ![Some(&inside.knocking), Some(&inside.strangers), known]
            .into_iter()
            .flatten()
            .any(|entries| entries.contains_key(&guest.number))
    }

    fn enter(guests: &Guests, source: &str) -> Guest {
        guests.enter(source.parse().unwrap())
    }

    fn link_local(n: u16) -> String {
        format!("[fe80::{n:x}%2]:4000")
    }

    #[test]
    fn who_knocks_without_end_makes_only_its_own_go() {
        let guests = Guests::default();
        let honest = enter(&guests, "10.7.0.9:4000");
        let flood: Vec<_> =
            (0..5000).map(|n| enter(&guests, ["10.7.0.1:4000", "10.7.0.2:4000"][n % 2])).collect();
        assert!(!gone(&honest));
        assert_eq!(flood.iter().filter(|guest| !gone(guest)).count(), LAN.knocking - 1);
        let late = enter(&guests, "10.7.0.8:4000");
        late.proven();
        assert!(!gone(&late) && gone(&flood[0]) && !gone(&flood[4999]));
        drop(flood);
        assert_eq!(guests.lan.inside().knocking.len(), 1, "the honest one still knocks");
    }

    #[test]
    fn a_host_that_makes_up_addresses_is_one_party() {
        let guests = Guests::default();
        let honest = enter(&guests, "10.7.0.9:4000");
        let flood: Vec<_> = (0..5000).map(|n| enter(&guests, &link_local(n))).collect();
        assert!(!gone(&honest));
        honest.proven();
        let arrive = |n| {
            let guest = enter(&guests, &link_local(n));
            guest.proven();
            guest
        };
        let strangers: Vec<_> = (0..5000).map(arrive).collect();
        assert!(!gone(&honest));
        assert_eq!(strangers.iter().filter(|guest| !gone(guest)).count(), LAN.strangers - 1);
        drop((flood, strangers, honest));
        let inside = guests.lan.inside();
        assert!(inside.knocking.is_empty() && inside.strangers.is_empty() && inside.sources.is_empty());
    }

    #[test]
    fn a_source_has_so_many_and_its_oldest_go_first_but_never_a_machine_of_the_site() {
        let guests = Guests::default();
        let machine = enter(&guests, "[2001:db8::1]:4000");
        machine.proven();
        machine.known(Digest::of(b"machine"));
        let flood: Vec<_> = (0..200).map(|n| enter(&guests, &format!("[2001:db8::{n:x}]:4000"))).collect();
        flood.iter().for_each(Guest::proven);
        let stay: Vec<_> = flood.iter().map(|guest| !gone(guest)).collect();
        assert_eq!(stay.iter().filter(|stays| **stays).count(), LAN.a_source);
        assert!(stay[200 - LAN.a_source..].iter().all(|stays| *stays));
        assert!(!gone(&machine));
    }

    #[test]
    fn a_machine_has_few_connections_and_measurements_from_home_have_many() {
        let guests = Guests::default();
        let own: Vec<_> = (0..20).map(|_| enter(&guests, "10.7.0.9:4000")).collect();
        for guest in &own {
            guest.proven();
            guest.known(Digest::of(b"machine"));
        }
        assert_eq!(own.iter().filter(|guest| !gone(guest)).count(), A_MACHINE);
        drop(own);
        assert!(guests.lan.inside().machines.is_empty());
        let swarm: Vec<_> = (0..1000).map(|_| enter(&guests, "127.0.0.1:4000")).collect();
        swarm.iter().for_each(Guest::proven);
        assert!(!swarm.iter().any(gone));
    }
}
