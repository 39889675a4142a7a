//! Vouchers, M2 and M3: until the site has proved itself, nothing else can be said to it.

mod proved; // what comes after

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::anchors::Trust;
use protocol::bytes::B64u;
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::inventory::Facts;
use protocol::messages::{Message, Outcome, VOUCHER_TYPE};
use protocol::pvr::{self, Claims};
use protocol::refusal::{Refusal, Refused, Said};
use protocol::voucher::{self, Accepted, Setting, Stored, VOICE_EPOCH};

pub(super) use self::proved::prove;
use super::http::{Conversation, Meaning};
use super::identify::Identity;
use super::voice;
use crate::state::{Belief, Held, State};

/// How a step ended, when it did not fail.
pub enum Step<T> {
    /// Done.
    Done(T),
    /// Ask again after so many seconds.
    Wait(Said, u64),
    /// The provisioner says no.
    No(Said),
    /// We say no.
    Refused(Refused),
}

/// A provisioner of our owner that has not yet shown that this machine is for its site. It can only be asked for a
/// voucher (M2), told what we think of it (M3), given proof of who we are (M4), and shown a code (M10): R16 is this type.
pub struct Unproven {
    pub(super) talk: Conversation,
}

/// A provisioner that has proved itself, by a voucher, by the pin of one, or by a person's word. It is made here only,
/// and everything after M4 asks for it.
pub struct Proved {
    talk: Conversation,
    machine: Option<String>,
}

/// R16 is a matter of types: what comes after the site's proof takes a site that has given it.
///
/// ```no_run
/// use node_boot::{site::configure, site::enroll::Proved, state::Belief};
/// fn in_time(site: &mut Proved, belief: &Belief) {
///     let _ = configure::ask(site, belief);
/// }
/// ```
///
/// ```compile_fail
/// use node_boot::{site::configure, site::enroll::Unproven, state::Belief};
/// fn too_early(site: &mut Unproven, belief: &Belief) {
///     let _ = configure::ask(site, belief);
/// }
/// ```
///
/// Nor can anybody declare a site proved, or reach past the type to its conversation.
///
/// ```compile_fail
/// use node_boot::site::{enroll::Proved, http::Conversation};
/// fn by_decree(talk: Conversation) -> Proved {
///     Proved { talk, machine: None }
/// }
/// ```
///
/// ```compile_fail
/// use node_boot::site::{enroll::Unproven, http::Conversation};
/// fn behind_its_back(site: &mut Unproven) -> &mut Conversation {
///     &mut site.talk
/// }
/// ```
#[cfg(doctest)]
mod r16 {}

/// What came of asking for a voucher: who can be asked again, where that makes sense, and how it ended.
pub type Vouched = (Option<Unproven>, Step<(Proved, Belief)>);

/// What the machine knows when it speaks to a provisioner.
pub struct Setup<'a> {
    /// Who it is.
    pub identity: &'a Identity,
    /// What it believes.
    pub belief: &'a Belief,
    /// The same, read.
    pub trust: &'a Trust,
    /// What it is made of.
    pub facts: &'a Facts,
    /// Its clock.
    pub rtc: Option<Time>,
    /// Its state.
    pub state: &'a State,
}

impl Setup<'_> {
    fn stored(&self) -> Option<Stored> {
        self.belief.voucher.as_ref().map(|held| Stored { epoch: held.epoch, pin: held.pin_key })
    }
}

impl Unproven {
    /// Over a fresh connection.
    pub fn new(talk: Conversation) -> Self {
        Self { talk }
    }

    /// Waits so long for each answer from now on.
    pub fn be_patient_for(&mut self, patience: Duration) {
        self.talk.be_patient_for(patience);
    }

    /// Where it is.
    pub fn address(&self) -> Result<SocketAddr> {
        self.talk.address()
    }

    /// The site that its verified chain names, and that site's CA.
    pub fn site(&self, setup: &Setup<'_>) -> Result<(String, Cert), Refused> {
        voice::site_of(&self.setting(setup))
    }

    /// A person approved this machine by telephone, and another one confirmed the site here: pins the site's CA with
    /// epoch 0, and saves that before anything else is said.
    pub fn by_voice(self, setup: &Setup<'_>, _: voice::Admission) -> Result<(Proved, Belief)> {
        let (site, pin) = self.site(setup)?;
        let held =
            Held { epoch: VOICE_EPOCH, site, machine: None, pin_key: pin.key_hash, pin: B64u(pin.der) };
        let belief = Belief { voucher: Some(held), ..setup.belief.clone() };
        setup.state.save("belief.json", &belief)?;
        Ok((self.proved(), belief))
    }

    fn proved(self) -> Proved {
        Proved { talk: self.talk, machine: None }
    }

    /// A connection to the site that the machine belongs to already proves itself by the pin it holds.
    pub fn by_pin(self, setup: &Setup<'_>) -> Result<Proved, Box<(Self, Refused)>> {
        match self.check_pin(setup) {
            Ok(()) => Ok(self.proved()),
            Err(refused) => Err(Box::new((self, refused))),
        }
    }

    /// Whether that would prove it.
    pub fn is_pinned(&self, setup: &Setup<'_>) -> bool {
        self.check_pin(setup).is_ok()
    }

    fn check_pin(&self, setup: &Setup<'_>) -> Result<(), Refused> {
        let held = setup.belief.voucher.as_ref().ok_or(Refusal::TooEarly)?;
        let pin = Cert::parse(&held.pin.0)
            .map_err(|error| Refused::new(Refusal::VoucherMalformed, 'a', error.to_string()))?;
        voucher::check_session(&self.setting(setup), &pin)
    }

    fn setting<'a>(&'a self, setup: &'a Setup<'_>) -> Setting<'a> {
        Setting {
            trust: setup.trust,
            ids: &setup.identity.ids,
            chain: &self.talk.chain,
            floor: setup.belief.floor,
            rtc: setup.rtc,
            stored: setup.stored(),
        }
    }

    /// The voucher request for this connection: the same one is sent again after a wait.
    pub fn request(&self, setup: &Setup<'_>) -> Result<String> {
        let mut caps = vec!["screen".to_owned()];
        caps.extend(setup.identity.tpm.is_some().then(|| "tpm-ek".to_owned()));
        caps.extend(setup.identity.device.is_some().then(|| "dev-key".to_owned()));
        let claims = Claims {
            ids: setup.identity.ids.clone(),
            hw: setup.facts.clone(),
            epoch: setup.belief.voucher.as_ref().map_or(0, |held| held.epoch),
            bundle: setup.belief.bundle,
            floor: setup.belief.floor,
            caps,
        };
        let leaf = self.talk.chain.first().context("the provisioner's certificate")?;
        let now = protocol::clock::known_rtc(setup.rtc, setup.belief.floor).unwrap_or(setup.belief.floor);
        let nonce = protocol::crypto::random()?;
        Ok(pvr::make(&claims, leaf, nonce, now, &setup.identity.pledge, &*setup.identity.node)?)
    }

    /// M2 and M3: asks for the voucher, checks it in order, saves what it says, and tells the provisioner.
    pub fn voucher(mut self, setup: &Setup<'_>, request: &str) -> Result<Vouched> {
        let answer = self.talk.send(Message::RequestVoucher, "", VOUCHER_TYPE, request.as_bytes())?;
        let text = match answer.meaning() {
            Meaning::Good(text) => text,
            Meaning::Wait(said, after) => return Ok((Some(self), Step::Wait(said, after))),
            Meaning::No(said) => return Ok((Some(self), Step::No(said))),
        };
        match voucher::check(&text, &self.setting(setup)) {
            Ok(accepted) => {
                let belief = adopt(setup, &accepted)?;
                self.tell(None)?;
                Ok((None, Step::Done((self.proved(), belief))))
            }
            Err(refused) => {
                self.tell(Some(&refused))?;
                Ok((Some(self), Step::Refused(refused)))
            }
        }
    }

    /// M3: what we think of the voucher, or of an approval by voice.
    pub fn tell(&mut self, refused: Option<&Refused>) -> Result<()> {
        let reason = refused.map(|refused| refused.refusal.code().to_owned());
        let outcome = Outcome { version: 1, status: refused.is_none(), reason };
        self.talk.json(Message::VoucherStatus, "", &outcome).map(drop)
    }
}

/// Saves the voucher before anything else is said.
fn adopt(setup: &Setup<'_>, accepted: &Accepted) -> Result<Belief> {
    let belief = with(setup.belief, accepted);
    setup.state.save("belief.json", &belief)?;
    Ok(belief)
}

fn with(belief: &Belief, accepted: &Accepted) -> Belief {
    let held = Held {
        epoch: accepted.assignment.epoch,
        site: accepted.assignment.site.clone(),
        machine: Some(accepted.machine.clone()),
        pin: B64u(accepted.pin.der.clone()),
        pin_key: accepted.pin.key_hash,
    };
    let floor = belief.floor.max(accepted.floor);
    Belief { voucher: Some(held), floor, ..belief.clone() }
}

/// A voucher that M11 brought, checked as one of M2 is: what to believe from now on, where it is newer.
pub fn newer(text: &str, setting: &Setting<'_>, belief: &Belief) -> Result<Option<Belief>, Refused> {
    let accepted = voucher::check(text.as_bytes(), setting)?;
    let newer = setting.stored.is_none_or(|stored| accepted.assignment.epoch > stored.epoch);
    Ok(newer.then(|| with(belief, &accepted)))
}

#[cfg(test)]
mod tests {
    use protocol::anchors::Kept;
    use protocol::clock::YEAR;
    use protocol::crypto::{Alg, SoftKey};
    use protocol::id::Id;
    use protocol::issue::{Role, self_signed};
    use protocol::voucher::Assignment;

    use super::*;

    pub(super) const T: Time = Time(1_800_000_000);

    pub(super) fn ca(name: &str) -> (Cert, SoftKey) {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let der = self_signed(&Role::Anchor { name }, &key, T).unwrap();
        (Cert::parse(&der).unwrap(), key)
    }

    #[test]
    fn a_voucher_moves_the_floor_forward_and_never_back() {
        let kept = Kept { anchors: String::new(), rank: 1, revoked: std::collections::BTreeMap::new() };
        let belief = Belief { kept, image: T, floor: T, voucher: None, index: None, bundle: 0 };
        for (said, floor) in [(T.plus(YEAR), T.plus(YEAR)), (T.plus(-YEAR), T)] {
            let assignment = Assignment { epoch: 1, site: "ship-7".into() };
            let machine = Id::Serial("5CG1234ABC".into());
            let accepted = Accepted { assignment, machine, pin: ca("ship-7").0, floor: said };
            assert_eq!(with(&belief, &accepted).floor, floor);
        }
    }
}
