//! What headquarters makes of reports: those that it does not believe, and what follows from those that it does.

use protocol::bytes::{B64u, Digest};
use protocol::claim::Code;
use protocol::clock::YEAR;
use protocol::crypto::{Alg, Signer as _, SoftKey};
use protocol::id::Id;
use protocol::issue::Role;
use protocol::record::{Sites, Status};
use protocol::refusal::Refusal;
use protocol::report::{self, Approved, Burned, Join, Report};
use provisioner::site::keys::{self, Keys};
use provisioner::site::system_clock;
use rcgen::ExtendedKeyUsagePurpose;
use tests::pledge::Pledge;
use tests::stage::{Hq, SITE, code_in};

use crate::forge::{Desk, damaged, payload, stolen_keys};
use crate::headquarters::CODE;
use crate::{Served, fails, posers};

/// A report of the provisioner with these keys, with the number and the site it claims.
fn report_of(keys: &Keys, seq: u64, site: &str) -> Report {
    let empty = serde_json::json!({ "site": site, "provisioner": keys.issuing.key_hash, "seq": seq,
        "created-on": system_clock(), "bundle": 1 });
    serde_json::from_value(empty).unwrap()
}

fn signed_report(keys: &Keys, report: &Report) -> String {
    let (leaf, key) = keys.leaf();
    report::make(report, &leaf.der, &*key).unwrap()
}

fn ingest(hq: &Hq, report: &str) -> anyhow::Result<String> {
    let path = hq.path("report.jws");
    std::fs::write(&path, report).unwrap();
    hq.run(&["ingest", &path.display().to_string()])
}

#[test]
fn r47a_a_report_that_no_provisioner_of_ours_signed_is_refused() {
    let served = Served::with(&[]);
    let keys = stolen_keys(&served);
    let report = report_of(&keys, 1, SITE);
    fails(ingest(&served.hq, &damaged(&signed_report(&keys, &report))), Refusal::ReportRefused, "signature");
    // A machine of the site has a certificate under the same issuing CA.
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    let role = Role::Node { machine: "mc_01", life: YEAR };
    let node = keys.issue(&role, key.spki(), system_clock()).unwrap();
    fails(ingest(&served.hq, &report::make(&report, &node, &key).unwrap()), Refusal::ReportRefused, "");
    // So has a web server, which is no registrar.
    let (chain, key) = posers::leaf(&served, vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let key = SoftKey::from_pkcs8(&key).unwrap();
    let posing = report::make(&report, &chain[0], &key).unwrap();
    fails(ingest(&served.hq, &posing), Refusal::ReportRefused, "not signed by a provisioner");
    let strangers = Served::with(&[]);
    let theirs = stolen_keys(&strangers);
    let unknown = signed_report(&theirs, &report_of(&theirs, 1, SITE));
    fails(ingest(&served.hq, &unknown), Refusal::ReportRefused, "no provisioner of ours has this key");
    let posing = signed_report(&theirs, &report);
    fails(ingest(&served.hq, &posing), Refusal::ReportRefused, "");
    ingest(&served.hq, &signed_report(&keys, &report)).unwrap();
}

#[test]
fn r47b_a_report_that_is_not_newer_is_refused() {
    let served = Served::with(&[]);
    let keys = stolen_keys(&served);
    let text = |seq| signed_report(&keys, &report_of(&keys, seq, SITE));
    ingest(&served.hq, &text(5)).unwrap();
    for seq in [5, 4] {
        fails(ingest(&served.hq, &text(seq)), Refusal::ReportRefused, &format!("{seq} is not above 5"));
    }
    ingest(&served.hq, &text(6)).unwrap();
}

#[test]
fn r47c_a_report_in_the_name_of_another_site_is_refused() {
    let served = Served::with(&[]);
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let keys = stolen_keys(&served);
    let report = signed_report(&keys, &report_of(&keys, 1, "ship-9"));
    fails(ingest(&served.hq, &report), Refusal::ReportRefused, "it is of ship-9");
}

/// Another site with a provisioner of its own: its keys.
fn second_site(served: &Served, folder: &std::path::Path) -> Keys {
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let dir = folder.display().to_string();
    let owner = served.hq.owner_file().display().to_string();
    let said = served.elsewhere(&["init", "--dir", &dir, "--site", "ship-9", "--owner", &owner]).unwrap();
    let (code, reply) = (code_in(&said).unwrap(), served.hq.path("reply-9.json").display().to_string());
    let request = folder.join(keys::REQUEST).display().to_string();
    served.hq.run(&["site", "certify", "ship-9", &request, "--code", &code, "-o", &reply]).unwrap();
    served.elsewhere(&["init", "--dir", &dir, "--reply", &reply]).unwrap();
    Keys::load(folder, system_clock()).unwrap()
}

#[test]
fn r50_a_machine_of_a_pool_stays_with_the_site_that_it_joined_first() {
    let served = Served::with(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (stolen_keys(&served), second_site(&served, folder.path()));
    let key = Digest::of(b"a key");
    let row = format!("serial,dev-key,site,roles\nA1,{key},ship-7 ship-9,worker\n");
    served.hq.import(&row).unwrap();
    let desk = Desk::of(&served.hq);
    let machine = desk.0.records().unwrap().remove(0);
    let says = |keys: &Keys, seq, site: &str| {
        let mut report = report_of(keys, seq, site);
        let (s, slot, node) = (Digest::of(b"S"), "node-1".to_owned(), "node-1-abcdef".to_owned());
        report.joins.push(Join { machine: machine.id.clone(), s, slot, node, at: system_clock() });
        ingest(&served.hq, &signed_report(keys, &report)).unwrap()
    };
    assert!(says(&first, 1, SITE).contains("the other sites of its pool lose it"));
    let settled = desk.0.records().unwrap().remove(0);
    assert_eq!((settled.site.clone(), settled.epoch), (Sites::One(SITE.to_owned()), machine.epoch + 1));
    assert_eq!(settled.status, Status::Active);

    let said = says(&second, 1, "ship-9");
    for words in ["ALARM", Refusal::Moved.sentence(), Refusal::Moved.code(), "it is of ship-7"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!says(&first, 2, SITE).contains("ALARM"), "the first may say it again");
    assert_eq!(desk.0.records().unwrap(), [settled]);
    // The winner's machine gets a voucher of the higher epoch; the other site hears no more of it.
    let ours = desk.next().sections.remove("vouchers").unwrap();
    let voucher: serde_json::Value = payload(String::from_utf8(ours).unwrap().trim());
    let assignment = &voucher["ietf-voucher:voucher"]["manufacturer-proprietary"];
    let assignment = protocol::bytes::from_b64u(assignment.as_str().unwrap()).unwrap();
    assert_eq!(String::from_utf8(assignment).unwrap(), r#"{"epoch":2,"site":"ship-7"}"#);
    let theirs = desk.0.build_bundle("ship-9", system_clock()).unwrap();
    assert_eq!(theirs.machines, 0);
}

#[test]
fn a_stolen_provisioner_registers_no_machine_that_headquarters_has_not_approved() {
    let served = Served::with(&[]);
    served.slots(&["node-1", "node-2"]);
    let keys = stolen_keys(&served);
    let claims = |seq, slot: &str, key: &[u8]| {
        let ids = vec![Id::Key(Digest::of(key))];
        let (machine, by) = ("claim-x".to_owned(), "voice".to_owned());
        let sas = B64u(Code::parse(CODE).unwrap().0.to_vec());
        let approved = Approved { machine, slot: slot.to_owned(), ids, by, sas };
        let report = Report { approvals: vec![approved], ..report_of(&keys, seq, SITE) };
        ingest(&served.hq, &signed_report(&keys, &report)).unwrap()
    };
    assert!(claims(1, "node-1", b"a").contains("ALARM approval-unknown"));
    let file = served.hq.path("approval.jws").display().to_string();
    served.hq.run(&["approve", SITE, "node-1", CODE, "-o", &file]).unwrap();
    assert!(claims(2, "node-2", b"a").contains("ALARM approval-unknown"), "for another slot");
    assert!(claims(3, "node-1", b"a").contains("registered mc_"));
    assert!(claims(4, "node-1", b"b").contains("ALARM approval-unknown"), "once is once");
    assert_eq!(served.hq.run(&["machines", "list"]).unwrap().matches("mc_").count(), 1);
}

#[test]
fn a_key_that_was_used_at_one_provisioner_is_used_at_every_other_and_its_machine_goes_on() {
    let pledge = Pledge::new().unwrap();
    let mut served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    served.hq.run(&["ingest", &served.report()]).unwrap();
    served.deliver();
    // Another provisioner knows what its bundle says, and nothing else.
    served.kill();
    served.lose("store.redb");
    served.start();
    let copy = Pledge::with_device(SoftKey::from_pkcs8(&pledge.device_pkcs8).unwrap()).unwrap();
    let answer = copy.connect(served.address).unwrap().attest().unwrap();
    assert_eq!(answer.reason(), Refusal::Duplicate.code());
    assert_eq!(pledge.connect(served.address).unwrap().attest().unwrap().status, 200);
}

#[test]
fn r47a_a_provisioner_whose_ca_was_withdrawn_is_not_heard_any_more() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let keys = stolen_keys(&served);
    served.hq.run(&["site", "revoke", SITE]).unwrap();
    let report = signed_report(&keys, &report_of(&keys, 1, SITE));
    fails(ingest(&served.hq, &report), Refusal::ReportRefused, "no provisioner of ours has this key");
    let desk = Desk::of(&served.hq).next();
    let vouchers = String::from_utf8(desk.sections["vouchers"].clone()).unwrap();
    let voucher: serde_json::Value = payload(vouchers.lines().next().unwrap());
    let pin = voucher["ietf-voucher:voucher"]["pinned-domain-cert"].as_str().unwrap();
    let pin = protocol::cert::Cert::parse(&protocol::bytes::from_b64(pin).unwrap()).unwrap();
    assert_eq!(pin.common_name, "ship-7 g2", "machines are told of the next generation");
}

#[test]
fn what_headquarters_has_heard_is_not_told_again_and_what_happened_since_is() {
    let (early, late) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&early, &late]);
    let told = |pledge: &Pledge, said: &str| said.contains(&pledge.device.key_hash().to_string());
    early.connect(served.address).unwrap().admission().unwrap();
    let report = served.report();
    late.connect(served.address).unwrap().admission().unwrap();
    let said = served.hq.run(&["ingest", &report]).unwrap();
    assert!(told(&early, &said) && !told(&late, &said), "{said}");
    // The bundle says which report it has; until then a report may have been lost, and holds everything.
    served.deliver();
    let said = served.ingest();
    assert!(!told(&early, &said) && told(&late, &said), "{said}");
    served.deliver();
    assert!(!told(&late, &served.ingest()));
}

/// A report by which a site says that it used HQ's approval for `node-1` by telephone, for a machine with these ids.
fn approved_by_voice(served: &Served, ids: Vec<Id>) -> String {
    let file = served.hq.path("approval.jws").display().to_string();
    served.hq.run(&["approve", SITE, "node-1", CODE, "-o", &file]).unwrap();
    let sas = B64u(Code::parse(CODE).unwrap().0.to_vec());
    let (machine, slot, by) = ("claim-x".to_owned(), "node-1".to_owned(), "voice".to_owned());
    let keys = stolen_keys(served);
    let approvals = vec![Approved { machine, slot, ids, by, sas }];
    let report = Report { approvals, ..report_of(&keys, 1, SITE) };
    ingest(&served.hq, &signed_report(&keys, &report)).unwrap()
}

#[test]
fn r40d_headquarters_registers_no_control_plane_machine_that_a_site_let_in_by_voice() {
    let served = Served::with(&[]);
    served.hq.edit("sites/ship-7/slots.yaml", "slots:\n- name: node-1\n  role: control-plane\n").unwrap();
    let said = approved_by_voice(&served, vec![Id::Ek(Digest::of(b"a TPM"))]);
    assert!(said.contains("ALARM not-control-plane"), "{said}");
    assert!(Desk::of(&served.hq).0.records().unwrap().is_empty());
}

#[test]
fn a_machine_with_a_tpm_is_registered_by_that_and_not_by_a_key_that_the_next_installation_lacks() {
    let served = Served::with(&[]);
    served.hq.edit("sites/ship-7/slots.yaml", "slots:\n- name: node-1\n").unwrap();
    let ek = Digest::of(b"a TPM");
    let said = approved_by_voice(&served, vec![Id::Ek(ek), Id::Key(Digest::of(b"its node key"))]);
    assert!(said.contains("registered mc_"), "{said}");
    let auth = Desk::of(&served.hq).0.records().unwrap().remove(0).auth;
    assert_eq!(auth.iter().map(protocol::record::Auth::id).collect::<Vec<_>>(), [Id::Ek(ek)]);
}

#[test]
fn a_key_that_two_machines_have_used_alarms_headquarters() {
    let served = Served::with(&[]);
    let keys = stolen_keys(&served);
    let used = |seq, by: &[u8]| {
        let bound = vec![Burned { key: Digest::of(b"a key"), s: Digest::of(by) }];
        ingest(&served.hq, &signed_report(&keys, &Report { bound, ..report_of(&keys, seq, SITE) })).unwrap()
    };
    assert!(!used(1, b"one").contains("ALARM"));
    assert!(!used(2, b"one").contains("ALARM"), "the same once more");
    assert!(used(3, b"two").contains("ALARM duplicate"));
}
