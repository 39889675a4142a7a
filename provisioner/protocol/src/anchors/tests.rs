//! What each of headquarters' keys may take back, and what stays taken back.

use super::*;
use crate::crypto::{Alg, Signer as _, SoftKey};
use crate::issue::{Role, issue, self_signed};
use crate::json;
use crate::jws::sign;

pub(crate) const T: Time = Time(1_800_000_000);

/// An owner with a signer under anchor A.
pub(crate) struct Owner {
    pub a: (Cert, SoftKey),
    pub b: (Cert, SoftKey),
    pub signer: (Cert, SoftKey),
}

impl Owner {
    pub fn new() -> Self {
        let key = || SoftKey::generate(Alg::Es256).unwrap().0;
        let anchor = |name| {
            let key = key();
            let der = self_signed(&Role::Anchor { name }, &key, T).unwrap();
            (Cert::parse(&der).unwrap(), key)
        };
        let (a, b, signer) = (anchor("a"), anchor("b"), key());
        let der = issue(&Role::Signer { name: "signer" }, signer.spki(), &a.0, &a.1, T).unwrap();
        Self { a, b, signer: (Cert::parse(&der).unwrap(), signer) }
    }

    fn anchors(&self, seq: u64, distrust: &[&Cert], by: &(Cert, SoftKey)) -> String {
        let pair = [B64(self.a.0.der.clone()), B64(self.b.0.der.clone())];
        let (voucher, site) = (pair.clone(), pair);
        let distrust = distrust.iter().map(|cert| cert.key_hash).collect();
        let doc = AnchorsDoc { seq, created_on: T, voucher, site, distrust, allow_phone: false };
        sign(&json::to_vec(&doc), typ::ANCHORS, &by.0.der, &by.1).unwrap()
    }

    pub fn trust(&self) -> Trust {
        Trust::from_image(&self.anchors(1, &[], &self.a)).unwrap()
    }
}

/// A document that takes these signers back.
fn revoked(seq: u64, signers: &[&Cert], by: &(Cert, SoftKey)) -> String {
    let signers = signers.iter().map(|cert| cert.key_hash).collect();
    let doc = RevokedDoc { seq, sites: vec![], signers };
    sign(&json::to_vec(&doc), typ::REVOKED, &by.0.der, &by.1).unwrap()
}

fn heard(trust: &Trust, revoked: &str) -> Result<Trust, String> {
    trust.accept_revoked(revoked, T, None).map_err(|refused| refused.id())
}

/// The same after it was written to disk and read again.
fn restarted(trust: &Trust) -> Trust {
    Trust::from_kept(&serde_json::from_slice(&json::to_vec(trust.kept())).unwrap()).unwrap()
}

#[test]
fn what_was_taken_back_stays_so_through_newer_anchors_and_any_number_of_restarts() {
    let owner = Owner::new();
    let lost = &owner.signer.0;
    let trust = heard(&owner.trust(), &revoked(1, &[lost], &owner.b)).unwrap();
    let trust = restarted(&trust).accept_anchors(&owner.anchors(2, &[], &owner.a)).unwrap();
    for trust in [&trust, &restarted(&trust), &restarted(&restarted(&trust))] {
        assert!(trust.distrusts(&lost.key_hash));
        assert_eq!(trust.check_signer(lost, T, None).unwrap_err().id(), "R6d");
    }
}

#[test]
fn r14b_the_same_anchors_again_are_no_news() {
    let owner = Owner::new();
    for seq in [0, 1] {
        let again = owner.trust().accept_anchors(&owner.anchors(seq, &[], &owner.a));
        assert_eq!(again.unwrap_err().id(), "R14b");
    }
}

#[test]
fn r14a_an_anchor_that_b_distrusts_takes_nothing_back_any_more() {
    let owner = Owner::new();
    let good = &owner.signer.0;
    let by_a = |seq| revoked(seq, &[good], &owner.a);
    let trust = heard(&owner.trust(), &by_a(1)).unwrap();
    assert!(trust.distrusts(&good.key_hash));
    let trust = trust.accept_anchors(&owner.anchors(1, &[&owner.a.0], &owner.b)).unwrap();
    assert!(!trust.distrusts(&good.key_hash), "its document drops out");
    assert_eq!(heard(&trust, &by_a(2)).unwrap_err(), "R14a");
}

#[test]
fn r14c_nothing_but_a_new_image_takes_anchor_b_away() {
    let owner = Owner::new();
    let cut = |by| owner.trust().accept_anchors(&owner.anchors(2, &[&owner.b.0], by)).unwrap_err().id();
    assert_eq!([cut(&owner.a), cut(&owner.b)], ["R14c", "R14c"]);
}

#[test]
fn r14c_a_stolen_anchor_a_cannot_take_b_away_that_undoes_the_theft() {
    let owner = Owner::new();
    let mut trust = owner.trust();
    for by in [&owner.a, &owner.b] {
        for anchor in [&owner.a.0, &owner.b.0] {
            let refused = heard(&trust, &revoked(9, &[anchor], by)).map(|newer| trust = newer);
            assert_eq!(refused.unwrap_err(), "R14c");
        }
    }
    let undone = trust.accept_anchors(&owner.anchors(1, &[&owner.a.0], &owner.b)).unwrap();
    assert!(undone.distrusts(&owner.a.0.key_hash) && !undone.distrusts(&owner.b.0.key_hash));
}
