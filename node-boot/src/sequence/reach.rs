//! Where the provisioner is: whom to ask, whom not to ask again for a while.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use protocol::clock;
use protocol::refusal::{Refused, Said};

use super::Awake;
use crate::console::{say, stands, why_not};
use crate::os::network::Network;
use crate::site::discover::{self, By, Candidate};
use crate::site::enroll::{Proved, Step, Unproven};
use crate::site::http::{ANSWER, Conversation};
use crate::site::race::Race;
use crate::site::sign::State;
use crate::site::tls::{self, Link};
use crate::stop::pause;
use crate::trace::{self, Spent};

/// Tries of M1.
pub(super) type Tries = Race<Link, Failed>;

/// By what another site has to prove itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// A voucher: the site that lets this machine wait is its own already.
    Voucher,
    /// A voucher, or the pin that this machine holds.
    Any,
}

/// Why M1 did not succeed.
pub(super) enum Failed {
    /// We do not believe the other end.
    Refused(Refused),
    /// It did not answer, or not in time, or not as it should.
    Broken(anyhow::Error),
}

/// Where the site was that has proved itself.
const LAST: &str = "last.json";
/// How long the LAN is asked while a site lets this machine wait, and how long after that it is asked again.
pub(super) const LOOK: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// How long, after a round of the LAN, those who were heard are waited for, and one of them for its answer.
const STRAGGLERS: Duration = Duration::from_secs(5);
/// What is known is tried so long before the LAN is asked.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long one round of asking the LAN takes at first, and at most.
const FIRST_ROUND: Duration = Duration::from_millis(250);
const LONGEST_ROUND: Duration = Duration::from_mins(1);
/// How long a provisioner that was refused is not asked again.
pub(super) const REFUSED_FOR: Duration = Duration::from_mins(10);
/// How long one that said no is not asked again, and how long nobody else is: the no is to be read.
pub(super) const AGAIN_AFTER_NO: Duration = Duration::from_secs(10);
const READ: Duration = Duration::from_secs(1);

impl Awake {
    /// Connects to the first provisioner of our owner that answers, asking until there is one.
    pub fn discover(&mut self) -> Result<Conversation> {
        let mut race = self.race()?;
        let mut round = if self.by_hand { LOOK } else { FIRST_ROUND };
        let mut around = discover::surroundings();
        loop {
            pause(Duration::ZERO)?;
            for candidate in self.known()? {
                race.offer(candidate, &self.shunned);
            }
            // What is known needs no noise on the LAN; where it does not answer at once, that is made meanwhile.
            if let Some(talk) = self.found(&mut race, HEAD_START)? {
                return Ok(talk);
            }
            say(if around.cables.is_empty() {
                "No network: please check the cable."
            } else if self.network.as_ref().is_some_and(Network::asks_in_vain) {
                "Looking for this site's provisioner on this cable alone: no DHCP server gives this machine an address."
            } else {
                "Looking for this site's provisioner on the network."
            });
            // Tries of earlier rounds go on: whoever is slow delays no question.
            race.ask(round);
            // It ends sooner where nobody is asked any more.
            if let Some(talk) = self.found(&mut race, round + HEAD_START)? {
                return Ok(talk);
            }
            if let Some(no) = self.no.as_ref().filter(|_| self.by_hand && race.is_over()) {
                bail!("{no}; nobody else answers (`node-boot run` goes on asking)");
            }
            // A cable that has just been plugged in is asked over at once, and often: it may get its address later. So is
            // who was just named as somebody to ask.
            let before = std::mem::replace(&mut around, discover::surroundings());
            round = if around == before { (round * 2).min(LONGEST_ROUND) } else { FIRST_ROUND };
        }
    }

    /// Addresses that need not be asked for.
    pub(super) fn known(&self) -> Result<Vec<Candidate>> {
        let last: Option<String> = self.at.state.load(LAST)?;
        let own = self.own.as_ref().map(|_| "127.0.0.1".to_owned());
        let mut known = discover::known(own.as_slice(), By::Own);
        known.extend(discover::known(last.as_slice(), By::Before));
        known.extend(discover::known(&self.addresses, By::Owner));
        Ok(known)
    }

    /// Where the site is, once it has proved itself: anybody else's address would cost time at every start.
    pub(super) fn remember(&self, address: SocketAddr) -> Result<()> {
        let address = address.to_string();
        if self.at.state.load::<String>(LAST)?.as_ref() == Some(&address) {
            Ok(())
        } else {
            self.at.state.save(LAST, &address)
        }
    }

    fn found(&mut self, race: &mut Tries, within: Duration) -> Result<Option<Conversation>> {
        let Some((candidate, talk)) = self.next(race, Instant::now() + within)? else { return Ok(None) };
        say(&format!("Found the provisioner at {} ({}).", candidate.address, candidate.by));
        trace::ended("the provisioner is found", Spent::Site);
        Ok(Some(talk))
    }

    /// M1 with many at once.
    pub(super) fn race(&self) -> Result<Tries> {
        let (trust, certificate) = (self.trust()?, self.certificate());
        let (key, floor) = (Arc::clone(&self.identity.node), self.belief.floor);
        Ok(Race::new(move |address| {
            let own = tls::Own { key: &key, certificate: &certificate };
            tls::connect(address, &own, &trust, floor, clock::system())
                .map_err(Failed::Broken)?
                .map_err(Failed::Refused)
        }))
    }

    /// The next of our owner's provisioners that answers before `until`. Those that are not of our owner, that fail and
    /// that are too slow are left alone for a while.
    pub(super) fn next(
        &mut self,
        race: &mut Tries,
        until: Instant,
    ) -> Result<Option<(Candidate, Conversation)>> {
        while let Some(tried) = race.next(until, &self.shunned) {
            let candidate = tried.candidate;
            match tried.outcome {
                Ok(link) => return Ok(Some((candidate, Conversation::over(link)))),
                Err(Failed::Refused(refused)) => {
                    self.avoid(candidate.address, REFUSED_FOR);
                    let no = format!("{refused} ({} at {})", refused.id(), candidate.address);
                    say(&no);
                    self.no = Some(no);
                }
                // It may be starting: it is asked again, the later the longer it kept us.
                Err(Failed::Broken(error)) => {
                    self.shunned.add_failed(candidate.address, tried.took);
                    if !is_early(&error) {
                        say(&format!("No answer from {} ({}): {error:#}.", candidate.address, candidate.by));
                    }
                }
            }
        }
        pause(Duration::ZERO)?;
        Ok(None)
    }

    /// Whether it is time to ask others than the site that lets this machine wait.
    pub(super) fn is_due(&self) -> bool {
        self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_AGAIN)
    }

    /// Asks every other provisioner of our owner that can be reached for a voucher: one round of the LAN. The first
    /// that proves itself is the one to go on with, and what it brought is believed.
    pub(super) fn look_elsewhere(
        &mut self,
        here: SocketAddr,
        round: Duration,
        proof: Proof,
    ) -> Result<Option<Proved>> {
        self.looked = Some(Instant::now());
        let mut race = self.race()?.without(here);
        for candidate in self.known()? {
            race.offer(candidate, &self.shunned);
        }
        race.ask(round);
        let until = Instant::now() + round + STRAGGLERS;
        while let Some((candidate, mut talk)) = self.next(&mut race, until)? {
            let begin = Instant::now();
            talk.be_patient_for(STRAGGLERS);
            match self.vouched(talk, proof) {
                Ok(Some(mut proved)) => {
                    proved.talk().be_patient_for(ANSWER);
                    return Ok(Some(proved));
                }
                Ok(None) => {}
                Err(_) => self.shunned.add_failed(candidate.address, begin.elapsed()),
            }
        }
        Ok(None)
    }

    /// M2, once.
    fn vouched(&mut self, talk: Conversation, proof: Proof) -> Result<Option<Proved>> {
        let trust = self.trust()?;
        let site = Unproven::new(talk);
        let request = site.request(&self.setup(&trust))?;
        Ok(match site.voucher(&self.setup(&trust), &request)? {
            (_, Step::Done((proved, belief))) => {
                self.belief = belief;
                Some(proved)
            }
            (Some(back), _) if proof == Proof::Any => back.by_pin(&self.setup(&trust)).ok(),
            _ => None,
        })
    }

    /// The provisioner says no. Another one may say otherwise; this one is asked again in a while, since HQ may change
    /// its mind.
    pub(super) fn no(&mut self, address: SocketAddr, said: &Said) -> Result<()> {
        let no = why_not(&said.reason);
        stands(&no);
        self.no = Some(no);
        self.sign.say(State::Error);
        self.avoid(address, AGAIN_AFTER_NO);
        pause(READ)
    }

    /// We say no.
    pub(super) fn we_refuse(&mut self, address: SocketAddr, refused: &Refused) {
        let no = format!("{} ({})", refused.refusal.sentence(), refused.id());
        stands(&no);
        self.no = Some(no);
        self.sign.say(State::Error);
        self.avoid(address, REFUSED_FOR);
    }

    pub(super) fn avoid(&mut self, address: SocketAddr, pause: Duration) {
        self.shunned.add(address, pause);
    }
}

/// Whether this machine has no address yet from which it could ask: what it waits for then is said anyway.
fn is_early(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn that_a_machine_has_no_address_yet_is_no_answer_of_anybody() {
        let failed = |number| {
            let error: Result<()> = Err(std::io::Error::from_raw_os_error(number)).context("connecting");
            error.unwrap_err()
        };
        assert!(is_early(&failed(libc::EADDRNOTAVAIL)));
        for number in [libc::ECONNREFUSED, libc::ENETUNREACH, libc::ETIMEDOUT] {
            assert!(!is_early(&failed(number)), "{number}");
        }
        assert!(!is_early(&anyhow::anyhow!("no good certificate")));
    }
}
