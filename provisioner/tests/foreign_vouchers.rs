//! `provisioner hq voucher` reads vouchers that nobody on our side wrote.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use std::fs;
use std::path::Path;
use std::process::Command;

use protocol::bytes::{b64, b64u, from_b64, from_b64u};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder in which the `openssl` program is an authority and a signer.
struct Foreign(TempDir);

/// Who signs: a name, the curve of its key, and who certified it.
const PEOPLE: [(&str, &str, &str); 6] = [
    ("root", "P-384", "root"),
    ("sub", "P-256", "root"),
    ("masa", "P-256", "root"),
    ("registrar", "P-256", "sub"),
    ("strong", "P-384", "root"),
    ("pledge", "P-256", "pledge"),
];

impl Foreign {
    fn new() -> Self {
        let foreign = Self(tempfile::tempdir().unwrap());
        for (name, curve, issuer) in PEOPLE {
            foreign.openssl(&format!(
                "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve} -out {name}.key"
            ));
            let by =
                if name == issuer { String::new() } else { format!(" -CA {issuer}.pem -CAkey {issuer}.key") };
            foreign.openssl(&format!(
                "req -x509 -new -key {name}.key -subj /CN={name}{by} -days 3650 -out {name}.pem"
            ));
            foreign.openssl(&format!("x509 -in {name}.pem -outform DER -out {name}.der"));
        }
        foreign
    }

    fn openssl(&self, words: &str) -> String {
        let output =
            Command::new("openssl").args(words.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn certificate(&self, name: &str) -> String {
        b64(&fs::read(self.0.path().join(format!("{name}.der"))).unwrap())
    }

    fn x5c(&self, names: &[&str]) -> Vec<String> {
        names.iter().map(|name| self.certificate(name)).collect()
    }

    /// The payload of a published voucher, of the kind `wrapper`, as its example has it: fractions of a second too.
    fn payload(&self, wrapper: &str) -> String {
        let body = json!({ wrapper: {
            "assertion": "agent-proximity",
            "serial-number": "0123456789",
            "nonce": "L3IJ6hptHCIQoNxaab9HWA==",
            "created-on": "2022-04-26T05:16:28.726Z",
            "pinned-domain-cert": self.certificate("root"),
        }});
        b64u(body.to_string().as_bytes())
    }

    /// One signature by `name`, as it stands in the general serialisation.
    fn signature(&self, name: &str, header: &Value, payload: &str) -> Value {
        let protected = b64u(header.to_string().as_bytes());
        fs::write(self.0.path().join("input"), format!("{protected}.{payload}")).unwrap();
        let (hash, width) = if name == "strong" { ("sha384", 96) } else { ("sha256", 64) };
        self.openssl(&format!("dgst -{hash} -sign {name}.key -out signature input"));
        let parsed = self.openssl("asn1parse -inform DER -in signature");
        let number = |line: &str| {
            let hex = line.rsplit(':').next().unwrap();
            format!("{hex:0>width$}")
        };
        let hex: String = parsed.lines().filter(|line| line.contains("INTEGER")).map(number).collect();
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        json!({ "protected": protected, "signature": b64u(&bytes.collect::<Vec<_>>()) })
    }

    /// The header of RFC 8366bis for this signer and this chain.
    fn header(&self, names: &[&str]) -> Value {
        let alg = if names[0] == "strong" { "ES384" } else { "ES256" };
        json!({ "x5c": self.x5c(names), "typ": "voucher-jws+json", "alg": alg })
    }

    /// A document in the general serialisation with a signature for each chain.
    fn document(&self, wrapper: &str, chains: &[&[&str]]) -> Value {
        let payload = self.payload(wrapper);
        let signatures: Vec<_> =
            chains.iter().map(|chain| self.signature(chain[0], &self.header(chain), &payload)).collect();
        json!({ "payload": payload, "signatures": signatures })
    }
}

/// What `provisioner hq voucher <verb>` says of a file, and whether it is content.
fn voucher(verb: &str, document: &[u8]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("voucher");
    fs::write(&file, document).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_provisioner"));
    let output = command.args(["hq", "voucher", verb]).arg(&file).current_dir(dir.path()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

fn good(document: &str) -> String {
    let (good, said) = voucher("verify", document.as_bytes());
    assert!(good, "{said}");
    said
}

/// Refused with a sentence that says `why`, in words and not in the names of types.
fn refused(document: &[u8], why: &str) {
    let (good, said) = voucher("verify", document);
    assert!(!good && said.contains(why), "{why}: {said}");
    assert!(said.contains("error: ") && !said.contains("Error") && !said.contains("panicked"), "{said}");
}

#[test]
fn every_published_kind_verifies_with_a_chain_of_any_length() {
    let foreign = Foreign::new();
    for wrapper in
        ["ietf-voucher:voucher", "ietf-voucher-request:voucher", "ietf-voucher-request-prm:voucher"]
    {
        for chain in [&["masa"][..], &["masa", "root"], &["registrar", "sub", "root"], &["strong", "root"]] {
            let said = good(&foreign.document(wrapper, &[chain]).to_string());
            assert!(said.contains(wrapper) && said.contains("serial-number: 0123456789"), "{said}");
            assert!(said.contains("created-on: 2022-04-26T05:16:28.726Z"), "{said}");
            assert!(said.contains("pinned-domain-cert: root until "), "{said}");
            for (number, name) in (1..).zip(chain) {
                assert!(said.contains(&format!("  certificate {number}: {name} until ")), "{said}");
            }
        }
    }
}

#[test]
fn older_forms_verify_too() {
    let foreign = Foreign::new();
    let payload = foreign.payload("ietf-voucher:voucher");
    let header = json!({ "x5c": foreign.x5c(&["masa"]), "alg": "ES256" });
    let signature = foreign.signature("masa", &header, &payload);
    let general = json!({ "payload": payload, "signatures": [signature] });
    good(&general.to_string()); // without `typ`
    good(&format!("\n{general:#}\n"));
    let text = |name: &str| signature[name].as_str().unwrap();
    good(&format!("{}.{payload}.{}\n", text("protected"), text("signature")));
    good(
        &json!({ "payload": payload, "protected": text("protected"), "signature": text("signature") })
            .to_string(),
    );
    let mut beside = foreign.signature("masa", &json!({ "alg": "ES256" }), &payload);
    beside["header"] = json!({ "x5c": foreign.x5c(&["masa"]) });
    good(&json!({ "payload": payload, "signatures": [beside] }).to_string());
}

#[test]
fn of_two_signatures_both_must_be_good() {
    let foreign = Foreign::new();
    let both = foreign.document("ietf-voucher:voucher", &[&["masa", "root"], &["registrar", "sub"]]);
    let said = good(&both.to_string());
    assert_eq!(said.matches("signature good, by ").count(), 2, "{said}");
    let mut swapped = both.clone();
    let first = both["signatures"][0]["signature"].clone();
    swapped["signatures"][1]["signature"] = first;
    refused(swapped.to_string().as_bytes(), "not every signature is good: the document was altered");
    let (shown, said) = voucher("show", swapped.to_string().as_bytes());
    assert!(shown && said.contains("signature good, by masa"), "to show is not to judge: {said}");
    assert!(said.contains("signature NOT GOOD (the document was altered"), "{said}");
}

#[test]
fn a_request_within_a_request_is_shown_with_its_own_signature() {
    let foreign = Foreign::new();
    let inner = foreign.document("ietf-voucher-request:voucher", &[&["pledge"]]);
    let body = json!({ "ietf-voucher-request:voucher": {
        "prior-signed-voucher-request": b64(inner.to_string().as_bytes()),
        "agent-sign-cert": foreign.x5c(&["registrar", "sub"]),
    }});
    let payload = b64u(body.to_string().as_bytes());
    let signature = foreign.signature("registrar", &foreign.header(&["registrar"]), &payload);
    let said = good(&json!({ "payload": payload, "signatures": [signature] }).to_string());
    assert!(
        said.contains("    signature good, by pledge") && said.contains("\nsignature good, by registrar"),
        "{said}"
    );
    assert!(said.contains("agent-sign-cert: registrar until ") && said.contains("; sub until "), "{said}");
}

#[test]
fn what_was_altered_or_is_no_voucher_is_refused_in_words() {
    let foreign = Foreign::new();
    let whole = foreign.document("ietf-voucher:voucher", &[&["masa", "root"]]);
    let mut other = whole.clone();
    other["payload"] = foreign.document("ietf-voucher-request:voucher", &[&["masa"]])["payload"].clone();
    refused(other.to_string().as_bytes(), "the document was altered");
    let with = |header: &Value| {
        let payload = whole["payload"].as_str().unwrap();
        let signature = foreign.signature("masa", header, payload);
        json!({ "payload": payload, "signatures": [signature] }).to_string()
    };
    let own = foreign.x5c(&["masa"]);
    let broken = foreign.x5c(&["masa", "sub", "root"]);
    refused(
        with(&json!({ "x5c": broken, "alg": "ES256" })).as_bytes(),
        "certificate 1 was not issued by the next",
    );
    refused(with(&json!({ "x5c": own, "alg": "none" })).as_bytes(), "\"none\" is neither ES256 nor ES384");
    refused(with(&json!({ "x5c": own, "alg": "ES384" })).as_bytes(), "not the one of its certificate's key");
    refused(
        with(&json!({ "x5c": own, "alg": "ES256", "crit": ["b64"] })).as_bytes(),
        "it demands extensions",
    );
    refused(with(&json!({ "alg": "ES256" })).as_bytes(), "it names no certificate");
    refused(
        with(&json!({ "x5c": foreign.x5c(&["strong"]), "alg": "ES384" })).as_bytes(),
        "altered, or another key",
    );
    refused(
        json!({ "payload": whole["payload"], "signatures": [] }).to_string().as_bytes(),
        "it has no signature",
    );
    refused(b"{}", "this is no JWS");
    refused(b"", "this is no JWS");
    foreign.openssl("cms -sign -nodetach -in input -signer masa.pem -inkey masa.key -outform DER -out cms");
    refused(&fs::read(foreign.0.path().join("cms")).unwrap(), "only vouchers in JWS form are read");
}

/// The documents in a published text: lines unfolded as RFC 8792 says, then every JSON object that starts with a
/// payload; or the whole file, where it is one in compact form.
fn documents(text: &str) -> Vec<String> {
    let mut lines = text.split("\\\n");
    let mut unfolded = lines.next().unwrap_or_default().to_owned();
    lines.for_each(|line| unfolded.push_str(line.trim_start()));
    let mut found = Vec::new();
    for (at, _) in unfolded.match_indices('{') {
        let starts = unfolded[at + 1..].trim_start().strip_prefix("\"payload\"");
        if starts.is_none_or(|rest| !rest.trim_start_matches([':', ' ']).starts_with("\"ey")) {
            continue;
        }
        let mut read = serde_json::Deserializer::from_str(&unfolded[at..]).into_iter::<Value>();
        read.next().unwrap().unwrap();
        found.push(unfolded[at..at + read.byte_offset()].to_owned());
    }
    if found.is_empty() && text.starts_with("ey") && text.trim().split('.').count() == 3 {
        found.push(text.to_owned());
    }
    found
}

fn payload(document: &str) -> String {
    match serde_json::from_str::<Value>(document) {
        Ok(json) => json["payload"].as_str().unwrap().to_owned(),
        Err(_) => document.split('.').nth(1).unwrap().to_owned(),
    }
}

/// The requests that a request carries: in base64, or, in older ones, in the clear.
fn within(document: &str) -> Vec<String> {
    let body: Value = serde_json::from_slice(&from_b64u(&payload(document)).unwrap()).unwrap();
    let inner =
        body.as_object().unwrap().values().filter_map(|body| body["prior-signed-voucher-request"].as_str());
    let clear = |coded: &str| from_b64(coded).map_or(coded.to_owned(), |own| String::from_utf8(own).unwrap());
    inner.map(clear).collect()
}

/// The same document with another symbol in its payload.
fn altered(document: &str) -> String {
    let payload = payload(document);
    let at = payload.len() / 2;
    let other = if payload.as_bytes()[at] == b'A' { "B" } else { "A" };
    document.replace(&payload, &format!("{}{other}{}", &payload[..at], &payload[at + 1..]))
}

/// The examples of the IETF's documents (RFC 8366bis, JWS vouchers, BRSKI-PRM), which are not ours to hand on.
#[test]
#[ignore = "wants PUBLISHED_VOUCHERS, a folder with the text of RFC 8366bis, the JWS voucher and BRSKI-PRM drafts"]
fn every_published_example_verifies() {
    let folder = std::env::var("PUBLISHED_VOUCHERS").unwrap();
    let (mut count, mut signatures) = (0, 0);
    for file in fs::read_dir(Path::new(&folder)).unwrap() {
        let file = file.unwrap().path();
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let mut waiting = documents(&text);
        while let Some(document) = waiting.pop() {
            let (good, said) = voucher("verify", document.as_bytes());
            assert!(good, "document {count}, in {}: {said}", file.display());
            count += 1;
            signatures += said.lines().filter(|line| line.starts_with("signature good")).count();
            refused(altered(&document).as_bytes(), "");
            waiting.extend(within(&document));
        }
    }
    println!("{count} published documents, {signatures} signatures: all verify, and none when altered");
    assert!(count > 0, "no documents in {folder}");
}
