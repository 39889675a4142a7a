//! The network of a machine whose whole system is ours: links up at once, addresses as site and slot say, or as a DHCP
//! server gives them; kept so by a thread of its own, whatever is plugged in or out.

pub mod dhcp; // addresses for a while
mod netlink; // the kernel
mod plan; // what site and slot say
mod ports; // which cables are in
mod range; // an address with the length of its prefix
mod routers; // what IPv6 routers say
mod wanted; // what is to be, and what is done about it

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::dhcp::client::Client;
use self::dhcp::wire::Wire;
use self::plan::Plan;
use self::ports::{Cables, Port, ports};
use self::routers::Routers;
use self::wanted::{Given, Wanted};
use crate::console::say;

/// Between two looks, where an answer may come and where none does.
const GLANCE: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(500);
/// How long after a question answers are looked for so often.
const SOON: Duration = Duration::from_secs(3);
/// A network whose DHCP server has not answered for so long has none.
const PATIENCE: Duration = Duration::from_secs(10);
/// What Ethernet carries where nobody says anything else.
const MTU: u32 = 1500;
/// The resolver's file.
const RESOLVER: &str = "etc/resolv.conf";

/// Switches every link on, so that each cable gets its link-local address; says which one does not.
pub fn links_up() {
    for port in ports() {
        heed_routers(&port);
        up(&port);
    }
}

fn up(port: &Port) {
    let name = &port.name;
    if let Err(error) = netlink::up(port.index) {
        say(&format!("The network interface {name} does not start: {error:#}."));
    }
}

/// Routers' words count also on a machine that passes packets on (`accept_ra` in the kernel's ip-sysctl).
fn heed_routers(port: &Port) {
    let file = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", port.name);
    if fs::read_to_string(&file).is_ok_and(|now| now.trim() != "2") {
        let _ = fs::write(file, "2");
    }
}

/// The network, kept as it is to be for as long as the program runs.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Keeper>>);

impl Network {
    /// Begins to keep it; files are below `root`.
    pub fn start(root: &Path) -> Result<Self> {
        let keeper = Keeper { root: root.to_owned(), ..Keeper::default() };
        let network = Self(Arc::new(Mutex::new(keeper)));
        let kept = network.clone();
        let thread = std::thread::Builder::new().name("network".into());
        thread.spawn(move || kept.keep()).context("starting the thread that keeps the network")?;
        Ok(network)
    }

    /// Makes it what the configuration says, on the cable over which `site` is reached; before it was reached on the first
    /// one that has a link.
    pub fn take(&self, site: Option<SocketAddr>) -> Result<()> {
        let mut keeper = self.keeper();
        keeper.plan = Plan::read(&keeper.root)?;
        if let Some(SocketAddr::V6(six)) = site.filter(SocketAddr::is_ipv6) {
            keeper.port = Some(six.scope_id()).filter(|scope| *scope != 0).or(keeper.port);
        }
        keeper.tick(Instant::now());
        Ok(())
    }

    /// Whether no DHCP server has answered on any cable for a while.
    pub fn asks_in_vain(&self) -> bool {
        let (keeper, now) = (self.keeper(), Instant::now());
        let in_vain = |card: &Card| card.client.in_vain(now).is_some_and(|time| time > PATIENCE);
        !keeper.cards.is_empty() && keeper.cards.values().all(in_vain)
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self) {
        while !crate::cli::stopping() {
            let pause = self.keeper().tick(Instant::now());
            std::thread::sleep(pause);
        }
    }
}

#[derive(Default)]
struct Keeper {
    root: PathBuf,
    plan: Plan,
    cables: Cables,
    /// The port that has the plan's address.
    port: Option<u32>,
    cards: BTreeMap<u32, Card>,
    routers: Routers,
    /// What is wrong, and was said.
    wrong: Vec<String>,
}

/// A card that asks for an address.
struct Card {
    name: String,
    client: Client,
    wire: Option<Wire>,
    asked: Option<Instant>,
    had: bool,
}

impl Keeper {
    /// Looks at everything, and does what is to be done; when to look again.
    fn tick(&mut self, now: Instant) -> Duration {
        let ports = ports();
        ports.iter().for_each(heed_routers);
        ports.iter().filter(|port| !port.is_up).for_each(up);
        for back in self.cables.look(&ports, now) {
            if let Some(card) = self.cards.get_mut(&back) {
                card.client.replugged(now);
            }
        }
        let plugged: Vec<_> = self.cables.plugged().cloned().collect();
        if !plugged.iter().any(|port| Some(port.index) == self.port) {
            self.port = plugged.first().map(|port| port.index);
        }
        let fixed = self.port.filter(|_| self.plan.address.is_some());
        self.cards
            .retain(|index, _| Some(*index) != fixed && plugged.iter().any(|port| port.index == *index));
        for port in plugged.iter().filter(|port| Some(port.index) != fixed) {
            self.cards.entry(port.index).or_insert_with(|| Card::new(port, now));
        }
        let links: Vec<_> = plugged.iter().map(|port| port.index).collect();
        self.routers.tick(&links, now);
        let mut wrong: Vec<_> =
            self.cards.iter_mut().filter_map(|(index, card)| card.tick(*index, now)).collect();
        match self.settle(now) {
            Ok(more) => wrong.extend(more),
            Err(error) => wrong.push(format!("The network cannot be set up: {error:#}")),
        }
        wrong
            .iter()
            .filter(|sentence| !self.wrong.contains(sentence))
            .for_each(|sentence| say(&format!("{sentence}.")));
        self.wrong = wrong;
        let soon = |card: &Card| card.asked.is_some_and(|asked| now.saturating_duration_since(asked) < SOON);
        if self.cards.values().any(soon) { GLANCE } else { LOOK }
    }

    /// Makes addresses, routes and resolver what they are to be; what cannot be.
    fn settle(&self, now: Instant) -> Result<Vec<String>> {
        let given = |(index, card): (&u32, &'_ Card)| -> Option<(u32, dhcp::Lease, Option<Duration>)> {
            card.client.lease(now).map(|(lease, left)| (*index, lease.clone(), left))
        };
        let given: Vec<_> = self.cards.iter().filter_map(given).collect();
        let given: Vec<Given<'_>> = given.iter().map(|(index, lease, left)| (*index, lease, *left)).collect();
        let mut wanted = Wanted::of(&self.plan, self.port, &given);
        let name = |index: u32| {
            let port = self.cables.plugged().find(|port| port.index == index);
            port.map(|port| port.name.clone())
        };
        wanted.hear(self.routers.servers(name), self.routers.domains());
        let resolver = self.root.join(RESOLVER);
        if fs::read_to_string(&resolver).ok() != Some(wanted.resolver()) {
            fs::write(&resolver, wanted.resolver())
                .with_context(|| format!("writing {}", resolver.display()))?;
        }
        let mut wrong = wanted.make_so()?;
        for port in self.cables.plugged() {
            let told =
                given.iter().find(|(index, ..)| *index == port.index).and_then(|(_, lease, _)| lease.mtu);
            let mtu = told.map_or(MTU, u32::from);
            if port.mtu != mtu
                && let Err(error) = netlink::set_mtu(port.index, mtu)
            {
                wrong.push(format!("The network interface {} stays as it is: {error:#}", port.name));
            }
        }
        Ok(wrong)
    }
}

impl Card {
    fn new(port: &Port, now: Instant) -> Self {
        let client = Client::new(port.mac, now);
        Self { name: port.name.clone(), client, wire: None, asked: None, had: false }
    }

    /// Hears and asks; what is wrong.
    fn tick(&mut self, index: u32, now: Instant) -> Option<String> {
        let done = self.talk(index, now).err().map(|error| format!("No DHCP on {}: {error:#}", self.name));
        let lease = self.client.lease(now).map(|(lease, _)| lease);
        if let Some(lease) = lease.filter(|_| !self.had) {
            say(&format!("Got the address {} from {} ({}).", lease.own, lease.by, self.name));
        } else if lease.is_none() && self.had {
            say(&format!("The address of {} is over: no DHCP server gives more time.", self.name));
        }
        self.had = lease.is_some();
        done
    }

    fn talk(&mut self, index: u32, now: Instant) -> Result<()> {
        if !self.client.listens(now) {
            self.wire = None;
            return Ok(());
        }
        let wire = match &self.wire {
            Some(wire) => wire,
            None => self.wire.insert(Wire::open(index, &self.name)?),
        };
        while let Some(answer) = wire.hear() {
            self.client.hear(answer, now);
        }
        if let Some((question, to)) = self.client.tick(now) {
            self.asked = Some(now);
            wire.send(&question, to).context("asking")?;
        }
        Ok(())
    }
}
