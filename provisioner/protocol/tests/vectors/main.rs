//! The protocol's test vectors, made independently of any Rust: each is checked by our code, both ways where that
//! is possible.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

mod negative; // those that have to be refused

use protocol::anchors::{Kept, Trust};
use protocol::attest::Binding;
use protocol::bytes::{B64u, Digest, from_b64, hex};
use protocol::cert::Cert;
use protocol::claim::{self, ClaimToken, Code};
use protocol::clock::Time;
use protocol::crypto::{Signer, SoftKey};
use protocol::id::{self, Id};
use protocol::issue::{Role, issue};
use protocol::record::{Auth, Record};
use protocol::voucher::{self, Setting, Stored};
use protocol::{approval, bundle, crypto, heartbeat, jws, pvr, report};
use serde_json::Value;

const VECTORS: &str = include_str!("v1.json");
const NOV_22: Time = Time(1_795_348_800);

fn vectors() -> Value {
    serde_json::from_str(VECTORS).unwrap()
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_else(|| panic!("no {path}"))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|place| u8::from_str_radix(&text[place..place + 2], 16).unwrap()).collect()
}

fn bytes<const N: usize>(value: &Value, path: &str) -> [u8; N] {
    unhex(text(value, path)).try_into().unwrap()
}

fn digest(value: &Value, path: &str) -> Digest {
    Digest(bytes(value, path))
}

fn cert(vectors: &Value, name: &str) -> Cert {
    Cert::parse(&from_b64(text(vectors, &format!("/certs/{name}"))).unwrap()).unwrap()
}

fn key(vectors: &Value, name: &str) -> SoftKey {
    SoftKey::from_scalar(&unhex(text(vectors, &format!("/keys/{name}")))).unwrap()
}

fn chain(value: &Value) -> Vec<Vec<u8>> {
    value.as_array().unwrap().iter().map(|der| from_b64(der.as_str().unwrap()).unwrap()).collect()
}

fn ids(vectors: &Value) -> Vec<Id> {
    ["ek", "dev-key", "key"].map(|name| text(vectors, &format!("/ids/{name}")).parse().unwrap()).to_vec()
}

fn trust(vectors: &Value) -> Trust {
    Trust::from_image(&vectors["anchors"]["rank-a-seq-4"].to_string()).unwrap()
}

fn binding(vectors: &Value) -> Binding {
    Binding { x: bytes(vectors, "/tls/X"), s: digest(vectors, "/tls/S") }
}

struct Stand<'a> {
    trust: &'a Trust,
    ids: &'a [Id],
    chain: &'a [Vec<u8>],
}

impl Stand<'_> {
    fn at(&self, floor: Time, stored: Option<Stored>) -> Setting<'_> {
        Setting { trust: self.trust, ids: self.ids, chain: self.chain, floor, rtc: None, stored }
    }
}

#[test]
fn names_follow_from_the_key() {
    let vectors = vectors();
    let s = digest(&vectors, "/tls/S");
    assert_eq!(key(&vectors, "node").key_hash(), s);
    assert_eq!(cert(&vectors, "provisioner").key_hash, digest(&vectors, "/tls/P"));
    assert_eq!(cert(&vectors, "issuing_ca").key_hash, digest(&vectors, "/tls/I"));
    assert_eq!(Id::Key(s).to_string(), text(&vectors, "/ids/key"));
    assert_eq!(Id::Key(key(&vectors, "dev_key").key_hash()).to_string(), text(&vectors, "/ids/dev-key"));
    assert_eq!(Id::Ek(key(&vectors, "ek").key_hash()).to_string(), text(&vectors, "/ids/ek"));
    assert_eq!(id::node_name(text(&vectors, "/ids/slot"), &s), text(&vectors, "/ids/node"));
    assert_eq!(id::mdns_instance(&s), text(&vectors, "/ids/mdns-instance"));
    assert_eq!(cert(&vectors, "site_anchor_a").key_hash.short_hex(), text(&vectors, "/ids/own"));
}

#[test]
fn a_genuine_provisioner_is_believed_with_a_clock_at_1970() {
    let vectors = vectors();
    let chain = chain(&vectors["tls"]["chain"]);
    voucher::check_provisioner(&trust(&vectors), &chain, Time(60), Some(Time(0))).unwrap();
}

#[test]
fn the_vouchers_are_accepted_by_the_machine_they_name() {
    let vectors = vectors();
    let (trust, ids, chain) = (trust(&vectors), ids(&vectors), chain(&vectors["tls"]["chain"]));
    let stand = Stand { trust: &trust, ids: &ids, chain: &chain };
    for name in ["voucher", "voucher-dev-key"] {
        let accepted =
            voucher::check(vectors[name].to_string().as_bytes(), &stand.at(Time(0), None)).unwrap();
        assert_eq!((accepted.assignment.epoch, accepted.assignment.site.as_str()), (1, "ship-7"));
        assert_eq!(accepted.pin, cert(&vectors, "site_ca_g1"));
        assert_eq!(accepted.floor, NOV_22);
    }
}

#[test]
fn a_voucher_of_a_higher_epoch_pins_the_new_ca_of_the_site() {
    let vectors = vectors();
    let (trust, ids) = (trust(&vectors), ids(&vectors));
    let stored = Stored { epoch: 1, pin: cert(&vectors, "site_ca_g1").key_hash };
    let text = vectors["voucher-epoch-2-g2"].to_string();
    // The vectors' provisioners stand under g1: to them this voucher does not belong.
    let old = chain(&vectors["tls"]["chain"]);
    let stand = Stand { trust: &trust, ids: &ids, chain: &old };
    assert_eq!(voucher::check(text.as_bytes(), &stand.at(Time(0), Some(stored))).unwrap_err().id(), "R10a");
    let (g2, issuing_key, leaf_key) =
        (cert(&vectors, "site_ca_g2"), key(&vectors, "issuing_ca_2"), key(&vectors, "provisioner_2"));
    let role = Role::IssuingCa { site: "ship-7", generation: 2, number: 1 };
    let issuing = issue(&role, issuing_key.spki(), &g2, &key(&vectors, "site_ca_g2"), NOV_22).unwrap();
    let issuing = Cert::parse(&issuing).unwrap();
    let leaf = Role::Leaf { site: "ship-7", number: 1 };
    let leaf = issue(&leaf, leaf_key.spki(), &issuing, &issuing_key, NOV_22).unwrap();
    let new = [leaf, issuing.der, g2.der.clone()];
    let stand = Stand { trust: &trust, ids: &ids, chain: &new };
    let accepted = voucher::check(text.as_bytes(), &stand.at(Time(0), Some(stored))).unwrap();
    assert_eq!((accepted.assignment.epoch, accepted.pin), (2, g2));
}

#[test]
fn a_voucher_we_make_is_read_back_as_theirs_is() {
    let vectors = vectors();
    let (trust, ids, chain) = (trust(&vectors), ids(&vectors), chain(&vectors["tls"]["chain"]));
    let pin = cert(&vectors, "site_ca_g1");
    let grant = voucher::Grant {
        machine: &ids[0],
        epoch: 3,
        site: "ship-7",
        pin: &pin,
        created_on: NOV_22,
        expires_on: NOV_22.plus(100 * protocol::clock::YEAR),
    };
    let made = voucher::make(&grant, &cert(&vectors, "signer"), &key(&vectors, "signer")).unwrap();
    let stand = Stand { trust: &trust, ids: &ids, chain: &chain };
    assert_eq!(voucher::check(made.as_bytes(), &stand.at(NOV_22, None)).unwrap().assignment.epoch, 3);
}

#[test]
fn the_voucher_request_is_read_and_one_of_ours_too() {
    let vectors = vectors();
    let (s, leaf) = (digest(&vectors, "/tls/S"), cert(&vectors, "provisioner").der);
    let theirs = pvr::check(vectors["pvr"].to_string().as_bytes(), &s, &leaf).unwrap();
    assert_eq!(theirs.id.to_string(), text(&vectors, "/ids/ek"));
    let node = key(&vectors, "node");
    let certificate = protocol::issue::pledge(&node).unwrap();
    let made = pvr::make(&theirs.claims, &leaf, [7; 16], Time(131), &certificate, &node).unwrap();
    assert_eq!(pvr::check(made.as_bytes(), &s, &leaf).unwrap().claims.ids, theirs.claims.ids);
}

#[test]
fn records_read_and_write_back_alike() {
    let vectors = vectors();
    for name in ["record", "record-pool"] {
        let record: Record = serde_json::from_value(vectors[name].clone()).unwrap();
        let again: Record = serde_json::from_slice(&serde_json::to_vec(&record).unwrap()).unwrap();
        assert_eq!(record, again);
    }
    let record: Record = serde_json::from_value(vectors["record"].clone()).unwrap();
    assert_eq!(record.canonical_id().unwrap().to_string(), text(&vectors, "/ids/ek"));
    assert_eq!(record.accepted().map(Auth::kind).collect::<Vec<_>>(), ["tpm-ek"]);
}

#[test]
fn the_bundle_opens_and_is_accepted_and_one_of_ours_too() {
    let vectors = vectors();
    let (trust, scalar) = (trust(&vectors), unhex(text(&vectors, "/keys/site_bundle")));
    let setting = bundle::Setting { trust: &trust, site: "ship-7", seq: 41, floor: Time(0), rtc: None };
    let file = from_b64(text(&vectors, "/bundle/file")).unwrap();
    let opened = bundle::open(&file, "ship-7", &scalar).unwrap();
    let checked = bundle::check(&opened, &setting).unwrap();
    assert_eq!(checked.index.seq, 42);
    for section in &checked.index.sections {
        let carried = &opened.carried[&section.sha256];
        assert_eq!(carried, text(&vectors, &format!("/bundle/sections/{}", section.name)).as_bytes());
    }
    let index = &opened.index;
    let sections: Vec<_> =
        checked.index.sections.iter().map(|s| opened.carried[&s.sha256].as_slice()).collect();
    assert_eq!(
        hex(&Digest::of(&bundle::container(index, &sections)).0),
        text(&vectors, "/bundle/container-sha256")
    );
    let public = bundle::public_of(&scalar).unwrap();
    let sealed = bundle::seal(index, &sections, "ship-7", &public).unwrap();
    assert_eq!(hex(&sealed[..12]), text(&vectors, "/bundle/aad"));
    assert_eq!(bundle::open(&sealed, "ship-7", &scalar).unwrap().carried, opened.carried);
}

#[test]
fn anchors_and_withdrawals_are_taken_over_by_rank_and_number() {
    let vectors = vectors();
    let trust = trust(&vectors);
    let by_signer = vectors["revoked"]["by-signer"].to_string();
    let by_anchor = vectors["revoked"]["by-anchor-b"].to_string();
    let trust = trust.accept_revoked(&by_signer, Time(0), None).unwrap();
    assert_eq!(trust.accept_revoked(&by_signer, Time(0), None).unwrap_err().id(), "R14b");
    let trust = trust.accept_revoked(&by_anchor, Time(0), None).unwrap();
    assert!(trust.distrusts(&cert(&vectors, "signer_lost").key_hash));
    let kept: Kept = serde_json::from_slice(&serde_json::to_vec(trust.kept()).unwrap()).unwrap();
    assert!(Trust::from_kept(&kept).unwrap().distrusts(&cert(&vectors, "signer_lost").key_hash));
    let newer = trust.accept_anchors(&vectors["anchors"]["rank-b-seq-1-distrusts-a"].to_string()).unwrap();
    assert!(newer.distrusts(&cert(&vectors, "voucher_anchor_a").key_hash));
    assert_eq!(newer.voucher_anchors().len(), 1);
}

#[test]
fn the_report_is_accepted_once() {
    let vectors = vectors();
    let issuing = cert(&vectors, "issuing_ca");
    let text = vectors["report"].to_string();
    assert_eq!(report::read_provisioner(text.as_bytes()).unwrap(), issuing.key_hash);
    let source = |last_seq| report::Source { site: "ship-7", issuing: &issuing, last_seq };
    let read = report::check(text.as_bytes(), &source(6), NOV_22).unwrap();
    assert_eq!(read.seq, 7);
    let made =
        report::make(&read, &cert(&vectors, "provisioner").der, &key(&vectors, "provisioner")).unwrap();
    assert_eq!(report::check(made.as_bytes(), &source(6), NOV_22).unwrap(), read);
    assert_eq!(report::check(text.as_bytes(), &source(7), NOV_22).unwrap_err().id(), "R47b");
}

#[test]
fn proofs_are_bound_to_the_connection() {
    let vectors = vectors();
    let binding = binding(&vectors);
    let (id, cred) = (bytes(&vectors, "/attest/id"), bytes(&vectors, "/attest/cred"));
    assert_eq!(protocol::bytes::b64u(&binding.tpm_proof(&cred, &id)), text(&vectors, "/attest/proof"));
    let spki: B64u = serde_json::from_value(vectors["dev-key"]["spki"].clone()).unwrap();
    let sig: B64u = serde_json::from_value(vectors["dev-key"]["sig"].clone()).unwrap();
    assert_eq!(binding.check_dev_key(&spki.0, &sig.0).unwrap().to_string(), text(&vectors, "/ids/dev-key"));
    let elsewhere = Binding { x: [0; 32], ..binding };
    assert_eq!(elsewhere.check_dev_key(&spki.0, &sig.0), None);
    let ours = key(&vectors, "dev_key").sign(&binding.dev_key_message()).unwrap();
    assert!(binding.check_dev_key(&spki.0, &ours).is_some());
}

#[test]
fn the_human_code_is_the_same_on_both_ends() {
    let vectors = vectors();
    let (s, p) = (digest(&vectors, "/tls/S"), digest(&vectors, "/tls/P"));
    let (nb, ns) = (bytes(&vectors, "/claim/nb"), bytes(&vectors, "/claim/ns"));
    let proven: Vec<Id> = ["/ids/key", "/ids/ek"].map(|path| text(&vectors, path).parse().unwrap()).to_vec();
    assert_eq!(claim::proven_json(&proven), text(&vectors, "/claim/proven-ids").as_bytes());
    assert_eq!(hex(&claim::commit(&s, &proven, &nb).0), text(&vectors, "/claim/commit"));
    let code = claim::sas(&s, &p, &nb, &ns);
    assert_eq!(hex(&code.0), text(&vectors, "/claim/sas"));
    assert_eq!(code.to_string(), text(&vectors, "/claim/code"));
    assert_eq!(Code::parse(text(&vectors, "/claim/code")), Ok(code));
}

#[test]
fn hq_approves_by_signature_and_by_voice() {
    let vectors = vectors();
    let (hq, site) = (unhex(text(&vectors, "/keys/hq_approve")), unhex(text(&vectors, "/keys/site_approve")));
    let at_hq = claim::approve_key(&hq, &bundle::public_of(&site).unwrap()).unwrap();
    let at_site = claim::approve_key(&site, &bundle::public_of(&hq).unwrap()).unwrap();
    assert_eq!(at_hq, at_site);
    assert_eq!(hex(&at_hq[..]), text(&vectors, "/approve/k"));
    let sas = Code(bytes(&vectors, "/claim/sas"));
    let voice = claim::voice_code(&at_hq, "ship-7", sas, "node-3");
    assert_eq!(voice.to_string(), text(&vectors, "/approve/code"));
    let trust = trust(&vectors);
    let jws = vectors["approve"]["jws"].to_string();
    let read = approval::check(&jws, &trust, "ship-7", NOV_22, None).unwrap();
    assert_eq!(read.code(), Some(sas));
    assert_eq!(approval::check(&jws, &trust, "ship-9", NOV_22, None).unwrap_err().id(), "R46b");
    assert_eq!(approval::check(&jws, &trust, "ship-7", NOV_22.plus(7200), None).unwrap_err().id(), "R46d");
    let made = approval::make(&read, &cert(&vectors, "signer"), &key(&vectors, "signer")).unwrap();
    assert_eq!(approval::check(&made, &trust, "ship-7", NOV_22, None).unwrap(), read);
}

#[test]
fn a_claim_token_makes_the_same_device_key_everywhere() {
    let vectors = vectors();
    let token = ClaimToken::parse(text(&vectors, "/claim-token/text")).unwrap();
    assert_eq!(hex(&token.0[..]), text(&vectors, "/claim-token/token"));
    assert_eq!(token.text().as_str(), text(&vectors, "/claim-token/text"));
    assert_eq!(hex(&token.scalar()[..]), text(&vectors, "/claim-token/priv"));
    assert_eq!(Id::Key(token.key().unwrap().key_hash()).to_string(), text(&vectors, "/claim-token/id"));
}

#[test]
fn control_plane_keys_open_only_in_their_context() {
    let vectors = vectors();
    let k: [u8; 32] = bytes(&vectors, "/control-plane/k");
    let key = crypto::hkdf_sha256::<32>(&k, &[], b"nodeboot-cp-v1");
    assert_eq!(hex(&key[..]), text(&vectors, "/control-plane/key"));
    let binding = binding(&vectors);
    let aad = [&binding.x[..], &binding.s.0, b"node-3", &1u32.to_be_bytes()].concat();
    assert_eq!(hex(&aad), text(&vectors, "/control-plane/aad"));
    let ct: B64u = serde_json::from_value(vectors["control-plane"]["ct"].clone()).unwrap();
    let plain = crypto::gcm_open(&key, &aad, &ct.0).unwrap();
    assert_eq!(plain.as_slice(), text(&vectors, "/control-plane/plain").as_bytes());
    assert_eq!(crypto::gcm_seal(&key, &aad, &plain).unwrap(), ct.0);
}

#[test]
fn heartbeats_are_the_same_37_bytes() {
    let vectors = vectors();
    let (hk, s) = (bytes(&vectors, "/heartbeat/hk"), digest(&vectors, "/tls/S"));
    let beat = heartbeat::beat(&hk, &s, 7, heartbeat::State::Ready);
    assert_eq!(hex(&beat), text(&vectors, "/heartbeat/datagram"));
    assert_eq!(hex(&heartbeat::answer(&hk, &s, 7, 1)), text(&vectors, "/heartbeat/answer"));
    assert!(heartbeat::Datagram::read_beat(&beat).unwrap().made_by(&hk));
    assert!(heartbeat::Datagram::read_answer(&beat).is_none());
}

#[test]
fn a_document_of_another_type_never_passes_as_this_one() {
    let vectors = vectors();
    let read = jws::Unverified::read(vectors["report"].to_string().as_bytes(), jws::typ::BUNDLE);
    assert_eq!(read.unwrap_err().case(), 'f');
}
