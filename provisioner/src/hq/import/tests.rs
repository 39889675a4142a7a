//! What a table may hold, and what is named in it.

use protocol::bytes::{b64, pem};

use super::*;

fn both(file: &[u8], records: &[Record]) -> Result<Imported, Vec<String>> {
    let mut next = 0;
    let mut new_id = || {
        next += 1;
        format!("mc_{next}")
    };
    let slots = serde_json::from_str(r#"{"slots":[{"name":"node-3"},{"name":"node-4"}]}"#).unwrap();
    let sites = BTreeMap::from([("ship-7".to_owned(), slots)]);
    let mut known = Known { records, sites: &sites, new_id: &mut new_id };
    import(file, &mut known).map_err(|bad| bad.iter().map(ToString::to_string).collect())
}

fn run(text: &str, records: &[Record]) -> Result<Vec<Record>, Vec<String>> {
    both(text.as_bytes(), records).map(|imported| imported.records)
}

/// The table is refused, and this is the only thing that is said of it.
fn only(file: &[u8], words: &[&str]) {
    let bad = both(file, &[]).unwrap_err();
    assert!(bad.len() == 1 && words.iter().all(|word| bad[0].contains(word)), "{words:?}: {bad:?}");
}

const KEY: &str = "qV9znyK5k8JvC7yJCf8_IcGH-KPSVvxSTlevZx_zjkc";

#[test]
fn good_rows_become_registrations_whatever_a_spreadsheet_makes_of_the_file() {
    let hex = "a95f739f22b993c26f0bbc8909ff3f21c187f8a3d256fc524e57af671ff38e47";
    for text in [
        format!("serial,dev-key,site,slot\n5CG1,{KEY},ship-7,node-3\n"),
        format!("\u{feff}Serial;Dev-Key;Site;Slot\r\n5CG1;key:{KEY};ship-7;node-3\r\n"),
        format!("site,slot,serial,dev-key\nship-7,node-3,5CG1,{hex}\n"),
    ] {
        let records = run(&text, &[]).unwrap();
        assert_eq!(records[0].auth[0].id().to_string(), format!("key:{KEY}"), "{text}");
        assert_eq!(records[0].slot.as_deref(), Some("node-3"));
    }
}

#[test]
fn r49a_a_junk_serial_alone_names_nobody() {
    let bad = run("serial,site,roles\nTo be filled by O.E.M.,ship-7,worker\n", &[]).unwrap_err();
    assert!(bad[0].contains("line 2, column serial") && bad[0].contains("node-boot register"), "{bad:?}");
}

#[test]
fn r49b_an_id_twice_is_named_in_the_file_and_against_the_registry() {
    let text = format!("serial,dev-key,site,roles\nA1,{KEY},ship-7,worker\nA2,{KEY},ship-7,worker\n");
    let bad = run(&text, &[]).unwrap_err();
    assert!(bad[0].starts_with("line 3, column dev-key") && bad[0].contains("line 2"), "{bad:?}");
    let known = run(&text[..text.find("A2").unwrap()], &[]).unwrap();
    let bad = run(&text[..text.find("A2").unwrap()], &known).unwrap_err();
    assert_eq!(bad.len(), 2, "serial and key: {bad:?}");
}

#[test]
fn r49c_a_wrong_hash_is_named_with_what_would_be_right() {
    let bad = run("serial,ek-p256,site,roles\nA1,abc,ship-7,worker\n", &[]).unwrap_err();
    assert!(bad[0].contains("43 symbols"), "{bad:?}");
}

/// A certificate of a new key, and the hash of the key.
fn certificate(
    params: &rcgen::CertificateParams,
    alg: &'static rcgen::SignatureAlgorithm,
) -> (Vec<u8>, Digest) {
    use rcgen::PublicKeyData as _;
    let key = rcgen::KeyPair::generate_for(alg).unwrap();
    (params.self_signed(&key).unwrap().der().to_vec(), Digest::of(&key.subject_public_key_info()))
}

fn with_cell(cell: &str, hash: &str, records: &[Record]) -> Result<Vec<Record>, Vec<String>> {
    run(&format!("ek-cert,ek-p256,site,roles\n\"{cell}\",{hash},ship-7,worker\n"), records)
}

#[test]
fn endorsement_keys_are_registered_from_certificates_in_any_spelling_each_once() {
    let ek = |alg| certificate(&rcgen::CertificateParams::default(), alg);
    let (one, two) = (ek(&rcgen::PKCS_ECDSA_P256_SHA256), ek(&rcgen::PKCS_ECDSA_P384_SHA384));
    let [one_pem, two_pem] = [&one.0, &two.0].map(|der| pem("CERTIFICATE", der));
    let wanted = [("ecc-p256", one.1), ("ecc-p384", two.1)]
        .map(|(alg, sha256)| Auth::TpmEk { alg: alg.to_owned(), sha256 });
    for cell in [
        format!("{} {}", b64(&one.0), b64(&two.0)),
        format!("{one_pem}{two_pem}"),
        format!("Certificate:\n    Data:\n{one_pem}Certificate:\n    Data:\n{two_pem}"),
        format!("{one_pem}{two_pem}{one_pem}"),
    ] {
        for hash in [String::new(), one.1.to_string()] {
            assert_eq!(with_cell(&cell, &hash, &[]).unwrap()[0].auth, wanted, "{cell}");
        }
    }
    let known = with_cell(&b64(&one.0), "", &[]).unwrap();
    let bad = with_cell(&b64(&one.0), "", &known).unwrap_err();
    assert!(bad[0].starts_with("line 2, column ek-cert: ek:"), "{bad:?}");
}

#[test]
fn a_certificate_that_is_none_of_the_machines_endorsement_key_is_named_with_what_would_be_right() {
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let mut server = rcgen::CertificateParams::default();
    server.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let [good, other, server, authority] =
        [rcgen::CertificateParams::default(), rcgen::CertificateParams::default(), server, authority]
            .map(|params| certificate(&params, p256).0);
    let text = b64(&good);
    let (begin, end) = text.split_at(76);
    for (cell, hash, words) in [
        ("abc".to_owned(), "", "certificate 1 of the cell is no X.509 certificate"),
        (format!("{begin}\n{end}"), "", "on one line, or PEM"),
        (pem("CERTIFICATE", &good).replace("-----END", "-----"), "", "no X.509 certificate"),
        (pem("CERTIFICATE", &good) + &b64(&other), "", "no X.509 certificate"),
        (
            format!("{text} {}", b64(&server)),
            "",
            "certificate 2 of the cell is a certificate for another use",
        ),
        (
            format!("{text} {}", b64(&authority)),
            "",
            "certificate 2 of the cell is an authority's certificate",
        ),
        (format!("{text} {}", b64(&other)), "", "two keys of the kind ecc-p256: one machine has one"),
        (text.clone(), KEY, "two keys of the kind ecc-p256: one machine has one"),
    ] {
        let bad = with_cell(&cell, hash, &[]).unwrap_err();
        assert!(bad.len() == 1 && bad[0].contains(words), "{words}: {bad:?}");
    }
}

#[test]
fn every_bad_cell_is_reported_and_nothing_is_imported() {
    let text = "serial,dev-key,site,slot,colour\nA1,x,ship-9,Node 1,red\nA2,,ship-7,,\n";
    let bad = run(text, &[]).unwrap_err();
    let columns: Vec<_> =
        bad.iter().map(|line| line.split([',', ':']).nth(1).unwrap().trim().to_owned()).collect();
    assert_eq!(
        columns,
        ["column colour", "column dev-key", "column site", "column slot", "column slot"],
        "{bad:#?}"
    );
}

#[test]
fn a_slot_that_the_site_does_not_have_is_named_with_those_that_it_has() {
    let text = format!("serial,dev-key,site,slot\nA1,{KEY},ship-7,node-99\n");
    only(text.as_bytes(), &["line 2, column slot", "ship-7 has no slot node-99", "node-3, node-4"]);
}

#[test]
fn one_slot_is_for_one_machine_in_the_file_and_against_what_is_registered() {
    let text = "serial,site,slot\nA1,ship-7,node-3\nA2,ship-7,node-3\n";
    only(text.as_bytes(), &["line 3, column slot", "slot node-3 of ship-7", "(line 2)", "revoke the other"]);
    let mut known = run("serial,site,slot\nA1,ship-7,node-3\n", &[]).unwrap();
    let second = "serial,site,slot\nA2,ship-7,node-3\n";
    let bad = run(second, &known).unwrap_err();
    assert!(bad[0].contains("(mc_1)"), "{bad:?}");
    known[0].status = Status::Lost;
    run(second, &known).unwrap();
}

#[test]
fn a_mac_is_six_bytes_and_is_kept_as_linux_writes_it() {
    only(b"serial,mac,site,roles\nA1,zz:11,ship-7,worker\n", &["line 2, column mac", "\"zz:11\""]);
    let text = "serial,mac,site,roles\nA1,52-54-00-12-34-AB 52:54:00:12:34:56,ship-7,worker\n";
    assert_eq!(run(text, &[]).unwrap()[0].hints.mac, ["52:54:00:12:34:ab", "52:54:00:12:34:56"]);
}

#[test]
fn a_row_is_as_long_as_the_header_and_lines_are_counted_as_an_editor_does() {
    only(b"serial,site,roles\n\nA1,ship-7,worker,more\n", &["line 3, column 4", "\"more\" is beyond"]);
    only(b"serial,site,roles\r\nA1,ship-7\r\n", &["line 2, column roles", "missing"]);
    only(b"serial,site,roles,site\nA1,ship-7,worker,ship-7\n", &["line 1, column site", "twice"]);
}

#[test]
fn a_placeholder_beside_a_key_is_not_kept_and_is_told() {
    let text = format!("serial,uuid,dev-key,site,roles\nDefault string,0,{KEY},ship-7,worker\n");
    let imported = both(text.as_bytes(), &[]).unwrap();
    assert_eq!(imported.records[0].hints, Match::default());
    assert_eq!(imported.warnings.len(), 2, "{:?}", imported.warnings);
    assert!(imported.warnings[0].starts_with("line 2, column serial: \"Default string\""));
}

#[test]
fn a_row_without_a_key_is_registered_by_its_label_and_that_is_told_in_one_line() {
    let text = format!("serial,dev-key,site,roles\nA1,,ship-7,worker\nA2,{KEY},ship-7,worker\n");
    let imported = both(text.as_bytes(), &[]).unwrap();
    assert_eq!((imported.records.len(), imported.warnings.len()), (2, 1));
    assert!(imported.warnings[0].starts_with("line 2: A1 is registered by its label only"));
}

#[test]
fn a_file_without_a_machine_or_of_another_kind_is_told_what_is_expected() {
    for file in ["", "\n", "serial,site,roles\n"] {
        only(file.as_bytes(), &["line 1:", "no machine in"]);
    }
    let wide: Vec<u8> = "\u{feff}serial,site\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    only(&wide, &["UTF-16", "save it as CSV in UTF-8"]);
    only(b"serial,model,site,roles\nA1,K\xfchn,ship-7,worker\n", &["line 2:", "not UTF-8"]);
    only(b"serial\tsite\troles\nA1\tship-7\tworker\n", &["tabs", "commas or by semicolons"]);
}

#[test]
fn a_machine_that_is_registered_is_named_with_what_to_do_instead() {
    let text = "serial,site,slot\nA1,ship-7,node-3\n";
    let mut known = run(text, &[]).unwrap();
    for (status, words) in [
        (Status::Active, "to correct it, edit machines/mc_1.yaml"),
        (Status::Lost, "set `status: active` in machines/mc_1.yaml"),
        (Status::Rma, "(mc_1, rma)"),
        (Status::Revoked, "revoked is for ever"),
    ] {
        known[0].status = status;
        let bad = run(text, &known).unwrap_err();
        assert!(bad.len() == 1 && bad[0].contains(words), "{bad:?}");
    }
}
