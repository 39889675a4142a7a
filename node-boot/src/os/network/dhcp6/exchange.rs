//! One question that is asked again and again until it is answered (RFC 8415 section 15).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::super::dhcp::client::number;
use super::{Answer, Kind, Own, Question};

/// Asked a first time after a pause of at most so long, since all machines of a site come back at once after a power cut.
const DELAY: Duration = Duration::from_secs(1);

/// A question, and when it is asked again.
#[derive(Debug)]
pub struct Exchange {
    /// What is asked.
    pub kind: Kind,
    /// How often it was.
    pub tries: u32,
    id: [u8; 3],
    begun: Instant,
    next: Instant,
    pause: Duration,
}

impl Exchange {
    /// One that begins now.
    pub fn new(kind: Kind, now: Instant) -> Self {
        let [id @ .., chance] = number().to_ne_bytes();
        let is_first = matches!(kind, Kind::Solicit | Kind::Inform);
        let next = if is_first { now + DELAY * chance.into() / 256 } else { now };
        Self { kind, tries: 0, id, begun: next, next, pause: Duration::ZERO }
    }

    /// Whether it is to be asked now, for the first time or anew.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// It is asked now: of this server, or of everybody; for this address.
    pub fn ask(
        &mut self,
        own: &Own,
        server: Option<&[u8]>,
        wanted: Option<Ipv6Addr>,
        now: Instant,
    ) -> Vec<u8> {
        if self.tries == 0 {
            self.begun = now;
        }
        self.pause = pause(self.kind, self.pause);
        (self.next, self.tries) = (now + self.pause, self.tries.saturating_add(1));
        let since = now.saturating_duration_since(self.begun).as_millis() / 10;
        let since = u16::try_from(since).unwrap_or(u16::MAX);
        Question { kind: self.kind, id: self.id, since, server, wanted }.bytes(own)
    }

    /// Whether this is an answer to it.
    pub fn is_answered(&self, own: &Own, answer: &Answer) -> bool {
        self.tries > 0 && answer.id == self.id && answer.client == own.duid
    }
}

/// The pause after this one: about twice as long, by chance up to a tenth more or less, up to the longest (section 7.6).
fn pause(kind: Kind, before: Duration) -> Duration {
    let (first, longest) = match kind {
        Kind::Request => (1, 30),
        Kind::Renew | Kind::Rebind => (10, 600),
        _ => (1, 3600),
    };
    let (first, longest) = (Duration::from_secs(first), Duration::from_secs(longest));
    let next = match before {
        // Whoever offers something has the whole of it (section 18.2.1).
        Duration::ZERO if kind == Kind::Solicit => by_chance(first, 1001, 1100),
        Duration::ZERO => by_chance(first, 900, 1100),
        _ => by_chance(before, 1900, 2100),
    };
    if next > longest { by_chance(longest, 900, 1100) } else { next }
}

/// So many thousandths of it, by chance.
fn by_chance(time: Duration, least: u32, most: u32) -> Duration {
    time * (least + number() % (most - least + 1)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_by_chance_and_end_at_the_longest() {
        for (kind, first, longest) in
            [(Kind::Solicit, 1, 3600), (Kind::Request, 1, 30), (Kind::Renew, 10, 600)]
        {
            let (mut before, first) = (Duration::ZERO, Duration::from_secs(first));
            for _ in 0..40 {
                let next = pause(kind, before);
                let least =
                    if before.is_zero() { first } else { (before * 2).min(Duration::from_secs(longest)) };
                assert!(next >= least * 9 / 10 && next <= least * 11 / 10, "{kind:?}: {before:?}, {next:?}");
                before = next;
            }
            assert!(before >= Duration::from_secs(longest) * 9 / 10);
        }
        assert!((0..99).all(|_| pause(Kind::Solicit, Duration::ZERO) >= Duration::from_secs(1)));
    }
}
