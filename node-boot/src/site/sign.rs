//! The sign over the door: who walks past with a browser of services sees where this machine stands, and no more.

use std::net::IpAddr;

use announce::{Announcer, is_cable};
use protocol::bytes::Digest;
use protocol::id::mdns_instance;
use protocol::messages::MACHINE_SERVICE;
use protocol::refusal::Wait;
use protocol::responder::Service;

/// Where a machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It looks for its site.
    New,
    /// A person is to read its code.
    Claim,
    /// It waits for its site.
    Wait,
    /// It is a member.
    Joined,
    /// Somebody said no, or something failed.
    Error,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Claim => "claim",
            Self::Wait => "wait",
            Self::Joined => "joined",
            Self::Error => "error",
        }
    }

    fn texts(self) -> Vec<String> {
        vec!["txtvers=1".to_owned(), format!("st={}", self.word())]
    }
}

/// The sign; one that is not up says nothing, and taking it down says goodbye.
#[derive(Default)]
pub struct Sign(Option<Announcer>);

impl Sign {
    /// Puts it up on every cable, under a name made from the machine's key. A machine that cannot have one joins all
    /// the same.
    pub fn up(key: &Digest, state: State) -> Self {
        let service = Service {
            types: vec![MACHINE_SERVICE],
            instance: mdns_instance(key),
            // Nothing listens: the machine asks, and is not asked.
            port: 0,
            texts: state.texts(),
        };
        Self(Announcer::start(service, |interface: &str, _: IpAddr| is_cable(interface)).ok())
    }

    /// The machine stands elsewhere now.
    pub fn say(&self, state: State) {
        if let Some(announcer) = &self.0 {
            announcer.say(state.texts());
        }
    }

    /// It waits, for this reason.
    pub fn waits(&self, reason: &str) {
        let for_a_person = [Wait::Unknown, Wait::PendingHuman].iter().any(|wait| wait.code() == reason);
        self.say(if for_a_person { State::Claim } else { State::Wait });
    }
}
