//! Voucher, proof, time, certificate: M2 to M6, and the human code of a machine that nobody registered.

use std::time::Duration;

use anyhow::{Result, bail};
use protocol::refusal::{Refusal, Said, Wait};

use super::reach::{LOOK, Proof};
use super::{Awake, shut};
use crate::console::{say, show_code, stands, why_not, why_wait};
use crate::os::clock;
use crate::os::init::System;
use crate::site::claim;
use crate::site::enroll::{Proved, Step, Unproven};
use crate::site::http::Conversation;
use crate::site::sign::State;
use crate::stop::{pause, stopping};

/// After a conversation that broke off.
const AGAIN: Duration = Duration::from_secs(1);

/// What came of a wait for a voucher.
pub(super) enum Waited {
    /// It is to be asked again.
    Again(Unproven),
    /// A site has proved itself.
    Done(Proved),
    /// Another provisioner is looked for.
    Leave,
}

impl Awake {
    /// Enrolls: voucher, proof, time, certificate. Goes on where it stopped; asks again as long as it is told to.
    pub fn enroll(&mut self) -> Result<Proved> {
        loop {
            let talk = self.discover()?;
            match self.enroll_over(talk) {
                Ok(Some(proved)) => {
                    self.forget_code()?;
                    return Ok(proved);
                }
                Ok(None) => {}
                Err(error) if stopping() => return Err(error),
                Err(error) => {
                    say(&format!("The conversation broke off: {error:#}. Trying again."));
                    pause(AGAIN)?;
                }
            }
        }
    }

    fn enroll_over(&mut self, talk: Conversation) -> Result<Option<Proved>> {
        let proved = match self.by_pin(Unproven::new(talk))? {
            Ok(proved) => Some(proved),
            Err(site) => self.by_voucher(site)?,
        };
        let Some(mut proved) = proved else { return Ok(None) };
        if let Some(shut) = self.shut.clone().filter(|shut| shut.locked) {
            // Its key must not take the place of the one in the shut state.
            self.open_by_site(&mut proved, &shut.why)?;
            return Ok(None);
        }
        self.remember(proved.talk().address()?)?;
        Ok(self.prove_and_certify(&mut proved)?.then_some(proved))
    }

    /// A site that this machine belongs to proves itself by its pin. A voucher is asked for first all the same: headquarters
    /// may have sent a newer one, and the request tells the site what this machine is made of today.
    fn by_pin(&mut self, site: Unproven) -> Result<Result<Proved, Unproven>> {
        let trust = self.trust()?;
        if self.belief.voucher.is_none() {
            return Ok(Err(site));
        }
        let request = site.request(&self.setup(&trust))?;
        let (mut site, step) = match site.voucher(&self.setup(&trust), &request)? {
            (_, Step::Done((proved, belief))) => {
                self.belief = belief;
                return Ok(Ok(proved));
            }
            (Some(site), step) => (site, step),
            (None, _) => bail!("the conversation ended"),
        };
        if let Step::Refused(refused) = &step {
            say(&format!("{} ({})", refused.refusal.sentence(), refused.id()));
        }
        // The site has lost what it knew of us, and headquarters never heard of it: a person has to speak, unless
        // another provisioner knows better. Another site that says so is no reason to show it a code.
        let lost = matches!(&step, Step::Wait(said, _) if said.reason == Wait::Unknown.code());
        if lost && site.is_pinned(&self.setup(&trust)) {
            if let Some(proved) = self.look_elsewhere(site.address()?, LOOK, Proof::Voucher)? {
                return Ok(Ok(proved));
            }
            self.claim(&mut site)?;
        }
        Ok(site.by_pin(&self.setup(&trust)).map_err(|back| back.0))
    }

    /// M2 and M3, until there is a voucher or a person's word; none where another provisioner is to be asked.
    fn by_voucher(&mut self, mut site: Unproven) -> Result<Option<Proved>> {
        let trust = self.trust()?;
        let address = site.address()?;
        let request = site.request(&self.setup(&trust))?;
        self.looked = None;
        loop {
            match site.voucher(&self.setup(&trust), &request)? {
                (_, Step::Done((proved, belief))) => {
                    self.belief = belief;
                    return Ok(Some(proved));
                }
                (Some(back), Step::Wait(said, after)) => match self.wait(back, &said, after)? {
                    Waited::Again(again) => site = again,
                    Waited::Done(proved) => return Ok(Some(proved)),
                    Waited::Leave => return Ok(None),
                },
                (_, Step::No(said)) => {
                    self.no(address, &said)?;
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

    fn wait(&mut self, mut site: Unproven, said: &Said, after: u64) -> Result<Waited> {
        let time = Duration::from_secs(after);
        pause(Duration::ZERO)?;
        self.no = None;
        self.sign.waits(&said.reason);
        if said.reason == Wait::Approved.code() {
            return self.by_voice(site, time);
        }
        // Who says so may be a site that this machine is not for; it would keep us for as long as it likes.
        if self.is_due()
            && let Some(proved) = self.look_elsewhere(site.address()?, LOOK, Proof::Any)?
        {
            return Ok(Waited::Done(proved));
        }
        // A provisioner that knows our code does not say this: the code has run out, or was never shown. A machine that
        // belongs to a site shows none to another one: only headquarters' voucher moves it.
        let free = self.belief.voucher.is_none() || site.is_pinned(&self.setup(&self.trust()?));
        if said.reason == Wait::Unknown.code() && free {
            self.claim(&mut site)?;
        } else if let Some(code) = self.code()?.filter(|_| said.reason == Wait::PendingHq.code()) {
            // Somebody may be reading it.
            show_code(&code);
        } else {
            stands(&why_wait(&said.reason));
        }
        pause(time)?;
        Ok(Waited::Again(site))
    }

    fn claim(&self, site: &mut Unproven) -> Result<()> {
        let trust = self.trust()?;
        match claim::open(site, &self.setup(&trust))? {
            Step::Done(code) => {
                // Whoever sees it on the screen finds it on the stick.
                self.keep_code(&code.to_string())?;
                show_code(&code.to_string());
            }
            Step::Wait(said, _) => stands(&why_wait(&said.reason)),
            Step::No(said) => stands(&why_not(&said.reason)),
            Step::Refused(refused) => say(refused.refusal.sentence()),
        }
        Ok(())
    }

    /// M4, M6, M5 on a connection that has proved itself; whether it is done.
    fn prove_and_certify(&mut self, proved: &mut Proved) -> Result<bool> {
        let trust = self.trust()?;
        let certified = self.certificate() != self.identity.pledge;
        if !certified {
            let step = proved.prove(&self.setup(&trust))?;
            if !self.done(proved, step)? {
                return Ok(false);
            }
        }
        let asked = protocol::clock::system();
        match proved.time()? {
            Step::Done(told) => clock::follow(&told, self.belief.floor, asked),
            // The site has forgotten us, or has locked us out: the proof is given again, once, and then as for
            // everybody whom it does not know.
            Step::No(said) if said.reason == Refusal::NotProven.code() && certified => {
                self.at.state.remove("node.der")?;
                return Ok(false);
            }
            // Who is told nothing else any more may still be told to wipe itself.
            Step::No(_) if self.at.system == Some(System::Installed) && shut::is_wiped(proved)? => {
                return Ok(false);
            }
            step => {
                if !self.done(proved, step)? {
                    return Ok(false);
                }
            }
        }
        if certified {
            return Ok(true);
        }
        let step = proved.certificate(&self.setup(&trust), false)?;
        let done = self.done(proved, step)?;
        if done {
            say("The site has accepted this machine.");
            self.sign.say(State::Wait);
        }
        Ok(done)
    }

    fn done<T>(&mut self, proved: &mut Proved, step: Step<T>) -> Result<bool> {
        Ok(self.what_of(proved, step)?.is_some())
    }

    /// What came of a step, where it is done. Where it is not, this says why, and takes its time: whoever asks again at once
    /// is the load that keeps the other end from answering.
    pub(super) fn what_of<T>(&mut self, proved: &mut Proved, step: Step<T>) -> Result<Option<T>> {
        let address = proved.talk().address()?;
        match step {
            Step::Done(done) => return Ok(Some(done)),
            Step::Wait(said, after) => {
                stands(&why_wait(&said.reason));
                self.sign.waits(&said.reason);
                pause(Duration::from_secs(after))?;
            }
            Step::No(said) => self.no(address, &said)?,
            Step::Refused(refused) => self.we_refuse(address, &refused),
        }
        Ok(None)
    }
}
