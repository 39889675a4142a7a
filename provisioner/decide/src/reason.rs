//! Why a machine is where it is: one code, a sentence for each reader, what happens next, and until when.

use std::fmt;
use std::time::Duration;

use crate::life::{Kubelet, Life, Node, Offer, Proof, Record, Seen, Why, Word};
use crate::step::patience;

/// How long a wait lasts at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Limit {
    /// The patience of the life; then the life moves or people are told.
    Patience,
    /// Until somebody acts.
    Until(&'static str),
    /// It is no wait.
    Never,
}
use Limit::{Never, Patience, Until};

macro_rules! table {
    ($($variant:ident = $word:literal, $limit:expr, $person:literal, $engineer:literal, $next:literal;)*) => {
        /// Every reason. Its word is the one spelling in answers, logs, metrics, events, console and page.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $(#[doc = $engineer] $variant,)* }

        impl Code {
            /// All of them, in the order of the flow.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable word.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The sentence for the person at the machine.
            pub fn person(self) -> &'static str {
                match self { $(Self::$variant => $person,)* }
            }

            /// The sentence for the engineer.
            pub fn engineer(self) -> &'static str {
                match self { $(Self::$variant => $engineer,)* }
            }

            /// What happens next.
            pub fn next(self) -> &'static str {
                match self { $(Self::$variant => $next,)* }
            }

            fn limit(self) -> Limit {
                match self { $(Self::$variant => $limit,)* }
            }
        }
    };
}

table! {
    NotProven = "not-proven", Patience,
        "The machine has not proved itself yet.",
        "It spoke, but its current key has proven nothing (M4): its TPM may be off, or it is still busy.",
        "It is asked for its proof whenever it speaks.";
    ProofTooWeak = "proof-too-weak", Until("the machine proves more, or HQ accepts less"),
        "HQ demands a stronger proof.",
        "It proved a device key where its record accepts only stronger classes; see the record's `auth` and `accept`.",
        "It goes on when it proves its TPM or IDevID; nothing less is taken.";
    OtherSite = "other-site", Until("HQ assigns it to this site, or it is carried to its own"),
        "This machine belongs to another site.",
        "Its record names another site.",
        "It goes on as soon as a bundle assigns it here.";
    NotNow = "not-now", Until("HQ's dates allow it"),
        "HQ allows this machine at another time.",
        "It is outside not-before and not-after of its record.",
        "It goes on by itself when the time comes, or when HQ changes the dates.";
    Unknown = "unknown", Until("HQ registers it, or a person admits it with the code"),
        "HQ has not registered this machine; a person can admit it with a code.",
        "No record accepts any key of it: it is not registered, or only by labels.",
        "It goes on when a bundle registers its key, or after the code on its screen was approved.";
    PendingHq = "pending-hq", Until("HQ answers the code"),
        "Waiting for HQ to approve the code on the screen.",
        "A claim is open: the approval of its code, and then its record, come from HQ by bundle or by voice.",
        "It goes on when the approval is there; the code is renewed when it runs out.";
    Refused = "refused", Until("a person takes the no back"),
        "A person at this site has said no to this machine.",
        "Nothing is given to it until that is taken back; the audit line in the log names who said so.",
        "Nothing, until the no is taken back: `provisioner retire MACHINE --undo`.";
    AuthMismatch = "auth-mismatch", Until("HQ corrects the record"),
        "Right label, wrong hardware. Call HQ.",
        "Its label is registered with other keys: its board was changed, or it is not the machine it says.",
        "It goes on when HQ registers its keys; the machine that has the registered ones is not affected.";
    Duplicate = "duplicate", Until("HQ arms the record with a new key"),
        "Another machine has already used this key.",
        "Its device key is bound to another node key for good: a copied disk, or a re-used claim stick.",
        "It goes on when HQ registers a new key for it; the machine that used the key first is not affected.";
    MemberAlive = "member-alive", Until("the old machine is switched off, or HQ decides"),
        "The machine it replaces is still running.",
        "Its record was re-armed, but the key that holds it is still heard.",
        "It goes on when the old machine has been silent for a minute.";
    PendingHuman = "pending-human", Until("a person says yes or no, or HQ changes the policy"),
        "Waiting for a person at the site to say yes.",
        "The policy of its record has `auto: false`.",
        "It goes on after a yes on the page or the command line.";
    Deciding = "deciding", Patience,
        "The site is deciding where this machine belongs.",
        "Nothing is missing; the next tick moves it.",
        "It goes on at the next tick.";
    Silent = "silent", Until("it speaks again"),
        "The site has not heard from this machine for a while; please check power and network.",
        "It may have a slot, but was not heard within the last minute.",
        "Its slot is offered to others; it is placed again when it speaks.";
    NoFreeSlot = "no-free-slot", Until("a slot falls vacant, or HQ adds one"),
        "Every place in the cluster is taken; this machine stands by.",
        "No slot is free whose role its record names and whose needs it meets.",
        "It takes the first such slot that falls vacant.";
    NoSuchSlot = "no-such-slot", Until("HQ corrects the slot or the roles"),
        "HQ's plan has no place for this machine. Call HQ.",
        "Its record names a slot, or only roles, that the site's slots do not have.",
        "It goes on when a bundle brings the slot, or another record.";
    SlotTaken = "slot-taken", Until("HQ says which of the two is to have it"),
        "Another machine has the place that was meant for this one.",
        "The slot that its record names, or that it stood in, is held by another machine.",
        "The holder keeps it; HQ changes one of the two records.";
    Installing = "installing", Patience,
        "The machine is preparing itself. Please leave it switched on.",
        "It holds a slot and has not asked for its kubelet certificate (M8) yet.",
        "It joins when it asks; if it stays silent, its slot is given back.";
    Approved = "approved", Patience,
        "Approved by voice; a person at this machine must confirm the site.",
        "The record was made from the code by voice; without a voucher the machine waits for a key press.",
        "It goes on after the confirmation, or by itself once HQ's bundle brings its voucher.";
    KubeletTooNew = "kubelet-too-new", Until("the machine or the cluster is brought to the other's version"),
        "The machine's software is newer than the cluster's.",
        "Its kubelet is newer than the API server: not admitted before its bank is switched.",
        "It goes on when its kubelet is not newer than the API server.";
    KubeletTooOld = "kubelet-too-old", Until("the machine is brought to the cluster's version"),
        "The machine's software is too old for the cluster.",
        "Its kubelet is more than three minors older than the API server: not admitted before its bank is switched.",
        "It goes on when its kubelet is at most three minors older.";
    ClusterAway = "cluster-away", Patience,
        "The cluster does not answer; it is asked again.",
        "The API server cannot be reached: nothing in the cluster is judged or touched.",
        "It goes on where it stands when the cluster answers.";
    Signing = "signing", Patience,
        "The machine is getting its certificate.",
        "Its request is created and approved once its former Node, if any, is gone; the cluster's signer answers.",
        "It is asked for again on every tick until the certificate is there.";
    Starting = "starting", Patience,
        "The machine is joining the cluster.",
        "Its kubelet certificate is issued, or was; its Node is not Ready yet.",
        "It is a member when its Node is Ready; after the deadline it counts as missing.";
    WrongKey = "wrong-key", Patience,
        "Something in the cluster uses this machine's name. Call HQ.",
        "The Node under its name does not belong to its current key.",
        "It is a member only with a Node of its own key; a new certificate first removes the old Node.";
    Member = "member", Never,
        "This machine works in the cluster.",
        "Its Node is Ready, with the key that was admitted.",
        "Nothing: all is well.";
    NoRecord = "no-record", Until("HQ lists it again, or says that it is revoked"),
        "This machine works in the cluster, but HQ does not list it. Call HQ.",
        "The newest bundle has no active record of this member. Leaving a record out changes nothing.",
        "It stays a member until HQ says lost, revoked, rma or another site.";
    NotReady = "not-ready", Patience,
        "The machine runs, but its part of the cluster does not.",
        "It is heard, but its Node is absent or not Ready: kubelet, container runtime or network.",
        "It is a member again when its Node is Ready; it keeps its slot.";
    Missing = "missing", Patience,
        "The machine does not answer; please check power and network.",
        "Neither a Ready Node nor a heartbeat is seen.",
        "It is a member again when it comes back, and keeps its slot; at the deadline an alarm says so. If it is dead, \
         `provisioner retire MACHINE` frees its place for a spare.";
    MostGone = "most-gone", Patience,
        "Most of the site is out of reach; nothing is changed.",
        "More than half of the members are missing at once: more likely a switch than so many machines.",
        "No machine is replaced until most are back.";
    OneAtATime = "one-at-a-time", Patience,
        "Another machine is being replaced first.",
        "One replacement at a time.",
        "It is its turn when the other is done.";
    Replaced = "replaced", Until("it is wiped and proves a new key, or HQ takes it out"),
        "Another machine has taken its place; wipe this one to use it as a spare.",
        "Its slot was given away; its key and its Node name are refused for good.",
        "Wiped and proven anew, it stands by.";
    Lost = "lost", Until("HQ says that it was found"),
        "HQ has locked this machine.", "Its record has the status lost.",
        "Its Node is removed; it begins anew when its record is active again.";
    Revoked = "revoked", Never,
        "HQ has locked this machine.", "Its record has the status revoked.",
        "Its Node is removed; nothing brings it back.";
    Rma = "rma", Until("HQ takes it back into service"),
        "HQ has locked this machine.", "Its record has the status rma.",
        "Its Node is removed; it begins anew when its record is active again.";
    Moved = "moved", Until("HQ assigns it to this site again"),
        "The machine already joined another site.", "Its record names another site now.",
        "Its Node here is removed; it joins there.";
    Retired = "retired", Until("a person at the site takes that back"),
        "A person at this site has taken this machine out of service.", "The audit line in the log names who.",
        "Its Node is removed; it begins anew when that is taken back: `provisioner retire MACHINE --undo`.";
}

impl Code {
    /// Reasons that people hear of at once, not only when they last.
    pub fn alarming(self) -> bool {
        matches!(
            self,
            Self::AuthMismatch | Self::Duplicate | Self::MemberAlive | Self::WrongKey | Self::NoRecord
        )
    }
}

/// Why a machine stands nowhere that never spoke at its site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unseen {
    /// The stable word.
    pub word: &'static str,
    /// What a person reads.
    pub person: &'static str,
    /// What an engineer reads.
    pub engineer: &'static str,
    /// What happens next.
    pub next: &'static str,
    /// Until when.
    pub until: &'static str,
}

/// HQ registered it, and nothing stands in its way.
pub const NOT_SEEN: Unseen = Unseen {
    word: "not-seen",
    person: "HQ registered this machine; it has not spoken to this site yet.",
    engineer: "It has not proved itself here (M4): not plugged in, not powered, or on another network.",
    next: "It is admitted by itself when it is plugged in.",
    until: "it is plugged in",
};

/// Until when a machine waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deadline {
    /// This long after life and reason last changed; then the life moves, or people are told.
    Within(Duration),
    /// Until somebody acts: `until …`.
    Until(&'static str),
}

/// Why a machine is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason {
    /// Which; with it the sentences.
    pub code: Code,
    /// Until when; `None` where nothing is waited for.
    pub deadline: Option<Deadline>,
}

impl Reason {
    /// The reason `code` of a machine that leads `life`.
    pub fn of(code: Code, life: Life) -> Self {
        let deadline = match code.limit() {
            Patience => Some(Deadline::Within(patience(life))),
            Until(what) => Some(Deadline::Until(what)),
            Never => None,
        };
        Self { code, deadline }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.word(), self.code.engineer())
    }
}

/// Why a machine leads `life`, seen like this.
pub fn reason(life: Life, seen: &Seen) -> Reason {
    let code = match life {
        Life::Retired(why) => withdrawn(why),
        Life::Replaced => Code::Replaced,
        Life::Discovered | Life::Quarantined => doubt(seen).unwrap_or(Code::Deciding),
        Life::Identified | Life::Standby => doubt(seen).unwrap_or_else(|| placing(seen)),
        Life::Assigned => doubt(seen).unwrap_or_else(|| installing(seen)),
        Life::Joining | Life::Member | Life::Missing if seen.node == Node::Blind => Code::ClusterAway,
        Life::Joining | Life::Missing => asking(seen).unwrap_or_else(|| running(life, seen)),
        Life::Member if matches!(seen.record, Record::None | Record::NotNow) => Code::NoRecord,
        Life::Member if seen.slot != Offer::Mine => Code::SlotTaken,
        Life::Member => Code::Member,
    };
    Reason::of(code, life)
}

fn withdrawn(why: Why) -> Code {
    match why {
        Why::Lost => Code::Lost,
        Why::Revoked => Code::Revoked,
        Why::Rma => Code::Rma,
        Why::Moved => Code::Moved,
        Why::Person => Code::Retired,
    }
}

/// What keeps a machine from being allowed, gravest first; `None` if nothing does.
fn doubt(seen: &Seen) -> Option<Code> {
    let by_record = match seen.record {
        Record::Lost => Some(Code::Lost),
        Record::Revoked => Some(Code::Revoked),
        Record::Rma => Some(Code::Rma),
        Record::OtherSite => Some(Code::OtherSite),
        Record::NotNow => Some(Code::NotNow),
        Record::None | Record::Active => None,
    };
    let by_proof = match seen.proof {
        Proof::Mismatch => Some(Code::AuthMismatch),
        Proof::Duplicate => Some(Code::Duplicate),
        Proof::OldAlive => Some(Code::MemberAlive),
        Proof::None => Some(Code::NotProven),
        Proof::Weak => Some(Code::ProofTooWeak),
        Proof::Key | Proof::Good => None,
    };
    let unregistered = seen.proof == Proof::Key || seen.record == Record::None;
    let by_word = match seen.word {
        Word::Retire => Some(Code::Retired),
        Word::No => Some(Code::Refused),
        Word::Code => Some(Code::PendingHq),
        Word::Yes if unregistered => Some(Code::PendingHq),
        Word::Wanted if !unregistered => Some(Code::PendingHuman),
        Word::Voice if unregistered => Some(Code::Approved),
        _ => unregistered.then_some(Code::Unknown),
    };
    let no = by_word.filter(|code| matches!(code, Code::Retired | Code::Refused));
    no.or(by_record).or(by_proof).or(by_word)
}

fn placing(seen: &Seen) -> Code {
    match seen.slot {
        Offer::Mine if seen.alive => Code::Deciding,
        _ if seen.node == Node::Blind => Code::ClusterAway,
        Offer::Free if seen.alive => Code::Deciding,
        Offer::Mine | Offer::Free => Code::Silent,
        Offer::Full | Offer::GivenAway => Code::NoFreeSlot,
        Offer::NoSuch => Code::NoSuchSlot,
        Offer::Taken => Code::SlotTaken,
    }
}

fn installing(seen: &Seen) -> Code {
    match seen.kubelet {
        _ if seen.node == Node::Blind => Code::ClusterAway,
        Kubelet::TooNew => Code::KubeletTooNew,
        Kubelet::TooOld => Code::KubeletTooOld,
        Kubelet::Asked | Kubelet::Issued => Code::Signing,
        Kubelet::None if seen.word == Word::Voice => Code::Approved,
        Kubelet::None => Code::Installing,
    }
}

/// What is wrong with the certificate request of a machine that may join, or join again.
fn asking(seen: &Seen) -> Option<Code> {
    match seen.kubelet {
        Kubelet::TooNew => Some(Code::KubeletTooNew),
        Kubelet::TooOld => Some(Code::KubeletTooOld),
        Kubelet::Asked => doubt(seen),
        Kubelet::None | Kubelet::Issued => None,
    }
}

fn running(life: Life, seen: &Seen) -> Code {
    match life {
        Life::Joining if seen.kubelet == Kubelet::Asked => Code::Signing,
        _ if seen.node == Node::Ready && !seen.admitted => Code::WrongKey,
        Life::Joining => Code::Starting,
        _ if seen.alive => Code::NotReady,
        _ => Code::Missing,
    }
}
