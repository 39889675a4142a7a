//! M11 and heartbeats: what a joined machine says, hears, and how its silence is noticed.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use decide::Alarm;
use protocol::bundle;
use protocol::bytes::Digest;
use protocol::clock::DAY;
use protocol::heartbeat::{self, Datagram};
use protocol::messages::{Act, Order, StatusAnswer, StatusRequest};
use protocol::refusal::{Refusal, Refused};

use super::store::{Look, MACHINES, VOUCHERS};
use super::{Bound, Peer, Site, broken, overwrite};
use crate::plain;

/// Where the number of a newer bundle that exists is kept.
pub(super) const BEHIND: &str = "behind";
/// The order to show the highest bundle index.
const SHOW_INDEX: &str = "show-index";

/// Heartbeats of one machine under its latest key.
pub struct Beats {
    s: Digest,
    key: [u8; 32],
    counter: u64,
    /// The bundle in force when the machine last asked (M11).
    bundle: u64,
    /// Whether something else is new for it.
    called: bool,
}

impl Site {
    /// M11. `key` is the connection's exporter for heartbeats.
    pub async fn status(
        &self,
        bound: &Bound,
        peer: &Peer,
        key: [u8; 32],
        asked: &StatusRequest,
    ) -> Result<StatusAnswer, Refused> {
        let beats = Beats { s: peer.s, key, counter: 0, bundle: self.word().seq, called: false };
        {
            let mut memory = self.memory();
            if memory.beats.len() >= super::alive::MOST {
                memory.beats.retain(|_, beats| self.alive.is(&beats.s));
            }
            memory.beats.insert(heartbeat::short(&peer.s), beats);
        }
        self.alive.beat(&peer.s);
        self.heard(&bound.machine.id, asked).await?;
        self.check_shown(&bound.machine.id, asked).await;
        self.note_disks(&bound.machine.id, asked).await;
        let (trust, word) = (self.trust().0, self.word());
        let newer = |held: u64, (seq, text): (u64, String)| (seq > held).then_some(text);
        let revoked = trust.latest_revoked().map(|(seq, text)| (seq, text.to_owned()));
        let id = bound.record.canonical_id().map(|id| id.to_string()).unwrap_or_default();
        let voucher = self.store.look().and_then(|look| look.bytes(VOUCHERS, &id)).map_err(broken)?;
        let overwrite = bound.machine.order_to_overwrite(asked, self.now());
        let updates = self.update_orders(&bound.machine, asked).await.map_err(broken)?;
        // Only a machine whose whole system is ours has use for it.
        let images =
            (!asked.health.banks.is_empty()).then(|| String::from_utf8_lossy(&word.images.1).into_owned());
        Ok(StatusAnswer {
            state: bound.machine.life.word().to_owned(),
            bundle: word.seq,
            index: newer(asked.bundle, (word.seq, word.index.clone())).filter(|text| !text.is_empty()),
            voucher: voucher.map(|text| String::from_utf8_lossy(&text).into_owned()),
            anchors: newer(asked.anchors, (trust.anchors_seq(), trust.kept().anchors.clone())),
            revoked: revoked.and_then(|revoked| newer(asked.revoked, revoked)),
            orders: [Self::orders(asked, word.seq), updates, overwrite.into_iter().collect()].concat(),
            images: images.filter(|_| Some(Digest::of(&word.images.1)) != asked.images),
        })
    }

    fn orders(asked: &StatusRequest, ours: u64) -> Vec<Order> {
        let shown = asked.done.iter().any(|done| done.id == SHOW_INDEX);
        let order = Order { id: SHOW_INDEX.to_owned(), act: Act::ShowIndex };
        if asked.bundle > ours && !shown { vec![order] } else { vec![] }
    }

    async fn heard(&self, id: &str, asked: &StatusRequest) -> Result<(), Refused> {
        let (id, now) = (id.to_owned(), self.now());
        let network = asked.health.network.as_deref().map(plain::sentence);
        if let Some(network) = &network {
            tracing::warn!(machine = id, network, "a machine's network is not as headquarters wants it");
        }
        let no_disk = overwrite::kept(asked.health.no_disk.as_ref());
        let mut banks = asked.health.banks.clone();
        for said in banks.values_mut().flat_map(|bank| [&mut bank.failed, &mut bank.refused]).flatten() {
            said.why = plain::sentence(&said.why);
        }
        let saved = self.store.write(move |tx| {
            if let Some(mut machine) = tx.get::<super::machine::Machine>(MACHINES, &id)? {
                machine.heard = now;
                machine.network = network;
                machine.banks = banks;
                machine.finds(no_disk);
                tx.put(MACHINES, &id, &machine)?;
            }
            Ok(())
        });
        saved.await.map_err(broken)
    }

    /// A machine that holds a newer bundle than we do proves it by showing its index: R24. A number alone is a claim.
    async fn check_shown(&self, id: &str, asked: &StatusRequest) {
        let word = self.word();
        if asked.bundle <= word.seq {
            return;
        }
        let (trust, floor) = self.trust();
        let setting =
            bundle::Setting { trust: &trust, site: self.name(), seq: word.seq, floor, rtc: Some(self.now()) };
        let shown = asked.health.index.as_ref();
        let proven = shown.and_then(|index| bundle::check_index(index, &setting).ok());
        let Some(seq) = proven.map(|checked| checked.index.seq).filter(|seq| *seq > word.seq) else {
            tracing::warn!(machine = id, claims = asked.bundle, ours = word.seq, "a newer bundle may exist");
            // Unproven: people are told, and nothing is held back.
            return self.alarm_every(DAY.unsigned_abs(), Alarm::BundleBehind, id).await;
        };
        self.alarm(Alarm::BundleBehind, &format!("bundle {seq}")).await;
        let raise = self.store.write(move |tx| {
            let known: u64 = tx.get(super::store::META, BEHIND)?.unwrap_or(0);
            tx.put(super::store::META, BEHIND, &seq.max(known))
        });
        match raise.await {
            Ok(()) => drop(self.behind.fetch_max(seq, Ordering::Relaxed)),
            Err(error) => tracing::error!(%error, "that this site is behind could not be saved"),
        }
    }

    /// R24: whether a machine has proved that HQ made a newer bundle than the one in force. Nothing new is issued then.
    pub(crate) fn check_current(&self) -> Result<(), Refused> {
        if self.rebuild() == Some(super::rebuild::Stage::Bundle) {
            return self.check_rebuilt();
        }
        let behind = self.behind.load(Ordering::Relaxed);
        if behind > self.word().seq {
            return Err(Refused::new(Refusal::BundleBehind, ' ', format!("bundle {behind} exists")));
        }
        Ok(())
    }

    /// R24 for M2: a machine of the site goes on all the same.
    pub(crate) fn check_bundle_of(&self, peer: &Peer) -> Result<(), Refused> {
        self.check_current().or_else(|behind| self.bound(&peer.s).map(drop).map_err(|_| behind))
    }

    /// Lets a machine ask (M11) at its next heartbeat rather than within the hour.
    pub(crate) fn call(&self, s: Option<Digest>) {
        let mut memory = self.memory();
        if let Some(beats) = s.and_then(|s| memory.beats.get_mut(&heartbeat::short(&s))) {
            beats.called = true;
        }
    }

    /// A heartbeat; what to answer. Anything wrong with it: nothing. R44.
    pub fn beat(&self, datagram: &[u8], _from: SocketAddr) -> Option<[u8; heartbeat::SIZE]> {
        let read = Datagram::read_beat(datagram)?;
        let bundle = self.word().seq;
        let mut memory = self.memory();
        let beats = memory.beats.get_mut(&read.who).filter(|beats| read.made_by(&beats.key));
        let Some(beats) = beats.filter(|beats| read.counter > beats.counter) else {
            self.metrics.refusal(Refusal::Heartbeat.code());
            return None;
        };
        beats.counter = read.counter;
        self.alive.beat(&beats.s);
        // HQ has said something since: a voucher, a withdrawal. It is asked for now rather than within the hour.
        let flags = if beats.called || beats.bundle < bundle { heartbeat::FLAG_STATUS_NOW } else { 0 };
        Some(heartbeat::answer(&beats.key, &beats.s, read.counter, flags))
    }
}
