//! What headquarters does not believe: requests of provisioners, rows of a table; and approvals that a site does not believe.

use protocol::approval::{self, Approval};
use protocol::bytes::{B64u, Digest};
use protocol::certify::CaRequest;
use protocol::claim::Code;
use protocol::clock::DAY;
use protocol::crypto::{Alg, Signer as _, SoftKey};
use protocol::issue;
use protocol::record::Sites;
use protocol::refusal::Refusal;
use provisioner::site::keys::{self, Keys};
use provisioner::site::system_clock;
use tests::pledge::Pledge;
use tests::stage::{Hq, SITE, code_in};

use crate::forge::{Desk, damaged, tpm};
use crate::{Served, fails};

/// A code that a machine might show.
pub const CODE: &str = "WT0T-BSPH-K";

fn approval(site: &str, slot: &str, life: i64) -> Approval {
    let sas = B64u(Code::parse(CODE).unwrap().0.to_vec());
    Approval { site: site.to_owned(), slot: slot.to_owned(), sas, expires_on: system_clock().plus(life) }
}

/// The approval, signed by this desk's signer.
fn signed(desk: &Desk, approval: &Approval) -> String {
    let (certificate, key) = desk.signer();
    approval::make(approval, &certificate, &*key).unwrap()
}

fn unfit(served: &Served, approval: &str, id: &str, detail: &str) {
    fails(served.apply("approval.jws", approval.as_bytes()), Refusal::ApprovalRefused, detail);
    assert!(served.noted(id), "{id}");
}

#[test]
fn r46a_an_approval_that_headquarters_did_not_sign_is_refused() {
    let served = Served::with(&[]);
    served.slots(&["node-1"]);
    let another = Hq::found(served.programs(), "Another Line").unwrap();
    let wanted = approval(SITE, "node-1", DAY);
    unfit(&served, &signed(&Desk::of(&another), &wanted), "R46a", "");
    let good = signed(&Desk::of(&served.hq), &wanted);
    unfit(&served, &damaged(&good), "R46a", "the signature is wrong");
    // A bundle's index is signed by the right key, and is no approval.
    let index = Desk::of(&served.hq).next().text;
    unfit(&served, &index, "R46a", "nodeboot-bundle+jws");
}

#[test]
fn r46b_an_approval_for_another_site_is_refused() {
    let served = Served::with(&[]);
    served.slots(&["node-1"]);
    let another = signed(&Desk::of(&served.hq), &approval("ship-9", "node-1", DAY));
    unfit(&served, &another, "R46b", "it is for ship-9");
}

#[test]
fn r46c_an_approval_for_a_slot_that_is_taken_or_is_not_there_is_refused() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    served.slots(&["node-1"]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let desk = Desk::of(&served.hq);
    let taken = signed(&desk, &approval(SITE, "node-1", DAY));
    unfit(&served, &taken, "R46c", "another machine holds the slot");
    let nowhere = signed(&desk, &approval(SITE, "node-9", DAY));
    unfit(&served, &nowhere, "R46c", "this site has no such slot");
}

#[test]
fn r46d_an_approval_that_expired_or_fits_no_code_is_refused() {
    let served = Served::with(&[]);
    served.slots(&["node-1"]);
    let desk = Desk::of(&served.hq);
    unfit(&served, &signed(&desk, &approval(SITE, "node-1", -1)), "R46d", "it expired on");
    let nobody = signed(&desk, &approval(SITE, "node-1", DAY));
    unfit(&served, &nobody, "R46d", "no single machine shows this code");
}

/// What headquarters says to a request; a code where there is no TPM.
fn certify(hq: &Hq, request: &CaRequest) -> anyhow::Result<String> {
    let path = hq.path("request.json");
    std::fs::write(&path, protocol::json::to_vec(request)).unwrap();
    let (path, code) = (path.display().to_string(), request.code().to_string());
    let reply = hq.path("reply.json").display().to_string();
    hq.run(&["site", "certify", SITE, &path, "--code", &code, "-o", &reply])
}

#[test]
fn r48a_a_provisioner_whose_tpm_nobody_registered_is_not_certified() {
    let served = Served::with(&[]);
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    let csr = B64u(issue::request("ship-7 issuing CA", None, &key).unwrap());
    let request = CaRequest {
        csr,
        ek: Some(B64u(tpm::ek())),
        key: Some(B64u(tpm::key_of(key.spki()))),
        private: None,
        seal: None,
    };
    fails(certify(&served.hq, &request), Refusal::CaRequestRefused, "no machine of ship-7 is registered");
    // Registered, and then for another site only: still not this one's.
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let row = |site| format!("serial,ek-p256,site,roles\nPRV1,{},{site},worker\n", tpm::ek_id());
    served.hq.import(&row("ship-9")).unwrap();
    fails(certify(&served.hq, &request), Refusal::CaRequestRefused, "no machine of ship-7 is registered");
    Desk::of(&served.hq).amend(|record| record.site = Sites::One(SITE.to_owned()));
    certify(&served.hq, &request).unwrap();
}

#[test]
fn r48c_a_request_that_its_key_did_not_sign_is_refused() {
    let served = Served::with(&[]);
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    let csr = issue::request("ship-7 issuing CA", None, &key).unwrap();
    let mut altered = csr.clone();
    *altered.last_mut().unwrap() ^= 1;
    let request = CaRequest { csr: B64u(altered), ek: None, key: None, private: None, seal: None };
    fails(certify(&served.hq, &request), Refusal::CaRequestRefused, "signed by its own key");
    // A registered TPM, and a request by a key that is not in it.
    served.hq.import(&format!("serial,ek-p256,site,roles\nPRV1,{},ship-7,worker\n", tpm::ek_id())).unwrap();
    let (ek, key) = (Some(B64u(tpm::ek())), Some(B64u(tpm::key())));
    let request = CaRequest { csr: B64u(csr), ek, key, private: None, seal: None };
    fails(certify(&served.hq, &request), Refusal::CaRequestRefused, "by another key than the TPM's");
}

/// The table is refused as a whole, and these cells are named.
fn not_imported(hq: &Hq, rows: &str, cells: &[&str]) {
    let said = hq.import(rows).unwrap_err().to_string();
    assert!(said.contains("nothing was imported") && said.contains("import-refused"), "{said}");
    assert!(cells.iter().all(|cell| said.contains(cell)), "{said}");
}

#[test]
fn r49_a_table_with_a_bad_row_is_refused_as_a_whole_and_every_bad_cell_is_named() {
    let served = Served::with(&[]);
    let (hash, other) = (Digest::of(b"a key"), Digest::of(b"another"));
    let good = format!("A1,{hash},ship-7,worker\n");
    let head = "serial,dev-key,site,roles\n";
    // (a) a placeholder alone, (b) an id twice, (c) no hash.
    not_imported(
        &served.hq,
        &format!("{head}{good}Default string,,ship-7,worker\n"),
        &["line 3, column serial", "is a maker's placeholder and names nobody"],
    );
    not_imported(
        &served.hq,
        &format!("{head}{good}A2,{hash},ship-7,worker\n"),
        &["line 3, column dev-key", "is registered already (line 2)"],
    );
    not_imported(
        &served.hq,
        &format!("{head}{good}A2,abc,ship-7,worker\n"),
        &["line 3, column dev-key", "is no SHA-256: 43 symbols"],
    );
    let listed = served.hq.run(&["machines", "list"]).unwrap();
    assert_eq!(listed, "No machine is registered.\n", "all rows or none");
    served.hq.import(&format!("{head}{good}")).unwrap();
    not_imported(&served.hq, &format!("{head}a1,{other},ship-7,worker\n"), &["serial a1 is registered"]);
}

#[test]
fn a_request_is_certified_for_its_own_site_only_and_keeps_its_number_when_certified_again() {
    let served = Served::with(&[]);
    served.hq.run(&["site", "add", "ship-9"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (dir, owner) = (folder.path().display().to_string(), served.hq.owner_file().display().to_string());
    let said = served.elsewhere(&["init", "--dir", &dir, "--site", SITE, "--owner", &owner]).unwrap();
    let request = folder.path().join(keys::REQUEST).display().to_string();
    let reply = served.hq.path("reply-2.json").display().to_string();
    let code = code_in(&said).unwrap();
    let certify = |site| served.hq.run(&["site", "certify", site, &request, "--code", &code, "-o", &reply]);
    let refused = certify("ship-9").unwrap_err().to_string();
    assert!(refused.contains("made for ship-7, and not for ship-9"), "{refused}");
    // The first reply was lost on the way.
    certify(SITE).unwrap();
    certify(SITE).unwrap();
    served.elsewhere(&["init", "--dir", &dir, "--reply", &reply]).unwrap();
    assert_eq!(Keys::load(folder.path(), system_clock()).unwrap().identity.number, 2);
    assert!(!folder.path().join("seal.key").exists(), "nobody opens the reply once more");
}

#[test]
fn a_machine_that_was_lost_gets_no_voucher_from_headquarters() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let desk = Desk::of(&served.hq);
    assert!(!desk.next().sections["vouchers"].is_empty());
    served.hq.run(&["machines", "revoke", "WIRE000", "--lost"]).unwrap();
    assert!(desk.next().sections["vouchers"].is_empty());
}
