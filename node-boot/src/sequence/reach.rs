//! Where the provisioner is: whom to ask, whom not to ask again for a while.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::refusal::{Refused, Said};

use super::Awake;
use crate::cli::pause;
use crate::console::say;
use crate::os::clock;
use crate::site::discover::{self, Candidate};
use crate::site::http::Conversation;
use crate::site::sign::State;
use crate::site::tls;

/// How long one round of asking the LAN takes at first, and at most.
const FIRST_ROUND: Duration = Duration::from_millis(250);
const LONGEST_ROUND: Duration = Duration::from_mins(1);
/// How long a provisioner that was refused is not asked again.
pub(super) const REFUSED_FOR: Duration = Duration::from_mins(10);
/// How long one that said no is not asked again.
const AGAIN_AFTER_NO: Duration = Duration::from_secs(10);

impl Awake {
    /// Connects to the first provisioner of our owner that answers, asking until there is one.
    pub fn discover(&mut self) -> Result<Conversation> {
        let mut round = FIRST_ROUND;
        loop {
            pause(Duration::ZERO)?;
            for candidate in self.known()? {
                if let Some(talk) = self.try_one(&candidate)? {
                    return Ok(talk);
                }
            }
            if discover::interfaces().is_empty() {
                say("No network: please check the cable.");
            } else {
                say("Looking for this site's provisioner on the network.");
            }
            let mut found = None;
            let mut failed = None;
            discover::ask(round, |candidate| match self.try_one(candidate) {
                Ok(talk) => {
                    found = talk;
                    found.is_some()
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            })?;
            if let Some(talk) = found {
                return Ok(talk);
            }
            if let Some(error) = failed {
                say(&format!("A provisioner answered, but could not be talked to: {error:#}."));
            }
            round = (round * 2).min(LONGEST_ROUND);
        }
    }

    /// Addresses that need not be asked for.
    pub(super) fn known(&self) -> Result<Vec<Candidate>> {
        let last: Option<String> = self.at.state.load("last.json")?;
        let mut known = discover::known(last.as_slice(), "known from before");
        known.extend(discover::known(&self.addresses, "named by the owner"));
        Ok(known)
    }

    fn try_one(&mut self, candidate: &Candidate) -> Result<Option<Conversation>> {
        let Some(talk) = self.connect(candidate)? else { return Ok(None) };
        self.at.state.save("last.json", &candidate.address.to_string())?;
        say(&format!("Found the provisioner at {} ({}).", candidate.address, candidate.by));
        Ok(Some(talk))
    }

    /// M1; none where it does not answer, is not of our owner, or was refused a while ago.
    pub(super) fn connect(&mut self, candidate: &Candidate) -> Result<Option<Conversation>> {
        let now = Instant::now();
        self.refused.retain(|_, until| now < *until);
        if self.refused.contains_key(&candidate.address) {
            return Ok(None);
        }
        let (trust, certificate) = (self.trust()?, self.certificate());
        let own = tls::Own { key: &self.identity.node, certificate: &certificate };
        match tls::connect(candidate.address, &own, &trust, self.belief.floor, clock::rtc()) {
            Ok(Ok(link)) => Ok(Some(Conversation::over(link))),
            Ok(Err(refused)) => {
                self.avoid(candidate.address, REFUSED_FOR);
                say(&format!("{} ({} at {})", refused.refusal.sentence(), refused.id(), candidate.address));
                Ok(None)
            }
            // It is asked again in the next round: who does not answer now may be starting.
            Err(error) => {
                say(&format!("No answer from {} ({}): {error:#}.", candidate.address, candidate.by));
                Ok(None)
            }
        }
    }

    /// The provisioner says no. Another one may say otherwise; this one is asked again in a while, since HQ may change
    /// its mind.
    pub(super) fn no(&mut self, address: SocketAddr, said: &Said) {
        say(&format!("{} ({})", said.text, said.reason));
        self.sign.say(State::Error);
        self.avoid(address, AGAIN_AFTER_NO);
        std::thread::sleep(Duration::from_secs(1));
    }

    /// We say no.
    pub(super) fn we_refuse(&mut self, address: SocketAddr, refused: &Refused) {
        say(&format!("{} ({})", refused.refusal.sentence(), refused.id()));
        self.sign.say(State::Error);
        self.avoid(address, REFUSED_FOR);
    }

    pub(super) fn avoid(&mut self, address: SocketAddr, pause: Duration) {
        self.refused.insert(address, Instant::now() + pause);
    }
}
