//! What one card asks of DHCP servers, and when (RFC 2131 section 4.4): the thinking, without socket or clock.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::{Answer, Kind, Lease, Question, Said};

/// The first pause between two questions; each is twice the one before, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(64);
/// How often a server that offered an address is asked for it before another one may offer its own.
const REQUESTS: u32 = 4;

/// Whom a question is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Every server on the cable.
    Everybody,
    /// One that is known, from our address.
    Server(Ipv4Addr),
}

#[derive(Debug)]
enum State {
    /// Nobody has offered anything yet.
    Selecting,
    /// This was offered, and is asked for.
    Requesting(Lease),
    /// It is ours since then.
    Bound(Lease, Instant),
}

/// One card.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    state: State,
    id: u32,
    /// Since when it asks.
    begun: Instant,
    /// When it asks next, and how often it has.
    next: Instant,
    tries: u32,
    /// When it asked last: a lease counts from there.
    asked: Instant,
    /// A server that offered what it did not give: others come first.
    avoid: Option<Ipv4Addr>,
}

impl Client {
    /// One that asks at once.
    pub fn new(mac: [u8; 6], now: Instant) -> Self {
        let state = State::Selecting;
        Self { mac, state, id: number(), begun: now, next: now, tries: 0, asked: now, avoid: None }
    }

    /// What is ours, and for how much longer.
    pub fn lease(&self, now: Instant) -> Option<(&Lease, Option<Duration>)> {
        let State::Bound(lease, since) = &self.state else { return None };
        Some((lease, lease.lasts.map(|lasts| (*since + lasts).saturating_duration_since(now))))
    }

    /// Whether an answer may come.
    pub fn listens(&self, now: Instant) -> bool {
        !matches!(self.state, State::Bound(..)) || self.tries > 0 || now >= self.next
    }

    /// How long it has asked in vain; none where it has an address.
    pub fn in_vain(&self, now: Instant) -> Option<Duration> {
        (!matches!(self.state, State::Bound(..))).then(|| now.saturating_duration_since(self.begun))
    }

    /// The cable was out: somebody has to say whether the address is good where it is in now.
    pub fn replugged(&mut self, now: Instant) {
        match &mut self.state {
            State::Bound(lease, _) => {
                lease.rebind = Duration::ZERO;
                (self.next, self.tries) = (now, 0);
            }
            _ => self.begin(now),
        }
    }

    /// What is to be asked now.
    pub fn tick(&mut self, now: Instant) -> Option<(Question, To)> {
        if self.lease(now).is_some_and(|(_, left)| left == Some(Duration::ZERO)) {
            self.begin(now);
        }
        if now < self.next {
            return None;
        }
        if matches!(self.state, State::Bound(..)) && self.tries == 0 {
            (self.id, self.begun) = (number(), now);
        }
        let (question, to) = match &self.state {
            State::Selecting => {
                // Where nobody else offers anything, better this server than none.
                self.avoid = self.avoid.filter(|_| self.tries == 0);
                (self.question(Kind::Discover, now), To::Everybody)
            }
            State::Requesting(offer) if self.tries == REQUESTS => {
                self.avoid = Some(offer.by);
                self.begin(now);
                (self.question(Kind::Discover, now), To::Everybody)
            }
            State::Requesting(offer) => {
                let wanted = v4(offer).map(|own| (own, offer.by));
                (Question { wanted, ..self.question(Kind::Request, now) }, To::Everybody)
            }
            State::Bound(lease, since) => {
                let late = now.saturating_duration_since(*since) >= lease.rebind;
                let to = if late { To::Everybody } else { To::Server(lease.by) };
                (Question { own: v4(lease), ..self.question(Kind::Request, now) }, to)
            }
        };
        self.next = now + pause(self.tries);
        self.tries += 1;
        self.asked = now;
        Some((question, to))
    }

    /// Takes an answer, where it is one to what was asked.
    pub fn hear(&mut self, answer: Answer, now: Instant) {
        if answer.id != self.id || answer.mac != self.mac || self.tries == 0 {
            return;
        }
        match (&self.state, answer.said) {
            (State::Selecting, Said::Offer(offer)) if self.avoid != Some(answer.by) => {
                self.state = State::Requesting(offer);
                (self.next, self.tries) = (now, 0);
            }
            (State::Requesting(offer), Said::Ack(lease))
                if answer.by == offer.by && lease.own == offer.own =>
            {
                self.bind(lease);
            }
            (State::Requesting(offer), Said::Nak) if answer.by == offer.by => {
                self.avoid = Some(answer.by);
                self.begin(now);
            }
            (State::Bound(before, _), Said::Ack(lease)) if lease.own == before.own => self.bind(lease),
            // Where everybody is asked, whoever knows better may say so.
            (State::Bound(before, since), Said::Nak)
                if answer.by == before.by || now.saturating_duration_since(*since) >= before.rebind =>
            {
                self.begin(now);
            }
            _ => {}
        }
    }

    fn bind(&mut self, lease: Lease) {
        self.next = self.asked + lease.renew;
        (self.tries, self.avoid) = (0, None);
        self.state = State::Bound(lease, self.asked);
    }

    fn begin(&mut self, now: Instant) {
        self.state = State::Selecting;
        (self.id, self.begun, self.next, self.tries) = (number(), now, now, 0);
    }

    fn question(&self, kind: Kind, now: Instant) -> Question {
        let since = now.saturating_duration_since(self.begun).as_secs();
        let since = u16::try_from(since).unwrap_or(u16::MAX);
        Question { kind, id: self.id, mac: self.mac, since, own: None, wanted: None }
    }
}

fn v4(lease: &Lease) -> Option<Ipv4Addr> {
    match lease.own.ip {
        IpAddr::V4(own) => Some(own),
        IpAddr::V6(_) => None,
    }
}

/// A number by chance. Without any, the answers to one question fit the next: no harm where nobody lies.
pub fn number() -> u32 {
    protocol::crypto::random().map_or(0, u32::from_ne_bytes)
}

/// The pause after the `tries`th question: by chance up to a quarter longer, since all machines of a site come back at
/// once after a power cut.
fn pause(tries: u32) -> Duration {
    let pause = (PAUSE * 2u32.pow(tries.min(6))).min(LONGEST);
    pause + pause * (number() % 256) / 1024
}
