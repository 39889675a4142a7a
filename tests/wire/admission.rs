//! Who is not admitted, or not now, or not again.

use protocol::attest::{Challenge, Proof, Request};
use protocol::bytes::{B64u, Digest, b64};
use protocol::clock::DAY;
use protocol::crypto::Signer as _;
use protocol::id::Id;
use protocol::messages::{Act, Done, Health, Message, StatusAnswer, StatusRequest, VOUCHER_TYPE};
use protocol::record::{Auth, Sites};
use protocol::refusal::Refusal;
use protocol::{est, issue};
use provisioner::site::system_clock;
use tests::pledge::{Answer, Pledge, Session};
use tests::stage::Hq;

use crate::forge::{Desk, tpm};
use crate::{Served, is};

/// Everything that only a machine of the site is answered.
const BOUND: [Message; 10] = [
    Message::CaCerts,
    Message::CsrAttrs,
    Message::SimpleEnroll,
    Message::SimpleReenroll,
    Message::Time,
    Message::Config,
    Message::Kubelet,
    Message::EnrollStatus,
    Message::Status,
    Message::DiskKey,
];

/// Sends one of them as a machine would.
fn ask(pledge: &Pledge, session: &mut Session<'_>, message: Message) -> Answer {
    let csr = issue::request("machine", None, &pledge.node).unwrap();
    let (media, body) = match message {
        Message::SimpleEnroll | Message::SimpleReenroll => (est::REQUEST_TYPE, b64(&csr)),
        Message::Kubelet => ("application/json", format!("{{\"csr\":\"{}\"}}", protocol::bytes::b64u(&csr))),
        Message::EnrollStatus => ("application/json", r#"{"version":1,"status":true}"#.to_owned()),
        Message::Status => ("application/json", "{}".to_owned()),
        _ => ("application/json", String::new()),
    };
    session.send(message, "", media, body.as_bytes()).unwrap()
}

/// Nothing at all is given to this machine.
fn locked_out(served: &Served, pledge: &Pledge, refusal: Refusal) {
    let mut session = pledge.connect(served.address).unwrap();
    for message in BOUND {
        is(&ask(pledge, &mut session, message), refusal);
    }
}

#[test]
fn r21b_a_machine_of_another_site_is_unknown_here() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let desk = Desk::of(&served.hq);
    desk.amend(|record| record.site = Sites::One("ship-9".to_owned()));
    // A bundle that still holds it, as while it is being moved, and one that does not any more.
    let moved = protocol::json::to_vec(&desk.0.records().unwrap().remove(0));
    let mut next = desk.next();
    next.set("records", moved);
    served.apply("moved.nbb", &next.file(&desk, &desk.signer())).unwrap();
    is(&pledge.connect(served.address).unwrap().voucher().unwrap(), Refusal::Unknown);
    assert!(served.noted("R21b"));
    is(&pledge.connect(served.address).unwrap().attest().unwrap(), Refusal::Unknown);
    served.deliver();
    is(&pledge.connect(served.address).unwrap().voucher().unwrap(), Refusal::Unknown);
}

#[test]
fn r22_each_word_of_hq_locks_a_machine_out_of_everything() {
    let pledges: Vec<_> = (0..3).map(|_| Pledge::new().unwrap()).collect();
    let served = Served::with(&pledges.iter().collect::<Vec<_>>());
    for pledge in &pledges {
        pledge.connect(served.address).unwrap().admission().unwrap();
    }
    let words = [(vec!["--lost"], Refusal::Lost), (vec![], Refusal::Revoked), (vec!["--rma"], Refusal::Rma)];
    for (n, (flags, _)) in words.iter().enumerate() {
        let serial = format!("WIRE{n:03}");
        served.hq.run(&[&["machines", "revoke", &serial], &flags[..]].concat()).unwrap();
    }
    served.deliver();
    for (pledge, (_, refusal)) in pledges.iter().zip(words) {
        let mut session = pledge.connect(served.address).unwrap();
        is(&session.voucher().unwrap(), refusal);
        is(&session.attest().unwrap(), refusal);
        locked_out(&served, pledge, refusal);
    }
}

#[test]
fn r23_a_machine_is_refused_before_and_after_the_days_that_hq_allows() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let (desk, now) = (Desk::of(&served.hq), system_clock());
    for (not_before, not_after) in [(Some(now.plus(DAY)), None), (None, Some(now.plus(-DAY)))] {
        desk.amend(|record| {
            record.policy.not_before = not_before;
            record.policy.not_after = not_after;
        });
        served.deliver();
        let mut session = pledge.connect(served.address).unwrap();
        is(&session.voucher().unwrap(), Refusal::NotNow);
        is(&session.attest().unwrap(), Refusal::NotNow);
        locked_out(&served, &pledge, Refusal::NotNow);
    }
    desk.amend(|record| {
        record.policy.not_before = Some(now.plus(-DAY));
        record.policy.not_after = Some(now.plus(DAY));
    });
    served.deliver();
    pledge.connect(served.address).unwrap().admission().unwrap();
}

/// M11 of a machine that says it knows bundle 3.
fn says_three(session: &mut Session<'_>, shows: Option<&str>) -> StatusAnswer {
    let done = shows.map(|_| Done { id: "show-index".to_owned(), ok: true });
    let health = Health { index: shows.map(str::to_owned), ..Health::default() };
    let asked =
        StatusRequest { bundle: 3, done: done.into_iter().collect(), health, ..StatusRequest::default() };
    let answer = session.status(&asked).unwrap();
    assert_eq!(answer.status, 200);
    protocol::json::parse(&answer.body).unwrap()
}

#[test]
fn r24_a_site_whose_bundle_is_behind_issues_nothing_new_until_the_bundle_comes() {
    let (member, newcomer) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let mut served = Served::with(&[&member, &newcomer]);
    served.slots(&["node-1"]);
    let mut session = member.connect(served.address).unwrap();
    session.admission().unwrap();
    let desk = Desk::of(&served.hq);
    let next = desk.next();
    let alarms = |served: &Served| served.count("nodeboot_alarms_total", Refusal::BundleBehind.code());

    // A number alone is a claim: the machine is told to show the index, people are told, nothing stops.
    let answer = says_three(&mut session, None);
    assert_eq!(answer.orders.iter().map(|order| &order.act).collect::<Vec<_>>(), [&Act::ShowIndex]);
    let another = Hq::found(served.programs(), "Another Line").unwrap();
    let (certificate, key) = Desk::of(&another).signer();
    let typ = protocol::jws::typ::BUNDLE;
    let index = protocol::json::to_vec(&next.index);
    let forged = protocol::jws::sign(&index, typ, &certificate.der, &*key).unwrap();
    says_three(&mut session, Some(&forged));
    assert_eq!(alarms(&served), 1, "once for a machine and day");
    assert_eq!(newcomer.connect(served.address).unwrap().voucher().unwrap().status, 200);

    says_three(&mut session, Some(&next.text));
    assert_eq!(alarms(&served), 2);
    for _ in 0..2 {
        let mut new = newcomer.connect(served.address).unwrap();
        let refused = new.voucher().unwrap();
        is(&refused, Refusal::BundleBehind);
        assert_eq!(refused.retry_after, Some(10));
        is(&new.attest().unwrap(), Refusal::BundleBehind);
        let (certificate, _) = crate::certificates::kubelet(&member, "node-1");
        is(&session.kubelet(certificate).unwrap(), Refusal::BundleBehind);
        // What the site has issued it renews.
        session.admission().unwrap();
        served.kill();
        served.start();
        session = member.connect(served.address).unwrap();
    }
    served.apply("next.nbb", &next.file_of(&desk, &next.text)).unwrap();
    newcomer.connect(served.address).unwrap().admission().unwrap();
}

#[test]
fn r26_a_weaker_proof_than_hq_registered_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let desk = Desk::of(&served.hq);
    let ek = Auth::TpmEk { alg: "ecc-p256".to_owned(), sha256: Digest::of(b"its TPM") };
    desk.amend(|record| record.auth.push(ek));
    served.deliver();
    let mut session = pledge.connect(served.address).unwrap();
    is(&session.attest().unwrap(), Refusal::ProofTooWeak);
    is(&session.enroll().unwrap(), Refusal::NotProven);
    desk.amend(|record| record.policy.accept = Some(vec!["tpm-ek".to_owned(), "dev-key".to_owned()]));
    served.deliver();
    session.admission().unwrap();
}

/// M4 with these public areas.
fn tpm_proof(session: &mut Session<'_>, ek: Vec<u8>, key: Vec<u8>) -> Answer {
    session.json(Message::Attest, &Request::TpmEk { ek: B64u(ek), key: B64u(key), disk: None }).unwrap()
}

#[test]
fn r27_a_key_that_is_not_the_tpms_own_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[]);
    let mut session = pledge.connect(served.address).unwrap();
    let good = tpm::key_of(pledge.node.spki());
    assert_eq!(tpm_proof(&mut session, tpm::ek(), good.clone()).status, 200);
    // TPMT_PUBLIC: type, name algorithm, then the attributes; fixedTPM is the bit of value 2.
    let mut movable = good.clone();
    movable[7] ^= 2;
    is(&tpm_proof(&mut session, tpm::ek(), movable), Refusal::NotInTpm);
    assert!(served.noted("R27a"));
    is(&tpm_proof(&mut session, tpm::ek(), tpm::key()), Refusal::NotInTpm);
    assert!(served.noted("R27b"), "it is another key than the one that speaks");
    // An empty policy, no symmetric algorithm, then ECDSA with SHA-256, here with SHA-384.
    let mut other = good;
    other[15] = 0x0c;
    is(&tpm_proof(&mut session, tpm::ek(), other), Refusal::NotInTpm);
    assert!(served.noted("R27c"));
}

#[test]
fn r28_a_tpm_key_that_is_no_endorsement_key_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[]);
    let mut session = pledge.connect(served.address).unwrap();
    let key = tpm::key_of(pledge.node.spki());
    for place in [2, 7, 20] {
        let mut ek = tpm::ek();
        ek[place] ^= 1;
        is(&tpm_proof(&mut session, ek, key.clone()), Refusal::EkTemplate);
    }
    is(&tpm_proof(&mut session, key.clone(), key), Refusal::EkTemplate);
}

#[test]
fn r29_a_tpms_answer_counts_once_on_its_own_connection_and_for_its_own_challenge() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[]);
    let open = |session: &mut Session<'_>| -> Challenge {
        let answer = tpm_proof(session, tpm::ek(), tpm::key_of(pledge.node.spki()));
        protocol::json::parse(&answer.body).unwrap()
    };
    let answer = |session: &mut Session<'_>, challenge: &Challenge| {
        let proof = Proof { proof: B64u(session.binding.tpm_proof(&[0; 32], &[0; 16]).to_vec()) };
        let (id, body) = (protocol::bytes::b64u(&challenge.id.0), protocol::json::to_vec(&proof));
        session.send(Message::AttestProof, &id, "application/json", &body).unwrap()
    };
    let (mut one, mut two) =
        (pledge.connect(served.address).unwrap(), pledge.connect(served.address).unwrap());
    let first = open(&mut one);
    is(&answer(&mut one, &first), Refusal::ProofWrong);
    assert!(served.noted("R29a"));
    is(&answer(&mut one, &first), Refusal::ProofWrong);
    assert!(served.noted("R29c"), "a challenge is over once it was answered");
    let (mine, _) = (open(&mut one), open(&mut two));
    is(&answer(&mut two, &mine), Refusal::ProofWrong);
    assert!(served.noted("R29d"));
}

/// HQ registers another device key for the same machine: its disk was lost, it was installed anew.
fn rearm(served: &Served, with: &Pledge) {
    let sha256 = with.device.key_hash();
    Desk::of(&served.hq).amend(|record| record.auth = vec![Auth::DevKey { sha256 }]);
    served.deliver();
}

#[test]
fn r31_a_new_key_waits_while_the_machine_with_the_old_one_is_alive() {
    let (old, new) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&old]);
    let mut session = old.connect(served.address).unwrap();
    session.admission().unwrap();
    assert_eq!(session.status(&StatusRequest::default()).unwrap().status, 200);
    rearm(&served, &new);
    let mut newcomer = new.connect(served.address).unwrap();
    is(&newcomer.attest().unwrap(), Refusal::MemberAlive);
    is(&newcomer.enroll().unwrap(), Refusal::NotProven);
    assert_eq!(served.count("nodeboot_alarms_total", Refusal::MemberAlive.code()), 1);
    assert_eq!(session.enroll().unwrap().status, 200, "the living one is not displaced");
}

#[test]
fn r32_the_key_of_a_former_installation_is_refused_from_then_on() {
    let (old, new) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&old]);
    old.connect(served.address).unwrap().admission().unwrap();
    rearm(&served, &new);
    new.connect(served.address).unwrap().admission().unwrap();
    locked_out(&served, &old, Refusal::Superseded);
    // Also not with the new device key, should it have that: the node key was replaced.
    let mut session = old.connect(served.address).unwrap();
    let sig = B64u(new.device.sign(&session.binding.dev_key_message()).unwrap());
    let proof = Request::DevKey { spki: B64u(new.device.spki().to_vec()), sig };
    is(&session.json(Message::Attest, &proof).unwrap(), Refusal::Superseded);
    new.connect(served.address).unwrap().admission().unwrap();
}

#[test]
fn r33_m5_to_m9_and_m11_are_for_machines_that_proved_themselves() {
    let (registered, stranger) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&registered]);
    locked_out(&served, &stranger, Refusal::NotProven);
    // A voucher is no proof, and what a stranger proves is not registered.
    let mut session = registered.connect(served.address).unwrap();
    assert_eq!(session.voucher().unwrap().status, 200);
    locked_out(&served, &registered, Refusal::NotProven);
    let mut session = stranger.connect(served.address).unwrap();
    assert_eq!(session.attest().unwrap().status, 200);
    locked_out(&served, &stranger, Refusal::NotProven);
    let request = session.pvr(vec![registered.id(), Id::Key(session.binding.s)]).unwrap();
    let answer = session.send(Message::RequestVoucher, "", VOUCHER_TYPE, request.as_bytes()).unwrap();
    assert_eq!(answer.status, 200, "a voucher is no secret");
    locked_out(&served, &stranger, Refusal::NotProven);
}
