//! What else the registrar refuses, by its id, with its status, its word and its sentence.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use protocol::attest::Request;
use protocol::bytes::{B64u, b64};
use protocol::crypto::{Alg, Signer as _, SoftKey};
use protocol::id::Id;
use protocol::messages::{Message, Outcome, VOUCHER_TYPE};
use protocol::refusal::Refusal;
use protocol::{est, issue};
use tests::pledge::Pledge;
use tests::stage::{Hq, code_in};

use crate::{Served, is};

#[test]
fn r30_a_registered_machine_is_admitted_and_a_copy_of_its_disk_is_not() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    pledge.connect(served.address).unwrap().admission().unwrap();
    // r30: the device key is bound to the first node key, for good.
    let copy = Pledge::with_device(SoftKey::from_pkcs8(&pledge.device_pkcs8).unwrap()).unwrap();
    let mut session = copy.connect(served.address).unwrap();
    assert_eq!(session.voucher().unwrap().status, 200, "a voucher is no secret");
    is(&session.attest().unwrap(), Refusal::Duplicate);
    is(&session.enroll().unwrap(), Refusal::NotProven);
    assert_eq!(served.count("nodeboot_alarms_total", Refusal::Duplicate.code()), 1);
    pledge.connect(served.address).unwrap().admission().unwrap();
}

#[test]
fn r17_only_mutual_tls_1_3_is_spoken() {
    let served = Served::with(&[]);
    for hello in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 3], &[0xff; 64]] {
        let mut socket = TcpStream::connect(served.address).unwrap();
        socket.write_all(hello).unwrap();
        let mut answer = Vec::new();
        // An alert, or the end of the connection: never an answer in HTTP.
        let _ = socket.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
}

#[test]
fn r18b_a_body_of_a_gigabyte_is_refused_before_it_is_read() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: p\r\nContent-Type: {VOUCHER_TYPE}\r\nContent-Length: 1000000000\r\n\r\n",
        Message::RequestVoucher.path().1
    );
    session.raw(head.as_bytes()).unwrap();
    is(&session.read().unwrap(), Refusal::TooLarge);
}

#[test]
fn r19_a_damaged_voucher_request_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    is(&session.send(Message::RequestVoucher, "", "application/json", b"{}").unwrap(), Refusal::PvrMediaType);
    is(&session.send(Message::RequestVoucher, "", VOUCHER_TYPE, b"{}").unwrap(), Refusal::PvrMalformed);
    let other = Pledge::new().unwrap();
    let theirs = other.connect(served.address).unwrap().pvr(vec![pledge.id()]).unwrap();
    is(
        &session.send(Message::RequestVoucher, "", VOUCHER_TYPE, theirs.as_bytes()).unwrap(),
        Refusal::PvrSignature,
    );
}

#[test]
fn r20_a_request_made_for_another_provisioner_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.leaf = vec![0x30, 0];
    is(&session.voucher().unwrap(), Refusal::OtherProvisioner);
    assert!(session.voucher().is_err(), "and the connection is over");
}

#[test]
fn r21a_a_machine_without_registration_is_unknown_until_somebody_opens_the_window() {
    let served = Served::with(&[]);
    let stranger = Pledge::new().unwrap();
    is(&stranger.connect(served.address).unwrap().voucher().unwrap(), Refusal::Unknown);
    served.site(&["window"]).unwrap();
    let answer = stranger.connect(served.address).unwrap().voucher().unwrap();
    assert_eq!((answer.status, answer.reason().as_str()), (202, "unknown"));
}

#[test]
fn a_machine_that_a_person_took_out_is_refused_at_once_also_without_a_cluster() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    served.site(&["retire", "WIRE000"]).unwrap();
    let mut session = pledge.connect(served.address).unwrap();
    is(&session.enroll().unwrap(), Refusal::Retired);
    is(&session.attest().unwrap(), Refusal::Retired);
    served.site(&["retire", "WIRE000", "--undo"]).unwrap();
    pledge.connect(served.address).unwrap().admission().unwrap();
    served.site(&["refuse", "WIRE000"]).unwrap();
    is(&pledge.connect(served.address).unwrap().enroll().unwrap(), Refusal::SaidNo);
}

#[test]
fn r25_a_known_label_on_other_hardware_is_refused_and_told_to_hq() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let thief = Pledge::new().unwrap();
    let mut session = thief.connect(served.address).unwrap();
    let request = session.pvr(vec![thief.id(), Id::Serial("WIRE000".into())]).unwrap();
    is(
        &session.send(Message::RequestVoucher, "", VOUCHER_TYPE, request.as_bytes()).unwrap(),
        Refusal::AuthMismatch,
    );
    let report = served.site(&["report"]).unwrap();
    let path = report.split_whitespace().find(|word| word.starts_with('/')).unwrap();
    let said = served.hq.run(&["ingest", path]).unwrap();
    assert!(said.contains("ALARM auth-mismatch"), "{said}");
}

#[test]
fn a_thief_is_seen_at_the_site_by_all_names_that_it_goes_by() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let thief = Pledge::new().unwrap();
    let mut session = thief.connect(served.address).unwrap();
    let request = session.pvr(vec![thief.id(), Id::Serial("WIRE000".into())]).unwrap();
    is(
        &session.send(Message::RequestVoucher, "", VOUCHER_TYPE, request.as_bytes()).unwrap(),
        Refusal::AuthMismatch,
    );
    let key = thief.node.key_hash().to_string();
    let row = |site: &Served| {
        let rows = site.site(&["machines"]).unwrap();
        rows.lines().find(|line| line.starts_with(&format!("key:{}", &key[..12]))).map(str::to_owned)
    };
    let seen = row(&served).unwrap();
    assert!(seen.contains("Quarantined") && seen.ends_with("auth-mismatch"), "{seen}");
    let real = served.site(&["explain", "WIRE000"]).unwrap();
    let told = "s ago, from 127.0.0.1, and was refused (auth-mismatch)";
    assert!(real.contains("another machine showed this label") && real.contains(told), "{real}");
    // As the log prints it.
    let it = served.site(&["explain", &key]).unwrap();
    assert!(it.contains("Right label, wrong hardware") && it.contains("poses as"), "{it}");
    let said = served.site(&["approve", "--machine", &key]).unwrap_err().to_string();
    assert!(said.contains("is no machine of this site"), "{said}");
}

#[test]
fn r29_a_wrong_proof_and_one_of_another_connection_are_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let first = pledge.connect(served.address).unwrap();
    let mut second = pledge.connect(served.address).unwrap();
    let device = &pledge.device;
    let sig = B64u(device.sign(&first.binding.dev_key_message()).unwrap());
    let replayed = Request::DevKey { spki: B64u(device.spki().to_vec()), sig };
    is(&second.json(Message::Attest, &replayed).unwrap(), Refusal::ProofWrong);
}

#[test]
fn r34a_a_certificate_is_only_for_the_key_that_speaks() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let (other, _) = SoftKey::generate(Alg::Es256).unwrap();
    let csr = issue::request("machine", None, &other).unwrap();
    is(
        &session.send(Message::SimpleEnroll, "", est::REQUEST_TYPE, b64(&csr).as_bytes()).unwrap(),
        Refusal::CsrKey,
    );
    let mut damaged = issue::request("machine", None, &pledge.node).unwrap();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    is(
        &session.send(Message::SimpleEnroll, "", est::REQUEST_TYPE, b64(&damaged).as_bytes()).unwrap(),
        Refusal::CsrKey,
    );
}

#[test]
fn a_provisioner_killed_at_any_moment_forgets_nothing_it_has_acknowledged() {
    let pledges: Vec<_> = (0..12).map(|_| Pledge::new().unwrap()).collect();
    let mut served = Served::with(&pledges.iter().collect::<Vec<_>>());
    for pledge in &pledges {
        let mut session = pledge.connect(served.address).unwrap();
        assert_eq!(session.voucher().unwrap().status, 200);
        assert_eq!(session.attest().unwrap().status, 200);
        // The answer is out: what it promises must survive.
        served.kill();
        served.start();
        let mut session = pledge.connect(served.address).unwrap();
        assert_eq!(session.enroll().unwrap().status, 200, "the proof was acknowledged");
        let copy = Pledge::with_device(SoftKey::from_pkcs8(&pledge.device_pkcs8).unwrap()).unwrap();
        is(&copy.connect(served.address).unwrap().attest().unwrap(), Refusal::Duplicate);
    }
}

#[test]
fn r43a_a_misread_code_is_noticed_before_anything_is_looked_up() {
    let served = Served::with(&[]);
    let said =
        served.site(&["approve", "--slot", "node-1", "--code", "WT0T-BSPH-M"]).unwrap_err().to_string();
    assert!(said.contains(Refusal::CodeWrong.sentence()), "{said}");
}

#[test]
fn r48b_a_provisioner_whose_code_does_not_fit_is_not_certified() {
    let served = Served::with(&[]);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().display().to_string();
    let owner = served.hq.owner_file().display().to_string();
    served.elsewhere(&["init", "--dir", &dir, "--site", "ship-7", "--owner", &owner]).unwrap();
    let (request, reply) = (format!("{dir}/ca-request.json"), format!("{dir}/reply.json"));
    for code in [&["--code", "WT0T-BSPH-K"][..], &[]] {
        let words = [&["site", "certify", "ship-7", &request, "-o", &reply][..], code].concat();
        let said = served.hq.run(&words).unwrap_err().to_string();
        assert!(said.contains(Refusal::CaRequestRefused.code()) && said.contains("code"), "{said}");
    }
}

#[test]
fn a_provisioner_believes_its_own_owner_and_nobody_else() {
    let served = Served::with(&[]);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let init = |words: &[&str]| served.elsewhere(&[&["init", "--dir", &dir], words].concat());
    assert!(init(&["--site", "ship-7"]).is_err(), "whom to believe cannot be left out");
    let request = format!("{dir}/ca-request.json");
    let said = init(&["--site", "ship-7", "--owner", "Cargo.toml"]).unwrap_err().to_string();
    assert!(said.contains("is no owner's file"), "{said}");
    assert!(!std::path::Path::new(&request).exists(), "and nothing was begun");

    let owner = served.hq.owner_file().display().to_string();
    let code = code_in(&init(&["--site", "ship-7", "--owner", &owner]).unwrap()).unwrap();
    let other = Hq::found(served.programs(), "Other").unwrap();
    let reply = |hq: &Hq| {
        let reply = hq.path("reply.json").display().to_string();
        hq.run(&["site", "certify", "ship-7", &request, "--code", &code, "-o", &reply]).unwrap();
        init(&["--reply", &reply])
    };
    let said = reply(&other).unwrap_err().to_string();
    assert!(said.contains("comes from another owner"), "{said}");
    reply(&served.hq).unwrap();
}

#[test]
fn a_machine_whose_join_failed_is_told_to_people() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let alarms = || served.count("nodeboot_alarms_total", "join-failed");
    let mut says = |status, reason: Option<&str>| {
        let outcome = Outcome { version: 1, status, reason: reason.map(str::to_owned) };
        assert_eq!(session.json(Message::EnrollStatus, &outcome).unwrap().status, 200);
    };
    says(true, None);
    assert_eq!(alarms(), 0);
    says(false, Some("no-disk"));
    assert_eq!(alarms(), 1);
}
