//! The human code (M10): shown by a machine that nobody registered.

use anyhow::{Context, Result};
use protocol::bytes::B64u;
use protocol::bytes::b64u;
use protocol::cert::Cert;
use protocol::claim::{Code, Open, Opened, Reveal, commit, sas};
use protocol::id::Id;
use protocol::messages::Message;

use super::enroll::{Setup, Step, Unproven, prove};
use super::http::{Meaning, read_json};

/// Proves what can be proven, opens a claim, and returns the code to show.
pub fn open(site: &mut Unproven, setup: &Setup<'_>) -> Result<Step<Code>> {
    let talk = &mut site.talk;
    let proven = match prove(talk, setup, None)? {
        Step::Done(proven) => proven.ids,
        Step::Wait(said, after) => return Ok(Step::Wait(said, after)),
        Step::No(said) => return Ok(Step::No(said)),
        Step::Refused(refused) => return Ok(Step::Refused(refused)),
    };
    let s = talk.binding.s;
    let mut ids: Vec<Id> = proven.into_iter().chain([Id::Key(s)]).collect();
    ids.sort();
    ids.dedup();
    let leaf = Cert::parse(talk.chain.first().context("the provisioner's certificate")?)?;
    let nb = protocol::crypto::random::<16>()?;
    let open = Open { commit: commit(&s, &ids, &nb), ids, hw: setup.facts.clone() };
    let opened: Opened = match talk.json(Message::Claim, "", &open)?.meaning() {
        Meaning::Good(body) => read_json(&body)?,
        Meaning::Wait(said, after) => return Ok(Step::Wait(said, after)),
        Meaning::No(said) => return Ok(Step::No(said)),
    };
    let ns: [u8; 16] = opened.ns.0.as_slice().try_into().context("a nonce of 16 bytes")?;
    let id = b64u(&opened.id.0);
    match talk.json(Message::ClaimReveal, &id, &Reveal { nb: B64u(nb.to_vec()) })?.meaning() {
        Meaning::No(said) => Ok(Step::No(said)),
        Meaning::Good(_) | Meaning::Wait(..) => Ok(Step::Done(sas(&s, &leaf.key_hash, &nb, &ns))),
    }
}
