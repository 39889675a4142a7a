//! What has to be true while a machine leads a life. The edge makes it so on every tick.

use crate::life::{Kubelet, Life, Node, Offer, Seen};
use crate::reason::{Code, Deadline, reason};
use crate::step::allowed;

/// Something to be made true. Doing it twice is as good as once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Act {
    /// Save that it holds the slot that was found for it, unless another holds it meanwhile.
    HoldSlot,
    /// Save that it holds no slot.
    ReleaseSlot,
    /// Create, approve and collect the kubelet certificate it asked for (M8).
    SignKubelet,
    /// Put the slot's labels on its Node.
    DressNode,
    /// Tell HQ, in the next report, that it joined.
    ReportJoin,
    /// Unbind its current key and never serve it again; a new one has to be proven.
    RefuseKey,
    /// Deny every write of the Node name last issued to it, if there was one.
    DenyNode,
    /// Delete that Node, by UID.
    DeleteNode,
    /// Tell people, at most once an hour for one machine and code.
    Alarm(Code),
}

/// An act, and the generation of the life that it belongs to: once the life has changed, it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Duty {
    /// What to make true.
    pub act: Act,
    /// [`Seen::generation`] at the time.
    pub generation: u64,
}

/// The duties of `life`, to be done in this order; one that fails stops those after it until the next tick.
pub fn duties(life: Life, seen: &Seen) -> Vec<Duty> {
    // Telling people comes first: it must not depend on a cluster that does not answer.
    let mut acts: Vec<Act> = alarm(life, seen).into_iter().collect();
    match life {
        Life::Discovered | Life::Quarantined | Life::Identified | Life::Standby => give_back(seen, &mut acts),
        Life::Retired(_) | Life::Replaced => {
            leave(seen, &mut acts);
        }
        // What follows needs eyes.
        _ if seen.node == Node::Blind => {}
        Life::Assigned if seen.slot == Offer::Free => acts.push(Act::HoldSlot),
        Life::Joining => join(seen, &mut acts),
        Life::Member => acts.extend([Act::DressNode, Act::ReportJoin]),
        Life::Assigned | Life::Missing => {}
    }
    acts.into_iter().map(|act| Duty { act, generation: seen.generation }).collect()
}

fn alarm(life: Life, seen: &Seen) -> Option<Act> {
    let reason = reason(life, seen);
    let overdue = seen.late && matches!(reason.deadline, Some(Deadline::Within(_)));
    (overdue || reason.code.alarming()).then_some(Act::Alarm(reason.code))
}

/// A slot goes back only when no Node can stand in it.
fn give_back(seen: &Seen, acts: &mut Vec<Act>) {
    if seen.holds_slot() && seen.node == Node::Absent && seen.kubelet != Kubelet::Issued {
        acts.push(Act::ReleaseSlot);
    }
}

/// First denied, then deleted, and only then is the slot free for another. A key that has no certificate is not
/// refused: it may be the new one of a machine that was wiped meanwhile.
fn leave(seen: &Seen, acts: &mut Vec<Act>) {
    if seen.kubelet == Kubelet::Issued {
        acts.push(Act::RefuseKey);
    }
    match seen.node {
        Node::Blind => {}
        Node::NotReady | Node::Ready => acts.extend([Act::DenyNode, Act::DeleteNode]),
        Node::Absent if seen.holds_slot() => {
            acts.extend([Act::DenyNode, Act::ReleaseSlot]);
        }
        Node::Absent => acts.push(Act::DenyNode),
    }
}

fn join(seen: &Seen, acts: &mut Vec<Act>) {
    let asked = seen.kubelet == Kubelet::Asked && seen.slot == Offer::Mine && allowed(seen);
    if asked && seen.node_stands() && !seen.admitted {
        // The Node of its former installation: two Nodes of one machine would share the slot.
        acts.extend([Act::DenyNode, Act::DeleteNode]);
    } else if asked {
        acts.push(Act::SignKubelet);
    }
    if seen.node_stands() && seen.admitted {
        acts.push(Act::DressNode);
    }
}
