//! What the machines of a site are to run: staged on all, tried on one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use decide::{Alarm, BankWhy as Why, Banks, Life, Skew, Step, Terms};
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::image::{BankReport, Failed, Image, Kind};
use protocol::messages::{Act, Order, StatusRequest};
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::store::{Look, META, StoreError};
use super::{Site, images};
use crate::model::Activate;

/// Until when a person at the site lets what was staged be tried.
const ACTIVATE: &str = "activate";
/// How long a person's word on that counts: a stay in a harbour.
pub const HARBOUR: Duration = Duration::from_hours(24);
/// How long a machine may take to try what it was told to: longer than it gives itself.
const TURN: Duration = Duration::from_mins(30);

/// Whose turn it is to try an image, or was last.
#[derive(Default)]
pub(crate) struct Turn(Option<Held>);

struct Held {
    machine: String,
    until: Time,
    /// That it ran out was told already.
    is_over: bool,
}

impl Turn {
    /// Takes the turn for a machine, unless it is another one's. Asking again makes it no longer; and who has not used it in
    /// its time leaves it to the others for as long.
    fn take(&mut self, machine: &str, now: Time) -> bool {
        let turn = seconds(TURN);
        if let Some(held) = &self.0 {
            let is_own = held.machine == machine;
            if now < held.until {
                return is_own;
            }
            if is_own && now < held.until.plus(turn) {
                return false;
            }
        }
        self.0 = Some(Held { machine: machine.to_owned(), until: now.plus(turn), is_over: false });
        true
    }

    /// The other machine whose turn it is.
    fn other(&self, machine: &str, now: Time) -> Option<&str> {
        let held = self.0.as_ref().filter(|held| held.machine != machine && now < held.until)?;
        Some(&held.machine)
    }

    /// Whether a turn has ended that was not used in its time, also where the clock was set back; said once.
    fn run_out(&mut self, now: Time) -> bool {
        let Some(held) = self.0.as_mut().filter(|held| !held.is_over) else { return false };
        held.is_over = now >= held.until || held.until.since(now) > TURN.as_secs();
        if held.is_over {
            held.until = held.until.min(now);
        }
        held.is_over
    }

    /// Gives a machine's turn back; whether it was its.
    fn give_back(&mut self, machine: &str) -> bool {
        self.0.take_if(|held| held.machine == machine).is_some()
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
        refused: is(report.refused.as_ref().map(|refused| &refused.root)),
    }
}

/// What comes next for a machine and the image of a kind that headquarters wants.
pub(super) struct Way {
    pub want: Image,
    pub step: Step,
    /// What is to be known of a wait beyond its sentence: why, in somebody's own words, or which machine.
    pub about: String,
    trial: bool,
}

/// The machines that keep another one from trying an image.
struct Others {
    dropped: Option<String>,
    tried: Option<String>,
    turn: Option<String>,
}

/// What was staged may be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activated {
    /// Until then.
    pub until: Time,
    /// How many machines waited for nothing but this.
    pub held: usize,
}

impl Site {
    /// What a machine is told of images, after what it said of its banks.
    pub(super) async fn update_orders(
        &self,
        machine: &Machine,
        asked: &StatusRequest,
    ) -> Result<Vec<Order>, StoreError> {
        let mut orders = Vec::new();
        let mut busy = false;
        for way in self.ways(machine, &asked.health.banks)? {
            let order = |word: &str, act| Order { id: format!("{word}-{}", way.want.partition()), act };
            let root = way.want.root;
            match way.step {
                Step::Stage => orders.push(order("stage", Act::Stage { root })),
                Step::Activate if self.memory().turn.take(&machine.id, self.now()) => {
                    orders.push(order("activate", Act::Activate { root }));
                }
                Step::Wait(Why::Dropped) => self.alarm(Alarm::UpdateFailed, &machine.id).await,
                _ => {}
            }
            busy |= way.trial || way.step == Step::Activate;
        }
        if !busy && self.memory().turn.give_back(&machine.id) {
            self.call_others(&machine.id)?;
        }
        Ok(orders)
    }

    /// What comes next for each image that is wanted, of a machine whose banks hold this.
    pub(super) fn ways(
        &self,
        machine: &Machine,
        banks: &BTreeMap<Kind, BankReport>,
    ) -> Result<Vec<Way>, StoreError> {
        let word = self.word();
        let mut ways: Vec<Way> = Vec::new();
        for (kind, report) in banks {
            let Some(want) = word.wanted(*kind) else { continue };
            let mut known = towards(want, report);
            // What the machine will find as well, once it holds this bundle.
            let floor = word.images.0.allowed(&want.root).err();
            known.refused |= floor.is_some();
            let others = self.others(machine, want)?;
            let at_it = |way: &Way| matches!(way.step, Step::Stage | Step::Activate);
            let alone =
                !ways.iter().any(at_it) && !banks.iter().any(|(other, report)| other != kind && report.trial);
            let step = decide::bank_step(known, self.terms(machine, want, &others, alone)?);
            let why = |failed: &Option<Failed>| failed.as_ref().map(|failed| failed.why.clone());
            let about = match step {
                Step::Wait(Why::Dropped) => why(&report.failed),
                Step::Wait(Why::Refused) => why(&report.refused).or(floor.map(|floor| floor.to_string())),
                Step::Wait(Why::Spoilt) => others.dropped,
                Step::Wait(Why::Tried) => others.tried,
                Step::Wait(Why::Turn) => others.turn,
                _ => None,
            };
            let (want, about) = (want.clone(), about.unwrap_or_default());
            ways.push(Way { want, step, about, trial: report.trial });
        }
        Ok(ways)
    }

    fn terms(
        &self,
        machine: &Machine,
        want: &Image,
        others: &Others,
        alone: bool,
    ) -> Result<Terms, StoreError> {
        Ok(Terms {
            store: images::holds(&self.dir, want),
            dropped: others.dropped.is_some(),
            skew: self.skew(machine, want),
            member: machine.life == Life::Member,
            released: self.may_activate()?,
            tried: others.tried.is_some(),
            turn: others.turn.is_none(),
            alone,
        })
    }

    /// Which other machines keep one from trying an image. One that was taken out keeps nobody.
    fn others(&self, machine: &Machine, want: &Image) -> Result<Others, StoreError> {
        let gone = |other: &Machine| matches!(other.life, Life::Retired(_) | Life::Replaced);
        let others = self.machines()?;
        let others = || others.iter().filter(|other| other.id != machine.id && !gone(other));
        let dropped = |other: &&Machine| {
            let failed = other.banks.get(&want.kind).and_then(|bank| bank.failed.as_ref());
            failed.is_some_and(|failed| failed.root == want.root)
        };
        // One that died while it tried an image keeps the others no longer than a try takes.
        let is_heard = |other: &Machine| self.now().since(other.heard) < TURN.as_secs();
        let tries = |other: &&Machine| is_heard(other) && other.banks.values().any(|bank| bank.trial);
        let name = |other: &Machine| other.node().unwrap_or_else(|| other.id.clone());
        let turn = self.memory().turn.other(&machine.id, self.now()).map(str::to_owned);
        Ok(Others {
            dropped: others().find(dropped).map(name),
            tried: others().find(tries).map(name),
            turn: turn.map(|id| others().find(|other| other.id == id).map_or(id, name)),
        })
    }

    /// How an image fits the API server; none where that is not known.
    fn skew(&self, machine: &Machine, want: &Image) -> Option<Skew> {
        if want.kind == Kind::Os {
            return Some(Skew::Fits);
        }
        let mut then = machine.clone();
        then.hw.kubelet.clone_from(&want.version);
        self.sight().skew(&then)
    }

    fn may_activate(&self) -> Result<bool, StoreError> {
        let until: Option<Time> = self.store.look()?.get(META, ACTIVATE)?;
        Ok(self.word().site.system.activate == Activate::Now || until.is_some_and(|until| self.now() < until))
    }

    /// A person at the site lets what was staged be tried.
    pub async fn activate(&self) -> Result<Activated, StoreError> {
        let mut held = 0;
        for machine in self.machines()? {
            let ways = self.ways(&machine, &machine.banks)?;
            held += usize::from(ways.iter().any(|way| way.step == Step::Wait(Why::Held)));
        }
        let until = self.now().plus(seconds(HARBOUR));
        self.store.write(move |tx| tx.put(META, ACTIVATE, &until)).await?;
        self.call_others("")?;
        Ok(Activated { until, held })
    }

    /// A turn that was not used in its time is anybody's.
    pub(super) fn end_turn(&self) -> Result<(), StoreError> {
        let is_over = self.memory().turn.run_out(self.now());
        if is_over { self.call_others("") } else { Ok(()) }
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
        let end = now.plus(60 + seconds(TURN));
        assert!(turn.take("mc_2", end.plus(-1)), "it is still its turn");
        assert!(!turn.take("mc_2", end), "asking again makes it no longer");
        assert!(turn.take("mc_3", end));
        assert!(turn.take("mc_3", end) && !turn.take("mc_3", end.plus(seconds(TURN))));
        assert!(turn.take("mc_3", end.plus(2 * seconds(TURN))), "nobody else wanted it");
    }

    #[test]
    fn a_turn_that_was_not_used_runs_out_once_and_names_its_holder_until_then() {
        let (mut turn, now) = (Turn::default(), Time(1_800_000_000));
        assert!(!turn.run_out(now), "there is none");
        assert!(turn.take("mc_1", now));
        assert_eq!((turn.other("mc_1", now), turn.other("mc_2", now)), (None, Some("mc_1")));
        let end = now.plus(seconds(TURN));
        assert!(!turn.run_out(end.plus(-1)));
        assert_eq!(turn.other("mc_2", end), None);
        assert!(turn.run_out(end) && !turn.run_out(end));
        assert!(turn.take("mc_2", end) && turn.run_out(end.plus(-60)), "the clock was set back");
    }
}
