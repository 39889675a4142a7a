//! A plan is tried before it is kept: what is on disk of that, so that a power cut at any moment ends at what worked.

use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// What a machine knows of its plans.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The provisioner was reached by it; none before that.
    kept: Option<Plan>,
    /// Nobody was reached by it yet.
    trial: Option<Plan>,
    /// It was taken back, and why.
    bad: Option<(Plan, String)>,
    /// Hardware address of the port over which the site was reached last.
    pub port: Option<[u8; 6]>,
}

impl Record {
    /// After a start: a trial that a power cut ended is over, and says nothing of its plan.
    pub fn woken(mut self) -> Self {
        self.trial = None;
        self
    }

    /// The plan to go by; `first` is the one for the first contact.
    pub fn plan<'a>(&'a self, first: &'a Plan) -> &'a Plan {
        self.trial.as_ref().or(self.kept.as_ref()).unwrap_or(first)
    }

    /// Whether the provisioner was reached by a plan of headquarters.
    pub fn has_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Takes headquarters' plan in; whether it is to be tried. One that was taken back is not, until it changes.
    pub fn offer(&mut self, plan: Plan, first: &Plan) -> bool {
        if self.bad.as_ref().is_some_and(|(bad, _)| *bad == plan) {
            return false;
        }
        self.bad = None;
        self.trial = (self.kept.as_ref().unwrap_or(first) != &plan).then_some(plan);
        self.trial.is_some()
    }

    /// The provisioner was reached by the one on trial.
    pub fn keep(&mut self) {
        if let Some(plan) = self.trial.take() {
            self.kept = Some(plan);
        }
    }

    /// It was not, in time: the former one is in force again.
    pub fn take_back(&mut self, why: &str) {
        self.bad = self.trial.take().map(|plan| (plan, why.to_owned()));
    }

    /// The former one did not do better: the plan was not at fault, and may be tried again.
    pub fn absolve(&mut self) {
        self.bad = None;
    }

    /// Why headquarters' plan is not in force.
    pub fn why_not(&self) -> Option<&str> {
        self.bad.as_ref().map(|(_, why)| why.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(address: &str) -> Plan {
        Plan { address: Some(address.parse().unwrap()), ..Plan::default() }
    }

    #[test]
    fn a_plan_by_which_the_site_was_reached_is_kept_and_tried_no_second_time() {
        let (first, good) = (Plan::default(), plan("10.7.0.13/24"));
        let mut record = Record::default();
        assert_eq!(record.plan(&first), &first);
        assert!(!record.offer(first.clone(), &first), "nothing changes");
        assert!(record.offer(good.clone(), &first));
        assert_eq!(record.plan(&first), &good);
        record.keep();
        assert!(!record.offer(good.clone(), &first));
        assert_eq!((record.plan(&first), record.why_not()), (&good, None));
    }

    #[test]
    fn a_bad_plan_gives_way_to_the_former_one_and_comes_back_only_when_it_was_changed() {
        let (first, good, bad) = (Plan::default(), plan("10.7.0.13/24"), plan("10.9.0.13/24"));
        let mut record = Record::default();
        record.offer(good.clone(), &first);
        record.keep();
        assert!(record.offer(bad.clone(), &first));
        record.take_back("nobody is there");
        assert_eq!((record.plan(&first), record.why_not()), (&good, Some("nobody is there")));
        assert!(!record.offer(bad.clone(), &first));
        record.keep();
        assert_eq!(record.plan(&first), &good, "there was nothing to keep");
        assert!(record.offer(plan("10.9.0.14/24"), &first), "headquarters has changed it");
        record.take_back("nobody is there");
        assert!(!record.offer(good.clone(), &first), "headquarters has taken it back");
        assert_eq!(record.why_not(), None);
        assert!(record.offer(bad.clone(), &first), "it was changed in between");
        record.take_back("nobody is there");
        record.absolve();
        assert!(record.offer(bad, &first), "nobody was there before either");
    }

    #[test]
    fn a_power_cut_ends_a_trial_at_what_worked_and_the_plan_gets_another_chance() {
        let (first, good, next) = (Plan::default(), plan("10.7.0.13/24"), plan("10.7.0.14/24"));
        let mut record = Record::default();
        record.offer(good.clone(), &first);
        record.keep();
        record.offer(next.clone(), &first);
        let text = protocol::json::to_vec(&record);
        let mut record = protocol::json::parse::<Record>(&text).unwrap().woken();
        assert_eq!((record.plan(&first), record.trial.is_some()), (&good, false));
        assert!(record.offer(next, &first));
    }
}
