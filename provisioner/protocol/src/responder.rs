//! A service instance on a cable: what it says to whom, and when (RFC 6762 sections 6 to 8, RFC 6763).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::mdns::{A, AAAA, ANY, Data, PORT, PTR, Query, SRV, TXT, Writer, read_query};

/// RFC 6763 section 9: which services are there at all?
const ALL_SERVICES: &str = "_services._dns-sd._udp.local";
/// RFC 6762 section 10: how long a record that names a host is kept, and any other, seconds.
const HOST_TTL: u32 = 120;
const OTHER_TTL: u32 = 4500;
/// RFC 6762 section 6.7: an answer to a one-shot query is not to be kept.
const ONE_SHOT_TTL: u32 = 10;
/// Between two multicasts of the same records, and between the two announcements.
const PAUSE: Duration = Duration::from_secs(1);
/// An interface with more addresses names these: whatever is said fits into one datagram.
const ADDRESSES: usize = 8;
/// Bytes of a datagram at most, so that no cable has to divide it.
const DATAGRAM: usize = 1400;
/// An answer to one asker has at most so many times the bytes of his question and so many more: nobody is to make us
/// shout at another in whose name he asks.
const TIMES: usize = 4;
const MORE: usize = 300;
/// Answers to single askers in a second: to one of them, and to all. A machine asks once a second at most.
const TO_ONE: u32 = 50;
const TO_ALL: u32 = 500;

/// Who announces itself, and as what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The types of service, `_nodeboot._tcp.local`.
    pub types: Vec<&'static str>,
    /// The name of the instance and of the host. It is made from a key or given by an issuing CA's number, so that
    /// nobody else has it; hence no probing.
    pub instance: String,
    /// Where it listens; 0 where nothing does.
    pub port: u16,
    /// The strings of its TXT record.
    pub texts: Vec<String>,
}

/// A record of a service, by the place of its type in `types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Listed(usize),
    Pointer(usize),
    Port(usize),
    Text(usize),
    Address(IpAddr),
}

/// How long records are to be kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Usual,
    OneShot,
    Forget,
}

impl Service {
    fn full(&self, kind: usize) -> String {
        format!("{}.{}", self.instance, self.types[kind])
    }

    fn host(&self) -> String {
        format!("{}.local", self.instance)
    }

    fn write(&self, out: &mut Writer, record: Record, keep: Keep) {
        let ttl = |usual: u32| match keep {
            Keep::Usual => usual,
            Keep::OneShot => ONE_SHOT_TTL,
            Keep::Forget => 0,
        };
        // A one-shot asker would take the bit for a part of the class.
        let own = keep != Keep::OneShot;
        match record {
            Record::Listed(kind) => {
                out.record(ALL_SERVICES, PTR, false, ttl(OTHER_TTL), &Data::Name(self.types[kind]));
            }
            Record::Pointer(kind) => {
                out.record(self.types[kind], PTR, false, ttl(OTHER_TTL), &Data::Name(&self.full(kind)));
            }
            Record::Port(kind) => {
                let data = Data::Service(self.port, &self.host());
                out.record(&self.full(kind), SRV, own, ttl(HOST_TTL), &data);
            }
            Record::Text(kind) => {
                out.record(&self.full(kind), TXT, own, ttl(OTHER_TTL), &Data::Texts(&self.texts));
            }
            Record::Address(ip) => {
                let kind = if ip.is_ipv4() { A } else { AAAA };
                out.record(&self.host(), kind, own, ttl(HOST_TTL), &Data::Address(ip));
            }
        }
    }

    /// Everything there is to say: announcement, answer to everybody, or farewell.
    fn whole(&self, addresses: &[IpAddr], keep: Keep) -> Vec<u8> {
        let kinds = 0..self.types.len();
        let mut records: Vec<_> =
            kinds.flat_map(|kind| [Record::Pointer(kind), Record::Port(kind), Record::Text(kind)]).collect();
        records.extend(addresses.iter().copied().map(Record::Address));
        let count = u16::try_from(records.len()).unwrap_or(0);
        let mut out = Writer::new(0, 0x8400, [0, count, 0, 0]);
        for record in records {
            self.write(&mut out, record, keep);
        }
        out.done()
    }

    /// The records that the questions ask for, and those that the asker would ask for next.
    fn wanted(&self, query: &Query, addresses: &[IpAddr]) -> (Vec<Record>, Vec<Record>) {
        let (mut answers, mut more) = (Vec::new(), Vec::new());
        let hosts = || addresses.iter().copied().map(Record::Address);
        for question in &query.questions {
            let is = |name: &str| question.name.eq_ignore_ascii_case(name);
            let wants = |kind: u16| question.kind == kind || question.kind == ANY;
            for kind in 0..self.types.len() {
                if is(ALL_SERVICES) && wants(PTR) {
                    answers.push(Record::Listed(kind));
                }
                if is(self.types[kind]) && wants(PTR) && !self.known(query, kind) {
                    answers.push(Record::Pointer(kind));
                    more.extend([Record::Port(kind), Record::Text(kind)]);
                    more.extend(hosts());
                }
                if is(&self.full(kind)) {
                    answers.extend(wants(SRV).then_some(Record::Port(kind)));
                    answers.extend(wants(TXT).then_some(Record::Text(kind)));
                    more.extend(hosts().filter(|_| wants(SRV)));
                }
            }
            if is(&self.host()) {
                answers.extend(
                    addresses
                        .iter()
                        .filter(|ip| wants(if ip.is_ipv4() { A } else { AAAA }))
                        .copied()
                        .map(Record::Address),
                );
            }
        }
        let mut seen: Vec<Record> = Vec::new();
        let mut new = |record: &Record| {
            let new = !seen.contains(record);
            seen.push(*record);
            new
        };
        answers.retain(&mut new);
        more.retain(&mut new);
        (answers, more)
    }

    /// RFC 6762 section 7.1: known, and for at least half of its life to come.
    fn known(&self, query: &Query, kind: usize) -> bool {
        let full = self.full(kind);
        query.known.iter().any(|(name, ttl)| name.eq_ignore_ascii_case(&full) && *ttl >= OTHER_TTL / 2)
    }

    /// The answer to one asker: one-shot, with his first question repeated, or to somebody who will keep it. What he
    /// would ask for next is left out as far as it does not fit into `room` bytes; an answer that does not is none.
    fn answer(&self, query: &Query, addresses: &[IpAddr], keep: Keep, room: usize) -> Option<Vec<u8>> {
        let (answers, mut more) = self.wanted(query, addresses);
        if answers.is_empty() {
            return None;
        }
        let repeated = query.questions.first().filter(|_| keep == Keep::OneShot);
        let count = |number: usize| u16::try_from(number).unwrap_or(0);
        let id = if keep == Keep::OneShot { query.id } else { 0 };
        loop {
            let counts = [count(repeated.iter().count()), count(answers.len()), 0, count(more.len())];
            let mut out = Writer::new(id, 0x8400, counts);
            if let Some(question) = repeated {
                out.question(question);
            }
            answers.iter().chain(&more).for_each(|record| self.write(&mut out, *record, keep));
            let out = out.done();
            if out.len() <= room {
                return Some(out);
            }
            more.pop()?;
        }
    }

    /// A delay that is the instance's own, so that forty machines do not answer one question at once: 20 to 120 ms.
    fn delay(&self) -> Duration {
        let sum =
            self.instance.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Duration::from_millis(20 + sum % 100)
    }
}

/// An address of ours with the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    /// The address.
    pub ip: IpAddr,
    /// The length of its prefix, bits.
    pub prefix: u8,
}

impl Net {
    /// Whether `other` is on the link by this address.
    fn holds(&self, other: IpAddr) -> bool {
        match (self.ip, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let shift = 32 - u32::from(self.prefix).min(32);
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or(0) == 0 && self.prefix > 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let shift = 128 - u32::from(self.prefix).min(128);
                (own.to_bits() ^ other.to_bits()).checked_shr(shift).unwrap_or(0) == 0 && self.prefix > 0
            }
            _ => false,
        }
    }
}

/// One interface and kind of address (IPv4 or IPv6), as far as it matters who was told what and when.
#[derive(Clone, Debug)]
pub struct Cable {
    nets: Vec<Net>,
    announcements: u8,
    due: Option<Instant>,
    last: Option<Instant>,
    answered: Answered,
}

/// Who was answered alone within this second, and how often.
#[derive(Clone, Debug, Default)]
struct Answered {
    since: Option<Instant>,
    all: u32,
    each: HashMap<IpAddr, u32>,
}

impl Answered {
    fn admit(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= PAUSE) {
            *self = Self { since: Some(now), ..Self::default() };
        }
        if self.all >= TO_ALL {
            return false;
        }
        let own = self.each.entry(source).or_insert(0);
        if *own >= TO_ONE {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }
}

impl Cable {
    /// A cable on which we have these addresses, of both kinds. Everybody on it is to be told.
    pub fn new(nets: Vec<Net>, now: Instant) -> Self {
        let mut cable = Self { nets, announcements: 0, due: None, last: None, answered: Answered::default() };
        cable.changed(now);
        cable
    }

    /// The addresses it was made with.
    pub fn nets(&self) -> &[Net] {
        &self.nets
    }

    /// There is news: it is announced now and once more a second later (RFC 6762 section 8.3).
    pub fn changed(&mut self, now: Instant) {
        self.announcements = 2;
        self.speak_at(now);
    }

    fn speak_at(&mut self, wish: Instant) {
        let free = self.last.map_or(wish, |last| wish.max(last + PAUSE));
        self.due = Some(self.due.map_or(free, |due| due.min(free)));
    }

    /// A datagram came in. Who asks alone gets the answer that is returned; who asks before everybody is answered
    /// before everybody, in a moment. Only those on the cable are answered: nobody can send us at a stranger.
    pub fn heard(
        &mut self,
        service: &Service,
        datagram: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Option<Vec<u8>> {
        if !self.is_near(source.ip()) {
            return None;
        }
        let query = read_query(datagram)?;
        let addresses = self.addresses();
        let keep = if source.port() == PORT { Keep::Usual } else { Keep::OneShot };
        let alone = keep == Keep::OneShot || query.questions.iter().all(|question| question.unicast);
        if alone {
            let room = DATAGRAM.min(TIMES * datagram.len() + MORE);
            let answer = service.answer(&query, &addresses, keep, room)?;
            return self.answered.admit(source.ip(), now).then_some(answer);
        }
        if service.wanted(&query, &addresses).0.is_empty() {
            return None;
        }
        self.speak_at(now + service.delay());
        None
    }

    fn is_near(&self, source: IpAddr) -> bool {
        let link_local = match source {
            IpAddr::V4(four) => four.is_link_local(),
            IpAddr::V6(six) => six.is_unicast_link_local(),
        };
        link_local || self.nets.iter().any(|net| net.holds(source))
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.nets.iter().take(ADDRESSES).map(|net| net.ip).collect()
    }

    /// When something is to be said to everybody.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be said to everybody now, if anything.
    pub fn speak(&mut self, service: &Service, now: Instant) -> Option<Vec<u8>> {
        self.due.filter(|due| *due <= now)?;
        self.last = Some(now);
        self.announcements = self.announcements.saturating_sub(1);
        self.due = (self.announcements > 0).then(|| now + PAUSE);
        Some(service.whole(&self.addresses(), Keep::Usual))
    }

    /// The last word: everybody is to forget us (RFC 6762 section 10.1).
    pub fn farewell(&self, service: &Service) -> Vec<u8> {
        service.whole(&self.addresses(), Keep::Forget)
    }
}

#[cfg(test)]
mod tests;
