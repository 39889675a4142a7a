//! A program nobody here wrote accepts every certificate and request we make.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use std::path::Path;
use std::process::Command;

use protocol::bytes::{Digest, pem};
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::est;
use protocol::issue::{Role, issue, pledge, request, self_signed};
use protocol::tpm::{EkKind, NoEk};

fn now() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Time(i64::try_from(since.as_secs()).unwrap())
}

fn openssl(dir: &Path, words: &str) -> Result<String, String> {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn openssl_accepts_every_certificate_of_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let put =
        |name: &str, der: &[u8]| std::fs::write(dir.path().join(name), pem("CERTIFICATE", der)).unwrap();
    let key = |alg| SoftKey::generate(alg).unwrap().0;
    let (anchor_key, signer_key) = (key(Alg::Es384), key(Alg::Es256));
    let (site_key, issuing_key, leaf_key) = (key(Alg::Es256), key(Alg::Es256), key(Alg::Es256));
    let read = |der: Vec<u8>| Cert::parse(&der).unwrap();
    let anchor = read(self_signed(&Role::Anchor { name: "Site anchor A" }, &anchor_key, now()).unwrap());
    let signer =
        issue(&Role::Signer { name: "Signer 1" }, signer_key.spki(), &anchor, &anchor_key, now()).unwrap();
    let role = Role::SiteCa { site: "ship-7", generation: 1 };
    let site = read(issue(&role, site_key.spki(), &anchor, &anchor_key, now()).unwrap());
    let role = Role::IssuingCa { site: "ship-7", generation: 1, number: 1 };
    let issuing = read(issue(&role, issuing_key.spki(), &site, &site_key, now()).unwrap());
    let role = Role::Leaf { site: "ship-7", number: 1 };
    let leaf = issue(&role, leaf_key.spki(), &issuing, &issuing_key, now()).unwrap();
    let role = Role::Node { machine: "mc_1", life: 86_400 };
    let node = issue(&role, leaf_key.spki(), &issuing, &issuing_key, now()).unwrap();
    for (name, der) in [
        ("anchor", &anchor.der),
        ("signer", &signer),
        ("site", &site.der),
        ("issuing", &issuing.der),
        ("leaf", &leaf),
        ("node", &node),
    ] {
        put(name, der);
    }
    let chain = "verify -x509_strict -CAfile anchor -untrusted site -untrusted issuing";
    openssl(dir.path(), &format!("{chain} -purpose sslserver leaf")).unwrap();
    openssl(dir.path(), &format!("{chain} -purpose sslclient node")).unwrap();
    openssl(dir.path(), "verify -x509_strict -CAfile anchor signer").unwrap();
    assert!(
        openssl(dir.path(), &format!("{chain} -purpose sslserver node")).is_err(),
        "a node must not serve"
    );
    let shown = openssl(dir.path(), "x509 -in leaf -noout -ext extendedKeyUsage,subjectAltName").unwrap();
    assert!(shown.contains("urn:nodeboot:site:ship-7"), "{shown}");
}

#[test]
fn openssl_reads_pledges_requests_and_est_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (key, pkcs8) = SoftKey::generate(Alg::Es256).unwrap();
    let certificate = pledge(&key).unwrap();
    std::fs::write(dir.path().join("pledge"), pem("CERTIFICATE", &certificate)).unwrap();
    openssl(dir.path(), "verify -CAfile pledge pledge").unwrap();
    let der = request("system:node:node-3-abcdef", Some("system:nodes"), &key).unwrap();
    std::fs::write(dir.path().join("request"), pem("CERTIFICATE REQUEST", &der)).unwrap();
    let shown = openssl(dir.path(), "req -in request -noout -verify -subject").unwrap();
    assert!(shown.contains("system:node:node-3-abcdef"), "{shown}");
    let p7 = protocol::bytes::from_b64(&est::certs_only(&[&certificate, &certificate])).unwrap();
    std::fs::write(dir.path().join("p7"), p7).unwrap();
    let shown = openssl(dir.path(), "pkcs7 -inform DER -in p7 -print_certs").unwrap();
    assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 2, "{shown}");
    std::fs::write(dir.path().join("key"), pem("PRIVATE KEY", &pkcs8)).unwrap();
    openssl(dir.path(), "pkey -in key -noout -check").unwrap();
}

#[test]
fn an_rsa_key_is_an_endorsement_key_only_if_a_tpm_could_have_made_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cfg"), "[req]\ndistinguished_name = dn\n[dn]\n").unwrap();
    let certified = |options: &str| {
        let request = "req -x509 -config cfg -nodes -subj /CN=ek -days 9 -keyout key -outform DER -out ek";
        openssl(dir.path(), &format!("{request} -newkey {options}")).unwrap();
        openssl(dir.path(), "pkey -in key -pubout -outform DER -out spki").unwrap();
        let read = |name| std::fs::read(dir.path().join(name)).unwrap();
        (protocol::tpm::certified(&read("ek")), Digest::of(&read("spki")))
    };
    let (named, hash) = certified("rsa:2048");
    assert_eq!(named, Ok((EkKind::Rsa2048, hash)));
    for options in ["rsa:2040", "rsa:3072", "rsa:2048 -pkeyopt rsa_keygen_pubexp:3", "ed25519"] {
        assert_eq!(certified(options).0, Err(NoEk::Kind), "{options}");
    }
}
