//! What the machines of a site are to run: staged on all, tried on one after the other.

use std::time::Duration;

use decide::{Banks, Life, Step};
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::image::{BankReport, Image, Kind};
use protocol::messages::{Act, Order, StatusRequest};

use super::machine::Machine;
use super::store::{Look, META, StoreError};
use super::{Site, content};
use crate::model::Activate;

/// Until when a person at the site lets what was staged be tried.
const ACTIVATE: &str = "activate";
/// How long a person's word on that counts: a stay in a harbour.
pub const HARBOUR: Duration = Duration::from_hours(24);
/// How long a machine may take to try what it was told to: longer than it gives itself.
const TURN: Duration = Duration::from_mins(30);

/// Whose turn it is to try an image.
#[derive(Default)]
pub(crate) struct Turn(Option<(String, Time)>);

impl Turn {
    /// Takes the turn for a machine, unless it is another one's.
    fn take(&mut self, machine: &str, now: Time) -> bool {
        if self.0.as_ref().is_some_and(|(holder, until)| holder != machine && now < *until) {
            return false;
        }
        self.0 = Some((machine.to_owned(), now.plus(seconds(TURN))));
        true
    }

    /// Gives a machine's turn back; whether it was its.
    fn give_back(&mut self, machine: &str) -> bool {
        self.0.take_if(|(holder, _)| holder == machine).is_some()
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Where a machine stands on its way to an image.
pub fn towards(want: &Image, report: &BankReport) -> Banks {
    let is = |root: Option<&Digest>| root == Some(&want.root);
    Banks {
        runs: is(Some(&report.root)),
        staged: is(report.staged.as_ref()),
        trial: report.trial,
        failed: is(report.failed.as_ref().map(|failed| &failed.root)),
    }
}

impl Site {
    /// What a machine is told of images, after what it said of its banks.
    pub(super) async fn update_orders(
        &self,
        machine: &Machine,
        asked: &StatusRequest,
    ) -> Result<Vec<Order>, StoreError> {
        let word = self.word();
        let mut orders = Vec::new();
        let mut busy = false;
        for (kind, report) in &asked.health.banks {
            let Some(want) = word.wanted(*kind) else { continue };
            let may = orders.is_empty() && self.may_try(machine, want)?;
            let step = decide::bank_step(towards(want, report), may);
            let order = |word: &str, act| Order { id: format!("{word}-{}", want.partition()), act };
            let root = want.root;
            match step {
                Step::Stage if content::has(&self.dir, want) => {
                    orders.push(order("stage", Act::Stage { root }));
                }
                Step::Activate if self.memory().turn.take(&machine.id, self.now()) => {
                    orders.push(order("activate", Act::Activate { root }));
                }
                Step::Failed => self.alarm("update-failed", &machine.id).await,
                _ => {}
            }
            busy |= report.trial || step == Step::Activate;
        }
        if !busy && self.memory().turn.give_back(&machine.id) {
            self.call_others(&machine.id)?;
        }
        Ok(orders)
    }

    /// Whether a machine may try an image now: the site's plan or a person allows it, the machine is well, no other one
    /// tries anything, none has dropped this image, and Kubernetes fits the API server.
    fn may_try(&self, machine: &Machine, want: &Image) -> Result<bool, StoreError> {
        let others = self.machines()?;
        let mut others = others.iter().filter(|other| other.id != machine.id);
        let spoilt = |other: &Machine| {
            let bank = other.banks.get(&want.kind);
            let failed =
                bank.and_then(|bank| bank.failed.as_ref()).is_some_and(|failed| failed.root == want.root);
            failed || other.banks.values().any(|bank| bank.trial)
        };
        Ok(machine.life == Life::Member
            && self.may_activate()?
            && self.fits(machine, want)
            && !others.any(spoilt))
    }

    fn fits(&self, machine: &Machine, want: &Image) -> bool {
        if want.kind == Kind::Os {
            return true;
        }
        let mut then = machine.clone();
        then.hw.kubelet.clone_from(&want.version);
        self.sight().skew(&then) == Some(decide::Skew::Fits)
    }

    fn may_activate(&self) -> Result<bool, StoreError> {
        let until: Option<Time> = self.store.look()?.get(META, ACTIVATE)?;
        Ok(self.word().site.system.activate == Activate::Now || until.is_some_and(|until| self.now() < until))
    }

    /// A person at the site lets what was staged be tried; until when.
    pub async fn activate(&self) -> Result<Time, StoreError> {
        let until = self.now().plus(seconds(HARBOUR));
        self.store.write(move |tx| tx.put(META, ACTIVATE, &until)).await?;
        self.call_others("")?;
        Ok(until)
    }

    /// Lets every other machine ask what it is to do.
    fn call_others(&self, machine: &str) -> Result<(), StoreError> {
        for other in self.machines()?.into_iter().filter(|other| other.id != machine) {
            self.call(other.s);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_tries_at_a_time_and_a_silent_one_keeps_nobody_for_ever() {
        let mut turn = Turn::default();
        let now = Time(1_800_000_000);
        assert!(turn.take("mc_1", now) && turn.take("mc_1", now.plus(60)));
        assert!(!turn.take("mc_2", now.plus(60)));
        assert!(!turn.give_back("mc_2"));
        assert!(turn.give_back("mc_1") && turn.take("mc_2", now.plus(60)));
        assert!(turn.take("mc_3", now.plus(60 + seconds(TURN))));
    }
}
