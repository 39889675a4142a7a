//! The human code: a machine nobody registered shows eight symbols, a person reads them to HQ.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::bytes::{B64u, Digest, Malformed};
use crate::crypto::{BadKey, SoftKey, hkdf_sha256, hmac_sha256};
use crate::id::Id;
use crate::json;

const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Five bytes that a person can read aloud: eight symbols of Crockford's base32 and a check symbol, `WT0T-BSPH-K`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub [u8; 5]);

impl Code {
    fn first_of(hash: &[u8; 32]) -> Self {
        let mut code = [0; 5];
        code.copy_from_slice(&hash[..5]);
        Self(code)
    }

    fn number(self) -> u64 {
        self.0.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Reads what a person typed: case, hyphens and spaces do not matter, O is 0, I and L are 1. R43a.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let values = symbols(text).ok_or(Malformed("a code like WT0T-BSPH-K"))?;
        let [body @ .., check] = values.as_slice() else { return Err(Malformed("a code like WT0T-BSPH-K")) };
        if body.len() != 8 {
            return Err(Malformed("a code of eight symbols and a check symbol"));
        }
        let number = body.iter().fold(0u64, |number, value| number << 5 | u64::from(*value));
        if number % 29 != u64::from(*check) {
            return Err(Malformed("this code: a symbol was misread (the check symbol does not fit)"));
        }
        let bytes = number.to_be_bytes();
        Ok(Self([bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]))
    }
}

fn symbol(value: u64) -> char {
    char::from(SYMBOLS[usize::try_from(value & 31).unwrap_or_default()])
}

fn symbols(text: &str) -> Option<Vec<u8>> {
    let fold = |symbol: char| match symbol.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let place = |symbol| SYMBOLS.iter().position(|known| char::from(*known) == symbol);
    let kept = text.chars().filter(|symbol| !matches!(symbol, '-' | ' ')).take(64);
    kept.map(|symbol| place(fold(symbol)).and_then(|place| u8::try_from(place).ok())).collect()
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let number = self.number();
        for place in 0..8 {
            write!(f, "{}", symbol(number >> (35 - 5 * place)))?;
            if place == 3 || place == 7 {
                f.write_str("-")?;
            }
        }
        write!(f, "{}", symbol(number % 29))
    }
}

/// The proven ids as they enter the commitment: a JSON array, sorted bytewise.
pub fn proven_json(ids: &[Id]) -> Vec<u8> {
    let mut texts: Vec<_> = ids.iter().map(Id::to_string).collect();
    texts.sort_unstable();
    texts.dedup();
    json::to_vec(&texts)
}

/// The commitment of M10: the machine fixes its nonce before it sees the provisioner's.
pub fn commit(s: &Digest, proven: &[Id], nb: &[u8; 16]) -> Digest {
    Digest::of_parts(&[b"nodeboot-commit-v1\0", &s.0, &Digest::of(&proven_json(proven)).0, nb])
}

/// The code that machine and provisioner both know once both nonces are out. `p` is the hash of the provisioner's
/// leaf key.
pub fn sas(s: &Digest, p: &Digest, nb: &[u8; 16], ns: &[u8; 16]) -> Code {
    Code::first_of(&Digest::of_parts(&[b"nodeboot-sas-v1\0", &s.0, &p.0, nb, ns]).0)
}

/// The code of anything else that a person compares, such as a provisioner's certificate request.
#[cfg(feature = "bundle")]
pub(crate) fn code_of(bytes: &[u8]) -> Code {
    Code::first_of(&Digest::of(bytes).0)
}

/// The key that HQ and a site share for answers by voice: ECDH (SP 800-56A) of one's private and the other's
/// public key, both P-256. `public` is an uncompressed point or DER `SubjectPublicKeyInfo`.
pub fn approve_key(private: &[u8], public: &[u8]) -> Result<Zeroizing<[u8; 32]>, BadKey> {
    let secret = p256::SecretKey::from_slice(private).map_err(|_| BadKey)?;
    let point = crate::crypto::Alg::of_spki(public).map_or(public, |(_, point)| point);
    let public = p256::PublicKey::from_sec1_bytes(point).map_err(|_| BadKey)?;
    let shared = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
    Ok(hkdf_sha256(shared.raw_secret_bytes(), &[], b"nodeboot-approve-v1"))
}

/// HQ's answer by voice to the code `sas` for `slot` at `site`.
pub fn voice_code(key: &[u8; 32], site: &str, sas: Code, slot: &str) -> Code {
    let mac = hmac_sha256(key, &[b"approve\0", site.as_bytes(), b"\0", &sas.0, b"\0", slot.as_bytes()]);
    Code::first_of(&mac)
}

/// A claim token: 16 bytes on a stick or a sealed label, from which a machine without TPM makes its device key.
pub struct ClaimToken(pub Zeroizing<[u8; 16]>);

impl ClaimToken {
    /// Reads the 26 symbols and the check symbol of a label.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const SHAPE: Malformed = Malformed("a claim token of 26 symbols and a check symbol");
        let values = symbols(text).ok_or(SHAPE)?;
        let [body @ .., check] = values.as_slice() else { return Err(SHAPE) };
        if body.len() != 26 || body[0] > 7 {
            return Err(SHAPE);
        }
        let number = body.iter().fold(0u128, |number, value| number << 5 | u128::from(*value));
        if number % 29 != u128::from(*check) {
            return Err(Malformed("this claim token: a symbol was misread"));
        }
        Ok(Self(Zeroizing::new(number.to_be_bytes())))
    }

    /// The label's text.
    pub fn text(&self) -> Zeroizing<String> {
        let number = u128::from_be_bytes(*self.0);
        let value = |shift: u32| u64::try_from(number >> shift & 31).unwrap_or_default();
        let mut text: String = (0..26u32).map(|place| symbol(value(125 - 5 * place))).collect();
        text.push(symbol(u64::try_from(number % 29).unwrap_or_default()));
        Zeroizing::new(text)
    }

    /// The private scalar of the device key (FIPS 186-5 A.2.1: extra random bits, reduced modulo n - 1, plus 1).
    pub fn scalar(&self) -> Zeroizing<[u8; 32]> {
        let wide = hkdf_sha256::<48>(&self.0[..], b"nodeboot", b"nodeboot-claim-key-v1");
        Zeroizing::new(reduce(&wide))
    }

    /// The device key.
    pub fn key(&self) -> Result<SoftKey, BadKey> {
        SoftKey::from_scalar(&self.scalar()[..])
    }
}

/// `wide mod (n - 1) + 1` for the order n of P-256, by shift and subtract: used once in a machine's life.
fn reduce(wide: &[u8; 48]) -> [u8; 32] {
    // n - 1, as four big-endian words.
    const MODULUS: [u64; 4] = [0xffff_ffff_0000_0000, u64::MAX, 0xbce6_faad_a717_9e84, 0xf3b9_cac2_fc63_2550];
    let mut rest = [0u64; 4];
    for bit in wide.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)) {
        let overflow = shift_in(&mut rest, bit);
        if overflow || rest >= MODULUS {
            subtract(&mut rest, &MODULUS);
        }
    }
    let mut carry = 1u64;
    for word in rest.iter_mut().rev() {
        let (sum, over) = word.overflowing_add(carry);
        *word = sum;
        carry = u64::from(over);
    }
    let mut out = [0; 32];
    for (place, word) in out.chunks_exact_mut(8).zip(rest) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn shift_in(words: &mut [u64; 4], bit: u8) -> bool {
    let mut carry = u64::from(bit);
    for word in words.iter_mut().rev() {
        let next = *word >> 63;
        *word = *word << 1 | carry;
        carry = next;
    }
    carry == 1
}

fn subtract(words: &mut [u64; 4], modulus: &[u64; 4]) {
    let mut borrow = 0u64;
    for (word, part) in words.iter_mut().zip(modulus).rev() {
        let (first, one) = word.overflowing_sub(*part);
        let (second, two) = first.overflowing_sub(borrow);
        *word = second;
        borrow = u64::from(one || two);
    }
}

/// M10, first request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Open {
    /// The commitment.
    pub commit: Digest,
    /// The ids proven on this connection.
    pub ids: Vec<Id>,
    /// The hardware.
    #[serde(default)]
    pub hw: crate::inventory::Facts,
}

/// M10, first answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// Name of the claim, 16 bytes.
    pub id: B64u,
    /// The provisioner's nonce, 16 bytes.
    pub ns: B64u,
}

/// M10, second request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reveal {
    /// The machine's nonce, 16 bytes.
    pub nb: B64u,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_being_read_aloud() {
        let code = Code([0xe6, 0x81, 0xa5, 0xe6, 0xd1]);
        assert_eq!(code.to_string(), "WT0T-BSPH-K");
        for heard in ["wtot bsph k", "WT0TBSPHK", "wt0t-bsph-k"] {
            assert_eq!(Code::parse(heard), Ok(code));
        }
    }

    #[test]
    fn every_single_misread_symbol_is_noticed() {
        let text = Code([1, 2, 3, 4, 5]).to_string();
        for place in (0..text.len()).filter(|place| &text[*place..=*place] != "-") {
            for other in SYMBOLS {
                let mut changed = text.clone().into_bytes();
                if changed[place] == *other {
                    continue;
                }
                changed[place] = *other;
                let changed = String::from_utf8(changed).unwrap();
                // Symbols whose difference is a multiple of 29 in the last place collide: at most a few of 279.
                if let Ok(code) = Code::parse(&changed) {
                    assert_ne!(code, Code([1, 2, 3, 4, 5]), "{changed}");
                }
            }
        }
    }

    #[test]
    fn hostile_codes_are_refused_without_a_panic() {
        for text in ["", "-", "U", "WT0T-BSPH", "WT0T-BSPH-KK", "ÄÖÜ", &"0".repeat(10_000)] {
            assert!(Code::parse(text).is_err(), "{text}");
            assert!(ClaimToken::parse(text).is_err(), "{text}");
        }
    }
}
