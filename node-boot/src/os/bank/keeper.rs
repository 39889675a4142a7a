//! One word on the banks for all threads of the agent: on disk before it counts.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use super::{Banks, FILE, Started};
use crate::os::init;
use crate::state::{STATE, State};

/// Whether the operating system that runs is one that is tried.
pub fn is_tried() -> bool {
    let banks = State::open(Path::new(STATE)).and_then(|state| state.load::<Banks>(FILE)).ok().flatten();
    let running = init::running().and_then(|root| root.hash()).ok();
    banks.zip(running).is_some_and(|(mut banks, running)| banks.os.start(&running) == Started::OnTrial)
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
