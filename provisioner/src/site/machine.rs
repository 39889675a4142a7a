//! What the site knows of one machine, and the facts that are decided on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use decide::{Kubelet, Life, Node, Offer, Proof, Seen, Word};
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::id::{Id, node_name};
use protocol::image::{BankReport, Kind};
use protocol::inventory::Facts;
use protocol::messages::NoDisk;
use protocol::record::{Record, Status};
use protocol::refusal::{Refusal, Refused, Wait};
use serde::{Deserialize, Serialize};

use super::overwrite::Yes;

/// For so many seconds after it asked a machine counts as waiting for its disk.
const DISK_WAITS: u64 = 300;

/// How far the kubelet's certificate of the current key is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KubeletState {
    /// Not asked for.
    #[default]
    None,
    /// Asked for.
    Asked,
    /// Issued.
    Issued,
}

/// What the site knows of one machine; its key in the store is the id of its registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The id of its registration.
    pub id: String,
    /// Where it stands.
    pub life: Life,
    /// Since when.
    pub since: Time,
    /// How often that has changed.
    pub generation: u64,
    /// Hash of its current node key.
    pub s: Option<Digest>,
    /// What it has proven.
    pub proven: Vec<Id>,
    /// Its slot.
    pub slot: Option<String>,
    /// Nodes of former installations that have to be denied and deleted.
    pub former: Vec<String>,
    /// What it said of its hardware.
    pub hw: Facts,
    /// Addresses it was admitted with.
    pub addresses: Vec<IpAddr>,
    /// How far its kubelet is.
    pub kubelet: KubeletState,
    /// When its kubelet's certificate ends.
    pub kubelet_until: Option<Time>,
    /// Whether its join was put into a report.
    pub reported: bool,
    /// A person's word on it: yes, no, retire.
    pub said: Option<Said>,
    /// When it last spoke over TLS.
    pub heard: Time,
    /// What of its network is not as headquarters wants it, in its own words.
    pub network: Option<String>,
    /// Whether a person has ordered its disk to be wiped, and it has not said that it did.
    pub wipe: bool,
    /// When it said that its disk is wiped.
    pub wiped: Option<Time>,
    /// When it asked last for the key of its disk, and was told that a person has to say yes.
    pub shut: Option<Time>,
    /// Until when it gets that key once: a person has said yes.
    pub opens: Option<Time>,
    /// Its banks, where its whole system is ours.
    pub banks: BTreeMap<Kind, BankReport>,
    /// Which disks it has found, where it may use none of them.
    pub no_disk: Option<NoDisk>,
    /// A person's yes to overwriting one of its disks.
    pub overwrite: Option<Yes>,
}

/// What a person at the site said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// Yes.
    Yes,
    /// No.
    No,
    /// It is out of service.
    Retire,
}

/// What the cluster shows of one Node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeView {
    /// The cluster does not answer.
    Blind,
    /// There is none.
    Absent,
    /// There is one; whether it is Ready.
    There {
        /// Its Ready condition.
        ready: bool,
    },
}

/// What is looked at beside the machine itself.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// Its registration.
    pub record: Option<&'a Record>,
    /// This site.
    pub site: &'a str,
    /// Now.
    pub now: Time,
    /// Its Node.
    pub node: NodeView,
    /// What the site can offer.
    pub offer: Offer,
    /// Whether it was heard within the last minute.
    pub alive: bool,
    /// Whether the kubelet on its disk fits the API server.
    pub skew: Option<decide::Skew>,
}

impl Machine {
    /// Whether a person at the site keeps it out: then nothing is given to it, whether the cluster can be seen or not.
    pub fn check_said(&self) -> Result<(), Refused> {
        match self.said {
            Some(Said::No) => Err(Refusal::SaidNo.into()),
            Some(Said::Retire) => Err(Refusal::Retired.into()),
            Some(Said::Yes) | None => Ok(()),
        }
    }

    /// Whether its disk is to be erased: a person at the site, or HQ, does not want it any more and has said so. Neither
    /// silence nor a status alone erases anything.
    pub fn is_to_be_wiped(&self, record: &Record) -> bool {
        let by_headquarters = record.status != Status::Active && record.policy.wipe;
        self.wipe || by_headquarters && self.wiped.is_none()
    }

    /// Whether it cannot open its disk, and waits for a person's yes. Once it has it open, it speaks for itself again.
    pub fn waits_for_disk(&self, now: Time) -> bool {
        self.shut.is_some_and(|at| at >= self.heard && now.since(at) < DISK_WAITS)
    }

    /// Why it has no slot: a person has not said yes, or there is none.
    pub fn wait_for_slot(&self, record: &Record) -> Wait {
        if self.word(Some(record)) == Word::Wanted { Wait::PendingHuman } else { Wait::NoFreeSlot }
    }

    /// The name of its Node; none without slot or key.
    pub fn node(&self) -> Option<String> {
        Some(node_name(self.slot.as_deref()?, self.s.as_ref()?))
    }

    /// The facts to decide on.
    pub fn seen(&self, around: &Around<'_>) -> Seen {
        Seen {
            proof: if self.s.is_some() { Proof::Good } else { Proof::None },
            record: standing(around.record, around.site, around.now),
            word: self.word(around.record),
            slot: around.offer,
            kubelet: self.kubelet_seen(around.skew),
            node: match around.node {
                NodeView::Blind => Node::Blind,
                NodeView::Absent => Node::Absent,
                NodeView::There { ready: false } => Node::NotReady,
                NodeView::There { ready: true } => Node::Ready,
            },
            // A Node's name holds the hash of the key: the Node of this name is the Node of this key.
            admitted: self.kubelet == KubeletState::Issued,
            alive: around.alive,
            late: around.now.since(self.since) > decide::patience(self.life).as_secs(),
            generation: self.generation,
        }
    }

    fn word(&self, record: Option<&Record>) -> Word {
        match self.said {
            Some(Said::Yes) => Word::Yes,
            Some(Said::No) => Word::No,
            Some(Said::Retire) => Word::Retire,
            None if record.is_some_and(|record| !record.policy.auto) => Word::Wanted,
            None if record.is_some_and(Record::by_voice) => Word::Voice,
            None => Word::NotNeeded,
        }
    }

    fn kubelet_seen(&self, skew: Option<decide::Skew>) -> Kubelet {
        match (self.kubelet, skew) {
            (KubeletState::None, _) => Kubelet::None,
            (KubeletState::Issued, _) => Kubelet::Issued,
            (KubeletState::Asked, Some(decide::Skew::TooNew)) => Kubelet::TooNew,
            (KubeletState::Asked, Some(decide::Skew::TooOld)) => Kubelet::TooOld,
            (KubeletState::Asked, _) => Kubelet::Asked,
        }
    }

    /// Moves on to where the facts lead; whether anything changed.
    pub fn settle(&mut self, seen: &Seen, now: Time) -> bool {
        let next = decide::settle(self.life, seen);
        if next == self.life {
            return false;
        }
        self.life = next;
        self.since = now;
        self.generation += 1;
        true
    }
}

/// What a registration says of a machine here and now.
pub fn standing(record: Option<&Record>, site: &str, now: Time) -> decide::Record {
    let Some(record) = record else { return decide::Record::None };
    let policy = &record.policy;
    let early = policy.not_before.is_some_and(|start| now < start);
    let late = policy.not_after.is_some_and(|end| now > end);
    match record.status {
        Status::Lost => decide::Record::Lost,
        Status::Revoked => decide::Record::Revoked,
        Status::Rma => decide::Record::Rma,
        Status::Active if !record.site.contains(site) => decide::Record::OtherSite,
        Status::Active if early || late => decide::Record::NotNow,
        Status::Active => decide::Record::Active,
    }
}
