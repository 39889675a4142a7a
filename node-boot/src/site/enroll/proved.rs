//! What comes after the voucher, M4 to M6 and M9: the machine proves who it is, and is certified.

use anyhow::{Context, Result};
use protocol::attest::{Challenge, Proof, Proven, Request};
use protocol::bytes::{B64u, Digest, b64, b64u};
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::crypto::Signer as _;
use protocol::est;
use protocol::id::Id;
use protocol::messages::{Clock, Message, Outcome};
use protocol::refusal::{Refusal, Refused};
use protocol::tpm::Ek;

use super::{Proved, Setup, Step};
use crate::site::http::{Conversation, Meaning, read_json};

/// M4: proves the strongest name there is. The voucher has said which endorsement key HQ means. With a disk that cannot be
/// opened, the proof is for that alone.
pub(in crate::site) fn prove(
    talk: &mut Conversation,
    setup: &Setup<'_>,
    disk: Option<&B64u>,
) -> Result<Step<Proven>> {
    let identity = setup.identity;
    if let Some(chip) = &identity.tpm {
        let meant = setup.belief.voucher.as_ref().and_then(|held| held.machine.as_ref());
        let ek = meant_by(meant, &chip.eks).context("the TPM's endorsement key")?;
        let key = B64u(chip.blob.public.as_bytes().to_vec());
        let (ek_public, disk) = (B64u(ek.public().as_bytes().to_vec()), disk.cloned());
        let asked = Request::TpmEk { ek: ek_public, key, disk };
        let challenge: Challenge = match talk.json(Message::Attest, "", &asked)?.meaning() {
            Meaning::Good(body) => read_json(&body)?,
            other => return Ok(not_done(other)),
        };
        let id: [u8; 16] = challenge.id.0.as_slice().try_into().context("a challenge's name of 16 bytes")?;
        let secret = {
            let mut tpm = chip.tpm.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            tpm.activate(ek, &chip.blob, &challenge.blob.0, &challenge.secret.0)?
        };
        let proof = Proof { proof: B64u(talk.binding.tpm_proof(&secret, &id).to_vec()) };
        return proven(talk.json(Message::AttestProof, &b64u(&id), &proof)?.meaning());
    }
    let device = identity.device.as_ref().context("a machine without TPM has a device key")?;
    let sig = B64u(device.sign(&talk.binding.dev_key_message())?);
    let asked = Request::DevKey { spki: B64u(device.spki().to_vec()), sig };
    proven(talk.json(Message::Attest, "", &asked)?.meaning())
}

/// The endorsement key that the voucher names; the canonical one where it names none of these.
fn meant_by<'a>(name: Option<&Id>, eks: &'a [Ek]) -> Option<&'a Ek> {
    eks.iter().find(|ek| Some(&ek.id()) == name).or(eks.first())
}

fn not_done<T>(meaning: Meaning) -> Step<T> {
    match meaning {
        Meaning::Wait(said, after) => Step::Wait(said, after),
        Meaning::No(said) => Step::No(said),
        Meaning::Good(_) => Step::Refused(Refusal::WrongAnswer.into()),
    }
}

fn proven(meaning: Meaning) -> Result<Step<Proven>> {
    match meaning {
        Meaning::Good(body) => Ok(Step::Done(read_json(&body)?)),
        other => Ok(not_done(other)),
    }
}

impl Proved {
    /// The conversation, for what follows in this program.
    pub(crate) fn talk(&mut self) -> &mut Conversation {
        &mut self.talk
    }

    /// The machine's own name, where M4 was done on this connection and said it.
    pub fn machine(&self) -> Option<&str> {
        self.machine.as_deref()
    }

    /// M4.
    pub fn prove(&mut self, setup: &Setup<'_>) -> Result<Step<Proven>> {
        let step = prove(&mut self.talk, setup, None)?;
        if let Step::Done(proven) = &step {
            self.machine.clone_from(&proven.machine);
        }
        Ok(step)
    }

    /// M6: what time the site thinks it is.
    pub fn time(&mut self) -> Result<Step<Clock>> {
        Ok(match self.talk.get::<Clock>(Message::Time)? {
            Ok(clock) => Step::Done(clock),
            Err(meaning) => not_done(meaning),
        })
    }

    /// M5: a certificate of the site for the node key: DER. R15a.
    pub fn certificate(&mut self, setup: &Setup<'_>, renew: bool) -> Result<Step<Vec<u8>>> {
        let node = &setup.identity.node;
        let csr = protocol::issue::request("machine", None, &**node)?;
        let message = if renew { Message::SimpleReenroll } else { Message::SimpleEnroll };
        let body = match self.talk.send(message, "", est::REQUEST_TYPE, b64(&csr).as_bytes())?.meaning() {
            Meaning::Good(body) => body,
            other => return Ok(not_done(other)),
        };
        let Some(der) = est::read_certs_only(&body)?.into_iter().next() else {
            let refused = Refused::new(Refusal::WrongAnswer, 'a', "no certificate in the answer");
            return Ok(Step::Refused(refused));
        };
        let held = setup.belief.voucher.as_ref().context("the site's pin")?;
        let (cert, pin) = (Cert::parse(&der)?, Cert::parse(&held.pin.0)?);
        let at = protocol::clock::effective(setup.belief.floor, setup.rtc, [cert.not_before, pin.not_before]);
        let between = self.talk.chain.get(1..).unwrap_or_default();
        if let Err(refused) = check_certificate(&cert, &node.key_hash(), between, &pin, at) {
            return Ok(Step::Refused(refused));
        }
        setup.state.save_bytes("node.der", &der)?;
        Ok(Step::Done(der))
    }

    /// M9.
    pub fn joined(&mut self, outcome: &Outcome) -> Result<()> {
        self.talk.json(Message::EnrollStatus, "", outcome).map(drop)
    }
}

/// Whether a node certificate is for our key and leads to the pinned CA. R15a.
fn check_certificate(
    cert: &Cert,
    own: &Digest,
    between: &[Vec<u8>],
    pin: &Cert,
    at: Time,
) -> Result<(), Refused> {
    let wrong = |detail: &str| Err(Refused::new(Refusal::WrongAnswer, 'a', detail));
    if cert.key_hash != *own {
        return wrong("the certificate is for another key");
    }
    if protocol::cert::is_client(&cert.der, between, std::slice::from_ref(pin), at).is_err() {
        return wrong("the certificate does not come from the pinned CA");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::clock::YEAR;
    use protocol::crypto::{Alg, SoftKey};
    use protocol::issue::{Role, issue};

    use super::super::tests::{T, ca};
    use super::*;

    #[test]
    fn r15a_a_certificate_for_another_key_or_from_another_ca_is_refused() {
        let ((pin, key), (other, other_key)) = (ca("ship-7"), ca("ship-7"));
        let (node, thief) =
            (SoftKey::generate(Alg::Es256).unwrap().0, SoftKey::generate(Alg::Es256).unwrap().0);
        let verdict = |ca: &Cert, by: &SoftKey, own: &SoftKey, role: &Role<'_>| {
            let cert = Cert::parse(&issue(role, node.spki(), ca, by, T).unwrap()).unwrap();
            check_certificate(&cert, &own.key_hash(), &[], &pin, T).map_err(|refused| refused.id())
        };
        let role = Role::Node { machine: "mc_01", life: YEAR };
        assert_eq!(verdict(&pin, &key, &node, &role), Ok(()));
        let leaf = Role::Leaf { site: "ship-7", number: 1 };
        for refused in [
            verdict(&pin, &key, &thief, &role),
            verdict(&other, &other_key, &node, &role),
            verdict(&pin, &other_key, &node, &role),
            verdict(&pin, &key, &node, &leaf),
        ] {
            assert_eq!(refused, Err("R15a".to_owned()));
        }
    }
}
