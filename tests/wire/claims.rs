//! Codes that are not given or not believed.

use std::net::IpAddr;

use protocol::bytes::{B64u, Digest};
use protocol::claim::{self, Code, Open, Opened, Reveal};
use protocol::id::Id;
use protocol::messages::Message;
use protocol::refusal::{Refusal, Wait};
use tests::pledge::{Answer, Pledge, Session};
use tests::stage::code_in;

use crate::{Served, fails, is};

const NB: [u8; 16] = [7; 16];

/// M10, first step, with these ids as proven.
fn open(session: &mut Session<'_>, ids: &[Id]) -> Answer {
    let commit = claim::commit(&session.binding.s, ids, &NB);
    let open = Open { commit, ids: ids.to_vec(), hw: protocol::inventory::Facts::default() };
    session.json(Message::Claim, &open).unwrap()
}

fn own(session: &Session<'_>) -> [Id; 1] {
    [Id::Key(session.binding.s)]
}

/// The first step, which goes well.
fn opened(session: &mut Session<'_>) -> Opened {
    let ids = own(session);
    let answer = open(session, &ids);
    assert_eq!(answer.status, 200, "{}", answer.reason());
    protocol::json::parse(&answer.body).unwrap()
}

/// M10, second step.
fn reveal(session: &mut Session<'_>, id: &[u8], nb: [u8; 16]) -> Answer {
    let body = protocol::json::to_vec(&Reveal { nb: B64u(nb.to_vec()) });
    session.send(Message::ClaimReveal, &protocol::bytes::b64u(id), "application/json", &body).unwrap()
}

/// Both steps: the code that the machine shows.
fn show(session: &mut Session<'_>) -> Code {
    let claim = opened(session);
    assert_eq!(reveal(session, &claim.id.0, NB).status, 202);
    let p = protocol::cert::Cert::parse(&session.leaf).unwrap().key_hash;
    claim::sas(&session.binding.s, &p, &NB, &claim.ns.0.try_into().unwrap())
}

/// A person types HQ's answer at the site.
fn typed(served: &Served, slot: &str, code: &str) -> anyhow::Result<String> {
    served.site(&["approve", "--slot", slot, "--code", code])
}

/// What HQ says on the telephone to this code.
fn answered(served: &Served, slot: &str, code: Code) -> String {
    let file = served.hq.path("approval.jws").display().to_string();
    let said = served.hq.run(&["approve", "ship-7", slot, &code.to_string(), "-o", &file]).unwrap();
    code_in(said.split("By voice alone").nth(1).unwrap()).unwrap()
}

fn site_with_window() -> Served {
    let served = Served::with(&[]);
    served.slots(&["node-1", "node-2"]);
    served.site(&["window"]).unwrap();
    served
}

#[test]
fn r21c_no_code_is_given_while_nobody_plugs_a_machine_in() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[]);
    let mut session = pledge.connect(served.address).unwrap();
    let ids = own(&session);
    is(&open(&mut session, &ids), Refusal::Unknown);
    assert!(served.noted("R21c"));
    served.site(&["window"]).unwrap();
    show(&mut session);
}

#[test]
fn r41_no_more_than_two_claims_of_one_source_and_six_a_minute() {
    let served = site_with_window();
    let pledges: Vec<_> = (0..8).map(|_| Pledge::new().unwrap()).collect();
    let from = |host| IpAddr::from([127, 0, 0, host]);
    let mut sessions: Vec<_> = (2u8..)
        .zip(&pledges)
        .map(|(n, pledge)| pledge.connect_from(from(n / 2 + 1), served.address).unwrap())
        .collect();
    let mut third = pledges[7].connect_from(from(2), served.address).unwrap();
    opened(&mut sessions[0]);
    opened(&mut sessions[1]);
    let ids = own(&third);
    let refused = open(&mut third, &ids);
    is(&refused, Refusal::TooManyClaims);
    assert_eq!(refused.retry_after, Some(10));
    opened(&mut sessions[0]);
    for session in &mut sessions[2..6] {
        opened(session);
    }
    let ids = own(&sessions[6]);
    is(&open(&mut sessions[6], &ids), Refusal::TooManyClaims);
}

#[test]
fn r42a_a_claim_names_what_was_proven_on_its_connection_and_nothing_else() {
    let pledge = Pledge::new().unwrap();
    let served = site_with_window();
    let mut session = pledge.connect(served.address).unwrap();
    let s = session.binding.s;
    for ids in [vec![], vec![Id::Key(s), pledge.id()], vec![Id::Ek(Digest::of(b"a TPM"))]] {
        is(&open(&mut session, &ids), Refusal::ClaimWrong);
        assert!(served.noted("R42a"));
    }
    assert_eq!(session.attest().unwrap().status, 200);
    assert_eq!(open(&mut session, &[pledge.id(), Id::Key(s)]).status, 200, "now it is proven");
}

#[test]
fn r42b_a_nonce_that_was_not_committed_to_ends_the_claim() {
    let pledge = Pledge::new().unwrap();
    let served = site_with_window();
    let mut session = pledge.connect(served.address).unwrap();
    let claim = opened(&mut session);
    is(&reveal(&mut session, &claim.id.0, [8; 16]), Refusal::ClaimWrong);
    assert!(served.noted("R42b"));
    is(&reveal(&mut session, &claim.id.0, NB), Refusal::ClaimWrong);
    assert!(served.noted("R42c"), "one try, and the claim is over");
}

#[test]
fn r42c_a_claim_that_is_unknown_another_machines_or_over_is_refused() {
    let (pledge, other) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let mut served = site_with_window();
    let mut session = pledge.connect(served.address).unwrap();
    let claim = opened(&mut session);
    is(&reveal(&mut session, &[1; 16], NB), Refusal::ClaimWrong);
    is(&reveal(&mut session, b"short", NB), Refusal::ClaimWrong);
    is(&reveal(&mut other.connect(served.address).unwrap(), &claim.id.0, NB), Refusal::ClaimWrong);
    assert_eq!(reveal(&mut session, &claim.id.0, NB).status, 202);
    is(&reveal(&mut session, &claim.id.0, NB), Refusal::ClaimWrong);
    // A provisioner that was switched off has forgotten it: the machine is told to begin again.
    served.kill();
    served.start();
    served.site(&["window"]).unwrap();
    let mut session = pledge.connect(served.address).unwrap();
    is(&reveal(&mut session, &claim.id.0, NB), Refusal::ClaimWrong);
    show(&mut session);
}

#[test]
fn r43b_an_answer_to_no_code_that_a_machine_shows_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = site_with_window();
    let mut session = pledge.connect(served.address).unwrap();
    let code = show(&mut session);
    let right = answered(&served, "node-1", code);
    let nobody = "it answers no code that a machine shows";
    // The code itself instead of the answer to it, the answer to another code, and the answer for another slot.
    fails(typed(&served, "node-1", &code.to_string()), Refusal::CodeWrong, nobody);
    let another = answered(&served, "node-1", Code([1, 2, 3, 4, 5]));
    fails(typed(&served, "node-1", &another), Refusal::CodeWrong, nobody);
    fails(typed(&served, "node-2", &right), Refusal::CodeWrong, nobody);
    typed(&served, "node-1", &right).unwrap();
    assert_eq!(session.voucher().unwrap().reason(), Wait::Approved.code());
}

#[test]
fn r43c_five_wrong_codes_end_a_claim_and_twenty_end_the_day() {
    let pledge = Pledge::new().unwrap();
    let served = site_with_window();
    let mut session = pledge.connect(served.address).unwrap();
    let right = answered(&served, "node-1", show(&mut session));
    let wrong = |n: u8| typed(&served, "node-1", &Code([n, 0, 0, 0, 9]).to_string());
    for n in 0..5 {
        fails(wrong(n), Refusal::CodeWrong, "no code that a machine shows");
    }
    fails(typed(&served, "node-1", &right), Refusal::CodeWrong, "no code that a machine shows");
    for n in 6..20 {
        fails(wrong(n), Refusal::CodeWrong, "no code that a machine shows");
    }
    let right = answered(&served, "node-1", show(&mut session));
    fails(typed(&served, "node-1", &right), Refusal::CodeWrong, "too many wrong codes today");
}
