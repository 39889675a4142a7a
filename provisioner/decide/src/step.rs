//! From one life to the next, by what is seen now.

use std::time::Duration;

use crate::life::{Kubelet, Life, Node, Offer, Proof, Record, Seen, Why, Word};

/// How long a machine may lead `life` for one and the same reason before somebody is told.
pub fn patience(life: Life) -> Duration {
    Duration::from_mins(match life {
        Life::Identified => 1,
        Life::Discovered => 2,
        Life::Member | Life::Missing => 5,
        Life::Standby | Life::Joining | Life::Replaced | Life::Quarantined | Life::Retired(_) => 10,
        Life::Assigned => 30, // it may write a whole system to a slow disk
    })
}

/// The next life: one edge of the diagram, or the same life.
pub fn step(life: Life, seen: &Seen) -> Life {
    if let Some(why) = withdrawn(life, seen) {
        return Life::Retired(why);
    }
    match life {
        Life::Discovered | Life::Identified | Life::Standby | Life::Assigned if suspect(seen) => {
            Life::Quarantined
        }
        Life::Discovered | Life::Quarantined => knock(life, seen),
        Life::Identified | Life::Standby | Life::Assigned => wait_for_slot(life, seen),
        // Blind is not dead: what stands in the cluster is left as it is.
        Life::Joining | Life::Member | Life::Missing | Life::Replaced if seen.node == Node::Blind => life,
        Life::Joining => join(seen),
        Life::Member if seen.node_serves() => life,
        Life::Member => Life::Missing,
        Life::Missing => come_back(seen),
        Life::Replaced if cleared(seen) && seen.kubelet != Kubelet::Issued && seen.node == Node::Absent => {
            Life::Standby
        }
        // HQ took it back. What its leaving began is finished first: its Node is gone.
        Life::Retired(_) if seen.record == Record::Active && seen.node == Node::Absent => Life::Discovered,
        Life::Replaced | Life::Retired(_) => life,
    }
}

/// Steps until nothing moves any more. A new life is never late, whatever the one before it was.
pub fn settle(life: Life, seen: &Seen) -> Life {
    let (mut life, mut seen) = (life, *seen);
    // No chain of steps visits a life twice, so that their number bounds it.
    for _ in Life::ALL {
        let next = step(life, &seen);
        if next == life {
            break;
        }
        life = next;
        seen.late = false;
    }
    life
}

/// Whether to ask [`assign`](crate::assign) for a slot: a machine that is off, or not allowed, must not block one.
pub fn wants_slot(life: Life, seen: &Seen) -> bool {
    let waiting = matches!(life, Life::Discovered | Life::Quarantined | Life::Identified | Life::Standby);
    waiting && allowed(seen) && seen.alive && seen.node != Node::Blind && withdrawn(life, seen).is_none()
}

/// Whose word takes it out, if anybody's.
fn withdrawn(life: Life, seen: &Seen) -> Option<Why> {
    let a_stranger = matches!(life, Life::Discovered | Life::Quarantined | Life::Retired(_));
    match (seen.record, seen.word) {
        _ if life == Life::Retired(Why::Revoked) => Some(Why::Revoked),
        (Record::Lost, _) => Some(Why::Lost),
        (Record::Revoked, _) => Some(Why::Revoked),
        (Record::Rma, _) => Some(Why::Rma),
        (_, Word::Retire) => Some(Why::Person),
        (Record::OtherSite, _) if !a_stranger => Some(Why::Moved),
        _ => None,
    }
}

/// Something is wrong with it, or nobody knows it: people have to look.
pub(crate) fn suspect(seen: &Seen) -> bool {
    let unregistered = seen.proof == Proof::Key && matches!(seen.record, Record::None | Record::Active);
    let wrong = matches!(seen.proof, Proof::Mismatch | Proof::Duplicate | Proof::OldAlive);
    wrong || unregistered || seen.word == Word::No
}

/// It is the machine that HQ registered, here and now, and nobody objects.
pub(crate) fn cleared(seen: &Seen) -> bool {
    seen.proof == Proof::Good
        && seen.record == Record::Active
        && !matches!(seen.word, Word::No | Word::Retire)
}

/// Cleared, and no person is waited for.
pub(crate) fn allowed(seen: &Seen) -> bool {
    cleared(seen) && !matches!(seen.word, Word::Wanted | Word::Code)
}

fn knock(life: Life, seen: &Seen) -> Life {
    if cleared(seen) { Life::Identified } else { life }
}

fn wait_for_slot(life: Life, seen: &Seen) -> Life {
    let blind = seen.node == Node::Blind;
    let asked = matches!(seen.kubelet, Kubelet::Asked | Kubelet::Issued);
    match (life, seen.slot) {
        _ if !cleared(seen) => Life::Discovered,
        _ if !allowed(seen) => Life::Identified,
        (Life::Assigned, Offer::Mine) if asked && !blind => Life::Joining,
        (Life::Assigned, _) if seen.late && !seen.alive && !asked && !blind => Life::Standby,
        (Life::Assigned, Offer::Mine | Offer::Free) => life,
        // Only the slot that it holds already is given to it by a site that cannot see its cluster.
        (_, Offer::Mine) if seen.alive => Life::Assigned,
        _ if blind => life,
        (_, Offer::Free) if seen.alive => Life::Assigned,
        (_, Offer::Mine | Offer::Free) => life,
        (_, Offer::Full | Offer::NoSuch | Offer::Taken | Offer::GivenAway) => Life::Standby,
    }
}

fn join(seen: &Seen) -> Life {
    match seen.slot {
        _ if seen.node_serves() => Life::Member,
        Offer::GivenAway => Life::Replaced,
        // A request that is not answered is our lateness, not the machine's.
        _ if seen.late && seen.kubelet != Kubelet::Asked => Life::Missing,
        _ => Life::Joining,
    }
}

fn come_back(seen: &Seen) -> Life {
    match seen.slot {
        Offer::GivenAway => Life::Replaced,
        _ if seen.node_serves() => Life::Member,
        // The same machine, installed anew: another key, the same slot.
        Offer::Mine if seen.kubelet == Kubelet::Asked && allowed(seen) => Life::Joining,
        _ => Life::Missing,
    }
}
