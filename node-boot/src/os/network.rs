//! The network of a machine whose whole system is ours: links up at once, addresses as site and slot say, or as a DHCP
//! server gives them; kept so by a thread of its own, whatever is plugged in or out. A plan is tried before it is kept.

mod card; // an interface that asks for an address
pub mod dhcp; // addresses for a while
mod dhcp6; // those of IPv6
mod keeper; // looks, and does what is to be done
mod netlink; // the kernel
mod place; // several cables as one, and tags
pub mod plan; // what site and slot say
mod ports; // which cables are in
mod range; // an address with the length of its prefix
mod routers; // what IPv6 routers say
mod trial; // what is kept and what is taken back
mod wanted; // what is to be, and what is done about it

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use self::keeper::Keeper;
use self::plan::Plan;
use self::ports::{Port, ports};
use crate::console::say;
use crate::state::State;

/// Number of the kernel's own interface, `lo`: always its first one.
const LOOPBACK: u32 = 1;
/// How long the provisioner is looked for with a plan on trial: switches may keep a cable that was just switched on to
/// themselves for half a minute (IEEE 802.1D).
pub const PATIENCE: Duration = Duration::from_secs(90);
/// A network whose DHCP server has not answered for so long has none.
const NO_DHCP: Duration = Duration::from_secs(10);

/// Switches every link on, so that each cable gets its link-local address; says which one does not.
pub fn links_up() {
    // The machine's programs speak to each other over its own interface.
    if let Err(error) = netlink::up(LOOPBACK) {
        say(&format!("The machine's own network interface does not start: {error:#}."));
    }
    for port in ports() {
        heed_routers(&port, true);
        up(&port);
    }
}

fn up(port: &Port) {
    let name = &port.name;
    if let Err(error) = netlink::up(port.index) {
        say(&format!("The network interface {name} does not start: {error:#}."));
    }
}

/// Where routers' words count, they do also on a machine that passes packets on (`accept_ra` in the kernel's ip-sysctl).
fn heed_routers(port: &Port, count: bool) {
    let file = format!("/proc/sys/net/ipv6/conf/{}/accept_ra", port.name);
    let wanted = if count { "2" } else { "0" };
    if fs::read_to_string(&file).is_ok_and(|now| now.trim() != wanted) {
        let _ = fs::write(file, wanted);
    }
}

/// The network, kept as it is to be for as long as the program runs.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Keeper>>);

impl Network {
    /// Begins to keep it, by the plan that was kept last, or else by the one for the first contact. Configuration is below
    /// `root`; a plan on trial has so much time.
    pub fn start(root: &Path, state: &State, first: Plan, patience: Duration) -> Result<Self> {
        let mut keeper = Keeper::new(root.to_owned(), state.clone(), first, patience)?;
        // A member's programs start next, and need its address.
        keeper.tick(Instant::now());
        let network = Self(Arc::new(Mutex::new(keeper)));
        let kept = network.clone();
        let thread = std::thread::Builder::new().name("network".into());
        thread.spawn(move || kept.keep()).context("starting the thread that keeps the network")?;
        Ok(network)
    }

    /// Whether the plan that the configuration holds is to be tried.
    pub fn would_try(&self) -> Result<bool> {
        let keeper = self.keeper();
        Ok(keeper.would_try(Plan::read(&keeper.root)?))
    }

    /// Takes the plan in that the configuration holds. Whether it is on trial: then it is in force, and is taken back
    /// unless [`Self::reached`] is called in time.
    pub fn offer(&self) -> Result<bool> {
        let mut keeper = self.keeper();
        let plan = Plan::read(&keeper.root)?;
        keeper.offer(plan, Instant::now())
    }

    /// The plan on trial has so much time from now on.
    pub fn grant(&self, time: Duration) {
        self.keeper().grant(Instant::now() + time);
    }

    /// The plan on trial is not good, for a reason in words: the former one is in force again.
    pub fn take_back(&self, why: &str) -> Result<()> {
        self.keeper().take_back(why, Instant::now())
    }

    /// The provisioner was reached there.
    pub fn reached(&self, site: SocketAddr) -> Result<()> {
        let over = match site {
            SocketAddr::V6(six) => Some(six.scope_id()),
            SocketAddr::V4(_) => None,
        };
        self.keeper().reached(over)
    }

    /// What of the network is not as headquarters wants it.
    pub fn trouble(&self) -> Option<String> {
        let keeper = self.keeper();
        let all: Vec<_> = keeper.why_not().into_iter().chain(keeper.wrong.iter().cloned()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether no DHCP server has answered on any cable for a while.
    pub fn asks_in_vain(&self) -> bool {
        let (keeper, now) = (self.keeper(), Instant::now());
        let in_vain = keeper.cards.values().all(|card| card.asks_in_vain(NO_DHCP, now));
        !keeper.cards.is_empty() && in_vain && !keeper.six.has_any(now)
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self) {
        while !crate::stop::stopping() {
            let pause = self.keeper().tick(Instant::now());
            std::thread::sleep(pause);
        }
    }
}
