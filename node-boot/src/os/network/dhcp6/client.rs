//! What one interface asks of DHCPv6 servers, and when (RFC 8415 section 18.2): the thinking, without socket or clock.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::super::routers::Calls;
use super::exchange::Exchange;
use super::{Answer, Kind, Lease, Names, Own, Status};

/// How often a server that offered an address is asked for it before another one may offer its own.
const REQUESTS: u32 = 5;
/// Nobody who offers an address has answered so many questions: name servers are asked for beside that.
const IN_VAIN: u32 = 2;
/// A server that wants to be the one at any price.
const AT_ONCE: u8 = 255;

/// What a server offered or gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gift {
    /// The address.
    pub lease: Lease,
    /// Where the server speaks from.
    pub from: Ipv6Addr,
    names: Names,
    by: Vec<u8>,
    preference: u8,
}

/// One interface.
#[derive(Debug)]
pub struct Client {
    own: Own,
    /// What is ours, and since when.
    held: Option<(Gift, Instant)>,
    /// What was offered, or is asked for.
    offer: Option<Gift>,
    /// What is asked about an address; none while all is well.
    ask: Option<Exchange>,
    /// When that was asked last: an address counts from there.
    asked: Instant,
    /// A server that offered what it did not give: others come first.
    avoid: Option<Vec<u8>>,
    /// Name servers that came without an address, and when they are asked for anew.
    names: Names,
    refresh: Instant,
    inform: Option<Exchange>,
}

impl Client {
    /// One that asks nothing yet.
    pub fn new(own: Own, now: Instant) -> Self {
        Self {
            own,
            held: None,
            offer: None,
            ask: None,
            asked: now,
            avoid: None,
            names: Names::default(),
            refresh: now,
            inform: None,
        }
    }

    /// What is ours, and how much of its two times is left: in which it is preferred, and good.
    pub fn lease(&self, now: Instant) -> Option<(&Gift, [Option<Duration>; 2])> {
        let (gift, since) = self.held.as_ref()?;
        let left = |time: Option<Duration>| time.map(|time| (*since + time).saturating_duration_since(now));
        Some((gift, [gift.lease.prefers, gift.lease.lasts].map(left)))
    }

    /// Name servers and search domains.
    pub fn names(&self) -> &Names {
        self.held.as_ref().map_or(&self.names, |(gift, _)| &gift.names)
    }

    /// Whether an answer may come.
    pub fn listens(&self) -> bool {
        self.ask.is_some() || self.inform.is_some()
    }

    /// The cable was out: somebody has to say whether all that is good where it is in now. That is asked as at the end of
    /// an address, which a server that has forgotten it answers too (section 18.2.12).
    pub fn replugged(&mut self, now: Instant) {
        self.refresh = now;
        (self.ask, self.offer) = (self.held.as_ref().map(|_| Exchange::new(Kind::Rebind, now)), None);
    }

    /// What is to be asked now, where the routers call for this.
    pub fn tick(&mut self, calls: Calls, now: Instant) -> Vec<Vec<u8>> {
        self.turn(calls, now);
        let mut out = Vec::new();
        if let Some(ask) = self.ask.as_mut().filter(|ask| ask.is_due(now)) {
            let meant = self.offer.as_ref().or(self.held.as_ref().map(|(gift, _)| gift));
            let meant = meant.filter(|_| ask.kind != Kind::Solicit);
            let server = meant.filter(|_| ask.kind != Kind::Rebind).map(|gift| gift.by.as_slice());
            out.push(ask.ask(&self.own, server, meant.map(|gift| gift.lease.own), now));
            self.asked = now;
        }
        if let Some(inform) = self.inform.as_mut().filter(|inform| inform.is_due(now)) {
            out.push(inform.ask(&self.own, None, None, now));
        }
        out
    }

    /// What follows from the time alone.
    fn turn(&mut self, calls: Calls, now: Instant) {
        if self.lease(now).is_some_and(|(_, [_, left])| left == Some(Duration::ZERO)) {
            (self.held, self.ask) = (None, None);
        }
        let is_late = |time: fn(&Lease) -> Duration| {
            self.held.as_ref().is_some_and(|(gift, since)| now >= *since + time(&gift.lease))
        };
        match &self.ask {
            None if is_late(|lease| lease.renew) => self.ask = Some(Exchange::new(Kind::Renew, now)),
            Some(ask) if ask.kind == Kind::Renew && is_late(|lease| lease.rebind) => {
                self.ask = Some(Exchange::new(Kind::Rebind, now));
            }
            // Those who answered first had the time of one question for it.
            Some(ask) if ask.kind == Kind::Solicit && self.offer.is_some() && ask.is_due(now) => {
                self.ask = Some(Exchange::new(Kind::Request, now));
            }
            Some(ask) if ask.kind == Kind::Request && ask.tries >= REQUESTS && ask.is_due(now) => {
                self.avoid = self.offer.take().map(|offer| offer.by);
                self.begin(now);
            }
            _ => {}
        }
        match (&self.held, calls.addresses) {
            (None, true) if self.ask.is_none() => self.begin(now),
            (None, false) => (self.ask, self.offer) = (None, None),
            _ => {}
        }
        // Whoever gives addresses names the servers with them; where nobody does, they are asked for alone.
        let is_in_vain = self.ask.as_ref().is_some_and(|ask| ask.tries >= IN_VAIN);
        let is_called_for = if calls.addresses { is_in_vain } else { calls.names };
        if self.held.is_some() || !is_called_for {
            self.inform = None;
        } else if self.inform.is_none() && now >= self.refresh {
            self.inform = Some(Exchange::new(Kind::Inform, now));
        }
        if calls == Calls::default() {
            self.names = Names::default();
            self.refresh = now;
        }
    }

    fn begin(&mut self, now: Instant) {
        (self.offer, self.ask) = (None, Some(Exchange::new(Kind::Solicit, now)));
    }

    /// Takes an answer, where it is one to what was asked.
    pub fn hear(&mut self, answer: Answer, from: Ipv6Addr, now: Instant) {
        let is_to = |exchange: &&Exchange| exchange.is_answered(&self.own, &answer);
        if self.inform.as_ref().is_some_and(|inform| is_to(&inform)) {
            if answer.kind == Kind::Reply && answer.status == Status::Success {
                (self.names, self.refresh, self.inform) = (answer.names, now + answer.refresh, None);
            }
            return;
        }
        match self.ask.as_ref().filter(is_to).map(|ask| (ask.kind, ask.tries)) {
            Some((Kind::Solicit, tries)) if answer.kind == Kind::Advertise => {
                self.consider(answer, from, tries, now);
            }
            Some((kind, _)) if kind != Kind::Solicit && answer.kind == Kind::Reply => {
                self.settle(kind, answer, from, now);
            }
            _ => {}
        }
    }

    /// Takes the best of the offers that come in the time of the first question, and then the first one (section 18.2.9).
    fn consider(&mut self, answer: Answer, from: Ipv6Addr, tries: u32, now: Instant) {
        let is_shunned = tries == 1 && self.avoid.as_ref() == Some(&answer.by);
        let is_better = self.offer.as_ref().is_none_or(|best| answer.preference > best.preference);
        let Some(offer) = self.gift(answer, from).filter(|_| is_better && !is_shunned) else { return };
        if tries > 1 || offer.preference == AT_ONCE {
            self.ask = Some(Exchange::new(Kind::Request, now));
        }
        self.offer = Some(offer);
    }

    /// Takes what was asked for, or a no (section 18.2.10).
    fn settle(&mut self, kind: Kind, answer: Answer, from: Ipv6Addr, now: Instant) {
        let meant = self.offer.as_ref().or(self.held.as_ref().map(|(gift, _)| gift));
        let is_meant = meant.is_some_and(|gift| gift.by == answer.by);
        if !(is_meant || kind == Kind::Rebind) || answer.status == Status::Failure {
            return;
        }
        let own = self.held.as_ref().map(|(gift, _)| gift.lease.own);
        let is_over = |iaid: &[u8; 4], lease: &Lease| {
            *iaid == self.own.iaid && Some(lease.own) == own && lease.lasts == Some(Duration::ZERO)
        };
        let is_over = answer.given.iter().any(|(iaid, lease)| is_over(iaid, lease));
        if answer.status == Status::NoBinding && kind != Kind::Request {
            // It has forgotten, and is asked for the same anew.
            self.offer = self.held.as_ref().map(|(gift, _)| Gift { by: answer.by, from, ..gift.clone() });
            self.ask = Some(Exchange::new(Kind::Request, now));
            return;
        }
        let is_no = answer.status != Status::Success;
        let by = answer.by.clone();
        if let Some(gift) = self.gift(answer, from) {
            self.held = Some((gift, self.asked));
            (self.ask, self.offer, self.avoid) = (None, None, None);
        } else if is_no || is_over {
            self.avoid = Some(by).filter(|_| kind == Kind::Request);
            self.held = None;
            self.begin(now);
        }
    }

    /// The address among what was given to this interface, rather the one that it has already.
    fn gift(&self, answer: Answer, from: Ipv6Addr) -> Option<Gift> {
        let own = self.held.as_ref().map(|(gift, _)| gift.lease.own);
        let is_good =
            |(iaid, lease): &&([u8; 4], Lease)| *iaid == self.own.iaid && lease.lasts != Some(Duration::ZERO);
        let mut good = answer.given.iter().filter(is_good).filter(|_| answer.status == Status::Success);
        let first = good.clone().next();
        let lease = good.find(|(_, lease)| Some(lease.own) == own).or(first)?.1.clone();
        let Answer { names, by, preference, .. } = answer;
        Some(Gift { lease, from, names, by, preference })
    }
}
