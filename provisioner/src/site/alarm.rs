//! What people are told of at once, and HQ by report: each thing once in its time, and no more than can be read.

use std::collections::HashMap;

use decide::Alarm;
use protocol::clock::{DAY, Time};
use protocol::refusal::Refusal;

use super::{Site, report};
use crate::plain;

const HOUR: u64 = 3600;
/// Alarms of the whole site in an hour. What is beyond is counted and told as one: the link to HQ may be two kilobytes
/// a second, and nobody reads a thousand.
const AN_HOUR: u32 = 60;

/// What was told of late.
#[derive(Default)]
pub(crate) struct Alarms {
    /// Until when each, by what it is about and its kind, is not told again.
    quiet: HashMap<(String, &'static str), Time>,
    since: Time,
    told: u32,
    beyond: u64,
}

impl Alarms {
    /// Whether this is to be told now.
    fn admit(&mut self, about: &str, kind: &'static str, seconds: u64, now: Time) -> bool {
        // A clock that was set back must not keep anything quiet for longer than the longest of these times.
        self.quiet.retain(|_, until| now < *until && until.since(now) <= DAY.unsigned_abs());
        let key = (about.to_owned(), kind);
        if self.quiet.contains_key(&key) {
            return false;
        }
        self.quiet.insert(key, now.plus(i64::try_from(seconds).unwrap_or(DAY)));
        if self.told >= AN_HOUR {
            self.beyond += 1;
            return false;
        }
        self.told += 1;
        true
    }

    /// Begins a new hour when the last one is over: how many were not told in it.
    fn turn(&mut self, now: Time) -> Option<u64> {
        if now >= self.since && now.since(self.since) < HOUR {
            return None;
        }
        (self.since, self.told) = (now, 0);
        Some(std::mem::take(&mut self.beyond)).filter(|beyond| *beyond > 0)
    }
}

impl Site {
    /// Tells people of something, at most once an hour for one machine and reason; HQ hears of it by report.
    pub(crate) async fn alarm(&self, alarm: Alarm, about: &str) {
        self.alarm_every(HOUR, alarm, about).await;
    }

    /// The same, at most once in so many seconds.
    pub(crate) async fn alarm_every(&self, seconds: u64, alarm: Alarm, about: &str) {
        self.raise(seconds, alarm.word(), alarm.word(), about).await;
    }

    /// What a machine itself complains of, in a word of its choice: at most once an hour for one machine, whatever the
    /// word. One that the machine does not speak counts as `otherwise`.
    pub(crate) async fn alarm_said(&self, said: &str, otherwise: Alarm, about: &str) {
        let otherwise = otherwise.word();
        let word = Refusal::from_code(said).filter(|refusal| refusal.is_a_machines());
        self.raise(HOUR, otherwise, word.map_or(otherwise, Refusal::code), about).await;
    }

    async fn raise(&self, seconds: u64, kind: &'static str, word: &'static str, about: &str) {
        self.tell_of_more().await;
        let (about, now) = (plain::word(about), self.now());
        if self.memory().alarms.admit(&about, kind, seconds, now) {
            self.tell(word, about).await;
        }
    }

    /// Says how many alarms the last hour had beyond those that were told, once it is over.
    pub(crate) async fn tell_of_more(&self) {
        let now = self.now();
        let beyond = self.memory().alarms.turn(now);
        if let Some(beyond) = beyond {
            self.tell(Alarm::More.word(), format!("and {beyond} more within an hour")).await;
        }
    }

    async fn tell(&self, word: &'static str, about: String) {
        tracing::warn!(machine = about, reason = word, "alarm");
        self.metrics.alarm(word);
        let alarm = protocol::report::Alarm { reason: word.to_owned(), about, at: self.now() };
        let noted = self.store.write(move |tx| report::note(tx, &report::Event::Alarm(alarm)).map(drop));
        if let Err(error) = noted.await {
            tracing::error!(%error, "an alarm could not be saved");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000);

    #[test]
    fn a_site_tells_sixty_an_hour_and_then_how_many_more_there_were() {
        let mut alarms = Alarms::default();
        assert_eq!(alarms.turn(NOW), None);
        let told = (0..1000).filter(|n| alarms.admit(&format!("mc_{n}"), "duplicate", HOUR, NOW)).count();
        assert_eq!(told, 60);
        assert_eq!(alarms.turn(NOW.plus(3599)), None);
        assert_eq!(alarms.turn(NOW.plus(3600)), Some(940));
        assert!(alarms.admit("mc_1", "duplicate", HOUR, NOW.plus(3600)));
        assert_eq!(alarms.quiet.len(), 1, "what may be told again is forgotten");
        assert_eq!(alarms.turn(NOW.plus(7200)), None);
    }

    #[test]
    fn a_thing_is_told_once_in_its_time_whatever_becomes_of_the_clock() {
        let mut alarms = Alarms::default();
        assert!(alarms.admit("mc_1", "duplicate", HOUR, NOW));
        assert!(!alarms.admit("mc_1", "duplicate", HOUR, NOW.plus(3599)));
        assert!(alarms.admit("mc_1", "bundle-behind", HOUR, NOW.plus(3599)));
        assert!(alarms.admit("mc_1", "duplicate", HOUR, NOW.plus(3600)));
        assert!(alarms.admit("mc_1", "duplicate", HOUR, NOW.plus(-1_000_000)), "the clock was far ahead");
        alarms.turn(NOW);
        assert_eq!(alarms.turn(NOW.plus(-1_000_000)), None);
        assert_eq!(alarms.since, NOW.plus(-1_000_000));
    }
}
