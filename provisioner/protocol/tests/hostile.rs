//! Bytes from an unproven machine, a stick or a stranger's network: whatever they are, readers answer with an error
//! and never with a panic.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use protocol::anchors::Trust;
use protocol::bytes::{Digest, from_b64};
use protocol::clock::Time;
use protocol::id::Id;
use protocol::{
    approval, attest, bundle, cert, claim, csr, est, heartbeat, json, messages, pvr, report, voucher,
};
use serde_json::Value;

/// A small seeded generator (xorshift64*), so that a failing case can be run again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap()
    }

    fn damage(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut bytes = genuine.to_vec();
        for _ in 0..=self.next() % 4 {
            let place = self.next() % bytes.len().max(1);
            match self.next() % 4 {
                0 => bytes.truncate(place),
                1 => bytes.insert(place.min(bytes.len()), u8::try_from(self.next() % 256).unwrap()),
                2 if place < bytes.len() => bytes[place] ^= 1 << (self.next() % 8),
                _ => bytes.extend_from_within(place.min(bytes.len())..),
            }
        }
        bytes
    }
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/v1.json")).unwrap()
}

fn hammer(seed: u64, genuine: &[u8], mut read: impl FnMut(&[u8])) {
    let mut random = Random(seed);
    read(genuine);
    for cut in 0..genuine.len().min(300) {
        read(&genuine[..cut]);
    }
    for _ in 0..1500 {
        read(&random.damage(genuine));
    }
}

#[test]
fn no_signed_document_makes_a_reader_panic() {
    let vectors = vectors();
    let trust = Trust::from_image(&vectors["anchors"]["rank-a-seq-4"].to_string()).unwrap();
    let chain: Vec<_> = serde_json::from_value::<Vec<String>>(vectors["tls"]["chain"].clone()).unwrap();
    let chain: Vec<_> = chain.iter().map(|der| from_b64(der).unwrap()).collect();
    let ids: [Id; 1] = [vectors["ids"]["ek"].as_str().unwrap().parse().unwrap()];
    let setting =
        voucher::Setting { trust: &trust, ids: &ids, chain: &chain, floor: Time(0), rtc: None, stored: None };
    let s = Digest([0; 32]);
    let issuing = cert::Cert::parse(&chain[1]).unwrap();
    hammer(1, vectors["voucher"].to_string().as_bytes(), |bytes| drop(voucher::check(bytes, &setting)));
    hammer(2, vectors["pvr"].to_string().as_bytes(), |bytes| drop(pvr::check(bytes, &s, &chain[0])));
    hammer(3, vectors["report"].to_string().as_bytes(), |bytes| {
        let source = report::Source { site: "ship-7", issuing: &issuing, last_seq: 0 };
        drop(report::check(bytes, &source, Time(0)));
    });
    hammer(4, vectors["approve"]["jws"].to_string().as_bytes(), |bytes| {
        drop(approval::check(&String::from_utf8_lossy(bytes), &trust, "ship-7", Time(0), None));
    });
    hammer(5, vectors["revoked"]["by-signer"].to_string().as_bytes(), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        drop(trust.accept_revoked(&text, Time(0), None));
        drop(trust.accept_anchors(&text));
        drop(Trust::from_image(&text));
    });
}

#[test]
fn no_bundle_makes_the_site_panic() {
    let vectors = vectors();
    let file = from_b64(vectors["bundle"]["file"].as_str().unwrap()).unwrap();
    let key = [7; 32];
    hammer(6, &file, |bytes| drop(bundle::open(bytes, "ship-7", &key)));
}

#[test]
fn no_certificate_or_request_makes_a_reader_panic() {
    let (key, _) = protocol::crypto::SoftKey::generate(protocol::crypto::Alg::Es256).unwrap();
    let request = protocol::issue::request("system:node:n", Some("system:nodes"), &key).unwrap();
    hammer(7, &request, |bytes| drop(csr::Csr::parse(bytes)));
    let pledge = protocol::issue::pledge(&key).unwrap();
    hammer(8, &pledge, |bytes| drop(cert::Cert::parse(bytes)));
    hammer(9, est::certs_only(&[&pledge]).as_bytes(), |bytes| {
        drop(est::read_certs_only(bytes));
        drop(est::read_base64(bytes));
    });
}

#[test]
fn no_message_makes_a_reader_panic() {
    let beat = heartbeat::beat(&[1; 32], &Digest([2; 32]), 3, heartbeat::State::Ready);
    hammer(10, &beat, |bytes| {
        let _ = heartbeat::Datagram::read_beat(bytes).map(|beat| beat.made_by(&[1; 32]));
    });
    hammer(11, br#"{"method":"dev-key","spki":"MFkw","sig":"AAAA"}"#, |bytes| {
        drop(json::parse::<attest::Request>(bytes));
        drop(json::parse::<messages::Config>(bytes));
        drop(json::parse::<messages::StatusAnswer>(bytes));
        drop(json::parse::<claim::Open>(bytes));
    });
    hammer(12, b"WT0T-BSPH-K", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = claim::Code::parse(&text);
        drop(claim::ClaimToken::parse(&text));
        let _ = text.parse::<Id>();
        let _ = text.parse::<Time>();
    });
}
