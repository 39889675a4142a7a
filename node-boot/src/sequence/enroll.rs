//! Voucher, proof, time, certificate: M2 to M6, and the human code of a machine that nobody registered.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use protocol::anchors::Trust;

use super::Awake;
use crate::console::{say, show_code};
use crate::site::claim;
use crate::site::enroll::{self, Proved, Step, Unproven};
use crate::site::http::Conversation;

impl Awake {
    /// Enrolls: voucher, proof, time, certificate. Goes on where it stopped; asks again as long as it is told to.
    pub fn enroll(&mut self) -> Result<Proved> {
        let mut claimed = false;
        loop {
            let talk = self.discover()?;
            match self.enroll_over(talk, &mut claimed) {
                Ok(Some(proved)) => return Ok(proved),
                Ok(None) => {}
                Err(error) => {
                    say(&format!("The conversation broke off: {error:#}. Trying again."));
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn enroll_over(&mut self, talk: Conversation, claimed: &mut bool) -> Result<Option<Proved>> {
        let address = talk.address()?;
        let mut unproven = Unproven::new(talk);
        if self.belief.voucher.is_some() {
            match unproven.by_pin(&self.setup(&self.trust()?)) {
                Ok(mut proved) => {
                    return Ok(self.prove_and_certify(&mut proved, address)?.then_some(proved));
                }
                Err(back) => unproven = back.0,
            }
        }
        let trust = self.trust()?;
        let request = unproven.request(&self.setup(&trust))?;
        loop {
            let (back, step) = unproven.voucher(&self.setup(&trust), &request)?;
            match (back, step) {
                (_, Step::Done((mut proved, belief))) => {
                    self.belief = belief;
                    return Ok(self.prove_and_certify(&mut proved, address)?.then_some(proved));
                }
                (Some(again), Step::Wait(said, after)) => {
                    unproven = again;
                    if said.reason == "unknown" && !*claimed {
                        *claimed = self.claim(&mut unproven, &trust)?;
                    } else {
                        say(&said.text);
                    }
                    std::thread::sleep(Duration::from_secs(after));
                }
                (_, Step::No(said)) => {
                    self.no(address, &said);
                    return Ok(None);
                }
                (_, Step::Refused(refused)) => {
                    self.we_refuse(address, &refused);
                    return Ok(None);
                }
                (None, _) => bail!("the conversation ended"),
            }
        }
    }

    fn claim(&self, unproven: &mut Unproven, trust: &Trust) -> Result<bool> {
        match claim::open(unproven.talk(), &self.setup(trust))? {
            Step::Done(code) => {
                show_code(&code.to_string());
                Ok(true)
            }
            Step::Wait(said, _) | Step::No(said) => {
                say(&said.text);
                Ok(false)
            }
            Step::Refused(refused) => {
                say(refused.refusal.sentence());
                Ok(false)
            }
        }
    }

    /// M4, M6, M5 on a connection that has proved itself; whether it is done.
    fn prove_and_certify(&mut self, proved: &mut Proved, address: SocketAddr) -> Result<bool> {
        let trust = self.trust()?;
        let certified = self.certificate() != self.identity.pledge;
        let step = if certified { None } else { Some(enroll::prove(&mut proved.talk, &self.setup(&trust))?) };
        match step {
            None | Some(Step::Done(_)) => {}
            Some(Step::Wait(said, after)) => {
                say(&said.text);
                std::thread::sleep(Duration::from_secs(after));
                return Ok(false);
            }
            Some(Step::No(said)) => {
                self.no(address, &said);
                return Ok(false);
            }
            Some(Step::Refused(refused)) => {
                self.we_refuse(address, &refused);
                return Ok(false);
            }
        }
        match enroll::time(&mut proved.talk)? {
            Step::Done(_) => {}
            // The site has forgotten us, or has locked us out: the proof is given again.
            Step::No(said) if said.reason == "not-proven" => {
                self.at.state.remove("node.der")?;
                return Ok(false);
            }
            Step::No(said) | Step::Wait(said, _) => {
                self.no(address, &said);
                return Ok(false);
            }
            Step::Refused(refused) => {
                self.we_refuse(address, &refused);
                return Ok(false);
            }
        }
        if certified {
            return Ok(true);
        }
        match enroll::certificate(&mut proved.talk, &self.setup(&trust), &self.belief, false)? {
            Step::Done(_) => {
                say("The site has accepted this machine.");
                Ok(true)
            }
            Step::No(said) | Step::Wait(said, _) => {
                self.no(address, &said);
                Ok(false)
            }
            Step::Refused(refused) => {
                self.we_refuse(address, &refused);
                Ok(false)
            }
        }
    }
}
