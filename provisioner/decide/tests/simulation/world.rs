//! The world around a provisioner: machines, people, HQ and a cluster that misbehave.

use std::collections::{BTreeMap, BTreeSet};

use decide::may_replace;
use decide::{
    Candidate, Code, Duty, Fleet, Kubelet, Life, Needs, Node, Offer, Proof, Record, Seen, Slot, Word,
};

/// Ticks in which everything may happen.
pub const STORM: u64 = 250;
/// Ticks until a wait is late.
pub const PATIENCE: u64 = 12;

/// xorshift64* (Marsaglia 2003, Vigna 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).expect("31 bits") % end
    }

    /// True in `n` of a thousand cases.
    pub fn chance(&mut self, n: usize) -> bool {
        self.below(1000) < n
    }
}

/// A machine, as it truly is, and what HQ and people say of it.
pub struct Machine {
    pub candidate: Candidate,
    /// What its keys can prove at best.
    pub proof: Proof,
    pub record: Record,
    pub word: Word,
    pub on: bool,
    /// Counts installations: each has a key of its own.
    pub key: u32,
    pub asks: bool,
    pub misfit: Option<Kubelet>,
}

/// What the provisioner has on disk about it.
#[derive(Clone, Default)]
pub struct Kept {
    pub life: Life,
    pub generation: u64,
    pub since: u64,
    pub code: Option<Code>,
    pub spoke: bool,
    pub key: Option<u32>,
    pub refused: BTreeSet<u32>,
    pub slot: Option<String>,
    pub held_once: bool,
    pub given_away: bool,
    /// The key for which a Node name was last issued.
    pub named: Option<u32>,
}

/// A duty, and what it was decided on.
#[derive(Clone)]
pub struct Order {
    pub machine: usize,
    pub duty: Duty,
    pub slot: Option<String>,
    pub key: Option<u32>,
    pub named: Option<u32>,
}

pub struct World {
    pub rng: Rng,
    pub tick: u64,
    pub slots: Vec<Slot>,
    pub machines: Vec<Machine>,
    pub kept: Vec<Kept>,
    /// Whether the Node of a machine's key is Ready.
    pub nodes: BTreeMap<(usize, u32), bool>,
    /// The slot in which a Node name was issued.
    pub issued: BTreeMap<(usize, u32), String>,
    pub denied: BTreeSet<(usize, u32)>,
    pub away: bool,
    /// Orders that are going to be carried out when they are long out of date.
    pub tardy: Vec<Order>,
}

fn new_machine(rng: &mut Rng, at: usize, slots: &[Slot]) -> Machine {
    let roles: &[&str] = [&["worker"][..], &["worker", "control-plane"], &["control-plane"]][rng.below(3)];
    let memory = [4, 8, 16][rng.below(3)];
    let exact = rng.chance(300).then(|| slots[rng.below(slots.len())].name.clone());
    let proof = match rng.below(12) {
        0 => Proof::Key,
        1 => Proof::Mismatch,
        2 => Proof::Duplicate,
        _ => Proof::Good,
    };
    let candidate = Candidate {
        machine: format!("mc-{at:02}"),
        roles: if exact.is_some() {
            BTreeSet::new()
        } else {
            roles.iter().map(|r| (*r).to_owned()).collect()
        },
        slot: exact,
        has: Needs { amounts: BTreeMap::from([("memory".to_owned(), memory)]), ..Needs::default() },
    };
    Machine {
        candidate,
        proof,
        record: if proof == Proof::Key { Record::None } else { Record::Active },
        word: if rng.chance(200) { Word::Wanted } else { Word::NotNeeded },
        on: false,
        key: 1,
        asks: false,
        misfit: rng.chance(100).then_some([Kubelet::TooNew, Kubelet::TooOld][rng.below(2)]),
    }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let slot = |at: usize, rng: &mut Rng| Slot {
            name: format!("node-{at}"),
            role: ["worker", "control-plane"][rng.below(2)].to_owned(),
            needs: Needs {
                amounts: rng.chance(400).then(|| ("memory".to_owned(), 8)).into_iter().collect(),
                ..Needs::default()
            },
            ..Slot::default()
        };
        let slots: Vec<Slot> = (0..=rng.below(8)).map(|at| slot(at, &mut rng)).collect();
        let machines: Vec<Machine> =
            (0..=rng.below(12)).map(|at| new_machine(&mut rng, at, &slots)).collect();
        let kept = vec![Kept::default(); machines.len()];
        let (nodes, issued, denied) = Default::default();
        Self { rng, tick: 0, slots, machines, kept, nodes, issued, denied, away: false, tardy: vec![] }
    }

    /// Power, cables, people and HQ.
    pub fn storm(&mut self) {
        let Self { rng, machines, .. } = self;
        self.away ^= rng.chance(40);
        for machine in machines {
            machine.on ^= rng.chance(60);
            if rng.chance(10) {
                (machine.key, machine.asks) = (machine.key + 1, false);
            }
            if rng.chance(15) && !matches!(machine.record, Record::Revoked | Record::None) {
                let words = [Record::Active, Record::Active, Record::Lost, Record::Rma, Record::NotNow];
                machine.record = words[rng.below(words.len())];
                machine.record = if rng.chance(100) { Record::OtherSite } else { machine.record };
                machine.record = if rng.chance(30) { Record::Revoked } else { machine.record };
            }
            if machine.word == Word::Wanted && rng.chance(5) {
                machine.word = Word::Yes;
            }
        }
        self.replace();
    }

    /// A later stage of healing, in short: a machine that is missing for too long gives its slot away.
    pub fn replace(&mut self) {
        let lives = |wanted: fn(&Kept) -> bool| self.kept.iter().filter(|kept| wanted(kept)).count();
        let fleet = Fleet {
            members: lives(|kept| matches!(kept.life, Life::Member | Life::Missing)),
            gone: lives(|kept| kept.life == Life::Missing),
            replacing: lives(|kept| kept.given_away),
            blind: self.away,
        };
        let overdue = |kept: &&mut Kept| kept.life == Life::Missing && kept.since + PATIENCE < self.tick;
        if may_replace(&fleet).is_ok()
            && let Some(kept) = self.kept.iter_mut().find(overdue)
        {
            kept.given_away = true;
        }
    }

    /// Everybody does what they can: power on, wipe what has to be wiped, no more words.
    pub fn calm(&mut self) {
        self.away = false;
        for (machine, kept) in self.machines.iter_mut().zip(&self.kept) {
            (machine.on, machine.misfit) = (true, None);
            machine.record = if machine.record == Record::NotNow { Record::Active } else { machine.record };
            if kept.refused.contains(&machine.key) {
                (machine.key, machine.asks) = (machine.key + 1, false);
            }
        }
    }

    /// What machines do by themselves: prove, ask, run a kubelet.
    pub fn live(&mut self) {
        for (at, (machine, kept)) in self.machines.iter_mut().zip(&mut self.kept).enumerate() {
            kept.spoke |= machine.on;
            let admits = machine.record == Record::Active && !matches!(kept.life, Life::Retired(_));
            let good = machine.proof == Proof::Good && !kept.refused.contains(&machine.key);
            if machine.on && admits && good {
                kept.key = Some(machine.key);
            }
            let bound = machine.on && kept.key == Some(machine.key);
            machine.asks |= bound && kept.slot.is_some() && self.rng.chance(500);
            if let Some(named) = kept.named {
                let runs = machine.on && machine.key == named && !self.denied.contains(&(at, named));
                let ready = runs && (self.tick >= STORM || self.rng.chance(950));
                // A Node that was deleted under a living kubelet comes back.
                if runs || self.nodes.contains_key(&(at, named)) {
                    self.nodes.insert((at, named), ready);
                }
            }
        }
    }

    pub fn see(&self, at: usize, slot: Offer) -> Seen {
        let (machine, kept) = (&self.machines[at], &self.kept[at]);
        let named = kept.key.is_some() && kept.named == kept.key;
        let asks = machine.asks && kept.key == Some(machine.key);
        let node = kept.named.and_then(|key| self.nodes.get(&(at, key)));
        Seen {
            proof: match machine.proof {
                Proof::Good if kept.key.is_some() => Proof::Good,
                Proof::Good => Proof::None,
                other if kept.spoke => other,
                _ => Proof::None,
            },
            record: machine.record,
            word: machine.word,
            slot,
            kubelet: match machine.misfit {
                _ if named => Kubelet::Issued,
                _ if !asks => Kubelet::None,
                Some(misfit) => misfit,
                None => Kubelet::Asked,
            },
            node: match node {
                _ if self.away => Node::Blind,
                None => Node::Absent,
                Some(false) => Node::NotReady,
                Some(true) => Node::Ready,
            },
            admitted: named,
            alive: machine.on,
            late: kept.since + PATIENCE < self.tick,
            generation: kept.generation,
        }
    }
}
