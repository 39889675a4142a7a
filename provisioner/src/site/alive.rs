//! Who was heard of late: by a heartbeat, or by a message over TLS with its key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::bytes::Digest;

/// Silence after which a machine is no longer taken for alive.
const SILENCE: Duration = Duration::from_mins(1);

/// Keys that are remembered; a machine gets a new one with each installation, and the silent are forgotten first.
pub(super) const MOST: usize = 4096;

/// When each key was heard last, and when it beat last.
pub struct Alive {
    started: Instant,
    heard: Mutex<HashMap<Digest, (Instant, Option<Instant>)>>,
}

impl Default for Alive {
    fn default() -> Self {
        Self { started: Instant::now(), heard: Mutex::default() }
    }
}

impl Alive {
    /// The holder of this key, which is a machine's, has spoken.
    pub fn heard(&self, s: &Digest) {
        self.note(s, |_| {});
    }

    /// It has sent a heartbeat: it has joined, and runs.
    pub fn beat(&self, s: &Digest) {
        self.note(s, |beat| *beat = Some(Instant::now()));
    }

    fn note(&self, s: &Digest, change: impl FnOnce(&mut Option<Instant>)) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() >= MOST {
            heard.retain(|_, (at, _)| at.elapsed() < SILENCE);
        }
        let entry = heard.entry(*s).or_insert((Instant::now(), None));
        entry.0 = Instant::now();
        change(&mut entry.1);
    }

    /// Whether it was heard within the last minute. Who has just started has heard nobody yet, and takes everybody for
    /// alive.
    pub fn is(&self, s: &Digest) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_young() || heard.get(s).is_some_and(|(at, _)| at.elapsed() < SILENCE)
    }

    /// For how long it has been silent, where it was heard since the start.
    pub fn silence(&self, s: &Digest) -> Option<Duration> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(s).map(|(at, _)| at.elapsed())
    }

    /// Whether its heart beat within the last minute.
    pub fn beats(&self, s: &Digest) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(s).and_then(|(_, beat)| *beat).is_some_and(|at| at.elapsed() < SILENCE)
    }

    /// Whether it has not listened for long enough to take anybody for silent.
    pub fn is_young(&self) -> bool {
        self.started.elapsed() < SILENCE
    }
}
