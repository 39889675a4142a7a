//! Every life in every world: the whole domain of `step`, some four million cases.

use decide::{Kubelet, Life, Node, Offer, Proof, Record, Seen, Word};

const BOTH: [bool; 2] = [false, true];

/// Every combination of facts.
pub fn worlds() -> Vec<Seen> {
    let mut worlds = vec![Seen { generation: 7, ..Seen::default() }];
    let mut spread = |change: &dyn Fn(Seen, &mut Vec<Seen>)| {
        let mut wider = Vec::new();
        for seen in &worlds {
            change(*seen, &mut wider);
        }
        worlds = wider;
    };
    spread(&|seen, all| all.extend(Proof::ALL.iter().map(|&proof| Seen { proof, ..seen })));
    spread(&|seen, all| all.extend(Record::ALL.iter().map(|&record| Seen { record, ..seen })));
    spread(&|seen, all| all.extend(Word::ALL.iter().map(|&word| Seen { word, ..seen })));
    spread(&|seen, all| all.extend(Offer::ALL.iter().map(|&slot| Seen { slot, ..seen })));
    spread(&|seen, all| all.extend(Kubelet::ALL.iter().map(|&kubelet| Seen { kubelet, ..seen })));
    spread(&|seen, all| all.extend(Node::ALL.iter().map(|&node| Seen { node, ..seen })));
    spread(&|seen, all| all.extend(BOTH.map(|admitted| Seen { admitted, ..seen })));
    spread(&|seen, all| all.extend(BOTH.map(|alive| Seen { alive, ..seen })));
    spread(&|seen, all| all.extend(BOTH.map(|late| Seen { late, ..seen })));
    worlds
}

/// Shows every case to `look`.
pub fn everything(mut look: impl FnMut(Life, &Seen)) {
    let worlds = worlds();
    for &life in Life::ALL {
        for seen in &worlds {
            look(life, seen);
        }
    }
}
