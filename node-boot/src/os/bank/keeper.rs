//! One word on the banks for all threads of the agent: on disk before it counts.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use protocol::bytes::Digest;

use super::{Banks, FILE, Started};
use crate::os::{disk, init};
use crate::state::{STATE, State};

/// Whether the operating system that runs is one that is tried.
pub fn is_tried() -> bool {
    let banks = State::open(Path::new(STATE)).and_then(|state| state.load::<Banks>(FILE)).ok().flatten();
    let running = init::running().and_then(|root| root.hash());
    running.is_ok_and(|running| is_on_trial(banks, &running, disk::was_started_once()))
}

/// A system that does not get at the state, as a bad one may not, cannot know it from there: the firmware has started it `once`.
fn is_on_trial(banks: Option<Banks>, running: &Digest, once: bool) -> bool {
    banks.map_or(once, |mut banks| banks.os.start(running) == Started::OnTrial)
}

/// The banks of this machine.
pub struct Keeper {
    state: State,
    banks: Mutex<Banks>,
}

impl Keeper {
    /// Those that the machine's state holds; none where it was not installed by us.
    pub fn load(state: &State) -> Result<Option<Self>> {
        let banks: Option<Banks> = state.load(FILE)?;
        Ok(banks.map(|banks| Self { state: state.clone(), banks: Mutex::new(banks) }))
    }

    fn lock(&self) -> MutexGuard<'_, Banks> {
        self.banks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they are.
    pub fn banks(&self) -> Banks {
        self.lock().clone()
    }

    /// Changes them: what cannot be saved did not happen.
    pub fn change<T>(&self, change: impl FnOnce(&mut Banks) -> T) -> Result<T> {
        let mut banks = self.lock();
        let mut next = banks.clone();
        let done = change(&mut next);
        if next != *banks {
            self.state.save(FILE, &next).context("saving which images are in use")?;
            *banks = next;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use protocol::image::{Image, Kind};

    use super::*;

    #[test]
    fn a_system_that_does_not_get_at_the_state_is_tried_where_the_firmware_has_started_it_for_one_start() {
        let image = |kind, root: u8| {
            let (version, root) = ("1".to_owned(), Digest([root; 32]));
            Image { kind, version, root, blocks: 1, size: 8192, program: None }
        };
        let (kept, tried) = (image(Kind::Os, 1), image(Kind::Os, 2));
        let mut banks = Banks::installed(&[kept.clone(), image(Kind::Kubernetes, 3)]).unwrap();
        for once in [false, true] {
            assert_eq!(is_on_trial(None, &tried.root, once), once);
            assert!(!is_on_trial(Some(banks.clone()), &kept.root, once), "the state says what it is");
        }
        banks.os.has_staged(tried.clone());
        assert!(banks.os.begin_trial(&tried.root) && is_on_trial(Some(banks), &tried.root, false));
    }
}
