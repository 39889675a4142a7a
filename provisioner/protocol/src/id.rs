//! The names a machine can prove, the one it is only labelled with, and the names derived from its key.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::bytes::{Digest, Malformed, base32};

/// A name of a machine. All but `Serial` can be proven.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Id {
    /// `ek:<SHA-256 of the endorsement key's SPKI>`.
    Ek(Digest),
    /// `idevid:<SHA-256 of the IEEE 802.1AR certificate>`.
    Idevid(Digest),
    /// `key:<SHA-256 of a device key's or node key's SPKI>`.
    Key(Digest),
    /// `sn:<DMI serial>`: what is printed on the machine; a hint, never a proof.
    Serial(String),
}

impl Id {
    /// Whether a machine can prove this name by a key.
    pub fn provable(&self) -> bool {
        !matches!(self, Self::Serial(_))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ek(digest) => write!(f, "ek:{digest}"),
            Self::Idevid(digest) => write!(f, "idevid:{digest}"),
            Self::Key(digest) => write!(f, "key:{digest}"),
            Self::Serial(serial) => write!(f, "sn:{serial}"),
        }
    }
}

impl FromStr for Id {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.split_once(':') {
            Some(("ek", digest)) => digest.parse().map(Self::Ek),
            Some(("idevid", digest)) => digest.parse().map(Self::Idevid),
            Some(("key", digest)) => digest.parse().map(Self::Key),
            Some(("sn", serial)) if serial.len() <= 128 => Ok(Self::Serial(serial.to_owned())),
            _ => Err(Malformed("an id like ek:…, idevid:…, key:… or sn:…")),
        }
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The name of the Node of the machine with node key hash `s` in `slot`: never used twice, since a key never is.
pub fn node_name(slot: &str, s: &Digest) -> String {
    let suffix = base32(&Digest::of(&s.0).0);
    format!("{slot}-{}", &suffix[..6])
}

/// The mDNS instance under which a machine with node key hash `s` announces itself.
pub fn mdns_instance(s: &Digest) -> String {
    format!("nb-{}", &base32(&s.0)[..8])
}

/// Whether `text` may stand in Kubernetes names with room for the suffix of a Node: an RFC 1123 label of at most
/// 50 characters.
pub fn is_slot_name(text: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    !text.is_empty()
        && text.len() <= 50
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_spelling() {
        let digest = Digest::of(b"key");
        for id in [Id::Ek(digest), Id::Idevid(digest), Id::Key(digest), Id::Serial("5CG:1".into())] {
            assert_eq!(id.to_string().parse(), Ok(id.clone()));
            assert_eq!(id.provable(), !matches!(id, Id::Serial(_)));
        }
        assert!("ek:short".parse::<Id>().is_err());
        assert!("mac:00".parse::<Id>().is_err());
    }

    #[test]
    fn slot_names_leave_room_for_the_suffix() {
        assert!(is_slot_name("node-3"));
        for bad in ["", "-a", "a-", "Node", "a.b", &"a".repeat(51)] {
            assert!(!is_slot_name(bad), "{bad}");
        }
    }
}
