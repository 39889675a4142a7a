//! How much one source and one key may ask, in little memory.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use protocol::bytes::Digest;

/// Requests a key may send at once: a whole join is nine, a hand that repeats its steps some more.
const KEY_BURST: f64 = 60.0;
/// Requests a second a key may go on with.
const KEY_RATE: f64 = 5.0;
/// Requests a source may send at once: a thousand machines behind one address are a depot, not an attack.
const SOURCE_BURST: f64 = 20_000.0;
/// Requests a second a source may go on with.
const SOURCE_RATE: f64 = 2_000.0;
/// Buckets kept; the fullest are forgotten first, since they remember nothing.
const BUCKETS: usize = 20_000;

struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, burst: f64, rate: f64, now: Instant) -> bool {
        self.left = (self.left + now.duration_since(self.at).as_secs_f64() * rate).min(burst);
        self.at = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}

/// Buckets of sources and keys, and how long the slow are waited for.
pub struct Limits {
    patience: Duration,
    sources: Mutex<HashMap<IpAddr, Bucket>>,
    keys: Mutex<HashMap<Digest, Bucket>>,
}

impl Limits {
    /// Nobody has asked for anything yet; a handshake, a head or a body that takes longer than `patience` is none.
    pub fn new(patience: Duration) -> Self {
        Self { patience, sources: Mutex::default(), keys: Mutex::default() }
    }

    /// How long a slow client is waited for.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// Whether one more request of this source and key is fine now.
    pub fn admit(&self, source: IpAddr, key: &Digest, now: Instant) -> bool {
        take(&self.sources, network(source), SOURCE_BURST, SOURCE_RATE, now)
            && take(&self.keys, *key, KEY_BURST, KEY_RATE, now)
    }
}

/// An IPv6 host has a whole /64 to speak from; link-local addresses are one each.
pub fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(six) if !six.is_unicast_link_local() => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        other => other,
    }
}

/// To whom a flood is laid: a network, or the cable of a link-local address.
pub type Party = (IpAddr, u32);

/// The network of a source; link-local addresses, of which a host makes up as many as it likes, are together one party
/// on each cable.
pub fn party(source: SocketAddr) -> Party {
    match source {
        SocketAddr::V6(six) if six.ip().is_unicast_link_local() => {
            (IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 0]), six.scope_id())
        }
        other => (network(other.ip()), 0),
    }
}

fn take<K: std::hash::Hash + Eq + Clone>(
    buckets: &Mutex<HashMap<K, Bucket>>,
    key: K,
    burst: f64,
    rate: f64,
    now: Instant,
) -> bool {
    let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
    if buckets.len() >= BUCKETS {
        buckets.retain(|_, bucket| bucket.left + now.duration_since(bucket.at).as_secs_f64() * rate < burst);
    }
    if buckets.len() >= BUCKETS && !buckets.contains_key(&key) {
        return false;
    }
    buckets.entry(key).or_insert(Bucket { left: burst, at: now }).take(burst, rate, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r18a_a_key_that_asks_without_end_is_slowed_and_goes_on_later() {
        let (limits, now) = (Limits::new(Duration::ZERO), Instant::now());
        let (source, key) = (IpAddr::from([10, 0, 0, 1]), Digest([1; 32]));
        let admitted = (0..100).filter(|_| limits.admit(source, &key, now)).count();
        assert_eq!(admitted, 60);
        assert!(!limits.admit(source, &key, now));
        assert!(limits.admit(source, &key, now + Duration::from_secs(1)));
        assert!(
            limits.admit(source, &Digest([2; 32]), now),
            "another machine behind the same address is not slowed"
        );
    }

    #[test]
    fn a_host_cannot_hide_in_its_own_network() {
        let one = network("2001:db8::1".parse().unwrap());
        assert_eq!(one, network("2001:db8::2".parse().unwrap()));
        assert_ne!(network("fe80::1".parse().unwrap()), network("fe80::2".parse().unwrap()));
        let party = |text: &str| party(text.parse().unwrap());
        assert_eq!(party("[fe80::1%2]:1"), party("[fe80::2%2]:9"));
        assert_ne!(party("[fe80::1%2]:1"), party("[fe80::1%3]:1"));
        assert_eq!(party("[::ffff:10.0.0.1]:1"), party("10.0.0.1:2"));
        assert_ne!(party("10.0.0.1:1"), party("10.0.0.2:1"));
    }
}
