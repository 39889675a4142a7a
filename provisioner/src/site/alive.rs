//! Who was heard of late: by a heartbeat, or by a message over TLS with its key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::bytes::Digest;

/// Silence after which a machine is no longer taken for alive.
const SILENCE: Duration = Duration::from_mins(1);

/// Keys that are remembered; a machine gets a new one with each installation, and the silent are forgotten first.
pub(super) const MOST: usize = 4096;

/// When each key was heard last.
pub struct Alive {
    started: Instant,
    heard: Mutex<HashMap<Digest, Instant>>,
}

impl Default for Alive {
    fn default() -> Self {
        Self { started: Instant::now(), heard: Mutex::default() }
    }
}

impl Alive {
    /// The holder of this key, which is a machine's, has spoken.
    pub fn heard(&self, s: &Digest) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.len() >= MOST {
            heard.retain(|_, at| at.elapsed() < SILENCE);
        }
        heard.insert(*s, Instant::now());
    }

    /// Whether it was heard within the last minute. Who has just started has heard nobody yet, and takes everybody for
    /// alive.
    pub fn is(&self, s: &Digest) -> bool {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.started.elapsed() < SILENCE || heard.get(s).is_some_and(|at| at.elapsed() < SILENCE)
    }
}
