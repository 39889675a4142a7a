//! What is signed for firmware, as other people's tools read it.

use std::path::Path;
use std::process::{Command, Output};

use protocol::bytes::pem;
use protocol::est::element;
use tempfile::TempDir;

use super::*;
use crate::hq::keys::Keys;

const T: Time = Time(1_795_348_800);
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

fn owner() -> (TempDir, Hq) {
    let dir = tempfile::tempdir().unwrap();
    let passphrase = dir.path().join("passphrase");
    std::fs::write(&passphrase, "a long one\n").unwrap();
    let keys = Keys::new(dir.path().join("keys"), Some(&passphrase)).unwrap();
    let hq = Hq { dir: dir.path().join("hq"), keys };
    hq.init("Example Line", false, T).unwrap();
    hq.make_firmware_keys(T).unwrap();
    (dir, hq)
}

fn certificate(hq: &Hq, name: &str, dir: &Path) -> String {
    let file = dir.join(format!("{name}.pem"));
    std::fs::write(&file, pem("CERTIFICATE", &hq.certificate(name).unwrap().der)).unwrap();
    file.display().to_string()
}

/// What a program says; none where it is not installed.
fn tool(words: &[&str]) -> Option<Output> {
    let output = Command::new(words[0]).args(&words[1..]).output().ok();
    if output.is_none() {
        harness::skip(&format!("`{}` is not installed: run `cargo xtask kube`", words[0]));
    }
    output
}

#[test]
fn sbverify_accepts_a_signed_program_and_no_other_owners_nor_an_altered_one() {
    let Ok(stub) = std::fs::read(STUB) else { return harness::skip("systemd-boot-efi is not installed") };
    let ((dir, hq), (_other_dir, other)) = (owner(), owner());
    let mut program = stub;
    program.resize(program.len().next_multiple_of(8), 0);
    let signed = hq.sign_program(&program).unwrap();
    let hash = image::authenticode::digest(&program).unwrap();
    for one in [&signed, &other.sign_program(&program).unwrap()] {
        assert_eq!(image::authenticode::digest(one).unwrap(), hash, "one hash for every owner");
    }
    let (ours, theirs) = (certificate(&hq, "firmware-db", dir.path()), dir.path().join("theirs"));
    std::fs::create_dir(&theirs).unwrap();
    let theirs = certificate(&other, "firmware-db", &theirs);
    let file = dir.path().join("program").display().to_string();
    let mut altered = signed.clone();
    altered[0x800] ^= 1;
    for (bytes, cert, wanted) in [(&signed, &ours, true), (&signed, &theirs, false), (&altered, &ours, false)]
    {
        std::fs::write(&file, bytes).unwrap();
        let Some(said) = tool(&["sbverify", "--cert", cert, &file]) else { return };
        assert_eq!(said.status.success(), wanted, "{said:?}");
    }
}

#[test]
fn lists_and_their_signatures_are_as_efitools_and_openssl_read_them() {
    let (dir, hq) = owner();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let keys = hq.firmware_keys().unwrap();
    for (variable, content, of, by) in [(&PK, &keys.pk, 0, 0), (&KEK, &keys.kek, 1, 0), (&DB, &keys.db, 2, 1)]
    {
        let (of, by) = (certificate(&hq, KEYS[of], dir.path()), certificate(&hq, KEYS[by], dir.path()));
        let size = 16 + u32::from_le_bytes(content.0[16..20].try_into().unwrap()) as usize;
        let (signature, list) = (&content.0[40..size], &content.0[size..]);
        std::fs::write(file("list"), list).unwrap();
        let guid = uuid::Uuid::from_bytes_le(list[28..44].try_into().unwrap()).to_string();
        let Some(made) = tool(&["cert-to-efi-sig-list", "-g", &guid, &of, &file("theirs")]) else { return };
        assert!(made.status.success(), "{made:?}");
        assert!(std::fs::read(file("theirs")).unwrap() == list, "{}", variable.name);
        // What efitools has its signature made over, by somebody else's key: only the signature may differ.
        let words = ["sign-efi-sig-list", "-o", "-t", "2026-11-22 12:00:00", variable.name];
        let Some(made) = tool(&[&words[..], &[&file("list"), &file("message")]].concat()) else { return };
        assert!(made.status.success(), "{made:?}");
        std::fs::write(file("signature"), wrapped(signature)).unwrap();
        let words = ["-inform", "DER", "-binary", "-purpose", "any", "-in", &file("signature")];
        let more = ["-content", &file("message"), "-CAfile", &by, "-out", "/dev/null"];
        let said = tool(&[&["openssl", "cms", "-verify"], &words[..], &more].concat()).unwrap();
        assert!(said.status.success(), "{}: {said:?}", variable.name);
    }
}

/// `SignedData` as OpenSSL wants it, in a `ContentInfo`.
fn wrapped(signed: &[u8]) -> Vec<u8> {
    let kind = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
    element(0x30, &[&kind, &element(0xa0, &[signed])])
}

#[test]
fn a_section_says_what_the_owners_file_says_as_of_now_and_a_program_of_the_owners_may_sign_it() {
    let (dir, hq) = owner();
    let text = std::fs::read_to_string(hq.dir.join("public/owner.json")).unwrap();
    let before: serde_json::Value = serde_json::from_str(&text).unwrap();
    let read = |text: &str| {
        let signed = section::read(text.as_bytes()).unwrap();
        crate::site::keys::owner_trust(text.as_bytes()).unwrap();
        assert_eq!(signed.signer.der, hq.certificate("firmware-db").unwrap().der);
        serde_json::from_slice::<serde_json::Value>(&signed.payload).unwrap()
    };
    let depot = Depot { site: "ship-7".into(), flash: true, keys: hq.firmware_keys().unwrap() };
    let image = Image {
        kind: protocol::image::Kind::Os,
        version: "0.1.0".into(),
        root: protocol::bytes::Digest([7; 32]),
        blocks: 1,
        size: 8192,
        program: None,
    };
    let first = crate::model::FirstContact { vlan: Some(5), ..Default::default() };
    let now = read(&hq.section(&[image], Some(&depot), Some(&first), T.plus(7)).unwrap());
    assert_eq!(now["network"], serde_json::json!({ "vlan": 5 }));
    assert_eq!((&now["anchors"], &now["addresses"]), (&before["anchors"], &before["addresses"]));
    assert_eq!(now["image-time"], T.plus(7).to_string());
    assert_eq!((&now["images"][0]["kind"], &now["depot"]["site"]), (&"os".into(), &"ship-7".into()));

    let key = hq.keys.folder().unwrap().join("firmware-db.pem").display().to_string();
    let (plain, pass) = (dir.path().join("plain").display().to_string(), dir.path().join("passphrase"));
    let pass = format!("file:{}", pass.display());
    let opened = ["openssl", "pkey", "-passin", &pass, "-in", &key, "-out", &plain];
    assert!(tool(&opened).unwrap().status.success());
    let public =
        String::from_utf8(tool(&["openssl", "pkey", "-in", &plain, "-pubout"]).unwrap().stdout).unwrap();
    let mut with_hook = hq.owner().unwrap();
    let exec = ["openssl", "dgst", "-sha256", "-sign", &plain].map(str::to_owned).to_vec();
    with_hook.hooks.insert("firmware-db".to_owned(), crate::hq::keys::Hook { exec, public });
    write(&hq.dir.join("owner.yaml"), &with_hook).unwrap();
    std::fs::remove_file(&key).unwrap();
    read(&hq.section(&[], None, None, T).unwrap());
}

#[test]
fn keys_are_made_once_and_a_stick_without_them_is_told_how() {
    let (dir, hq) = owner();
    let said = hq.make_firmware_keys(T).unwrap_err().to_string();
    assert!(said.contains("already"), "{said}");
    let mut none = hq.owner().unwrap();
    none.certificates.retain(|name, _| !name.starts_with("firmware"));
    write(&hq.dir.join("owner.yaml"), &none).unwrap();
    let said = hq.section(&[], None, None, T).unwrap_err().to_string();
    assert!(said.contains("run `provisioner hq secure-boot`"), "{said}");
    let said = hq.make_firmware_keys(T).unwrap_err().to_string();
    assert!(said.contains("delete the firmware-*.pem"), "a key is never overwritten: {said}");
    drop(dir);
}
