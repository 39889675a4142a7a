//! Base64 in its two spellings, PEM, and SHA-256 digests.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

/// Text that is not base64, or bytes of an unexpected length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {0}")]
pub struct Malformed(pub &'static str);

/// RFC 4648 section 4, padded, one line.
pub fn b64(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// Reads RFC 4648 section 4, padded, one line.
pub fn from_b64(text: &str) -> Result<Vec<u8>, Malformed> {
    Base64::decode_vec(text).map_err(|_| Malformed("padded base64 on one line"))
}

/// RFC 4648 section 5, unpadded.
pub fn b64u(bytes: &[u8]) -> String {
    Base64UrlUnpadded::encode_string(bytes)
}

/// Reads RFC 4648 section 5, unpadded.
pub fn from_b64u(text: &str) -> Result<Vec<u8>, Malformed> {
    Base64UrlUnpadded::decode_vec(text).map_err(|_| Malformed("unpadded base64url"))
}

/// RFC 7468: base64 of `der` in lines of 64 symbols between lines that name what it is.
pub fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        text.push_str(&b64(line));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

/// A SHA-256 digest; text form is unpadded base64url, 43 symbols.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        let mut out = [0; 32];
        out.copy_from_slice(digest.as_ref());
        Self(out)
    }

    /// SHA-256 over the concatenation of `parts`.
    pub(crate) fn of_parts(parts: &[&[u8]]) -> Self {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for part in parts {
            context.update(part);
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.finish().as_ref());
        Self(out)
    }

    /// Lower-case hexadecimal of the first four bytes, for hints and file names.
    pub fn short_hex(&self) -> String {
        hex(&self.0[..4])
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&b64u(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let bytes = from_b64u(text)?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| Malformed("a SHA-256 digest in unpadded base64url (43 symbols)"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Bytes whose JSON form is unpadded base64url.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct B64u(pub Vec<u8>);

impl fmt::Debug for B64u {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The content may be secret (a sealed key, a configuration file): only its size is shown.
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Serialize for B64u {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&b64u(&self.0))
    }
}

impl<'de> Deserialize<'de> for B64u {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_b64u(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// Bytes that nobody else is to see: never shown, and overwritten when they are no longer needed. The JSON form is unpadded
/// base64url.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Zeroizing<Vec<u8>>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(b64u(&self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        from_b64u(&text).map(|bytes| Self(Zeroizing::new(bytes))).map_err(de::Error::custom)
    }
}

/// Bytes whose JSON form is padded base64, the spelling of certificates in RFC 8366 documents.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct B64(pub Vec<u8>);

impl Serialize for B64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&b64(&self.0))
    }
}

impl<'de> Deserialize<'de> for B64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_b64(&String::deserialize(deserializer)?).map(Self).map_err(de::Error::custom)
    }
}

/// Lower-case RFC 4648 base32 without padding.
pub fn base32(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::new();
    for chunk in bytes.chunks(5) {
        let mut block = [0u8; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        for place in 0..(chunk.len() * 8).div_ceil(5) {
            let index = usize::try_from((bits >> (35 - 5 * place)) & 31).unwrap_or_default();
            text.push(char::from(SYMBOLS[index]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base32_matches_the_rfc_4648_examples() {
        for (plain, coded) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
        ] {
            assert_eq!(base32(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn pem_has_lines_of_64_symbols_and_no_empty_one() {
        let full = "A".repeat(64);
        let lines = |count: usize, rest: &str| {
            format!("-----BEGIN X-----\n{}{rest}-----END X-----\n", format!("{full}\n").repeat(count))
        };
        assert_eq!(pem("X", &[0; 48]), lines(1, ""));
        assert_eq!(pem("X", &[0; 97]), lines(2, "AA==\n"));
    }

    #[test]
    fn the_two_spellings_are_not_interchangeable() {
        assert!(from_b64("-_8").is_err());
        assert!(from_b64u("+/8=").is_err());
        assert_eq!(from_b64(&b64(&[251, 255])).unwrap(), from_b64u(&b64u(&[251, 255])).unwrap());
    }

    #[test]
    fn a_secret_is_carried_and_never_shown() {
        let secret = Secret(Zeroizing::new(b"open sesame".to_vec()));
        let carried = serde_json::to_string(&secret).unwrap();
        assert_eq!(serde_json::from_str::<Secret>(&carried).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "[secret]");
    }

    #[test]
    fn a_digest_of_another_length_is_refused() {
        assert!("qVM".parse::<Digest>().is_err());
        assert_eq!(Digest::of(b"x"), Digest::of_parts(&[b"", b"x"]));
    }
}
