//! The lives of a machine, and the facts they depend on: a domain small enough to try every combination.

use serde::{Deserialize, Serialize};

/// An enum that knows all of its values, so that a test that tries everything cannot forget a new one.
macro_rules! finite {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];
        }
    };
}

/// What we remember of a machine. Everything else is looked at afresh before every [`step`](crate::step()).
///
/// A life belongs to a key, never to a serial: who merely names a machine that he is not has a life of his own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// It spoke; nothing is proven.
    #[default]
    Discovered,
    /// Its key is proven and HQ's record accepts it.
    Identified,
    /// A slot is its own; it installs itself and is going to ask for a kubelet certificate.
    Assigned,
    /// Proven and allowed, but no slot is free for it: the spare that runs.
    Standby,
    /// It asked for its kubelet certificate; its Node is not yet Ready.
    Joining,
    /// Its Node is Ready, and speaks with the key that was admitted.
    Member,
    /// It had a Node, or was to have one, and that is not Ready.
    Missing,
    /// Its slot was given to another machine while it was missing.
    Replaced,
    /// Unknown, a duplicate, a mismatch, or a person said no: it holds nothing until people clear it.
    Quarantined,
    /// It must not be here.
    Retired(Why),
}

finite! {
    /// Who took a machine out, and why.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    Why {
        /// HQ: nobody knows where it is.
        Lost,
        /// HQ: for ever.
        Revoked,
        /// HQ: sent back to its maker.
        Rma,
        /// HQ: it belongs to another site now.
        Moved,
        /// A person at the site.
        Person,
    }
}

impl Life {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Discovered,
        Self::Identified,
        Self::Assigned,
        Self::Standby,
        Self::Joining,
        Self::Member,
        Self::Missing,
        Self::Replaced,
        Self::Quarantined,
        Self::Retired(Why::Lost),
        Self::Retired(Why::Revoked),
        Self::Retired(Why::Rma),
        Self::Retired(Why::Moved),
        Self::Retired(Why::Person),
    ];

    /// The stable word in M11, logs, metrics and the page.
    pub fn word(self) -> &'static str {
        match self {
            Self::Discovered => "discovered",
            Self::Identified => "identified",
            Self::Assigned => "assigned",
            Self::Standby => "standby",
            Self::Joining => "joining",
            Self::Member => "member",
            Self::Missing => "missing",
            Self::Replaced => "replaced",
            Self::Quarantined => "quarantined",
            Self::Retired(_) => "retired",
        }
    }
}

finite! {
    /// What the key that speaks for this machine has proven (M4), by the store: a restart forgets no proof.
    #[derive(Default)]
    Proof {
        /// Nothing: words only.
        #[default]
        None,
        /// Only that it holds its own key, which no record names: a person has to say which machine it is.
        Key,
        /// A proof of a class that HQ does not accept (R26).
        Weak,
        /// A name of the machine that its record accepts; the key is bound to it.
        Good,
        /// Its label is registered, its hardware is not the registered one (R25).
        Mismatch,
        /// Its device key is bound to another node key for good (R30).
        Duplicate,
        /// A re-armed record, but the machine it replaces is still heard (R31).
        OldAlive,
    }
}

finite! {
    /// What HQ's newest bundle, or an approval since, says of the machine.
    #[derive(Default)]
    Record {
        /// Nothing.
        #[default]
        None,
        /// It may join this site, now.
        Active,
        /// It may join this site at another time (R23).
        NotNow,
        /// It belongs to another site.
        OtherSite,
        /// Status lost.
        Lost,
        /// Status revoked.
        Revoked,
        /// Status rma.
        Rma,
    }
}

finite! {
    /// What people said of the machine.
    #[derive(Default)]
    Word {
        /// Nothing, and nothing is needed: a good proof suffices.
        #[default]
        NotNeeded,
        /// Nothing yet, and HQ's policy wants a person's yes.
        Wanted,
        /// Its screen shows a code (M10) that HQ has not answered yet.
        Code,
        /// Approved by voice; a person at the machine still has to confirm the site.
        Voice,
        /// Yes.
        Yes,
        /// No.
        No,
        /// A person at the site took it out.
        Retire,
    }
}

finite! {
    /// What [`assign`](crate::assign) says the site can offer it.
    #[derive(Default)]
    Offer {
        /// No slot free that it fits.
        #[default]
        Full,
        /// The site has no slot of that name or role.
        NoSuch,
        /// The very slot that its record names is another machine's.
        Taken,
        /// A free one, found for it.
        Free,
        /// It holds one, by the store; also when the bundle does not list that slot any more.
        Mine,
        /// It still holds one, and it was decided to give that to another: a replacement has begun.
        GivenAway,
    }
}

finite! {
    /// How far the kubelet certificate of its current key is (M8). Renewals are not seen here.
    #[derive(Default)]
    Kubelet {
        /// Not asked for.
        #[default]
        None,
        /// Asked for by a kubelet that is newer than the API server.
        TooNew,
        /// Asked for by a kubelet more than three minors older than the API server.
        TooOld,
        /// Asked for.
        Asked,
        /// Issued.
        Issued,
    }
}

finite! {
    /// The Node of the name last issued to it.
    #[derive(Default)]
    Node {
        /// The cluster cannot be seen. A site that is to found its cluster is not blind: the Node is absent.
        #[default]
        Blind,
        /// None is there.
        Absent,
        /// It is not Ready, or its Lease is stale.
        NotReady,
        /// It is Ready and its Lease is fresh.
        Ready,
    }
}

/// What is seen of one machine now, gathered at the edge in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// What its key has proven.
    pub proof: Proof,
    /// What HQ says.
    pub record: Record,
    /// What people said.
    pub word: Word,
    /// What the site can offer.
    pub slot: Offer,
    /// How far its kubelet is.
    pub kubelet: Kubelet,
    /// Its Node.
    pub node: Node,
    /// Whether that Node belongs to its current key: false for the Node of a former installation.
    pub admitted: bool,
    /// Whether it was heard within the last minute: a heartbeat, or a request over TLS with its key.
    pub alive: bool,
    /// Whether life and reason have both stayed the same for longer than [`patience`](crate::patience).
    pub late: bool,
    /// How often its life has changed. Only handed on to the duties.
    pub generation: u64,
}

impl Seen {
    /// By the store, a slot is its own.
    pub(crate) fn holds_slot(&self) -> bool {
        matches!(self.slot, Offer::Mine | Offer::GivenAway)
    }

    /// A Node is there under its name, Ready or not.
    pub(crate) fn node_stands(&self) -> bool {
        matches!(self.node, Node::NotReady | Node::Ready)
    }

    /// The end state that is observed, not assumed.
    pub(crate) fn node_serves(&self) -> bool {
        self.node == Node::Ready && self.admitted
    }
}
