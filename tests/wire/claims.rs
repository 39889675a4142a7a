//! Codes that are not given or not believed.

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, Ordering};

use protocol::attest::Binding;
use protocol::bytes::{B64u, Digest};
use protocol::claim::{self, Open, Opened, Reveal};
use protocol::clock::Time;
use protocol::id::Id;
use protocol::inventory::Facts;
use protocol::messages::Message;
use protocol::refusal::Refusal;
use provisioner::site::{Peer, Site, system_clock};
use tests::pledge::{Answer, Pledge, Session};

use crate::{Served, is};

const NB: [u8; 16] = [7; 16];

/// M10, first step, with these ids as proven.
fn open(session: &mut Session<'_>, ids: &[Id]) -> Answer {
    let commit = claim::commit(&session.binding.s, ids, &NB);
    let open = Open { commit, ids: ids.to_vec(), hw: Facts::default() };
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
    let claim = opened(&mut session);
    assert_eq!(reveal(&mut session, &claim.id.0, NB).status, 202);
}

#[test]
fn r41_no_more_than_two_claims_of_one_source_and_six_a_minute_and_a_new_source_has_room() {
    let served = site_with_window();
    let pledges: Vec<_> = (0..8).map(|_| Pledge::new().unwrap()).collect();
    let from = |host| IpAddr::from([127, 0, 0, host]);
    let mut sessions: Vec<_> = (2u8..)
        .zip(&pledges)
        .map(|(n, pledge)| pledge.connect_from(from(n / 2 + 1), served.address).unwrap())
        .collect();
    let mut third = pledges[7].connect_from(from(2), served.address).unwrap();
    let refused = |session: &mut Session<'_>| {
        let ids = own(session);
        let refused = open(session, &ids);
        is(&refused, Refusal::TooManyClaims);
        assert_eq!(refused.retry_after, Some(10));
    };
    opened(&mut sessions[0]);
    opened(&mut sessions[1]);
    refused(&mut third);
    opened(&mut sessions[0]);
    for session in &mut sessions[2..5] {
        opened(session);
    }
    // Six: whoever was among them waits, also to begin anew, and whoever was not does not.
    refused(&mut sessions[5]);
    refused(&mut sessions[0]);
    let claim = opened(&mut sessions[6]);
    assert_eq!(reveal(&mut sessions[6], &claim.id.0, NB).status, 202);
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
    let claim = opened(&mut session);
    assert_eq!(reveal(&mut session, &claim.id.0, NB).status, 202);
}

#[test]
fn a_machine_that_is_registered_meanwhile_shows_no_code_any_more() {
    let pledge = Pledge::new().unwrap();
    let served = site_with_window();
    let mut session = pledge.connect(served.address).unwrap();
    assert_eq!(session.attest().unwrap().status, 200);
    session.claim().unwrap();
    served.hq.import(&format!("dev-key,site,roles\n{},ship-7,worker\n", pledge.id())).unwrap();
    served.deliver();
    assert!(!served.site(&["claims"]).unwrap().contains("No machine shows a code."));
    session.admission().unwrap();
    assert!(served.site(&["claims"]).unwrap().contains("No machine shows a code."));
}

#[test]
fn what_a_machine_calls_itself_stands_in_nobodys_way_and_draws_on_no_terminal() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    served.slots(&["node-1"]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let listed = served.site(&["machines"]).unwrap();
    let id = listed.split_whitespace().find(|word| word.starts_with("mc_")).unwrap();
    served.site(&["window"]).unwrap();
    let names = ["node-1", id, "WIRE000\u{1b}[2J\u{9b}1m\n"];
    let posers: Vec<_> = names.iter().map(|_| Pledge::new().unwrap()).collect();
    for ((n, name), poser) in (2u8..).zip(names).zip(&posers) {
        let mut session = poser.connect_from(IpAddr::from([127, 0, 0, n]), served.address).unwrap();
        let ids = own(&session);
        let mut hw = Facts::default();
        hw.dmi.serial = name.to_owned();
        let open = Open { commit: claim::commit(&session.binding.s, &ids, &NB), ids: ids.to_vec(), hw };
        assert_eq!(session.json(Message::Claim, &open).unwrap().status, 200);
    }
    for name in ["node-1", id, "WIRE000", "WIRE"] {
        let said = served.site(&["retire", name]).unwrap();
        assert!(said.starts_with(&format!("{id}: out of service")), "{name}: {said}");
        served.site(&["retire", name, "--undo"]).unwrap();
    }
    let shown = served.site(&["claims"]).unwrap() + &served.site(&["claims", "--json"]).unwrap();
    assert!(shown.contains("WIRE000") && !shown.contains(['\u{1b}', '\u{9b}']), "{shown:?}");
}

/// A clock that stands where it is put.
static CLOCK: AtomicI64 = AtomicI64::new(0);

fn clock() -> Time {
    Time(CLOCK.load(Ordering::Relaxed))
}

fn later(seconds: i64) {
    CLOCK.fetch_add(seconds, Ordering::Relaxed);
}

#[test]
fn r42c_a_code_runs_out_after_an_hour_and_r41_sixty_four_wait_at_most() {
    let mut served = Served::with(&[]);
    served.kill();
    // The same folder, by a clock that does not have to be waited for.
    CLOCK.store(system_clock().0, Ordering::Relaxed);
    let site = Site::open(&served.path(), clock).unwrap();
    let claim = |n: u8| {
        let (s, source) = (Digest::of(&[n]), (IpAddr::from([127, 0, 1, n]), 1).into());
        let peer = Peer { s, binding: Binding { x: [0; 32], s }, source };
        let ids = vec![Id::Key(s)];
        let open = Open { commit: claim::commit(&s, &ids, &NB), ids, hw: Facts::default() };
        site.open_window(15);
        (peer, site.claim(&peer, &open.ids, &open))
    };
    let reveal = |peer, id: B64u| site.reveal(peer, &id.0, &Reveal { nb: B64u(NB.to_vec()) });
    let (in_time, opened) = claim(0);
    later(3599);
    reveal(&in_time, opened.unwrap().id).unwrap();
    later(60);
    let (late, opened) = claim(0);
    later(3600);
    assert_eq!(reveal(&late, opened.unwrap().id).unwrap_err().id(), "R42c");

    for n in 0..64 {
        claim(n).1.unwrap();
        later(20);
    }
    // One more source: the oldest claim that has shown no code makes room, and those that have shown one stay.
    let (last, opened) = claim(64);
    reveal(&last, opened.unwrap().id).unwrap();
    assert_eq!(site.claims().len(), 64);
    let waiting = |n: u8| site.claims().iter().any(|claim| claim.s == Digest::of(&[n]));
    assert!(!waiting(0) && waiting(1) && waiting(64));
    for n in 65..130 {
        claim(n).1.unwrap();
        later(20);
    }
    assert_eq!(site.claims().len(), 64);
    assert!(waiting(64), "it shows a code that a person reads to HQ");
}
