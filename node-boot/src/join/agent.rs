//! What goes on after the join: heartbeats, status, renewals, services.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::anchors::Trust;
use protocol::bytes::Digest;
use protocol::heartbeat::{self, Datagram, PERIOD_SECONDS, UNANSWERED_LIMIT};
use protocol::json;
use protocol::messages::{Act, Done, Health, Message, Order, StatusAnswer, StatusRequest};
use protocol::voucher::{LIMIT, Setting, Stored};

use super::images;
use crate::console::say;
use crate::site::enroll::{self, Proved, Setup};
use crate::site::http::Meaning;
use crate::state::Belief;

/// Between two M11 when nothing calls for one.
pub const HOURLY: Duration = Duration::from_hours(1);

/// Heartbeats under one key.
pub struct Beats {
    socket: UdpSocket,
    key: [u8; 32],
    s: Digest,
    counter: u64,
    unanswered: u32,
    next: Instant,
}

impl Beats {
    /// Over a conversation on which M11 has just been answered.
    pub fn over(site: &mut Proved) -> Result<Self> {
        let talk = site.talk();
        let address = talk.address()?;
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).context("a socket for heartbeats")?;
        socket.connect(address)?;
        socket.set_nonblocking(true)?;
        let key = talk.exported(heartbeat::LABEL)?;
        Ok(Self { socket, key, s: talk.binding.s, counter: 0, unanswered: 0, next: Instant::now() })
    }

    /// Sends what is due and reads what came; whether it is time for M11.
    pub fn tick(&mut self, well: bool) -> bool {
        let mut asked = false;
        let mut buffer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let answer = Datagram::read_answer(&buffer[..length]).filter(|answer| answer.made_by(&self.key));
            if let Some(answer) = answer.filter(|answer| answer.counter == self.counter) {
                self.unanswered = 0;
                asked |= answer.byte & heartbeat::FLAG_STATUS_NOW != 0;
            }
        }
        if Instant::now() >= self.next {
            self.counter += 1;
            self.unanswered += 1;
            let state = if well { heartbeat::State::Ready } else { heartbeat::State::Degraded };
            // A cable that is out shows in the answers that do not come.
            let _ = self.socket.send(&heartbeat::beat(&self.key, &self.s, self.counter, state));
            self.next = Instant::now() + Duration::from_secs(PERIOD_SECONDS);
        }
        asked || self.unanswered > UNANSWERED_LIMIT
    }
}

/// What M11 brought.
pub struct Told {
    /// What to believe from now on.
    pub belief: Belief,
    /// What to do.
    pub orders: Vec<Order>,
}

/// M11: says how we are; takes HQ's word over.
pub fn status(site: &mut Proved, setup: &Setup<'_>, health: Health) -> Result<Told> {
    let mut next = setup.belief.clone();
    let held = images::held(setup.state)?;
    let mut asked = StatusRequest {
        bundle: next.bundle,
        anchors: setup.trust.anchors_seq(),
        revoked: setup.trust.latest_revoked().map_or(0, |(seq, _)| seq),
        done: vec![],
        health,
        images: held.map(|text| Digest::of(&text)),
    };
    let mut orders = vec![];
    for _ in 0..2 {
        let answer: StatusAnswer = match site.talk().json(Message::Status, "", &asked)?.meaning() {
            Meaning::Good(body) => json::parse(&body)?,
            Meaning::Wait(said, _) | Meaning::No(said) => anyhow::bail!("{} ({})", said.text, said.reason),
        };
        next = adopt(setup, &next, &answer, &site.talk().chain)?;
        if let Some(text) = &answer.images {
            images::keep(setup.state, &next, text)?;
        }
        orders.clone_from(&answer.orders);
        let Some(order) = answer.orders.iter().find(|order| order.act == Act::ShowIndex) else { break };
        asked.done = vec![Done { id: order.id.clone(), ok: next.index.is_some() }];
        asked.health.index.clone_from(&next.index);
    }
    Ok(Told { belief: next, orders })
}

/// M11 of a machine that is told nothing else any more: the order to wipe it, where it was given.
pub fn farewell(site: &mut Proved) -> Result<Option<Order>> {
    let asked = StatusRequest::default();
    Ok(match site.talk().json(Message::Status, "", &asked)?.meaning() {
        Meaning::Good(body) => {
            let answer: StatusAnswer = json::parse(&body)?;
            answer.orders.into_iter().find(|order| order.act == Act::Wipe)
        }
        Meaning::Wait(..) | Meaning::No(_) => None,
    })
}

/// M11: an order was carried out.
pub fn done(site: &mut Proved, order: &Order) -> Result<()> {
    let done = vec![Done { id: order.id.clone(), ok: true }];
    let said = StatusRequest { done, ..StatusRequest::default() };
    site.talk().json(Message::Status, "", &said).map(drop)
}

/// Takes newer documents over, each on its own merits, and saves what changed.
fn adopt(setup: &Setup<'_>, belief: &Belief, answer: &StatusAnswer, chain: &[Vec<u8>]) -> Result<Belief> {
    let mut next = belief.clone();
    let mut trust = Trust::from_kept(&belief.kept)?;
    if let Some(newer) = answer.anchors.as_ref().and_then(|text| trust.accept_anchors(text).ok()) {
        next.floor = next.floor.max(newer.created_on());
        trust = newer;
    }
    if let Some(text) = &answer.revoked
        && let Ok(newer) = trust.accept_revoked(text, next.floor, setup.rtc)
    {
        trust = newer;
    }
    next.kept = trust.kept().clone();
    if let Some(text) = &answer.voucher {
        next = with_voucher(setup, next, &trust, text, chain);
    }
    if let Some(text) = answer.index.as_ref().filter(|text| text.len() <= LIMIT) {
        next = with_index(next, &trust, text);
    }
    if protocol::json::to_vec(&next) != protocol::json::to_vec(belief) {
        setup.state.save("belief.json", &next)?;
    }
    Ok(next)
}

/// A newer voucher: above all the first one of a machine that was admitted by voice.
fn with_voucher(setup: &Setup<'_>, belief: Belief, trust: &Trust, text: &str, chain: &[Vec<u8>]) -> Belief {
    let stored = belief.voucher.as_ref().map(|held| Stored { epoch: held.epoch, pin: held.pin_key });
    let (ids, floor, rtc) = (&setup.identity.ids, belief.floor, setup.rtc);
    let setting = Setting { trust, ids, chain, floor, rtc, stored };
    match enroll::newer(text, &setting, &belief) {
        Ok(Some(newer)) => {
            say("Headquarters' voucher for this machine has come.");
            newer
        }
        Ok(None) => belief,
        Err(refused) => {
            say(&format!("{} ({})", refused.refusal.sentence(), refused.id()));
            belief
        }
    }
}

/// The highest index that HQ signed for our site is kept: it proves to any provisioner what it may have missed.
fn with_index(mut belief: Belief, trust: &Trust, text: &str) -> Belief {
    use protocol::jws::{Unverified, typ};
    #[derive(serde::Deserialize)]
    struct Index {
        seq: u64,
        site: String,
        #[serde(rename = "created-on")]
        created_on: protocol::clock::Time,
    }
    let Ok(document) = Unverified::read(text.as_bytes(), typ::BUNDLE) else { return belief };
    let signed = trust.check_signer(&document.signer, belief.floor, protocol::clock::system()).is_ok();
    let index: Option<Index> =
        document.verified().filter(|_| signed).and_then(|bytes| json::parse(bytes).ok());
    let ours = |index: &Index| belief.voucher.as_ref().is_some_and(|held| held.site == index.site);
    if let Some(index) = index.filter(|index| ours(index) && index.seq > belief.bundle) {
        belief.bundle = index.seq;
        belief.floor = belief.floor.max(index.created_on.min(document.signer.not_after));
        belief.index = Some(text.to_owned());
    }
    belief
}

#[cfg(test)]
mod tests {
    use protocol::anchors::AnchorsDoc;
    use protocol::bytes::{B64, B64u};
    use protocol::cert::Cert;
    use protocol::clock::Time;
    use protocol::crypto::{Alg, Signer as _, SoftKey};
    use protocol::heartbeat::FLAG_STATUS_NOW;
    use protocol::issue::{Role, issue, self_signed};
    use protocol::jws::{sign, typ};

    use super::*;
    use crate::state::Held;

    const KEY: [u8; 32] = [7; 32];
    const S: Digest = Digest([8; 32]);

    /// A machine that has beaten once, and the provisioner's end.
    fn beating() -> (Beats, UdpSocket) {
        let (own, other) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        own.connect(other.local_addr().unwrap()).unwrap();
        other.connect(own.local_addr().unwrap()).unwrap();
        own.set_nonblocking(true).unwrap();
        let mut beats =
            Beats { socket: own, key: KEY, s: S, counter: 0, unanswered: 0, next: Instant::now() };
        assert!(!beats.tick(true));
        (beats, other)
    }

    #[test]
    fn r44_only_the_answer_to_the_last_heartbeat_by_the_holder_of_the_key_counts() {
        let (mut beats, site) = beating();
        let answers = [
            heartbeat::answer(&[9; 32], &S, 1, FLAG_STATUS_NOW),
            heartbeat::answer(&KEY, &S, 0, FLAG_STATUS_NOW),
            heartbeat::beat(&KEY, &S, 1, heartbeat::State::Ready),
        ];
        for answer in answers {
            site.send(&answer).unwrap();
            assert!(!beats.tick(true) && beats.unanswered == 1);
        }
        site.send(&heartbeat::answer(&KEY, &S, 1, 0)).unwrap();
        assert!(!beats.tick(true) && beats.unanswered == 0);
        site.send(&heartbeat::answer(&KEY, &S, 1, FLAG_STATUS_NOW)).unwrap();
        assert!(beats.tick(true), "the provisioner wants to be asked");
    }

    #[test]
    fn a_provisioner_that_answers_no_six_heartbeats_is_asked_by_m11() {
        let (mut beats, _site) = beating();
        for _ in 2..=UNANSWERED_LIMIT {
            beats.next = Instant::now();
            assert!(!beats.tick(true));
        }
        beats.next = Instant::now();
        assert!(beats.tick(true), "the seventh finds six without an answer");
    }

    #[test]
    fn only_a_newer_index_that_headquarters_signed_for_our_site_is_kept() {
        const T: Time = Time(1_800_000_000);
        let key = || SoftKey::generate(Alg::Es256).unwrap().0;
        let (anchor, signer) = (key(), key());
        let anchor_cert =
            Cert::parse(&self_signed(&Role::Anchor { name: "a" }, &anchor, T).unwrap()).unwrap();
        let certify = |key: &SoftKey| {
            issue(&Role::Signer { name: "signer" }, key.spki(), &anchor_cert, &anchor, T).unwrap()
        };
        let pair = [B64(anchor_cert.der.clone()), B64(anchor_cert.der.clone())];
        let (voucher, site) = (pair.clone(), pair);
        let doc = AnchorsDoc { seq: 1, created_on: T, voucher, site, distrust: vec![], allow_phone: false };
        let doc = sign(&json::to_vec(&doc), typ::ANCHORS, &anchor_cert.der, &anchor).unwrap();
        let trust = Trust::from_image(&doc).unwrap();
        let (pin, pin_key) = (B64u(vec![]), Digest([0; 32]));
        let held = Held { epoch: 1, site: "ship-7".into(), machine: None, pin, pin_key };
        let kept = trust.kept().clone();
        let belief = Belief { kept, image: T, floor: T, voucher: Some(held), index: None, bundle: 4 };
        let says = |seq: u64, site: &str, certificate: &[u8], by: &SoftKey| {
            let index = serde_json::json!({ "seq": seq, "site": site, "created-on": T.plus(9) });
            let text = sign(&json::to_vec(&index), typ::BUNDLE, certificate, by).unwrap();
            let next = with_index(belief.clone(), &trust, &text);
            (next.bundle, next.floor, next.index == Some(text))
        };
        let certificate = certify(&signer);
        assert_eq!(says(5, "ship-7", &certificate, &signer), (5, T.plus(9), true));
        let stranger = self_signed(&Role::Signer { name: "signer" }, &signer, T).unwrap();
        for kept in [
            says(4, "ship-7", &certificate, &signer),
            says(5, "ship-8", &certificate, &signer),
            says(5, "ship-7", &stranger, &signer),
            says(5, "ship-7", &certificate, &key()),
        ] {
            assert_eq!(kept, (4, T, false));
        }
    }
}
