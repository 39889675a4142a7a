//! Vectors that have to be refused, each for its own reason.

use protocol::anchors::Trust;
use protocol::claim::Code;
use protocol::clock::Time;
use protocol::voucher::{self, Stored};
use protocol::{heartbeat, pvr};
use serde_json::Value;

use super::{Stand, bytes, cert, chain, digest, ids, trust, unhex, vectors};

/// What our code says of one negative vector: the id of the refusal.
fn refusal_of(vectors: &Value, negative: &Value) -> String {
    let mut trust = trust(vectors);
    if let Some(anchors) = negative.get("stored-anchors") {
        trust = Trust::from_image(&anchors.to_string()).unwrap();
    }
    if let Some(anchors) = negative.get("anchors") {
        return trust.accept_anchors(&anchors.to_string()).unwrap_err().id();
    }
    if let Some(revoked) = negative.get("revoked") {
        match trust.accept_revoked(&revoked.to_string(), Time(0), None) {
            Ok(newer) => trust = newer,
            Err(refused) => return refused.id(),
        }
    }
    let floor = negative.get("floor").map_or(Time(0), |floor| floor.as_str().unwrap().parse().unwrap());
    let chain = chain(negative.get("chain").unwrap_or(&vectors["tls"]["chain"]));
    let raw = negative.get("jws").map(Value::to_string);
    if let Some(voucher) = raw.or_else(|| negative.get("raw").map(|raw| raw.as_str().unwrap().to_owned())) {
        let ids = ids(vectors);
        let stored = negative.get("stored").map(|stored| Stored {
            epoch: u32::try_from(stored["epoch"].as_u64().unwrap()).unwrap(),
            pin: stored["pin"].as_str().unwrap().parse().unwrap(),
        });
        let stand = Stand { trust: &trust, ids: &ids, chain: &chain };
        return voucher::check(voucher.as_bytes(), &stand.at(floor, stored)).unwrap_err().id();
    }
    if let Some(request) = negative.get("pvr") {
        let leaf = cert(vectors, "provisioner").der;
        return pvr::check(request.to_string().as_bytes(), &digest(vectors, "/tls/S"), &leaf)
            .unwrap_err()
            .id();
    }
    if let Some(code) = negative.get("code") {
        return if Code::parse(code.as_str().unwrap()).is_err() { "R43a".into() } else { "accepted".into() };
    }
    if let Some(datagram) = negative.get("datagram") {
        let read = heartbeat::Datagram::read_beat(&unhex(datagram.as_str().unwrap())).unwrap();
        return if read.made_by(&bytes(vectors, "/heartbeat/hk")) { "accepted".into() } else { "R44".into() };
    }
    voucher::check_provisioner(&trust, &chain, floor, None).unwrap_err().id()
}

#[test]
fn every_negative_vector_is_refused_for_its_reason() {
    let vectors = vectors();
    let negatives = vectors["negative"].as_array().unwrap();
    let mut wrong = Vec::new();
    for negative in negatives {
        let (expected, found) = (negative["refusal"].as_str().unwrap(), refusal_of(&vectors, negative));
        if expected != found {
            wrong.push(format!("{} {}: said {found}", expected, negative["name"]));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(negatives.len(), 34);
}

/// One negative vector, by its refusal and name.
fn refused(id: &str, name: &str) {
    let vectors = vectors();
    let all = vectors["negative"].as_array().unwrap();
    let negative = all.iter().find(|one| one["refusal"] == id && one["name"] == name).unwrap();
    assert_eq!(refusal_of(&vectors, negative), id);
}

macro_rules! negatives {
    ($($test:ident: $id:literal $name:literal,)*) => {
        $(#[test]
        fn $test() {
            refused($id, $name);
        })*
    };
}

negatives! {
    r1_rogue_chain_same_names: "R1" "rogue_chain_same_names",
    r2c_node_certificate_as_server: "R2c" "node_certificate_as_server",
    r3_chain_expired_against_floor: "R3" "chain_expired_against_floor",
    r4a_site_revoked: "R4a" "site_revoked",
    r5b_duplicate_key_in_payload: "R5b" "duplicate_key_in_payload",
    r5b_duplicate_key_outside: "R5b" "duplicate_key_outside",
    r5c_two_signatures: "R5c" "two_signatures",
    r5d_two_certificates: "R5d" "two_certificates",
    r5e_alg_none: "R5e" "alg_none",
    r5f_typ_of_a_bundle: "R5f" "typ_of_a_bundle",
    r5g_crit: "R5g" "crit",
    r6a_signed_by_site_chain: "R6a" "signed_by_site_chain",
    r6b_signer_without_eku: "R6b" "signer_without_eku",
    r6c_signer_expired: "R6c" "signer_expired",
    r6d_signer_distrusted: "R6d" "signer_distrusted",
    r7_payload_swapped: "R7" "payload_swapped",
    r8a_no_voucher_inside: "R8a" "no_voucher_inside",
    r8b_assertion_logged: "R8b" "assertion_logged",
    r9_other_machine: "R9" "other_machine",
    r9_serial_number_as_id: "R9" "serial_number_as_id",
    r10a_appended_ca: "R10a" "appended_ca",
    r11a_nonce_present: "R11a" "nonce_present",
    r11b_no_expiry: "R11b" "no_expiry",
    r11c_expired_against_floor: "R11c" "expired_against_floor",
    r11d_expires_after_signer: "R11d" "expires_after_signer",
    r12a_epoch_lower: "R12a" "epoch_lower",
    r12b_epoch_equal_other_spki: "R12b" "epoch_equal_other_spki",
    r14a_anchors_of_a_after_b: "R14a" "anchors_of_a_after_b",
    r14c_a_distrusts_b: "R14c" "a_distrusts_b",
    r14d_signer_distrusts_signer: "R14d" "signer_distrusts_signer",
    r19c_pvr_signed_by_another_key: "R19c" "pvr_signed_by_another_key",
    r20_pvr_made_for_another_provisioner: "R20" "pvr_made_for_another_provisioner",
    r43a_code_with_wrong_check_symbol: "R43a" "code_with_wrong_check_symbol",
    r44_heartbeat_altered: "R44" "heartbeat_altered",
}
