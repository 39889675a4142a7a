//! Looks at links, leases and the plan again and again, and makes the network what follows from them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::card::Card;
use super::dhcp6::card::Cards;
use super::place::{Place, is_bound, lay};
use super::plan::Plan;
use super::ports::{Cables, Port, ports};
use super::routers::Routers;
use super::trial::Record;
use super::wanted::{Given, Wanted, leads_away};
use super::{heed_routers, netlink, up};
use crate::console::say;
use crate::state::State;

/// Between two looks, where an answer may come and where none does.
const GLANCE: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(500);
/// A plan is to blame only where the former one does better, and that within this time.
const BLAME: Duration = Duration::from_mins(10);
/// How long a port is tried before anybody was met, where there are several: the tag may be behind another one.
const TURN: Duration = Duration::from_secs(20);
/// What Ethernet carries where nobody says anything else.
const MTU: u32 = 1500;
/// Where the record is, in the machine's state, and the resolver's file.
const RECORD: &str = "network.json";
const RESOLVER: &str = "etc/resolv.conf";

/// The network, and all that is known of it.
pub struct Keeper {
    /// Configuration is below this folder.
    pub root: PathBuf,
    state: State,
    /// The plan for the first contact.
    first: Plan,
    record: Record,
    /// Until when the plan on trial has time, and how long that is.
    until: Option<Instant>,
    patience: Duration,
    /// Until when a plan that was taken back may turn out not to be at fault.
    blame: Option<Instant>,
    cables: Cables,
    /// The port that has the plan's address, or was first, and what was made of it.
    port: Option<u32>,
    place: Option<u32>,
    /// When another port has its turn; none once the provisioner was met.
    turn: Option<Instant>,
    /// By the number of their interfaces.
    pub cards: BTreeMap<u32, Card>,
    routers: Routers,
    /// The same interfaces, where their routers call for DHCPv6.
    pub six: Cards,
    /// What is wrong now.
    pub wrong: Vec<String>,
}

impl Keeper {
    /// With what is on disk.
    pub fn new(root: PathBuf, state: State, first: Plan, patience: Duration) -> Result<Self> {
        let record = state.load::<Record>(RECORD)?.unwrap_or_default().woken();
        Ok(Self {
            root,
            state,
            first,
            record,
            until: None,
            patience,
            blame: None,
            cables: Cables::default(),
            port: None,
            place: None,
            turn: Some(Instant::now() + TURN),
            cards: BTreeMap::new(),
            routers: Routers::default(),
            six: Cards::default(),
            wrong: Vec::new(),
        })
    }

    /// Takes headquarters' plan in; whether it is on trial from now on.
    pub fn offer(&mut self, plan: Plan, now: Instant) -> Result<bool> {
        let words = plan.to_string();
        let before = self.record.clone();
        let tried = self.record.offer(plan, &self.first);
        self.save(&before)?;
        if tried {
            say(&format!("Trying headquarters' network for this machine: {words}."));
            self.until = Some(now + self.patience);
            self.tick(now);
        }
        Ok(tried)
    }

    /// Whether a plan would be on trial.
    pub fn would_try(&self, plan: Plan) -> bool {
        self.record.clone().offer(plan, &self.first)
    }

    /// The plan on trial, where there is one, has time until then.
    pub fn grant(&mut self, until: Instant) {
        self.until = self.until.map(|_| until);
    }

    /// Takes the plan on trial back, where there is one.
    pub fn take_back(&mut self, why: &str, now: Instant) -> Result<()> {
        if self.until.take().is_none() {
            return Ok(());
        }
        let before = self.record.clone();
        let why = format!("{why} with {}", self.record.plan(&self.first));
        self.record.take_back(&why);
        let former = self.record.plan(&self.first);
        say(&format!("Headquarters' network is taken back: {why}. The former one is in force: {former}."));
        self.blame = Some(now + BLAME);
        self.save(&before)
    }

    /// The provisioner was reached, over the interface of this number.
    pub fn reached(&mut self, over: Option<u32>) -> Result<()> {
        (self.until, self.blame, self.turn) = (None, None, None);
        let before = self.record.clone();
        self.record.keep();
        let over = over.map(|link| if Some(link) == self.place { self.port.unwrap_or(link) } else { link });
        if let Some(port) = self.cables.plugged().find(|port| Some(port.index) == over) {
            (self.port, self.record.port) = (Some(port.index), Some(port.mac));
        }
        self.save(&before)
    }

    /// Why headquarters' plan is not in force.
    pub fn why_not(&self) -> Option<String> {
        self.record.why_not().map(str::to_owned)
    }

    fn save(&self, before: &Record) -> Result<()> {
        if *before == self.record { Ok(()) } else { self.state.save(RECORD, &self.record) }
    }

    /// Looks at everything, and does what is to be done; when to look again.
    pub fn tick(&mut self, now: Instant) -> Duration {
        let judged = self.judge(now);
        let kept = self.keep(now);
        let mut wrong = Vec::new();
        for done in [judged.map(|()| vec![]), kept] {
            wrong.extend(
                done.unwrap_or_else(|error| vec![format!("The network cannot be set up: {error:#}")]),
            );
        }
        for sentence in wrong.iter().filter(|sentence| !self.wrong.contains(sentence)) {
            say(&format!("{sentence}."));
        }
        self.wrong = wrong;
        if self.cards.values().any(|card| card.awaits(now)) || self.six.awaits(now) { GLANCE } else { LOOK }
    }

    /// Takes a plan back whose time is over. Time without any cable does not count.
    fn judge(&mut self, now: Instant) -> Result<()> {
        let before = self.record.clone();
        if self.until.is_some() && self.cables.plugged().next().is_none() {
            self.until = Some(now + self.patience);
        }
        if self.until.is_some_and(|until| now >= until) {
            let seconds = self.patience.as_secs();
            return self.take_back(&format!("no provisioner was reached within {seconds} s"), now);
        }
        if self.blame.is_some_and(|until| now >= until) {
            self.blame = None;
            self.record.absolve();
        }
        self.save(&before)
    }

    /// Makes everything what it is to be; what cannot be.
    fn keep(&mut self, now: Instant) -> Result<Vec<String>> {
        let ports = ports();
        ports.iter().filter(|port| !port.is_up && !is_bound(&port.name)).for_each(up);
        let back = self.cables.look(&ports, now);
        let plugged: Vec<_> = self.cables.plugged().cloned().collect();
        let plan = self.record.plan(&self.first).clone();
        self.choose(&plugged, now);
        let port = plugged.iter().find(|port| Some(port.index) == self.port);
        let place = port.map(|port| lay(&plan, port, &plugged)).transpose()?;
        self.place = place.as_ref().map(|place| place.link.index);
        let mut links: Vec<_> = plugged.into_iter().filter(|port| !is_bound(&port.name)).collect();
        if let Some(place) = &place {
            links.retain(|link| link.index != place.base.index);
            links.extend([place.base.clone(), place.link.clone()]);
            links.dedup_by_key(|link| link.index);
        }
        // Once headquarters' address has led to the site, nobody on another cable leads it elsewhere.
        let is_led = self.record.has_kept() && plan.address.is_some();
        let heeded = |link: &&Port| !is_led || place.as_ref().is_some_and(|place| place.has(link.index));
        for link in &links {
            heed_routers(link, heeded(&link));
        }
        self.routers.tick(&links.iter().filter(heeded).map(|link| link.index).collect::<Vec<_>>(), now);
        let mut wrong = self.ask(&plan, place.as_ref(), &links, &back, now);
        wrong.extend(self.settle(&plan, place.as_ref(), &links, now)?);
        Ok(wrong)
    }

    /// Chooses the port for the plan's address. Before anybody was met each has its turn.
    fn choose(&mut self, plugged: &[Port], now: Instant) {
        self.port = choose(plugged, self.port, self.record.port);
        let is_first = !self.record.has_kept() && self.until.is_none();
        if is_first && self.turn.is_some_and(|turn| now >= turn) {
            self.turn = Some(now + TURN);
            self.port = after(plugged, self.port);
        }
    }

    /// Every interface asks for an address but the one that the plan gives one, and what that is made of.
    fn ask(
        &mut self,
        plan: &Plan,
        place: Option<&Place>,
        links: &[Port],
        back: &[u32],
        now: Instant,
    ) -> Vec<String> {
        let is_taken = |link: &Port| {
            place.is_some_and(|place| {
                let is_place = link.index == place.link.index;
                if is_place { plan.address.is_some() } else { link.index == place.base.index }
            })
        };
        let asking: Vec<_> = links.iter().filter(|link| !is_taken(link)).collect();
        self.cards.retain(|index, _| asking.iter().any(|link| link.index == *index));
        for link in &asking {
            self.cards.entry(link.index).or_insert_with(|| Card::new(link, now));
        }
        // What stands on a port that was out was out with it.
        let on_port = place.filter(|place| place.ports.iter().any(|port| back.contains(port)));
        let back: Vec<_> = back.iter().copied().chain(on_port.map(|place| place.link.index)).collect();
        for index in &back {
            if let Some(card) = self.cards.get_mut(index) {
                card.replugged(now);
            }
        }
        let wrong = self.six.tick(&asking, &back, &self.routers, now);
        self.cards.iter_mut().filter_map(|(index, card)| card.tick(*index, now)).chain(wrong).collect()
    }

    /// Makes addresses, routes, resolver and packet sizes what they are to be; what cannot be.
    fn settle(
        &self,
        plan: &Plan,
        place: Option<&Place>,
        links: &[Port],
        now: Instant,
    ) -> Result<Vec<String>> {
        let given = self.cards.iter().filter_map(|(index, card)| {
            let (lease, left) = card.lease(now)?;
            Some((*index, lease, left))
        });
        let given: Vec<Given<'_>> = given.collect();
        let own = place.map(|place| place.link.index);
        let kept = self.record.has_kept();
        let mut wanted = Wanted::of(plan, own, &given, kept);
        let name = |index: u32| links.iter().find(|link| link.index == index).map(|link| link.name.clone());
        wanted.unasked =
            self.cards.iter().filter(|(_, card)| card.is_new()).map(|(index, _)| *index).collect();
        self.six.give(&mut wanted, |link, ip| kept && leads_away(plan, own, link, ip), now);
        let (dns, search) = (self.six.servers(name), self.six.domains());
        wanted.hear(joined(dns, self.routers.servers(name)), joined(search, self.routers.domains()));
        let resolver = self.root.join(RESOLVER);
        if fs::read_to_string(&resolver).ok() != Some(wanted.resolver()) {
            fs::write(&resolver, wanted.resolver())
                .with_context(|| format!("writing {}", resolver.display()))?;
        }
        let told = |index: u32| given.iter().find(|(link, ..)| *link == index)?.1.mtu.map(u32::from);
        let mut wrong = Vec::new();
        for link in links {
            let place = place.filter(|place| place.has(link.index));
            let mtu = match place {
                Some(place) => plan.mtu.or(told(place.link.index)),
                None => told(link.index),
            };
            let mtu = mtu.unwrap_or(MTU);
            if link.mtu != mtu
                && let Err(error) = netlink::set_mtu(link.index, mtu)
            {
                wrong.push(format!("The network interface {} stays as it is: {error:#}", link.name));
            }
        }
        wrong.extend(wanted.make_so()?);
        Ok(wrong)
    }
}

/// What servers say goes before what routers say (RFC 8106 section 5.3.1); nothing stands there twice.
fn joined(mut first: Vec<String>, then: Vec<String>) -> Vec<String> {
    for one in then {
        if !first.contains(&one) {
            first.push(one);
        }
    }
    first
}

/// The port that has the plan's address for as long as there is a cable in it, else the one over which the site was reached
/// last, else the first.
fn choose(plugged: &[Port], own: Option<u32>, last: Option<[u8; 6]>) -> Option<u32> {
    let port = plugged.iter().find(|port| Some(port.index) == own);
    let port = port.or_else(|| plugged.iter().find(|port| Some(port.mac) == last)).or(plugged.first());
    port.map(|port| port.index)
}

/// The port after this one, in a circle.
fn after(plugged: &[Port], own: Option<u32>) -> Option<u32> {
    let place = plugged.iter().position(|port| Some(port.index) == own)?;
    plugged.get((place + 1) % plugged.len()).map(|port| port.index)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A machine whose ports have a cable or not, and a plan that is tried from `now` on.
    fn trying(folder: &Path, has_cable: bool, now: Instant) -> Keeper {
        let state = State::open(folder).unwrap();
        let mut keeper =
            Keeper::new(folder.to_owned(), state, Plan::default(), Duration::from_secs(90)).unwrap();
        let (name, mac) = ("eth0".to_owned(), [1; 6]);
        keeper.cables.look(&[Port { index: 2, name, mac, mtu: 1500, is_up: true, has_link: has_cable }], now);
        keeper.until = keeper.record.offer(bad(), &Plan::default()).then_some(now + keeper.patience);
        keeper
    }

    fn bad() -> Plan {
        Plan { vlan: Some(5), ..Plan::default() }
    }

    #[test]
    fn a_plan_that_leads_to_nobody_in_its_time_is_taken_back_and_counts_as_bad_as_long_as_the_former_may_do_better()
     {
        let (folder, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut keeper = trying(folder.path(), true, now);
        let late = now + keeper.patience;
        keeper.judge(now + keeper.patience.saturating_sub(Duration::from_millis(1))).unwrap();
        assert_eq!(keeper.record.plan(&keeper.first), &bad());
        keeper.judge(late).unwrap();
        assert_eq!(keeper.record.plan(&keeper.first), &Plan::default());
        let why = keeper.why_not().unwrap();
        assert!(why.contains("no provisioner was reached within 90 s"), "{why}");
        assert!(!keeper.would_try(bad()));
        // The former one has reached nobody either: a switch may have been off all the time.
        keeper.judge(late + BLAME).unwrap();
        assert!(keeper.would_try(bad()) && keeper.why_not().is_none());
    }

    #[test]
    fn a_plan_is_not_to_blame_for_a_cable_that_is_out_nor_once_the_former_one_has_done_better() {
        let (folder, now) = (tempfile::tempdir().unwrap(), Instant::now());
        let mut keeper = trying(folder.path(), false, now);
        let late = now + 10 * keeper.patience;
        keeper.judge(late).unwrap();
        assert_eq!(keeper.record.plan(&keeper.first), &bad(), "it has all of its time from then on");
        keeper.take_back("nobody is there", late).unwrap();
        keeper.reached(None).unwrap();
        keeper.judge(late + 2 * BLAME).unwrap();
        assert!(!keeper.would_try(bad()), "the former one has led to the provisioner, and this one did not");
    }

    #[test]
    fn the_address_stays_on_its_port_goes_where_the_site_was_last_and_each_port_has_a_turn() {
        let port = |index: u32| Port {
            index,
            name: format!("eth{index}"),
            mac: [0, 0, 0, 0, 0, u8::try_from(index).unwrap()],
            mtu: 1500,
            is_up: true,
            has_link: true,
        };
        let plugged = [port(2), port(3), port(5)];
        let last = Some([0, 0, 0, 0, 0, 3]);
        assert_eq!(choose(&plugged, Some(5), last), Some(5));
        assert_eq!(choose(&plugged, Some(4), last), Some(3));
        assert_eq!(choose(&plugged, None, Some([9; 6])), Some(2));
        assert_eq!(choose(&[], Some(5), last), None);
        let turns = [Some(2), Some(3), Some(5)].map(|own| after(&plugged, own));
        assert_eq!(turns, [Some(3), Some(5), Some(2)]);
        assert_eq!(after(&[], None), None);
    }
}
