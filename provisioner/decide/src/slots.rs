//! Which machine gets which slot: the same answer for the same question, whoever asks and in whatever order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::life::Offer;

/// What a slot demands of a machine, and what a machine has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Labels that must be equal, such as `tpm: yes` or `profile: nuc-13`.
    pub labels: BTreeMap<String, String>,
    /// Numbers that must not be below, such as `memory-mib: 8192`.
    pub amounts: BTreeMap<String, u64>,
}

impl Needs {
    /// Whether a machine that has `has` meets all of them.
    pub fn met_by(&self, has: &Self) -> bool {
        self.labels.iter().all(|(name, text)| has.labels.get(name) == Some(text))
            && self.amounts.iter().all(|(name, least)| has.amounts.get(name).is_some_and(|n| n >= least))
    }

    /// How many there are: more is more specific.
    pub fn specificity(&self) -> usize {
        self.labels.len() + self.amounts.len()
    }
}

/// A slot of the site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// `worker` or `control-plane`.
    pub role: String,
    /// What it demands of machines that come by role. A record that names the slot overrides them.
    pub needs: Needs,
    /// Which machine holds it, by the store.
    pub holder: Option<String>,
    /// Which machine it is kept for: an active record names it exactly, and that machine has not joined yet.
    pub reserved: Option<String>,
}

/// A machine that wants a slot ([`wants_slot`](crate::wants_slot)) or holds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub machine: String,
    /// The slot its record names.
    pub slot: Option<String>,
    /// Or the roles among which the site picks.
    pub roles: BTreeSet<String>,
    /// What it has.
    pub has: Needs,
}

impl Candidate {
    fn fits(&self, slot: &Slot) -> bool {
        self.slot.is_none() && self.roles.contains(&slot.role) && slot.needs.met_by(&self.has)
    }
}

/// What the site can offer a machine, and the slot's name where there is one.
type Offered<'a> = BTreeMap<&'a str, (Offer, Option<&'a str>)>;

/// What the site can offer each candidate, with the slot's name where there is one.
///
/// Who holds a slot keeps it. A record that names a slot comes next. The rest is filled by role so that as many slots
/// as possible are filled, the most specific first; among equals the first name wins. A slot and a machine are
/// each in at most one offer of [`Offer::Mine`] or [`Offer::Free`].
pub fn assign(slots: &[Slot], candidates: &[Candidate]) -> BTreeMap<String, (Offer, Option<String>)> {
    let mut slots: Vec<&Slot> = slots.iter().collect();
    slots.sort_by_key(|slot| (Reverse(slot.needs.specificity()), slot.name.as_str()));
    let candidates: BTreeMap<&str, &Candidate> = candidates.iter().map(|c| (c.machine.as_str(), c)).collect();

    let mut offers = Offered::new();
    for slot in &slots {
        if let Some(holder) = &slot.holder {
            // Should the store say that one machine holds two, only the first counts as its own.
            offers.entry(holder).or_insert((Offer::Mine, Some(&slot.name)));
        }
    }
    let mut open: Vec<&Slot> = slots.iter().copied().filter(|slot| slot.holder.is_none()).collect();
    for candidate in candidates.values() {
        if let Some(name) = &candidate.slot {
            offers.entry(&candidate.machine).or_insert_with(|| named(name, &slots, &mut open));
        }
    }
    open.retain(|slot| slot.reserved.is_none());
    let rest: Vec<&Candidate> =
        candidates.values().copied().filter(|c| !offers.contains_key(c.machine.as_str())).collect();
    for (machine, slot) in fill(&open, &rest).into_iter().enumerate() {
        let known = slots.iter().any(|slot| rest[machine].roles.contains(&slot.role));
        let none = if known { Offer::Full } else { Offer::NoSuch };
        let offer = slot.map_or((none, None), |slot| (Offer::Free, Some(open[slot].name.as_str())));
        offers.insert(&rest[machine].machine, offer);
    }
    offers.retain(|machine, _| candidates.contains_key(machine));
    let owned = offers
        .into_iter()
        .map(|(machine, (offer, slot))| (machine.to_owned(), (offer, slot.map(str::to_owned))));
    owned.collect()
}

/// The slot that a record names, taken out of `open` if it is there.
fn named<'a>(name: &'a str, slots: &[&Slot], open: &mut Vec<&Slot>) -> (Offer, Option<&'a str>) {
    let offer = match open.iter().position(|slot| slot.name == name) {
        Some(at) => {
            open.remove(at);
            Offer::Free
        }
        None if slots.iter().any(|slot| slot.name == name) => Offer::Taken,
        None => Offer::NoSuch,
    };
    (offer, Some(name))
}

/// Pairs as many slots as possible with a machine each, earlier slots before later ones (Kuhn's augmenting paths).
/// Returns the slot's index for each machine's.
fn fill(slots: &[&Slot], candidates: &[&Candidate]) -> Vec<Option<usize>> {
    let mut holders = vec![None; candidates.len()];
    for slot in 0..slots.len() {
        place(slot, slots, candidates, &mut vec![false; candidates.len()], &mut holders);
    }
    holders
}

/// Finds a machine for `slot`, moving machines of other slots on where that helps. Recurses at most once per machine.
fn place(
    slot: usize,
    slots: &[&Slot],
    candidates: &[&Candidate],
    tried: &mut [bool],
    holders: &mut [Option<usize>],
) -> bool {
    for machine in 0..candidates.len() {
        if tried[machine] || !candidates[machine].fits(slots[slot]) {
            continue;
        }
        tried[machine] = true;
        if holders[machine].is_none_or(|other| place(other, slots, candidates, tried, holders)) {
            holders[machine] = Some(slot);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, role: &str, least_memory: u64) -> Slot {
        let amounts = (least_memory > 0).then(|| ("memory-mib".to_owned(), least_memory));
        let needs = Needs { amounts: amounts.into_iter().collect(), ..Needs::default() };
        Slot { name: name.into(), role: role.into(), needs, ..Slot::default() }
    }

    fn machine(name: &str, roles: &str, memory: u64) -> Candidate {
        let has = Needs { amounts: BTreeMap::from([("memory-mib".to_owned(), memory)]), ..Needs::default() };
        let roles = roles.split_whitespace().map(str::to_owned).collect();
        Candidate { machine: name.into(), roles, has, slot: None }
    }

    fn named(name: &str, slot: &str) -> Candidate {
        Candidate { slot: Some(slot.into()), ..machine(name, "", 0) }
    }

    /// `a=Free/node-1 b=Full`, the same for every order of slots and machines.
    fn offers(slots: &[Slot], machines: &[Candidate]) -> String {
        let text = |slots: &[Slot], machines: &[Candidate]| {
            let one = |(name, (offer, slot)): (String, (Offer, Option<String>))| match slot {
                Some(slot) => format!("{name}={offer:?}/{slot}"),
                None => format!("{name}={offer:?}"),
            };
            assign(slots, machines).into_iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let (mut back_slots, mut back_machines) = (slots.to_vec(), machines.to_vec());
        back_slots.reverse();
        back_machines.reverse();
        assert_eq!(text(slots, machines), text(&back_slots, &back_machines), "order must not matter");
        text(slots, machines)
    }

    #[test]
    fn a_record_that_names_a_slot_goes_before_machines_that_come_by_role() {
        let slots = [slot("n1", "worker", 0), slot("n2", "worker", 0)];
        assert_eq!(offers(&slots, &[machine("a", "worker", 9), named("z", "n1")]), "a=Free/n2 z=Free/n1");
        assert_eq!(offers(&slots, &[named("a", "n1"), named("b", "n1")]), "a=Free/n1 b=Taken/n1");
        assert_eq!(offers(&slots, &[named("a", "n9"), machine("b", "gpu", 9)]), "a=NoSuch/n9 b=NoSuch");
    }

    #[test]
    fn who_holds_a_slot_keeps_it_and_never_gets_a_second() {
        let mut slots = [slot("n1", "worker", 0), slot("n2", "worker", 0), slot("n3", "worker", 0)];
        slots[1].holder = Some("b".into());
        slots[2].holder = Some("b".into());
        let machines = [machine("a", "worker", 9), machine("b", "worker", 9), named("c", "n2")];
        assert_eq!(offers(&slots, &machines), "a=Free/n1 b=Mine/n2 c=Taken/n2");
        assert_eq!(offers(&slots, &[machine("x", "worker", 9), named("b", "n1")]), "b=Mine/n2 x=Free/n1");
    }

    #[test]
    fn the_most_specific_slot_is_filled_first_and_the_first_name_breaks_ties() {
        let slots = [slot("n1", "worker", 0), slot("n2", "worker", 8), slot("n3", "worker", 0)];
        assert_eq!(offers(&slots, &[machine("b", "worker", 9)]), "b=Free/n2");
        assert_eq!(offers(&slots[1..2], &[machine("a", "worker", 4)]), "a=Full", "it is too small");
        assert_eq!(
            offers(&slots, &[machine("b", "worker", 9), machine("a", "worker", 4)]),
            "a=Free/n1 b=Free/n2"
        );
        assert_eq!(
            offers(&slots[..1], &[machine("b", "worker", 9), machine("a", "worker", 4)]),
            "a=Free/n1 b=Full"
        );
    }

    #[test]
    fn a_machine_of_many_roles_does_not_eat_the_place_of_one_with_few() {
        let slots = [slot("cp", "control-plane", 0), slot("w", "worker", 0)];
        let machines = [machine("a", "worker control-plane", 9), machine("b", "control-plane", 9)];
        assert_eq!(offers(&slots, &machines), "a=Free/w b=Free/cp");
    }

    #[test]
    fn a_slot_is_kept_for_the_registered_machine_that_has_not_come_yet() {
        let mut slots = [slot("n1", "worker", 0)];
        slots[0].reserved = Some("z".into());
        assert_eq!(offers(&slots, &[machine("a", "worker", 9)]), "a=Full");
        assert_eq!(offers(&slots, &[machine("a", "worker", 9), named("z", "n1")]), "a=Full z=Free/n1");
    }
}
