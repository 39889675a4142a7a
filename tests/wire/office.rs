//! What headquarters tells the person who sits at it: what is wrong, what to do, and what was heard.

use std::process::Command;

use protocol::refusal::Refusal;
use tests::pledge::Pledge;
use tests::stage::{Hq, Programs, SITE, code_in, run};

use crate::{Served, is};

const CODE: &str = "WT0T-BSPH-K";

/// The command fails, and says all of this.
fn says(said: anyhow::Result<String>, words: &[&str]) {
    let said = said.expect_err("it fails").to_string();
    assert!(words.iter().all(|word| said.contains(word)), "{words:?} is not in {said:?}");
}

#[test]
fn an_owner_is_told_which_keys_go_offline_and_git_leaves_out_those_in_its_folder() {
    let programs = Programs::build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("line");
    let hq = |words: &[&str]| {
        let mut command = Command::new(&programs.provisioner);
        run(command.arg("hq").arg("--dir").arg(&dir).args(words).env("NODEBOOT_PASSPHRASE", "of the test"))
    };
    for words in [&["site", "add", SITE][..], &["bundle", "build", SITE], &["machines", "list"]] {
        says(hq(words), &["there is no headquarters in", "provisioner hq init"]);
    }
    let said = hq(&["init", "--name", "Example Line"]).unwrap();
    let keys = dir.canonicalize().unwrap().join("node-boot-keys");
    for key in ["voucher-anchor-a", "voucher-anchor-b", "site-anchor-a", "site-anchor-b", "signer", "approve"]
    {
        let path = keys.join(format!("{key}.pem"));
        assert!(path.exists() && said.contains(&path.display().to_string()), "{key}: {said}");
    }
    assert_eq!(std::fs::read_to_string(dir.join(".gitignore")).unwrap(), "/node-boot-keys/\n");
    hq(&["site", "add", SITE]).unwrap();
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let hq = Hq::found(&Programs::build().unwrap(), "Wire").unwrap();
    let sites = ["there is no site ship-8; there is ship-7"];
    says(hq.run(&["bundle", "build", "ship-8"]), &sites);
    says(hq.run(&["machines", "list", "--site", "ship-8"]), &sites);
    says(hq.run(&["approve", "ship-8", "node-1", CODE]), &sites);
    says(hq.run(&["site", "revoke", "ship-8"]), &sites);
    says(hq.run(&["site", "certify", SITE, "/nope"]), &["reading the request /nope"]);
    says(hq.run(&["ingest", "/nope"]), &["reading the report /nope"]);
}

#[test]
fn a_code_is_approved_for_a_slot_that_there_is_at_a_site_that_can_take_the_word() {
    let served = Served::with(&[]);
    let approve = |site: &str, slot: &str| {
        let file = served.hq.path("approval.jws").display().to_string();
        served.hq.run(&["approve", site, slot, CODE, "-o", &file])
    };
    served.slots(&["node-1"]);
    says(approve(SITE, "node-99"), &["nothing was approved", "no slot node-99", "node-1"]);
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    served.hq.edit("sites/ship-9/slots.yaml", "slots:\n- name: node-1\n").unwrap();
    says(
        approve("ship-9", "node-1"),
        &["nothing was approved", "no certified provisioner", "site certify ship-9"],
    );
    assert!(!served.hq.path("approval.jws").exists());
    let said = approve(SITE, "node-1").unwrap();
    assert!(!said.contains("voice"), "this owner allows none: {said}");
}

#[test]
fn a_request_is_certified_for_the_site_that_it_was_made_for() {
    let served = Served::with(&[]);
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (dir, owner) = (folder.path().display().to_string(), served.hq.owner_file().display().to_string());
    let said = served.elsewhere(&["init", "--dir", &dir, "--site", SITE, "--owner", &owner]).unwrap();
    let (request, code) = (format!("{dir}/ca-request.json"), code_in(&said).unwrap());
    let reply = served.hq.path("reply.json").display().to_string();
    let certify = |site: &str, code: &str| {
        served.hq.run(&["site", "certify", site, &request, "--code", code, "-o", &reply])
    };
    says(certify("ship-9", &code), &["made for ship-7, and not for ship-9"]);
    says(certify(SITE, CODE), &[&format!("The code {CODE} is not the one of this request")]);
    certify(SITE, &code).unwrap();
}

#[test]
fn a_report_is_told_in_full_once_and_a_bundle_in_numbers() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    served.slots(&["node-1"]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let report = served.report();
    let said = served.hq.run(&["ingest", &report]).unwrap();
    for words in
        ["1 filled slot, 1 proven key, 1 used key", " holds node-1", " proved key:", "bundle build ship-7"]
    {
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
    let again = served.hq.run(&["ingest", &report]).unwrap();
    assert!(again.contains("taken in already"), "{again}");
    let file = served.hq.path("site.nbb").display().to_string();
    let said = served.hq.run(&["bundle", "build", SITE, "-o", &file]).unwrap();
    assert!(said.contains(" of ship-7: 1 machine, 1 slot, 1 voucher."), "{said}");
}

#[test]
fn a_bundle_that_admits_nobody_is_built_with_a_warning_for_each_cause() {
    let hq = Hq::found(&Programs::build().unwrap(), "Wire").unwrap();
    let desk = crate::forge::Desk::of(&hq);
    let warnings = || desk.0.build_bundle(SITE, provisioner::site::system_clock()).unwrap().warnings;
    let none = warnings();
    for (warning, words) in
        none.iter().zip(["no certified provisioner", "no slots", "no machine is registered"])
    {
        assert!(warning.contains(words), "{none:?}");
    }
    assert_eq!(none.len(), 3, "{none:?}");
    hq.edit("sites/ship-7/slots.yaml", "slots:\n- name: node-1\n- name: node-2\n").unwrap();
    assert_eq!(hq.import("serial,site,slot\nA1,ship-7,node-1\n").unwrap(), "1 machine registered.\n");
    desk.amend(|record| record.slot = Some("node-99".to_owned()));
    assert!(warnings()[1].contains("ship-7 has no slot node-99"), "{:?}", warnings());
}

/// The only registration there is: the name of its file, and what stands in it.
fn registration(served: &Served) -> (String, String) {
    let listed = served.hq.run(&["machines", "list", "--json"]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let name = format!("machines/{}.yaml", listed[0]["id"].as_str().unwrap());
    let text = std::fs::read_to_string(served.hq.dir().join(&name)).unwrap();
    (name, text)
}

/// Corrects it as an engineer does, and brings the site a bundle.
fn correct(served: &Served, old: &str, new: &str) {
    let (name, text) = registration(served);
    assert!(text.contains(old), "{old:?} is not in {text}");
    served.hq.edit(&name, &text.replace(old, new)).unwrap();
    served.deliver();
}

#[test]
fn a_registration_is_corrected_in_its_file_and_the_next_bundle_brings_that() {
    let (first, second) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&first]);
    served.slots(&["node-1", "node-2"]);
    let hash = |pledge: &Pledge| pledge.id().to_string().trim_start_matches("key:").to_owned();
    // Another key, of the same epoch.
    correct(&served, &hash(&first), &hash(&second));
    is(&first.connect(served.address).unwrap().voucher().unwrap(), Refusal::Unknown);
    second.connect(served.address).unwrap().admission().unwrap();
    // Lost, and found again.
    served.hq.run(&["machines", "revoke", "WIRE000", "--lost"]).unwrap();
    served.deliver();
    is(&second.connect(served.address).unwrap().voucher().unwrap(), Refusal::Lost);
    correct(&served, "status: lost", "status: active");
    second.connect(served.address).unwrap().admission().unwrap();
    // Another slot: the one that it holds stays its own.
    let holder = |slot: &str| {
        let slots = served.site(&["slots", "--json"]).unwrap();
        let slots: serde_json::Value = serde_json::from_str(&slots).unwrap();
        let row = slots.as_array().unwrap().iter().find(|row| row["slot"] == slot).unwrap();
        row["machine"].as_str().unwrap().to_owned()
    };
    let machine = holder("node-1");
    correct(&served, "roles:\n- worker\n", "slot: node-2\n");
    assert_eq!((holder("node-1"), holder("node-2")), (machine, String::new()));
}

#[test]
fn revoked_is_for_ever_at_headquarters_too() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    served.hq.run(&["machines", "revoke", "WIRE000"]).unwrap();
    for word in ["--lost", "--rma"] {
        says(served.hq.run(&["machines", "revoke", "WIRE000", word]), &["is revoked, and that is for ever"]);
    }
    assert!(registration(&served).1.contains("status: revoked"));
    let row = format!("serial,dev-key,site,roles\nWIRE000,{},ship-7,worker\n", pledge.id());
    says(served.hq.import(&row), &[", revoked); revoked is for ever"]);
}

#[test]
fn a_provisioner_that_headquarters_withdrew_says_so_and_what_to_do() {
    let mut served = Served::with(&[]);
    served.hq.run(&["site", "revoke", SITE]).unwrap();
    served.deliver();
    let told = |served: &Served| {
        let said = served.watched("/healthz").1;
        let words = ["HQ has withdrawn ship-7 g1", "provisioner init --dir NEW --site ship-7"];
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        assert!(served.log().contains("HQ has withdrawn ship-7 g1"));
    };
    told(&served);
    served.kill();
    served.start();
    told(&served);
}

#[test]
fn a_plan_by_which_no_site_can_be_founded_is_not_sent_and_says_what_to_write() {
    let hq = Hq::found(&Programs::build().unwrap(), "Example Line").unwrap();
    hq.edit(&format!("sites/{SITE}/site.yaml"), "name: ship-7\ncluster:\n  found: node-1\n").unwrap();
    for (slot, what) in [
        ("node-2", "write node-1 into"),
        ("node-1", "role: control-plane"),
        ("node-1\n  role: control-plane", "`address` of its API server"),
    ] {
        hq.edit(&format!("sites/{SITE}/slots.yaml"), &format!("slots:\n- name: {slot}\n")).unwrap();
        let said = hq.bundle().unwrap_err().to_string();
        assert!(said.contains("node-1") && (said.contains(what) || slot == "node-2"), "{said}");
    }
    let slot = "slots:\n- name: node-1\n  role: control-plane\n  address: 10.7.0.1\n  cidr: 10.7.0.0/24\n";
    hq.edit(&format!("sites/{SITE}/slots.yaml"), slot).unwrap();
    std::fs::create_dir(hq.dir().join("seed")).unwrap();
    hq.edit("seed/shop.yaml", "apiVersion: v1\nkind: Namespace\n").unwrap();
    let said = hq.bundle().unwrap_err().to_string();
    assert!(said.contains("seed/shop.yaml") && said.contains("metadata.name"), "{said}");
    hq.edit("seed/shop.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n").unwrap();
    hq.bundle().unwrap();
}

#[test]
fn a_bundle_that_is_not_made_uses_no_number_and_its_fault_is_named_with_the_file() {
    let hq = Hq::found(&Programs::build().unwrap(), "Wire").unwrap();
    let file = format!("sites/{SITE}/site.yaml");
    for (text, words) in [
        ("clustr: {}\n", "clustr"),
        ("cluster: { distribution: k3s }\n", "templates/k3s/"),
        ("cluster: { pod-cidr: big }\n", "cluster.pod-cidr"),
        ("system: { kubernetes: v1.36.2+k3s1 }\n", "as v1.36.2"),
    ] {
        hq.edit(&file, &format!("name: ship-7\n{text}")).unwrap();
        let said = hq.bundle().unwrap_err().to_string();
        assert!(said.contains(&file) && said.contains(words) && !said.contains("<input>"), "{said}");
    }
    hq.edit(&file, "name: ship-8\n").unwrap();
    says(hq.bundle().map(|_| String::new()), &[&file, "write `name: ship-7`"]);
    hq.edit(&file, "name: ship-7\n").unwrap();
    let nowhere = hq.path("nowhere/site.nbb").display().to_string();
    says(hq.run(&["bundle", "build", SITE, "-o", &nowhere]), &["writing", &nowhere]);
    let site = hq.path("site.nbb").display().to_string();
    let build = || hq.run(&["bundle", "build", SITE, "-o", &site]).unwrap();
    says(hq.run(&["bundle", "build", SITE, "-o", "/tmp"]), &["/tmp is a folder"]);
    assert!(build().contains("Bundle 1 of ship-7"));
    assert!(build().contains("Bundle 2 of ship-7"));
}

#[test]
fn what_needs_a_key_that_is_offline_leaves_nothing_half_made_and_is_done_once_the_key_is_back() {
    let hq = Hq::found(&Programs::build().unwrap(), "Wire").unwrap();
    let [key, away] = ["keys/site-anchor-a.pem", "away.pem"].map(|name| hq.path(name));
    std::fs::rename(&key, &away).unwrap();
    let words = ["nothing was made or withdrawn", "site-anchor-a.pem"];
    says(hq.run(&["site", "add", "ship-9"]), &words);
    says(hq.run(&["site", "revoke", SITE]), &words);
    std::fs::rename(&away, &key).unwrap();
    hq.run(&["site", "add", "ship-9"]).unwrap();
    assert!(hq.run(&["site", "revoke", SITE]).unwrap().contains("generation 2"));
}
