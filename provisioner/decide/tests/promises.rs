//! The safety of a site, promise by promise, tried on every life in every world.

mod domain;

use std::collections::{BTreeMap, BTreeSet};

use decide::{Act, Code, Deadline, Kubelet, Life, Node, Offer, Proof, Reason, Record, Seen, Why, Word};
use decide::{duties, reason, settle, step, wants_slot};
use domain::everything;

/// One case and what `decide` makes of it.
struct Case {
    life: Life,
    seen: Seen,
    next: Life,
    acts: Vec<Act>,
    reason: Reason,
}

impl Case {
    fn of(life: Life, seen: &Seen) -> Self {
        let acts = duties(life, seen).into_iter().map(|duty| duty.act).collect();
        Self { life, seen: *seen, next: step(life, seen), acts, reason: reason(life, seen) }
    }

    fn enters(&self, life: Life) -> bool {
        self.next == life && self.life != life
    }

    fn does(&self, act: Act) -> bool {
        self.acts.contains(&act)
    }

    /// Is told somebody.
    fn alarms(&self) -> bool {
        self.does(Act::Alarm(self.reason.code))
    }

    /// HQ, or a person at the site, says that it must not be here.
    fn out(&self) -> bool {
        let gone = matches!(self.seen.record, Record::Lost | Record::Revoked | Record::Rma);
        gone || self.seen.word == Word::Retire || self.seen.record == Record::OtherSite
    }

    fn yes_but_for_a_person(&self) -> bool {
        self.seen.proof == Proof::Good && self.seen.record == Record::Active
    }

    fn yes(&self) -> bool {
        self.yes_but_for_a_person() && matches!(self.seen.word, Word::NotNeeded | Word::Yes | Word::Voice)
    }

    fn serves(&self) -> bool {
        self.seen.node == Node::Ready && self.seen.admitted
    }
}

/// A sentence that is true in every case.
type Promise = (&'static str, fn(&Case) -> bool);

const ADMISSION: &[Promise] = &[
    ("nobody is Joining without proof, HQ's word, a person's yes where one is wanted, and a slot", |c| {
        let asked = matches!(c.seen.kubelet, Kubelet::Asked | Kubelet::Issued);
        !c.enters(Life::Joining) || c.yes() && c.seen.slot == Offer::Mine && asked
    }),
    ("a certificate is signed only for one who is Joining with all of that", |c| {
        let may = c.life == Life::Joining && c.yes() && c.seen.slot == Offer::Mine;
        !c.does(Act::SignKubelet) || may && c.seen.kubelet == Kubelet::Asked
    }),
    ("a slot is given only to who may have it", |c| !c.enters(Life::Assigned) || c.yes() && c.seen.alive),
    ("a slot is never given to a second machine", |c| {
        let free = matches!(c.seen.slot, Offer::Free | Offer::Mine);
        (!c.enters(Life::Assigned) || free) && (!c.does(Act::HoldSlot) || c.seen.slot == Offer::Free)
    }),
    ("only a Ready Node with the admitted key is Member", |c| {
        c.next != Life::Member || c.serves() || c.life == Life::Member && c.seen.node == Node::Blind
    }),
    ("a slot is looked for exactly for those who would take it", |c| {
        let waits = !matches!(c.life, Life::Assigned | Life::Joining | Life::Member | Life::Missing);
        let offered = Seen { slot: Offer::Free, late: false, ..c.seen };
        let takes = waits && c.life != Life::Replaced && settle(c.life, &offered) == Life::Assigned;
        wants_slot(c.life, &c.seen) == (takes && !matches!(c.life, Life::Retired(_)))
    }),
    ("a silent machine does not keep a slot that it never used", |c| {
        let idle = matches!(c.seen.kubelet, Kubelet::None | Kubelet::TooNew | Kubelet::TooOld);
        let silent = c.seen.late && !c.seen.alive && c.seen.node != Node::Blind;
        c.next != Life::Assigned || !silent || !idle
    }),
    ("a slot that is given away is not taken back, and who lost it stands by only with a new key", |c| {
        let lost = c.life == Life::Missing && c.seen.slot == Offer::GivenAway && c.seen.node != Node::Blind;
        let anew =
            c.seen.kubelet != Kubelet::Issued && c.seen.node == Node::Absent && c.yes_but_for_a_person();
        (!lost || c.out() || c.next == Life::Replaced)
            && (c.life != Life::Replaced || !c.enters(Life::Standby) || anew)
    }),
    ("nobody skips a life", |c| match c.next {
        next if next == c.life => true,
        Life::Identified => !matches!(c.life, Life::Joining | Life::Member | Life::Missing | Life::Replaced),
        Life::Assigned => matches!(c.life, Life::Identified | Life::Standby),
        Life::Joining => matches!(c.life, Life::Assigned | Life::Missing),
        Life::Member => matches!(c.life, Life::Joining | Life::Missing),
        Life::Missing => c.life == Life::Member && !c.serves() || c.life == Life::Joining && c.seen.late,
        Life::Replaced => matches!(c.life, Life::Joining | Life::Missing),
        Life::Discovered | Life::Standby | Life::Quarantined | Life::Retired(_) => true,
    }),
];

const STRANGERS: &[Promise] = &[
    ("an unproven word gets nobody further than quarantine", |c| {
        let stranger = matches!(c.life, Life::Discovered | Life::Quarantined) && c.seen.proof != Proof::Good;
        !stranger || matches!(c.next, Life::Discovered | Life::Quarantined | Life::Retired(_))
    }),
    ("an unproven word changes nothing but an alarm for who is in the cluster, was, or is locked out", |c| {
        let bare = Seen { proof: Proof::None, ..c.seen };
        let unproven = c.seen.proof != Proof::Good;
        let loud = |acts: Vec<Act>| acts.into_iter().filter(|act| !matches!(act, Act::Alarm(_))).collect();
        let calm: Vec<Act> = loud(duties(c.life, &bare).into_iter().map(|duty| duty.act).collect());
        let standing = !matches!(
            c.life,
            Life::Discovered | Life::Quarantined | Life::Identified | Life::Standby | Life::Assigned
        );
        !unproven || !standing || step(c.life, &bare) == c.next && calm == loud(c.acts.clone())
    }),
    ("a stranger causes nothing but an alarm", |c| {
        let stranger = matches!(c.life, Life::Discovered | Life::Quarantined);
        let holds = matches!(c.seen.slot, Offer::Mine | Offer::GivenAway);
        !stranger || holds || c.acts.iter().all(|act| matches!(act, Act::Alarm(_)))
    }),
    ("duplicates and mismatches that hold no Node go to quarantine, with an alarm", |c| {
        let wrong = matches!(c.seen.proof, Proof::Mismatch | Proof::Duplicate | Proof::OldAlive);
        let free = !matches!(
            c.life,
            Life::Joining | Life::Member | Life::Missing | Life::Replaced | Life::Retired(_)
        );
        let here = matches!(c.seen.record, Record::None | Record::Active) && c.seen.word != Word::No;
        !wrong || !free || !here || c.out() || c.next == Life::Quarantined && c.alarms()
    }),
    ("quarantine ends only by a good proof under HQ's record, and never against a person's no", |c| {
        let cleared =
            c.seen.proof == Proof::Good && c.seen.record == Record::Active && c.seen.word != Word::No;
        c.life != Life::Quarantined
            || matches!(c.next, Life::Quarantined | Life::Retired(_))
            || c.next == Life::Identified && cleared
    }),
];

const MEMBERS: &[Promise] = &[
    ("nothing but HQ's or a person's word touches a live member", |c| {
        let live = c.life == Life::Member && c.serves() && !c.out();
        let touches = [Act::RefuseKey, Act::DenyNode, Act::DeleteNode, Act::ReleaseSlot];
        !live || c.next == Life::Member && !touches.iter().any(|act| c.does(*act))
    }),
    ("a Ready Node with the admitted key is removed only from who is out or replaced", |c| {
        let leaving = matches!(c.life, Life::Retired(_) | Life::Replaced);
        !c.serves() || leaving || !c.does(Act::DenyNode) && !c.does(Act::DeleteNode)
    }),
    ("blind gives nothing new and takes nothing away", |c| {
        let within = |life| matches!(life, Life::Discovered | Life::Identified | Life::Quarantined);
        let kept = c.next == Life::Assigned && c.seen.slot == Offer::Mine;
        c.seen.node != Node::Blind
            || c.next == c.life
            || within(c.next)
            || kept
            || c.out() && matches!(c.next, Life::Retired(_))
    }),
    ("blind touches nothing in the cluster, nor any slot", |c| {
        let quiet = |act: &Act| matches!(act, Act::Alarm(_) | Act::RefuseKey);
        c.seen.node != Node::Blind || c.acts.iter().all(quiet)
    }),
    ("only words retire a machine, and a record of another site only one that was admitted here", |c| {
        let stranger = matches!(c.life, Life::Discovered | Life::Quarantined);
        let elsewhere = stranger && c.next == Life::Retired(Why::Moved);
        matches!(c.life, Life::Retired(_)) || !matches!(c.next, Life::Retired(_)) || c.out() && !elsewhere
    }),
    ("lost, revoked and rma always end in Retired, at once", |c| {
        let gone = matches!(c.seen.record, Record::Lost | Record::Revoked | Record::Rma);
        !gone || matches!(c.next, Life::Retired(_))
    }),
    ("revoked is for ever", |c| {
        let revoked = c.life == Life::Retired(Why::Revoked) || c.seen.record == Record::Revoked;
        !revoked || c.next == Life::Retired(Why::Revoked)
    }),
    ("who comes back from Retired begins anew, by HQ's word, when its Node is gone", |c| {
        let back = matches!(c.life, Life::Retired(_)) && !matches!(c.next, Life::Retired(_));
        let word = c.seen.record == Record::Active && c.seen.word != Word::Retire;
        !back || c.next == Life::Discovered && word && c.seen.node == Node::Absent
    }),
    ("who is out is refused, denied, deleted, and its slot is free only then", |c| {
        let leaving = matches!(c.life, Life::Retired(_) | Life::Replaced);
        let held = matches!(c.seen.slot, Offer::Mine | Offer::GivenAway);
        let cluster = match c.seen.node {
            Node::Blind => true,
            Node::NotReady | Node::Ready => c.does(Act::DenyNode) && c.does(Act::DeleteNode),
            Node::Absent => c.does(Act::DenyNode) && c.does(Act::ReleaseSlot) == held,
        };
        !leaving || cluster && c.does(Act::RefuseKey) == (c.seen.kubelet == Kubelet::Issued)
    }),
    ("a key that is refused had a certificate, and is of one who is out or replaced", |c| {
        let leaving = matches!(c.life, Life::Retired(_) | Life::Replaced);
        !c.does(Act::RefuseKey) || leaving && c.seen.kubelet == Kubelet::Issued
    }),
    ("a Node is deleted only after its name is denied", |c| {
        let at = |wanted| c.acts.iter().position(|act| *act == wanted);
        at(Act::DeleteNode).is_none()
            || at(Act::DenyNode).is_some_and(|deny| Some(deny) < at(Act::DeleteNode))
    }),
    ("a slot is released only where no Node stands, and by nobody who has a right to it", |c| {
        let entitled = matches!(c.life, Life::Assigned | Life::Joining | Life::Member | Life::Missing);
        !c.does(Act::ReleaseSlot) || c.seen.node == Node::Absent && !entitled
    }),
    ("a machine never gets a second Node while its first one stands", |c| {
        let former = matches!(c.seen.node, Node::NotReady | Node::Ready) && !c.seen.admitted;
        !c.does(Act::SignKubelet) || !former
    }),
];

const WAITS: &[Promise] = &[
    ("every wait has a deadline", |c| {
        let done = matches!(c.reason.code, Code::Member | Code::Revoked);
        c.reason.deadline.is_some() || done
    }),
    ("a deadline that passes moves the machine or tells people", |c| {
        let over = c.seen.late && matches!(c.reason.deadline, Some(Deadline::Within(_)));
        !over || c.next != c.life || c.alarms()
    }),
    ("a reason does not depend on how long it has lasted", |c| {
        reason(c.life, &Seen { late: !c.seen.late, ..c.seen }) == c.reason
    }),
    ("what holds a machine back is said: nobody who settled is still being decided on", |c| {
        c.next != c.life || c.reason.code != Code::Deciding
    }),
    ("under the same facts a machine comes to rest, and stays", |c| {
        let rest = (0..Life::ALL.len()).fold(c.life, |life, _| step(life, &c.seen));
        let settled = settle(c.life, &c.seen);
        let calm = Seen { late: c.seen.late && settled == c.life, ..c.seen };
        step(rest, &c.seen) == rest && settle(settled, &calm) == settled
    }),
    ("a new life is never late", |c| {
        !c.enters(Life::Joining) || matches!(settle(c.life, &c.seen), Life::Joining | Life::Member)
    }),
    ("no duty stands twice in the list, and each carries the generation of the life", |c| {
        let once: BTreeSet<&Act> = c.acts.iter().collect();
        once.len() == c.acts.len() && duties(c.life, &c.seen).iter().all(|duty| duty.generation == 7)
    }),
];

#[test]
fn every_promise_holds_in_every_case() {
    let mut broken: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut cases = 0;
    everything(|life, seen| {
        let case = Case::of(life, seen);
        cases += 1;
        for (promise, holds) in [ADMISSION, STRANGERS, MEMBERS, WAITS].into_iter().flatten() {
            if !holds(&case) {
                let first = || {
                    (0, format!("{life:?} -> {:?}, {:?}, {:?}, {seen:?}", case.next, case.acts, case.reason))
                };
                broken.entry(promise).or_insert_with(first).0 += 1;
            }
        }
    });
    assert_eq!(cases, 14 * 7 * 7 * 7 * 6 * 5 * 4 * 8);
    let report = |(promise, (times, first)): (&&str, &(usize, String))| {
        format!("{promise}\n  {times} times, first {first}")
    };
    assert!(
        broken.is_empty(),
        "broken promises:\n{}",
        broken.iter().map(report).collect::<Vec<_>>().join("\n")
    );
}

/// All edges that the facts which `only` lets through can cause.
fn edges(only: impl Fn(&Seen) -> bool) -> BTreeSet<(Life, Life)> {
    let mut edges = BTreeSet::new();
    everything(|life, seen| {
        if only(seen) {
            edges.insert((life, step(life, seen)));
        }
    });
    edges.retain(|(from, to)| from != to);
    edges
}

fn reachable(from: Life, edges: &BTreeSet<(Life, Life)>) -> BTreeSet<Life> {
    let mut found = BTreeSet::from([from]);
    for _ in Life::ALL {
        let more: Vec<Life> = edges.iter().filter(|(a, _)| found.contains(a)).map(|(_, b)| *b).collect();
        found.extend(more);
    }
    found
}

#[test]
fn from_every_life_but_revoked_there_is_a_way_to_member() {
    let edges = edges(|_| true);
    for &life in Life::ALL {
        let way = reachable(life, &edges).contains(&Life::Member);
        assert_eq!(way, life != Life::Retired(Why::Revoked), "{life:?}");
    }
}

#[test]
fn without_a_good_proof_there_is_no_way_into_the_cluster() {
    let found = reachable(Life::Discovered, &edges(|seen| seen.proof != Proof::Good));
    let outside = |life: &Life| matches!(life, Life::Discovered | Life::Quarantined | Life::Retired(_));
    assert!(found.iter().all(outside), "{found:?}");
}

#[test]
fn a_registered_machine_becomes_a_member_by_itself() {
    let mut seen = Seen {
        proof: Proof::Good,
        record: Record::Active,
        slot: Offer::Free,
        node: Node::Absent,
        alive: true,
        ..Seen::default()
    };
    let life = settle(Life::Discovered, &seen);
    assert_eq!((life, reason(life, &seen).code), (Life::Assigned, Code::Installing));
    assert_eq!(duties(life, &seen).iter().map(|duty| duty.act).collect::<Vec<_>>(), [Act::HoldSlot]);
    seen.slot = Offer::Mine;
    assert_eq!((settle(life, &seen), reason(life, &seen).code), (Life::Assigned, Code::Installing));
    seen.kubelet = Kubelet::Asked;
    let life = settle(life, &seen);
    assert_eq!((life, reason(life, &seen).code), (Life::Joining, Code::Signing));
    assert_eq!(duties(life, &seen).iter().map(|duty| duty.act).collect::<Vec<_>>(), [Act::SignKubelet]);
    seen.kubelet = Kubelet::Issued;
    assert_eq!(reason(life, &seen).code, Code::Starting);
    seen.node = Node::Ready;
    assert_eq!(settle(life, &seen), Life::Joining, "a Node that is not its own");
    seen.admitted = true;
    let life = settle(life, &seen);
    assert_eq!((life, reason(life, &seen).code), (Life::Member, Code::Member));
}

#[test]
fn a_person_s_no_and_an_open_code_hold_a_machine_until_they_say_yes() {
    let mut seen = Seen { proof: Proof::Key, node: Node::Absent, alive: true, ..Seen::default() };
    let life = settle(Life::Discovered, &seen);
    assert_eq!((life, reason(life, &seen).code), (Life::Quarantined, Code::Unknown));
    for (word, code) in [
        (Word::Code, Code::PendingHq),
        (Word::No, Code::Refused),
        (Word::Voice, Code::Approved),
        (Word::Yes, Code::PendingHq),
    ] {
        seen.word = word;
        assert_eq!((settle(life, &seen), reason(life, &seen).code), (Life::Quarantined, code));
    }
    seen = Seen { proof: Proof::Good, record: Record::Active, slot: Offer::Full, ..seen };
    let life = settle(life, &seen);
    assert_eq!((life, reason(life, &seen).code), (Life::Standby, Code::NoFreeSlot));
    seen.word = Word::Wanted;
    let life = settle(life, &seen);
    assert_eq!((life, reason(life, &seen).code), (Life::Identified, Code::PendingHuman));
}

#[test]
fn a_reinstalled_machine_gets_its_slot_back_and_its_former_node_goes_first() {
    let mut seen = Seen {
        proof: Proof::Good,
        record: Record::Active,
        slot: Offer::Mine,
        kubelet: Kubelet::Asked,
        node: Node::NotReady,
        alive: true,
        ..Seen::default()
    };
    let life = settle(Life::Member, &seen);
    assert_eq!(life, Life::Joining);
    let acts = |seen: &Seen| duties(life, seen).iter().map(|duty| duty.act).collect::<Vec<_>>();
    assert_eq!(acts(&seen), [Act::DenyNode, Act::DeleteNode]);
    seen.node = Node::Absent;
    assert_eq!(acts(&seen), [Act::SignKubelet]);
}

#[test]
fn a_reason_that_the_wire_knows_is_spelled_and_said_like_there() {
    use protocol::refusal::{Refusal, Wait};
    let mut shared = 0;
    for code in Code::ALL {
        let wait = Wait::from_code(code.word()).map(Wait::sentence);
        let said = wait.or(Refusal::from_code(code.word()).map(Refusal::sentence));
        shared += usize::from(said.is_some());
        assert_eq!(said.unwrap_or(code.person()), code.person(), "{}", code.word());
    }
    assert!(Wait::ALL.iter().all(|wait| Code::ALL.iter().any(|code| code.word() == wait.code())));
    assert_eq!(shared, 18);
}

#[test]
fn words_are_kebab_case_and_name_one_thing_each() {
    let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
    assert_eq!(words.len(), Code::ALL.len());
    let kebab = |word: &&str| word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    assert!(words.iter().all(kebab), "{words:?}");
}
