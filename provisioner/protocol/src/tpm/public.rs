//! Public areas (`TPMT_PUBLIC`) of the few templates that we speak of, and what follows from them.
//!
//! A public area here is one of five templates followed by its `unique` field; anything else is no key of ours. So
//! reading is comparing, and there are no other attributes or schemes that a check could forget.

use std::fmt;
use std::str::FromStr;

use ring::digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::wire::{Reader, padded, sized};
use crate::bytes::{B64u, Digest, Malformed};
use crate::crypto::Alg;
use crate::id::Id;

/// TCG EK Credential Profile 2.5, template L-1, up to `unique`.
const EK_RSA_2048: &[u8] = &[
    0x00, 0x01, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20, 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3,
    0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64,
    0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x08,
    0x00, 0x00, 0x00, 0x00, 0x00,
];
/// Template L-2, likewise.
const EK_P256: &[u8] = &[
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x00, 0xb2, 0x00, 0x20, 0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3,
    0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52, 0x0b, 0x64,
    0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10, 0x00,
    0x03, 0x00, 0x10,
];
/// Template H-3, likewise.
const EK_P384: &[u8] = &[
    0x00, 0x23, 0x00, 0x0c, 0x00, 0x03, 0x00, 0xf2, 0x00, 0x30, 0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50,
    0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07, 0x41, 0x48, 0xbb, 0x35, 0xd3, 0xb4, 0xe4,
    0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47, 0xba, 0x09, 0x69, 0x96, 0x46, 0x15, 0x0f,
    0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12, 0x00, 0x06, 0x01, 0x00, 0x00, 0x43, 0x00, 0x10, 0x00, 0x04,
    0x00, 0x10,
];
/// P-256 storage primary key: restricted, decrypting, AES-128-CFB, outside the dictionary-attack protection.
const STORAGE: &[u8] = &[
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x03, 0x04, 0x72, 0x00, 0x00, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00,
    0x10, 0x00, 0x03, 0x00, 0x10,
];
/// P-256 key that signs by ECDSA with SHA-256: made in this TPM, never leaves it, needs no password.
const NODE_KEY: &[u8] = &[
    0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x04, 0x72, 0x00, 0x00, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00,
    0x03, 0x00, 0x10,
];
/// Where the attributes stand in a public area.
const ATTRIBUTES: std::ops::Range<usize> = 4..8;
/// Bytes of an RSA-2048 modulus.
pub(super) const MODULUS: usize = 256;

/// What a public area is the public half of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Template {
    Endorsement(EkKind),
    Storage,
    NodeKey,
}

impl Template {
    const ALL: [Self; 5] = [
        Self::Endorsement(EkKind::P256),
        Self::Endorsement(EkKind::P384),
        Self::Endorsement(EkKind::Rsa2048),
        Self::Storage,
        Self::NodeKey,
    ];

    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Endorsement(EkKind::Rsa2048) => EK_RSA_2048,
            Self::Endorsement(EkKind::P256) => EK_P256,
            Self::Endorsement(EkKind::P384) => EK_P384,
            Self::Storage => STORAGE,
            Self::NodeKey => NODE_KEY,
        }
    }

    /// The public area to create such a key from: `unique` as the TCG profile sets it.
    pub fn to_create(self) -> Vec<u8> {
        let unique = match self {
            Self::Endorsement(EkKind::Rsa2048) => sized(&[0; MODULUS]),
            Self::Endorsement(EkKind::P256) | Self::Storage => [sized(&[0; 32]), sized(&[0; 32])].concat(),
            Self::Endorsement(EkKind::P384) | Self::NodeKey => vec![0; 4],
        };
        [self.prefix(), &unique].concat()
    }

    /// Bytes of a coordinate; none for RSA.
    fn coordinate(self) -> Option<usize> {
        match self {
            Self::Endorsement(EkKind::Rsa2048) => None,
            Self::Endorsement(EkKind::P384) => Some(48),
            _ => Some(32),
        }
    }

    /// The algorithm of its names.
    fn name_alg(self) -> (u16, &'static digest::Algorithm) {
        match self {
            Self::Endorsement(EkKind::P384) => (0x000c, &digest::SHA384),
            _ => (0x000b, &digest::SHA256),
        }
    }
}

/// The kinds of endorsement key (EK), most canonical first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EkKind {
    /// TCG template L-2.
    P256,
    /// TCG template H-3.
    P384,
    /// TCG template L-1.
    Rsa2048,
}

impl fmt::Display for EkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "ecc-p256",
            Self::P384 => "ecc-p384",
            Self::Rsa2048 => "rsa-2048",
        })
    }
}

impl FromStr for EkKind {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let named = [Self::P256, Self::P384, Self::Rsa2048].into_iter().find(|kind| kind.to_string() == text);
        named.ok_or(Malformed("ecc-p256, ecc-p384 or rsa-2048"))
    }
}

/// The public half of a key in a TPM, of a template that we know. Its JSON form is the `TPMT_PUBLIC` in base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct Public {
    template: Template,
    bytes: Vec<u8>,
    /// Modulus, or the coordinates padded to the size of the curve and joined.
    unique: Vec<u8>,
}

impl Public {
    /// Reads a `TPMT_PUBLIC`, nothing after it: one of the three EK templates, the storage key, or the node key.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let of = |template: Template| {
            let unique = read_unique(bytes.strip_prefix(template.prefix())?, template.coordinate())?;
            Some(Self { template, bytes: bytes.to_vec(), unique })
        };
        Template::ALL
            .into_iter()
            .find_map(of)
            .ok_or(Malformed("the public area of a TPM key of a known kind"))
    }

    /// Reads the `TPMT_PUBLIC` of a key that a machine says its TPM holds. R27a, R27c.
    pub fn node_key(bytes: &[u8]) -> Result<Self, NotInTpm> {
        if bytes.get(ATTRIBUTES) != NODE_KEY.get(ATTRIBUTES) {
            return Err(NotInTpm::Attributes);
        }
        Self::parse(bytes).ok().filter(|public| public.template == Template::NodeKey).ok_or(NotInTpm::Scheme)
    }

    /// The `TPMT_PUBLIC`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// DER `SubjectPublicKeyInfo`: `rsaEncryption` with the exponent 65537, or a named curve.
    pub fn spki(&self) -> Vec<u8> {
        match self.template {
            Template::Endorsement(EkKind::Rsa2048) => rsa_spki(&self.unique),
            Template::Endorsement(EkKind::P384) => Alg::Es384.spki(&self.point()),
            _ => Alg::Es256.spki(&self.point()),
        }
    }

    /// Name (TPM 2.0 Part 1, section 16): algorithm and hash of the public area.
    pub fn name(&self) -> Vec<u8> {
        let (id, algorithm) = self.template.name_alg();
        [&id.to_be_bytes(), digest::digest(algorithm, &self.bytes).as_ref()].concat()
    }

    /// RSA: the modulus. Otherwise both coordinates, padded and joined.
    #[cfg(feature = "credential")]
    pub(super) fn unique(&self) -> &[u8] {
        &self.unique
    }

    /// The uncompressed point of an elliptic curve key.
    pub(super) fn point(&self) -> Vec<u8> {
        [&[4], &self.unique[..]].concat()
    }

    pub(super) fn template(&self) -> Template {
        self.template
    }
}

fn read_unique(bytes: &[u8], coordinate: Option<usize>) -> Option<Vec<u8>> {
    let mut reader = Reader(bytes);
    let first = reader.sized()?;
    let unique = match coordinate {
        // A modulus of full size, and odd as a product of two primes is.
        None => (first.len() == MODULUS && first[0] >= 0x80 && first[MODULUS - 1] & 1 == 1)
            .then(|| first.to_vec())?,
        Some(size) => {
            let second = reader.sized()?;
            if first.is_empty() || second.is_empty() {
                return None;
            }
            [padded(first, size)?, padded(second, size)?].concat()
        }
    };
    reader.end()?;
    Some(unique)
}

/// RFC 3279 section 2.3.1, for a modulus of 256 bytes whose highest bit is set.
pub(super) fn rsa_spki(modulus: &[u8]) -> Vec<u8> {
    const HEAD: [u8; 33] = [
        0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01,
        0x05, 0x00, 0x03, 0x82, 0x01, 0x0f, 0x00, 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00,
    ];
    [&HEAD[..], modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat()
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.template, Digest::of(&self.spki()))
    }
}

impl Serialize for Public {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        B64u(self.bytes.clone()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Public {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&B64u::deserialize(deserializer)?.0).map_err(de::Error::custom)
    }
}

/// Why a key cannot be taken for one that a TPM holds. R27.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotInTpm {
    /// R27a.
    #[error("the attributes of the key do not say that it was made in this TPM and never leaves it")]
    Attributes,
    /// R27c.
    #[error("the key does not sign by ECDSA on P-256 with SHA-256 alone")]
    Scheme,
}

/// An endorsement key (EK): the identity that its manufacturer gave a TPM. Its JSON form is that of [`Public`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Public", into = "Public")]
pub struct Ek {
    kind: EkKind,
    public: Public,
}

impl Ek {
    /// Reads a `TPMT_PUBLIC` that is an EK template byte for byte, apart from `unique`. R28.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        Public::parse(bytes)?.try_into()
    }

    /// Its template.
    pub fn kind(&self) -> EkKind {
        self.kind
    }

    /// Its public area.
    pub fn public(&self) -> &Public {
        &self.public
    }

    /// DER `SubjectPublicKeyInfo`.
    pub fn spki(&self) -> Vec<u8> {
        self.public.spki()
    }

    /// `ek:` and the hash of its `SubjectPublicKeyInfo`.
    pub fn id(&self) -> Id {
        Id::Ek(Digest::of(&self.spki()))
    }
}

impl TryFrom<Public> for Ek {
    type Error = Malformed;

    fn try_from(public: Public) -> Result<Self, Malformed> {
        match public.template {
            Template::Endorsement(kind) => Ok(Self { kind, public }),
            _ => Err(Malformed("the public area of an endorsement key")),
        }
    }
}

impl From<Ek> for Public {
    fn from(ek: Ek) -> Self {
        ek.public
    }
}

#[cfg(test)]
mod tests;
