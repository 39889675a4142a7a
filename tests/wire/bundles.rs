//! Files that are not put in force; the bundle that is stays in force.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use protocol::anchors::{AnchorsDoc, RevokedSite};
use protocol::bundle::{EXPANDED_LIMIT, FILE_LIMIT, MAGIC};
use protocol::bytes::Digest;
use protocol::clock::{DAY, Time};
use protocol::messages::{Clock, Message, StatusAnswer, StatusRequest};
use protocol::refusal::Refusal;
use protocol::{json, jws};
use provisioner::site::system_clock;
use tests::pledge::Pledge;
use tests::stage::{DEADLINE, Hq};

use crate::forge::{Desk, damaged, payload};
use crate::{Served, fails, is};

/// The file is refused for this reason, and the same bundle as before is in force.
fn refused(served: &Served, file: &[u8], id: &str, detail: &str) {
    let before = served.seq();
    fails(served.apply("forged.nbb", file), Refusal::BundleRefused, detail);
    assert!(served.noted(id), "{id}");
    assert_eq!(served.seq(), before);
}

#[test]
fn r45a_a_bundle_that_does_not_open_is_refused() {
    let served = Served::with(&[]);
    let desk = Desk::of(&served.hq);
    let good = std::fs::read(served.hq.bundle().unwrap()).unwrap();
    for place in [5, 20, good.len() / 2, good.len() - 1] {
        let mut altered = good.clone();
        altered[place] ^= 1;
        refused(&served, &altered, "R45a", "sealed to another site, or was altered");
    }
    refused(&served, &good[..good.len() - 1], "R45a", "or was altered");
    refused(&served, &good[..40], "R45a", "it is no bundle");
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let other = served.hq.path("ship-9.nbb");
    served.hq.run(&["bundle", "build", "ship-9", "-o", &other.display().to_string()]).unwrap();
    refused(&served, &std::fs::read(other).unwrap(), "R45a", "sealed to another site");
    refused(&served, &desk.sealed(b"no compressed data"), "R45a", "");
    assert!(served.apply("good.nbb", &good).unwrap().contains("undle 2 is in force"));
}

#[test]
fn r45b_a_bundle_that_headquarters_did_not_sign_is_refused() {
    let served = Served::with(&[]);
    let desk = Desk::of(&served.hq);
    let next = desk.next();
    let another = Hq::found(served.programs(), "Another Line").unwrap();
    refused(&served, &next.file(&desk, &Desk::of(&another).signer()), "R45b", "");
    refused(&served, &next.file_of(&desk, &damaged(&next.text)), "R45b", "the signature is wrong");
    // The owner's own anchor may not sign bundles either.
    let anchor = (desk.0.certificate("voucher-anchor-a").unwrap(), desk.0.key("voucher-anchor-a").unwrap());
    refused(&served, &next.file(&desk, &anchor), "R45b", "");
    served.apply("good.nbb", &next.file_of(&desk, &next.text)).unwrap();
}

#[test]
fn r45c_a_bundle_of_another_site_is_refused_although_it_opens() {
    let served = Served::with(&[]);
    let desk = Desk::of(&served.hq);
    let mut next = desk.next();
    next.index.site = "ship-9".to_owned();
    refused(&served, &next.file(&desk, &desk.signer()), "R45c", "it is for ship-9");
}

#[test]
fn r45d_a_bundle_that_is_not_newer_is_refused() {
    let served = Served::with(&[]);
    let first = std::fs::read(served.hq.path("site.nbb")).unwrap();
    let desk = Desk::of(&served.hq);
    let mut other = desk.next();
    other.index.seq = 1;
    refused(&served, &other.file(&desk, &desk.signer()), "R45d", "number 1 is not above 1");
    served.deliver();
    refused(&served, &first, "R45d", "number 1 is not above 3");
}

#[test]
fn the_bundle_that_is_in_force_is_taken_again_without_a_word_of_blame() {
    let served = Served::with(&[]);
    let file = std::fs::read(served.hq.path("site.nbb")).unwrap();
    assert_eq!(served.apply("again.nbb", &file).unwrap().trim(), "Bundle 1 is in force already.");
    assert_eq!((served.seq(), served.count("nodeboot_refusals_total", "bundle-refused")), (1, 0));
}

#[test]
fn what_is_no_approval_is_said_to_be_none() {
    let served = Served::with(&[]);
    let owner = std::fs::read(served.hq.owner_file()).unwrap();
    let said = served.apply("owner.json", &owner).unwrap_err().to_string();
    assert!(said.contains("is neither a bundle (.nbb) nor an approval (.jws)"), "{said}");
    let anchors = std::fs::read(served.hq.dir().join("anchors.jws")).unwrap();
    fails(served.apply("anchors.jws", &anchors), Refusal::ApprovalRefused, "it is no approval");
}

#[test]
fn r45e_changes_to_a_bundle_that_is_not_in_force_are_refused() {
    let served = Served::with(&[]);
    let desk = Desk::of(&served.hq);
    let mut next = desk.next();
    next.index.seq = 7;
    next.index.base = Some(6);
    refused(&served, &next.file(&desk, &desk.signer()), "R45e", "it changes bundle 6, but 1 is in force");
    next.index.base = Some(1);
    served.apply("delta.nbb", &next.file(&desk, &desk.signer())).unwrap();
    assert_eq!(served.seq(), 7);
}

#[test]
fn r45f_a_section_that_is_not_what_the_index_says_is_refused() {
    let served = Served::with(&[]);
    let desk = Desk::of(&served.hq);
    let mut next = desk.next();
    let slots = next.sections.insert("slots".to_owned(), b"{\"slots\":[]}  ".to_vec()).unwrap();
    refused(&served, &next.file_of(&desk, &next.text), "R45f", "is not what the index says");
    next.sections.remove("slots");
    next.set("site", b"{\"name\":\"ship-7\"} ".to_vec());
    next.index.sections.iter_mut().find(|section| section.name == "slots").unwrap().size += 1;
    next.sections.insert("slots".to_owned(), slots);
    refused(&served, &next.file(&desk, &desk.signer()), "R45f", "is not what the index says");
    let mut next = desk.next();
    next.set("templates", b"{ }".to_vec());
    next.sections.remove("templates");
    refused(&served, &next.file(&desk, &desk.signer()), "R45f", "section templates is not there");
}

#[test]
fn r45g_a_file_that_is_too_large_or_becomes_so_is_refused() {
    let served = Served::with(&[]);
    let desk = Desk::of(&served.hq);
    refused(&served, &desk.sealed(&zeros(EXPANDED_LIMIT + 1)), "R45g", "bytes once expanded");

    let large = [&MAGIC[..], &vec![0; FILE_LIMIT]].concat();
    let said = served.apply("large.nbb", &large).unwrap_err().to_string();
    assert!(said.contains("is this the right file?"), "{said}");
    // Somebody may still copy it into the inbox by hand.
    let inbox = served.path().join("inbox");
    std::fs::write(inbox.join("large.part"), large).unwrap();
    std::fs::rename(inbox.join("large.part"), inbox.join("large.nbb")).unwrap();
    let verdict = harness::wait::until("the verdict", DEADLINE, || {
        let moved = inbox.join("refused/large.nbb").exists();
        let why = std::fs::read_to_string(inbox.join("refused/large.nbb.why"));
        why.map_err(|error| error.to_string())
            .and_then(|why| if moved { Ok(why) } else { Err("not moved yet".to_owned()) })
    });
    fails(Err(anyhow::anyhow!(verdict.unwrap())), Refusal::BundleRefused, "at most 16777216");
    assert_eq!(served.seq(), 1);
}

/// So many zeros in Zstandard's form (RFC 8878): blocks of one byte repeated.
fn zeros(mut count: usize) -> Vec<u8> {
    let most = 128 * 1024;
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
    while count > 0 {
        let size = count.min(most);
        count -= size;
        let head = u32::try_from(size).unwrap() << 3 | 1 << 1 | u32::from(count == 0);
        packed.extend_from_slice(&head.to_le_bytes()[..3]);
        packed.push(0);
    }
    packed
}

#[test]
fn no_file_in_the_inbox_ends_the_program_or_keeps_the_next_one_out() {
    let served = Served::with(&[]);
    let inbox = served.path().join("inbox");
    let long = format!("{}.nbb", "x".repeat(248));
    let no_text = OsString::from_vec(b"no\xfftext.jws".to_vec());
    for name in [OsString::from(&long), no_text, "plain.nbb".into()] {
        std::fs::write(inbox.join(name), "no bundle").unwrap();
    }
    let waiting =
        || std::fs::read_dir(&inbox).unwrap().flatten().filter(|entry| entry.path().is_file()).count();
    crate::until("all three are put aside", || waiting() == 0);
    let aside = std::fs::read_dir(inbox.join("refused")).unwrap().count();
    assert_eq!(aside, 6, "each with its verdict");
    // No place for verdicts: told once, and it goes on when there is one again.
    std::fs::remove_dir_all(inbox.join("done")).unwrap();
    std::fs::write(inbox.join("done"), "a file").unwrap();
    crate::until("it is told", || served.count("nodeboot_alarms_total", "inbox-trouble") == 1);
    std::fs::remove_file(inbox.join("done")).unwrap();
    let before = served.seq();
    served.slots(&["node-1"]);
    assert!(served.seq() > before);
    assert_eq!(served.count("nodeboot_alarms_total", "inbox-trouble"), 1);
}

#[test]
fn verdicts_and_reports_do_not_fill_the_disk() {
    let served = Served::with(&[]);
    let files = |folder: &str| std::fs::read_dir(served.path().join(folder)).unwrap().count();
    for n in 0..40 {
        std::fs::write(served.path().join(format!("inbox/{n}.nbb")), "no bundle").unwrap();
        served.report();
    }
    crate::until("only the newest are kept", || files("inbox/refused") == 64 && files("outbox") == 32);
    assert!(served.path().join("outbox/ship-7-40.jws").exists());
}

/// A machine of the site, and M11 of it when it holds these numbers of bundle, anchors and withdrawals.
fn told(served: &Served, pledge: &Pledge, [bundle, anchors, revoked]: [u64; 3]) -> StatusAnswer {
    let asked = StatusRequest { bundle, anchors, revoked, ..StatusRequest::default() };
    let answer = pledge.connect(served.address).unwrap().status(&asked).unwrap();
    assert_eq!(answer.status, 200);
    json::parse(&answer.body).unwrap()
}

#[test]
fn what_headquarters_takes_back_or_allows_reaches_machines_by_the_bundle_and_once() {
    let pledge = Pledge::new().unwrap();
    let mut served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let news = |answer: &StatusAnswer| [&answer.index, &answer.anchors, &answer.revoked].map(Option::is_some);
    assert_eq!(news(&told(&served, &pledge, [0, 0, 0])), [true; 3]);
    assert_eq!(news(&told(&served, &pledge, [1, 1, 1])), [false; 3], "a slow link carries nothing twice");
    let desk = Desk::of(&served.hq);
    let mut anchors: AnchorsDoc = payload(&desk.0.anchors().unwrap());
    anchors.seq = 2;
    let (a, key) = (desk.0.certificate("voucher-anchor-a").unwrap(), desk.0.key("voucher-anchor-a").unwrap());
    let anchors = jws::sign(&json::to_vec(&anchors), jws::typ::ANCHORS, &a.der, &*key).unwrap();
    std::fs::write(served.hq.dir().join("anchors.jws"), &anchors).unwrap();
    let site = RevokedSite { name: "ship-9 g1".to_owned(), spki: Digest::of(b"its CA") };
    desk.0.publish_revoked(&[site], system_clock()).unwrap();
    served.deliver();
    // Also after a start: what HQ said is on disk.
    for _ in 0..2 {
        let answer = told(&served, &pledge, [1, 1, 1]);
        assert_eq!(answer.anchors.as_ref(), Some(&anchors));
        assert_eq!(answer.revoked, desk.0.revoked().ok());
        assert_eq!(news(&told(&served, &pledge, [2, 2, 2])), [false; 3]);
        served.kill();
        served.start();
    }
}

#[test]
fn a_machine_that_is_in_the_list_of_the_revoked_is_locked_out_whatever_its_registration_says() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let desk = Desk::of(&served.hq);
    let mut next = desk.next();
    let id = &desk.0.records().unwrap()[0].id;
    next.set("revocations", json::to_vec(&serde_json::json!({ "revoked": [id] })));
    served.apply("revoked.nbb", &next.file(&desk, &desk.signer())).unwrap();
    is(&pledge.connect(served.address).unwrap().attest().unwrap(), Refusal::Revoked);
}

#[test]
fn a_site_without_a_clock_lives_no_earlier_than_its_last_bundle() {
    let pledge = Pledge::new().unwrap();
    let mut served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let desk = Desk::of(&served.hq);
    let mut next = desk.next();
    next.index.created_on = system_clock().plus(DAY);
    served.apply("tomorrow.nbb", &next.file(&desk, &desk.signer())).unwrap();
    served.kill();
    served.start_at(Time(60));
    let mut session = pledge.connect(served.address).unwrap();
    let answer = session.send(Message::Time, "", "application/json", b"").unwrap();
    let clock: Clock = json::parse(&answer.body).unwrap();
    assert_eq!((clock.now, clock.uncertain), (next.index.created_on, true));
}
