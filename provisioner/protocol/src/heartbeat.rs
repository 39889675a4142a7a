//! 37 bytes over UDP that say "the holder of this session's key lives". They admit nothing and change no record.

use crate::bytes::Digest;
use crate::crypto::{hmac_sha256, same};

/// Size of a datagram either way, bytes.
pub const SIZE: usize = 37;
/// Seconds between two heartbeats.
pub const PERIOD_SECONDS: u64 = 5;
/// After this many without an answer the machine asks by M11.
pub const UNANSWERED_LIMIT: u32 = 6;
/// TLS exporter label from which both ends take the key, no context, 32 bytes.
pub const LABEL: &[u8] = b"EXPERIMENTAL-nodeboot-heartbeat-v1";
/// Flag of an answer: the provisioner wants to be asked by M11 now.
pub const FLAG_STATUS_NOW: u8 = 1;

/// What a machine says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All is well.
    Ready = 1,
    /// It works, but not as it should.
    Degraded = 2,
    /// It is going down on purpose.
    GoingDown = 3,
}

/// A datagram whose MAC was not looked at yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// First eight bytes of the machine's key hash.
    pub who: [u8; 8],
    /// Rises with each heartbeat under one key, from 1.
    pub counter: u64,
    /// State (machine) or flags (answer).
    pub byte: u8,
    bytes: [u8; SIZE],
}

fn build(magic: [u8; 4], key: &[u8; 32], who: [u8; 8], counter: u64, byte: u8) -> [u8; SIZE] {
    let mut out = [0; SIZE];
    out[..4].copy_from_slice(&magic);
    out[4..12].copy_from_slice(&who);
    out[12..20].copy_from_slice(&counter.to_be_bytes());
    out[20] = byte;
    let mac = hmac_sha256(key, &[&out[..21]]);
    out[21..].copy_from_slice(&mac[..16]);
    out
}

/// A heartbeat of the machine with node key hash `s`.
pub fn beat(key: &[u8; 32], s: &Digest, counter: u64, state: State) -> [u8; SIZE] {
    build(*b"NBH1", key, short(s), counter, state as u8)
}

/// The provisioner's answer.
pub fn answer(key: &[u8; 32], s: &Digest, counter: u64, flags: u8) -> [u8; SIZE] {
    build(*b"NBA1", key, short(s), counter, flags)
}

/// How a datagram names a machine.
pub fn short(s: &Digest) -> [u8; 8] {
    let mut who = [0; 8];
    who.copy_from_slice(&s.0[..8]);
    who
}

impl Datagram {
    /// Reads a machine's datagram.
    pub fn read_beat(bytes: &[u8]) -> Option<Self> {
        Self::read(*b"NBH1", bytes)
    }

    /// Reads a provisioner's datagram.
    pub fn read_answer(bytes: &[u8]) -> Option<Self> {
        Self::read(*b"NBA1", bytes)
    }

    fn read(magic: [u8; 4], bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; SIZE] = bytes.try_into().ok()?;
        let counter = u64::from_be_bytes(bytes[12..20].try_into().ok()?);
        let who = bytes[4..12].try_into().ok()?;
        (bytes[..4] == magic).then_some(Self { who, counter, byte: bytes[20], bytes })
    }

    /// Whether the holder of `key` made it.
    pub fn made_by(&self, key: &[u8; 32]) -> bool {
        same(&hmac_sha256(key, &[&self.bytes[..21]])[..16], &self.bytes[21..])
    }
}
