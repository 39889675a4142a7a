//! Machines that were refused of late because what they showed is another one's: the newest, kept in memory only.

use std::net::IpAddr;

use decide::Code;
use protocol::bytes::Digest;
use protocol::clock::{DAY, Time};
use protocol::inventory::Facts;
use protocol::refusal::Refusal;

use super::{Peer, Site};
use crate::plain;

/// How many are remembered. A key costs nothing: whoever makes many drives out only what he and others did before.
const MOST: usize = 64;

/// A key that was refused because what it showed is another machine's.
#[derive(Clone, Debug)]
pub struct Poser {
    /// The key.
    pub s: Digest,
    /// Why it was refused.
    pub code: Code,
    /// The registration whose label or key it showed.
    pub of: String,
    /// Where it spoke from.
    pub source: IpAddr,
    /// Its serial, as it says.
    pub serial: String,
    /// Its maker and model, as it says.
    pub model: String,
    /// When it was refused first.
    pub first: Time,
    /// When it was refused last.
    pub last: Time,
}

/// All of them, in the order of their last refusal.
#[derive(Default)]
pub(crate) struct Posers(Vec<Poser>);

impl Posers {
    fn note(&mut self, mut poser: Poser) {
        if let Some(at) = self.0.iter().position(|known| known.s == poser.s) {
            poser.first = self.0.remove(at).first;
        }
        if self.0.len() >= MOST {
            self.0.remove(0);
        }
        self.0.push(poser);
    }

    /// A key that was let in is nobody else's.
    pub fn forget(&mut self, s: &Digest) {
        self.0.retain(|poser| poser.s != *s);
    }

    fn of_late(&self, now: Time) -> Vec<Poser> {
        let late = |poser: &&Poser| now.since(poser.last) <= DAY.unsigned_abs();
        self.0.iter().filter(late).cloned().collect()
    }
}

/// The reason of a refusal that says: what it shows is another machine's.
pub(super) fn poses(refusal: Refusal) -> Option<Code> {
    match refusal {
        Refusal::AuthMismatch => Some(Code::AuthMismatch),
        Refusal::Duplicate => Some(Code::Duplicate),
        Refusal::MemberAlive => Some(Code::MemberAlive),
        _ => None,
    }
}

impl Site {
    /// Remembers who was refused as somebody else, where that is what was refused.
    pub(crate) fn note_poser(&self, peer: &Peer, refusal: Refusal, of: &str, hw: &Facts) {
        let Some(code) = poses(refusal) else { return };
        let now = self.now();
        self.memory().posers.note(Poser {
            s: peer.s,
            code,
            of: of.to_owned(),
            source: peer.source.ip().to_canonical(),
            serial: plain::word(&hw.dmi.serial),
            model: plain::word(format!("{} {}", hw.dmi.vendor, hw.dmi.product).trim()),
            first: now,
            last: now,
        });
    }

    /// Who was refused as somebody else within the last day.
    pub(crate) fn posers(&self) -> Vec<Poser> {
        let now = self.now();
        self.memory().posers.of_late(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000);

    fn poser(name: &str, at: Time) -> Poser {
        Poser {
            s: Digest::of(name.as_bytes()),
            code: Code::AuthMismatch,
            of: "mc_01".into(),
            source: IpAddr::from([10, 0, 0, 9]),
            serial: String::new(),
            model: String::new(),
            first: at,
            last: at,
        }
    }

    #[test]
    fn the_newest_sixty_four_are_kept_for_a_day_each_once() {
        let mut posers = Posers::default();
        for at in [0, 12] {
            posers.note(poser("thief", NOW.plus(at)));
        }
        let kept = posers.of_late(NOW.plus(20));
        assert_eq!(kept.iter().map(|it| (it.first, it.last)).collect::<Vec<_>>(), [(NOW, NOW.plus(12))]);
        (0..MOST).for_each(|n| posers.note(poser(&n.to_string(), NOW.plus(30))));
        let kept = posers.of_late(NOW.plus(30));
        assert!(kept.len() == MOST && kept.iter().all(|it| it.last == NOW.plus(30)), "the oldest is out");
        posers.forget(&Digest::of(b"7"));
        assert_eq!(posers.of_late(NOW.plus(30)).len(), MOST - 1);
        assert!(posers.of_late(NOW.plus(31 + DAY)).is_empty());
    }
}
