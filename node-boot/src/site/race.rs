//! Several candidates are tried at once, so that whoever is slow, or says nothing at all, holds nobody else up.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::discover::{self, By, Candidate};
use super::dns::Resolver;

/// How many are tried at once, and how many of them at one host: ports cost an attacker nothing.
const AT_ONCE: usize = 8;
const AT_ONE_HOST: usize = 2;
/// How many of those that DNS names: whoever forges its answers leaves room for those who answer on the LAN.
const AT_ONCE_BY_DNS: usize = 4;
/// How many wait for their turn, and how many of them at one host.
const CROWD: usize = 256;
const CROWD_OF_ONE_HOST: usize = 8;
/// A failure makes no room sooner: hosts that refuse at once would otherwise keep this machine busy.
const LEAST: Duration = Duration::from_millis(50);
/// How long the LAN is asked before DNS is: who is on the same cable answers at once.
const DNS_WAITS: Duration = Duration::from_millis(250);
/// Between two looks whether the program is to end.
const GLANCE: Duration = Duration::from_millis(200);
/// For how many times as long as it took, and at least how long, whoever failed is not tried again: nobody has more than
/// a tenth of a place.
const TIMES: u32 = 10;
const SHORTEST: Duration = Duration::from_secs(1);

/// Addresses that are not tried for a while.
#[derive(Clone, Debug, Default)]
pub struct Shunned(HashMap<SocketAddr, Instant>);

impl Shunned {
    /// From now on for so long.
    pub fn add(&mut self, address: SocketAddr, time: Duration) {
        let now = Instant::now();
        self.0.retain(|_, until| now < *until);
        self.0.insert(address, now + time);
    }

    /// After a try that failed, and took so long to do so.
    pub fn add_failed(&mut self, address: SocketAddr, took: Duration) {
        self.add(address, (took * TIMES).max(SHORTEST));
    }

    /// Whether this one is.
    pub fn has(&self, address: &SocketAddr) -> bool {
        self.0.get(address).is_some_and(|until| Instant::now() < *until)
    }
}

/// A try that has ended.
#[derive(Debug)]
pub struct Tried<T, E> {
    /// Whom.
    pub candidate: Candidate,
    /// How it ended.
    pub outcome: Result<T, E>,
    /// How long it took.
    pub took: Duration,
}

enum Event<T, E> {
    Heard(Candidate),
    Asked(Source),
    Tried(Tried<T, E>),
}

/// Who is asked for candidates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Lan,
    Dns,
}

type Try<T, E> = dyn Fn(SocketAddr) -> Result<T, E> + Send + Sync;

/// Tries that go on at once; dropping it drops whatever comes of those that still run.
pub struct Race<T, E> {
    attempt: Arc<Try<T, E>>,
    waiting: Vec<Candidate>,
    running: Vec<Candidate>,
    never: Option<SocketAddr>,
    begun: HashMap<IpAddr, u32>,
    asking: Vec<Source>,
    over: Arc<AtomicBool>,
    tell: SyncSender<Event<T, E>>,
    events: Receiver<Event<T, E>>,
}

impl<T, E> Drop for Race<T, E> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

impl<T: Send + 'static, E: Send + 'static> Race<T, E> {
    /// Nobody runs yet; `attempt` is what is done with each address, on a thread of its own.
    pub fn new(attempt: impl Fn(SocketAddr) -> Result<T, E> + Send + Sync + 'static) -> Self {
        let (tell, events) = sync_channel(CROWD);
        Self {
            attempt: Arc::new(attempt),
            waiting: Vec::new(),
            running: Vec::new(),
            never: None,
            begun: HashMap::new(),
            asking: Vec::new(),
            over: Arc::default(),
            tell,
            events,
        }
    }

    /// The same without this one.
    #[must_use]
    pub fn without(mut self, address: SocketAddr) -> Self {
        self.never = Some(address);
        self
    }

    /// One that may be tried.
    pub fn offer(&mut self, candidate: Candidate, shunned: &Shunned) {
        let address = candidate.address;
        let known = self.running.iter().chain(&self.waiting).any(|one| one.address == address);
        if known || self.never == Some(address) || shunned.has(&address) {
            return;
        }
        // Who waits where is a matter of chance, so that no flood can tell which of a crowd is given up.
        let chance = protocol::crypto::random::<4>().map_or(0, u32::from_ne_bytes) as usize;
        let place = chance % (self.waiting.len() + 1);
        self.waiting.push(candidate);
        let last = self.waiting.len() - 1;
        self.waiting.swap(place, last);
        let of_host = |one: &Candidate| one.address.ip() == address.ip();
        if self.waiting.iter().filter(|one| of_host(one)).count() > CROWD_OF_ONE_HOST {
            self.waiting.iter().position(of_host).map(|place| self.waiting.swap_remove(place));
        } else if self.waiting.len() > CROWD {
            let by_dns = self.waiting.iter().position(|one| one.by == By::Dns);
            self.waiting.swap_remove(by_dns.unwrap_or(chance % CROWD));
        }
    }

    /// Asks the LAN for so long, and DNS after a while; the answers are read while others are tried.
    pub fn ask(&mut self, round: Duration) {
        // Without random bytes or sockets there is nobody to hear; the next round may have them.
        self.ask_of(Source::Lan, move |over, heard| drop(discover::ask_unless(round, over, heard)));
        if !self.asking.contains(&Source::Dns)
            && let Some(resolver) = Resolver::of_this_machine()
        {
            self.ask_of(Source::Dns, move |over, heard| {
                let begin = Instant::now();
                while !over() && begin.elapsed() < DNS_WAITS {
                    std::thread::sleep(DNS_WAITS / 10);
                }
                let _ = resolver.ask(over, heard);
            });
        }
    }

    fn ask_of(
        &mut self,
        source: Source,
        ask: impl FnOnce(&dyn Fn() -> bool, &mut dyn FnMut(&Candidate) -> bool) + Send + 'static,
    ) {
        let (tell, over) = (self.tell.clone(), Arc::clone(&self.over));
        let asking = std::thread::Builder::new().spawn(move || {
            let mut heard = |candidate: &Candidate| tell.send(Event::Heard(candidate.clone())).is_err();
            ask(&|| over.load(Ordering::Relaxed), &mut heard);
            let _ = tell.send(Event::Asked(source));
        });
        self.asking.extend(asking.is_ok().then_some(source));
    }

    /// The next try that ends before `until`; none where nothing more can come by then, or the program is to end.
    pub fn next(&mut self, until: Instant, shunned: &Shunned) -> Option<Tried<T, E>> {
        loop {
            self.start();
            let left = until.saturating_duration_since(Instant::now());
            if self.is_over() || left.is_zero() || crate::stop::stopping() {
                return None;
            }
            match self.events.recv_timeout(left.min(GLANCE)) {
                Ok(Event::Heard(candidate)) => self.offer(candidate, shunned),
                Ok(Event::Asked(source)) => {
                    self.asking
                        .iter()
                        .position(|one| *one == source)
                        .map(|place| self.asking.swap_remove(place));
                }
                Ok(Event::Tried(tried)) => {
                    self.running.retain(|one| one.address != tried.candidate.address);
                    return Some(tried);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Whether nobody is tried or asked any more.
    pub fn is_over(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty() && self.asking.is_empty()
    }

    fn start(&mut self) {
        while self.running.len() < AT_ONCE {
            let Some(candidate) = self.pick() else { return };
            let (address, runs) = (candidate.address, candidate.clone());
            *self.begun.entry(address.ip()).or_default() += 1;
            let (attempt, tell) = (Arc::clone(&self.attempt), self.tell.clone());
            let running = std::thread::Builder::new().spawn(move || {
                let begin = Instant::now();
                let outcome = attempt(address);
                let took = begin.elapsed();
                if outcome.is_err() {
                    std::thread::sleep(LEAST.saturating_sub(took));
                }
                // Nobody listens any more where somebody else was first.
                let _ = tell.send(Event::Tried(Tried { candidate, outcome, took }));
            });
            if running.is_err() {
                return;
            }
            self.running.push(runs);
        }
    }

    /// Of those who wait one of the host that was tried least.
    fn pick(&mut self) -> Option<Candidate> {
        let run = |of: &dyn Fn(&Candidate) -> bool| self.running.iter().filter(|one| of(one)).count();
        let busy = |ip: IpAddr| run(&|one| one.address.ip() == ip) >= AT_ONE_HOST;
        let no_more = |by: By| by == By::Dns && run(&|one| one.by == by) >= AT_ONCE_BY_DNS;
        let is_free = |one: &Candidate| !busy(one.address.ip()) && !no_more(one.by);
        let free = self.waiting.iter().enumerate().filter(|(_, one)| is_free(one));
        let tries = |ip: IpAddr| self.begun.get(&ip).copied().unwrap_or(0);
        let (place, _) = free.min_by_key(|(_, one)| tries(one.address.ip()))?;
        Some(self.waiting.remove(place))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    const SLOW: Duration = Duration::from_millis(500);

    fn candidate(address: &str) -> Candidate {
        Candidate { address: address.parse().unwrap(), by: By::Lan, own: String::new() }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// Port 7443 answers; whoever has another one says nothing for long.
    fn race() -> Race<(), ()> {
        Race::new(|address| {
            if address.port() == 7443 {
                return Ok(());
            }
            std::thread::sleep(SLOW);
            Err(())
        })
    }

    #[test]
    fn silent_hosts_do_not_hold_the_one_that_answers_up() {
        let (mut race, shunned, begin) = (race(), Shunned::default(), Instant::now());
        (1..=7).for_each(|n| race.offer(candidate(&format!("10.7.0.{n}:1")), &shunned));
        race.offer(candidate("10.7.0.9:7443"), &shunned);
        let first = race.next(soon(), &shunned).unwrap();
        assert_eq!(first.candidate.address.port(), 7443);
        assert!(begin.elapsed() < SLOW, "{:?}", begin.elapsed());
    }

    #[test]
    fn what_dns_names_leaves_room_for_who_answers_on_the_lan() {
        let (mut race, shunned, begin) = (race(), Shunned::default(), Instant::now());
        let named =
            |n: usize| Candidate { by: By::Dns, ..candidate(&format!("10.8.{}.{}:1", n / 250, n % 250 + 1)) };
        (0..1000).for_each(|n| race.offer(named(n), &shunned));
        assert!(race.next(Instant::now() + Duration::from_millis(20), &shunned).is_none());
        assert_eq!(race.running.len(), AT_ONCE_BY_DNS);
        race.offer(candidate("10.7.0.9:7443"), &shunned);
        (1000..2000).for_each(|n| race.offer(named(n), &shunned));
        let first = race.next(soon(), &shunned).unwrap();
        assert_eq!(first.candidate.address.port(), 7443);
        assert!(begin.elapsed() < SLOW, "{:?}", begin.elapsed());
    }

    #[test]
    fn a_host_with_many_ports_takes_no_other_hosts_turn() {
        let (mut race, shunned, begin) = (race(), Shunned::default(), Instant::now());
        (1000..3000).for_each(|port| race.offer(candidate(&format!("10.7.0.1:{port}")), &shunned));
        assert_eq!(race.next(Instant::now() + Duration::from_millis(20), &shunned).map(|_| ()), None);
        (1000..3000).for_each(|port| race.offer(candidate(&format!("10.7.0.1:{port}")), &shunned));
        race.offer(candidate("10.7.0.9:7443"), &shunned);
        let first = race.next(soon(), &shunned).unwrap();
        assert_eq!(first.candidate.address.port(), 7443);
        assert!(begin.elapsed() < SLOW, "{:?}", begin.elapsed());
        assert!(race.waiting.len() <= CROWD_OF_ONE_HOST && race.running.len() == AT_ONE_HOST);
    }

    #[test]
    fn only_so_many_run_at_once_and_nobody_twice() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        let mut race = Race::<(), ()>::new(|_| {
            MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            RUNNING.fetch_sub(1, Ordering::SeqCst);
            Err(())
        });
        let mut shunned = Shunned::default();
        let mut seen = Vec::new();
        for n in (1..=30).chain(1..=30) {
            race.offer(candidate(&format!("10.7.0.{n}:1")), &shunned);
        }
        while let Some(tried) = race.next(soon(), &shunned) {
            let address = tried.candidate.address;
            shunned.add_failed(address, tried.took);
            seen.push(address);
            race.offer(tried.candidate, &shunned);
        }
        assert_eq!((seen.len(), MOST.load(Ordering::SeqCst)), (30, AT_ONCE));
    }

    #[test]
    fn whoever_cost_time_is_left_alone_for_longer() {
        let mut shunned = Shunned::default();
        let [quick, slow]: [SocketAddr; 2] = ["10.7.0.1:1".parse().unwrap(), "10.7.0.2:1".parse().unwrap()];
        shunned.add_failed(quick, Duration::ZERO);
        shunned.add_failed(slow, Duration::from_secs(5));
        let left = |address| shunned.0[&address].saturating_duration_since(Instant::now());
        assert!(left(quick) <= SHORTEST && shunned.has(&quick));
        assert!(left(slow) > Duration::from_secs(45) && shunned.has(&slow));
    }
}
