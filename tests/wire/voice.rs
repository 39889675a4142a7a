//! A machine that nobody registered, approved by telephone: from its first request until HQ's own registration.

use std::sync::atomic::{AtomicI64, Ordering};

use protocol::bundle::public_of;
use protocol::bytes::B64u;
use protocol::claim::{Code, approve_key, voice_code};
use protocol::clock::{DAY, Time};
use protocol::crypto::{Alg, SoftKey};
use protocol::issue;
use protocol::messages::{KubeletRequest, Message, Outcome, StatusAnswer, StatusRequest};
use protocol::refusal::Refusal;
use provisioner::site::store::{META, Store};
use provisioner::site::{Site, rebuild, system_clock};
use tests::pledge::{Answer, Pledge, Session};
use tests::stage::SITE;

use crate::Served;
use crate::forge::Desk;

const SLOTS: &str = "slots:\n- name: node-1\n- name: node-2\n- name: cp-1\n  role: control-plane\n";

/// M2, M4, M10: a machine that shows a code.
fn shows_a_code<'a>(served: &Served, pledge: &'a Pledge) -> (Session<'a>, String) {
    served.site(&["window"]).unwrap();
    let mut session = pledge.connect(served.address).unwrap();
    assert_eq!(session.voucher().unwrap().reason(), "unknown");
    assert_eq!(session.attest().unwrap().status, 200);
    let code = session.claim().unwrap().to_string();
    assert_eq!(session.voucher().unwrap().reason(), "pending-hq");
    (session, code)
}

fn approve(served: &Served, slot: &str, answer: &str) -> Result<String, String> {
    let said = served.site(&["approve", "--slot", slot, "--code", answer]);
    said.map_err(|error| error.to_string())
}

/// A machine that a person has approved for `node-1`.
fn approved<'a>(served: &Served, pledge: &'a Pledge) -> Session<'a> {
    let (session, code) = shows_a_code(served, pledge);
    let answer = served.hq.answer("node-1", &code).unwrap();
    approve(served, "node-1", &answer).unwrap();
    session
}

fn is(answer: &Answer, refusal: Refusal) {
    assert_eq!((answer.status, answer.reason().as_str()), (refusal.status(), refusal.code()));
}

fn get(session: &mut Session<'_>, message: Message) -> Answer {
    session.send(message, "", "application/json", b"").unwrap()
}

/// M4, M6, M5, M7, M8, M9 of a machine that has the person's confirmation.
fn joins(session: &mut Session<'_>) {
    assert_eq!(session.attest().unwrap().status, 200);
    assert_eq!(get(session, Message::Time).status, 200);
    assert_eq!(session.enroll().unwrap().status, 200);
    // As far as a site gets that is attached to no cluster: it knows the slot, and asks for patience.
    assert_eq!(get(session, Message::Config).reason(), "cluster-away");
    let node = protocol::id::node_name("node-1", &session.binding.s);
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    let csr = issue::request(&format!("system:node:{node}"), Some("system:nodes"), &key).unwrap();
    let kubelet =
        session.json(Message::Kubelet, &KubeletRequest { csr: B64u(csr), kubelet: String::new() }).unwrap();
    assert_eq!(kubelet.reason(), "cluster-away");
    let outcome = Outcome { version: 1, status: true, reason: None };
    assert_eq!(session.json(Message::EnrollStatus, &outcome).unwrap().status, 200);
}

fn holder(served: &Served, slot: &str) -> String {
    let rows: Vec<serde_json::Value> =
        serde_json::from_str(&served.site(&["slots", "--json"]).unwrap()).unwrap();
    let row = rows.into_iter().find(|row| row["slot"] == slot).unwrap();
    row["machine"].as_str().unwrap().to_owned()
}

fn told_hq(served: &Served) -> String {
    let report = served.site(&["report"]).unwrap();
    served.hq.run(&["ingest", report.trim()]).unwrap()
}

#[test]
fn a_person_approves_by_telephone_and_the_machine_joins() {
    let served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    let mut session = approved(&served, &pledge);
    assert!(served.site(&["claims"]).unwrap().contains("No machine shows a code."));
    assert!(holder(&served, "node-1").starts_with("claim-"));
    let answer = session.voucher().unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (202, "approved"), "there is no voucher");
    let explained = served.site(&["explain", "node-1"]).unwrap();
    assert!(explained.contains("once a person at the machine confirms the site"), "{explained}");
    joins(&mut session);
}

#[test]
fn a_provisioner_killed_after_an_approval_by_voice_has_lost_nothing() {
    let mut served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    drop(approved(&served, &pledge));
    let holds = holder(&served, "node-1");
    served.kill();
    served.start();
    assert_eq!(holder(&served, "node-1"), holds);
    let mut session = pledge.connect(served.address).unwrap();
    assert_eq!(session.voucher().unwrap().reason(), "approved");
    joins(&mut session);
    served.kill();
    served.start();
    let mut session = pledge.connect(served.address).unwrap();
    assert_eq!(get(&mut session, Message::Config).reason(), "cluster-away", "it is a machine of this site");
    assert!(told_hq(&served).contains("approved by voice"), "what HQ has to hear was saved too");
}

#[test]
fn r43b_a_code_that_answers_another_slot_or_another_code_is_wrong_and_five_end_the_claim() {
    let served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    let (mut session, code) = shows_a_code(&served, &pledge);
    let for_node_2 = served.hq.answer("node-2", &code).unwrap();
    let to_another = served.hq.answer("node-1", "WT0T-BSPH-K").unwrap();
    for wrong in [&for_node_2, &to_another, &code, &for_node_2] {
        let said = approve(&served, "node-1", wrong).unwrap_err();
        assert!(said.contains(Refusal::CodeWrong.sentence()), "{said}");
    }
    assert_eq!(session.voucher().unwrap().reason(), "pending-hq", "four are forgiven");
    assert!(approve(&served, "node-1", &to_another).is_err());
    assert_eq!(session.voucher().unwrap().reason(), "unknown", "the machine shows a new code");
    let right = served.hq.answer("node-1", &code).unwrap();
    assert!(approve(&served, "node-1", &right).is_err(), "the old code is spent");
    let code = session.claim().unwrap().to_string();
    approve(&served, "node-1", &served.hq.answer("node-1", &code).unwrap()).unwrap();
    assert_eq!(session.voucher().unwrap().reason(), "approved");
}

#[test]
fn r43c_after_twenty_wrong_codes_a_day_even_the_right_one_waits() {
    let served = Served::by_phone(SLOTS);
    let wrong = served.hq.answer("node-1", "WT0T-BSPH-K").unwrap();
    for _ in 0..20 {
        assert!(approve(&served, "node-1", &wrong).unwrap_err().contains("answers no code"));
    }
    let pledge = Pledge::new().unwrap();
    let (_, code) = shows_a_code(&served, &pledge);
    let right = served.hq.answer("node-1", &code).unwrap();
    let said = approve(&served, "node-1", &right).unwrap_err();
    assert!(said.contains("too many wrong codes today"), "{said}");
}

#[test]
fn r43_a_right_code_is_good_for_one_machine_and_once() {
    let served = Served::by_phone(SLOTS);
    let (first, second) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let (_, code) = shows_a_code(&served, &first);
    let (mut other, _) = shows_a_code(&served, &second);
    let answer = served.hq.answer("node-1", &code).unwrap();
    approve(&served, "node-1", &answer).unwrap();
    assert!(approve(&served, "node-1", &answer).is_err());
    assert_eq!(other.voucher().unwrap().reason(), "pending-hq");
    // R46c: the slot is not free any more.
    let other_code = {
        let mut again = second.connect(served.address).unwrap();
        again.attest().unwrap();
        again.claim().unwrap().to_string()
    };
    let said = approve(&served, "node-1", &served.hq.answer("node-1", &other_code).unwrap()).unwrap_err();
    assert!(said.contains("another machine holds the slot"), "{said}");
}

#[test]
fn r40d_no_voice_makes_a_control_plane_machine() {
    let served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    let (session, code) = shows_a_code(&served, &pledge);
    let said = approve(&served, "cp-1", &served.hq.answer("cp-1", &code).unwrap()).unwrap_err();
    assert!(said.contains(Refusal::NotControlPlane.sentence()), "{said}");
    assert_eq!(holder(&served, "cp-1"), "");
    approve(&served, "node-1", &served.hq.answer("node-1", &code).unwrap()).unwrap();
    drop(session);
    // Nor does a slot that becomes one later.
    served.hq.edit("sites/ship-7/slots.yaml", "slots:\n- name: node-1\n  role: control-plane\n").unwrap();
    served.deliver();
    let mut session = pledge.connect(served.address).unwrap();
    is(&get(&mut session, Message::Config), Refusal::NotControlPlane);
    let (csr, _) = crate::certificates::kubelet(&pledge, "node-1");
    is(&session.kubelet(csr).unwrap(), Refusal::NotControlPlane);
}

#[test]
fn r13a_a_site_of_an_owner_who_allows_no_voice_says_so_before_a_slot_is_taken() {
    let served = Served::with(&[]);
    served.hq.edit("sites/ship-7/slots.yaml", SLOTS).unwrap();
    served.deliver();
    let pledge = Pledge::new().unwrap();
    let (mut session, code) = shows_a_code(&served, &pledge);
    assert!(served.hq.answer("node-1", &code).is_err(), "headquarters has none to read back");
    // Whoever has its keys has one.
    let keys = Desk::of(&served.hq).0.keys;
    let site = public_of(&keys.scalar("site-ship-7-approve").unwrap()[..]).unwrap();
    let key = approve_key(&keys.scalar("approve").unwrap()[..], &site).unwrap();
    let answer = voice_code(&key, SITE, Code::parse(&code).unwrap(), "node-1").to_string();
    let said = approve(&served, "node-1", &answer).unwrap_err();
    assert!(said.contains("the owner does not allow it"), "{said}");
    assert_eq!(holder(&served, "node-1"), "");
    assert_eq!(session.voucher().unwrap().reason(), "pending-hq");
}

#[test]
fn hq_takes_a_machine_over_that_was_approved_by_voice_and_the_machine_notices_a_voucher() {
    let served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    let mut session = approved(&served, &pledge);
    joins(&mut session);
    let ours = holder(&served, "node-1");
    // A bundle of before the report knows nothing of it, and changes nothing.
    served.deliver();
    assert_eq!(holder(&served, "node-1"), ours);
    assert_eq!(session.voucher().unwrap().reason(), "approved");
    assert_eq!(get(&mut session, Message::Time).status, 200);

    assert!(told_hq(&served).contains("for node-1 (approved by voice)"));
    served.deliver();
    let theirs = holder(&served, "node-1");
    assert!(theirs.starts_with("mc_"), "{theirs}");
    let listed = served.site(&["machines", "--all"]).unwrap();
    assert!(!listed.contains(&ours) && listed.contains(&theirs), "one machine, one name: {listed}");
    // The same key on the same connection, and nothing to prove again.
    assert_eq!(get(&mut session, Message::Time).status, 200);
    assert_eq!(session.enroll().unwrap().status, 200);
    assert_eq!(get(&mut session, Message::Config).reason(), "cluster-away", "it has kept its slot");
    let status = session.json(Message::Status, &StatusRequest::default()).unwrap();
    let status: StatusAnswer = protocol::json::parse(&status.body).unwrap();
    assert!(status.voucher.is_some(), "M11 brings the voucher");
    assert_eq!(session.voucher().unwrap().status, 200);

    served.hq.run(&["machines", "revoke", &theirs, "--lost"]).unwrap();
    served.deliver();
    is(&get(&mut session, Message::Time), Refusal::Lost);
}

#[test]
fn a_machine_approved_by_voice_that_hq_does_not_register_is_a_stranger_again() {
    let served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    let mut session = approved(&served, &pledge);
    joins(&mut session);
    told_hq(&served);
    let registered = std::fs::read_dir(served.hq.dir().join("machines")).unwrap();
    registered.flatten().for_each(|entry| std::fs::remove_file(entry.path()).unwrap());
    served.deliver();
    is(&get(&mut session, Message::Time), Refusal::NotProven);
}

#[test]
fn r46d_a_machine_that_headquarters_registered_meanwhile_needs_no_voice() {
    let served = Served::by_phone(SLOTS);
    let pledge = Pledge::new().unwrap();
    let (mut session, code) = shows_a_code(&served, &pledge);
    let answer = served.hq.answer("node-1", &code).unwrap();
    served.hq.import(&format!("dev-key,site,roles\n{},ship-7,worker\n", pledge.id())).unwrap();
    served.deliver();
    let said = approve(&served, "node-1", &answer).unwrap_err();
    assert!(said.contains("registered meanwhile"), "{said}");
    assert_eq!(holder(&served, "node-1"), "");
    session.admission().unwrap();
    assert!(holder(&served, "node-1").starts_with("mc_"));
}

/// A clock that stands where it is put.
static CLOCK: AtomicI64 = AtomicI64::new(0);

fn clock() -> Time {
    Time(CLOCK.load(Ordering::Relaxed))
}

#[test]
fn r43c_wrong_codes_are_forgiven_after_a_day() {
    let mut served = Served::by_phone(SLOTS);
    served.kill();
    CLOCK.store(system_clock().0, Ordering::Relaxed);
    let site = Site::open(&served.path(), clock).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let wrong = || runtime.block_on(site.approve_by_voice("node-1", "WT0T-BSPH-K")).unwrap_err().id();
    for _ in 0..20 {
        assert_eq!(wrong(), "R43b");
    }
    assert_eq!(wrong(), "R43c");
    CLOCK.fetch_add(DAY - 1, Ordering::Relaxed);
    assert_eq!(wrong(), "R43c");
    CLOCK.fetch_add(1, Ordering::Relaxed);
    assert_eq!(wrong(), "R43b");
}

#[test]
fn nobody_is_approved_by_voice_while_it_is_not_known_who_holds_which_slot() {
    let mut served = Served::by_phone(SLOTS);
    served.kill();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = Store::open(&served.path().join("store.redb")).unwrap();
    runtime.block_on(store.write(|tx| tx.put(META, rebuild::STAGE, &rebuild::Stage::Nodes))).unwrap();
    drop(store);
    let site = Site::open(&served.path(), system_clock).unwrap();
    let refused = runtime.block_on(site.approve_by_voice("node-1", "WT0T-BSPH-K")).unwrap_err();
    assert!(refused.to_string().contains("Nodes have to be seen"), "{refused}");
}
