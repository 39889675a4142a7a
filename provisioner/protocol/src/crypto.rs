//! Keys that sign, and the primitives under the protocol.

use ring::signature::{self, EcdsaKeyPair, KeyPair as _};
use ring::{aead, hkdf, hmac};
use zeroize::Zeroizing;

use crate::bytes::Digest;

/// Where random bytes come from.
pub use ring::rand::{SecureRandom, SystemRandom};

/// A signature algorithm of RFC 7518 that the protocol uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alg {
    /// ECDSA on P-256 with SHA-256; signatures of 64 bytes.
    Es256,
    /// ECDSA on P-384 with SHA-384; signatures of 96 bytes.
    Es384,
}

const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P384_PREFIX: [u8; 23] = [
    0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
    0x04, 0x00, 0x22, 0x03, 0x62, 0x00,
];

impl Alg {
    /// The name in a JWS header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
        }
    }

    /// Reads the name in a JWS header.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Es256, Self::Es384].into_iter().find(|alg| alg.name() == name)
    }

    /// DER `SubjectPublicKeyInfo` of an uncompressed point.
    pub fn spki(self, point: &[u8]) -> Vec<u8> {
        match self {
            Self::Es256 => [&P256_PREFIX[..], point].concat(),
            Self::Es384 => [&P384_PREFIX[..], point].concat(),
        }
    }

    /// The algorithm and uncompressed point of a DER `SubjectPublicKeyInfo`; none for other kinds of key.
    pub fn of_spki(spki: &[u8]) -> Option<(Self, &[u8])> {
        let rest = |prefix: &[u8], len: usize| {
            spki.strip_prefix(prefix).filter(|point| point.len() == len && point.first() == Some(&4))
        };
        rest(&P256_PREFIX, 65)
            .map(|point| (Self::Es256, point))
            .or_else(|| rest(&P384_PREFIX, 97).map(|point| (Self::Es384, point)))
    }
}

/// A key could not sign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("signing with {key}: {why}")]
pub struct SignError {
    /// Which key, in words.
    pub key: String,
    /// What went wrong and what to do about it.
    pub why: String,
}

/// A private key that signs, wherever it is held: memory, a TPM, or behind a program of the owner's.
pub trait Signer: Send + Sync {
    /// Its algorithm.
    fn alg(&self) -> Alg;
    /// Its public half, DER `SubjectPublicKeyInfo`.
    fn spki(&self) -> &[u8];
    /// Signature over `message` as `r || s`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
    /// SHA-256 of the public half: how this key is named everywhere.
    fn key_hash(&self) -> Digest {
        Digest::of(self.spki())
    }
}

/// A private key in memory.
pub struct SoftKey {
    alg: Alg,
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

/// A private key that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no PKCS#8 private key on P-256 or P-384")]
pub struct BadKey;

fn fixed(alg: Alg) -> &'static signature::EcdsaSigningAlgorithm {
    match alg {
        Alg::Es256 => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
        Alg::Es384 => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
    }
}

impl SoftKey {
    /// A new key, and its DER PKCS#8 form to be kept.
    pub fn generate(alg: Alg) -> Result<(Self, Zeroizing<Vec<u8>>), BadKey> {
        let document = EcdsaKeyPair::generate_pkcs8(fixed(alg), &SystemRandom::new()).map_err(|_| BadKey)?;
        let pkcs8 = Zeroizing::new(document.as_ref().to_vec());
        Ok((Self::from_pkcs8(&pkcs8)?, pkcs8))
    }

    /// Reads a DER PKCS#8 key (RFC 5958) that holds its public half, as OpenSSL and ring write it.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, BadKey> {
        let read =
            |alg| EcdsaKeyPair::from_pkcs8(fixed(alg), der, &SystemRandom::new()).map(|pair| (alg, pair));
        let (alg, pair) = read(Alg::Es256).or_else(|_| read(Alg::Es384)).map_err(|_| BadKey)?;
        Ok(Self::of_pair(alg, pair))
    }

    /// The P-256 key whose private scalar is `scalar` (32 bytes, big-endian).
    pub fn from_scalar(scalar: &[u8]) -> Result<Self, BadKey> {
        let secret = p256::SecretKey::from_slice(scalar).map_err(|_| BadKey)?;
        let point = secret.public_key().to_sec1_bytes();
        Self::from_parts(Alg::Es256, scalar, &point)
    }

    fn from_parts(alg: Alg, scalar: &[u8], point: &[u8]) -> Result<Self, BadKey> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(fixed(alg), scalar, point, &random);
        Ok(Self::of_pair(alg, pair.map_err(|_| BadKey)?))
    }

    fn of_pair(alg: Alg, pair: EcdsaKeyPair) -> Self {
        let spki = alg.spki(pair.public_key().as_ref());
        Self { alg, pair, spki }
    }
}

impl Signer for SoftKey {
    fn alg(&self) -> Alg {
        self.alg
    }

    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = self.pair.sign(&SystemRandom::new(), message);
        let failed =
            |_| SignError { key: "a key in memory".into(), why: "no random bytes; try again".into() };
        Ok(signed.map_err(failed)?.as_ref().to_vec())
    }
}

/// Whether `signature` (`r || s`) over `message` was made by the private half of `spki` with its algorithm.
pub fn verify(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Some((alg, point)) = Alg::of_spki(spki) else { return false };
    let kind: &dyn signature::VerificationAlgorithm = match alg {
        Alg::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
        Alg::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
    };
    signature::UnparsedPublicKey::new(kind, point).verify(message, signature).is_ok()
}

/// The ASN.1 DER form (RFC 3279 section 2.2.3) of a signature `r || s`.
pub fn der_signature(fixed: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
        let mut body = bytes[start..].to_vec();
        if body.first().is_some_and(|byte| byte & 0x80 != 0) {
            body.insert(0, 0);
        }
        let len = u8::try_from(body.len()).unwrap_or(u8::MAX);
        [&[2, len], &body[..]].concat()
    };
    let (r, s) = fixed.split_at(fixed.len() / 2);
    let body = [integer(r), integer(s)].concat();
    // At most 2 * (2 + 49) = 102 bytes: the short form of a DER length holds it.
    [&[0x30, u8::try_from(body.len()).unwrap_or(u8::MAX)], &body[..]].concat()
}

/// HMAC-SHA256 (RFC 2104) over the concatenation of `parts`.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(context.sign().as_ref());
    out
}

/// Comparison whose time does not depend on where the difference is.
pub fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |diff, (l, r)| diff | (l ^ r)) == 0
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 (RFC 5869): `N` bytes of key material.
pub fn hkdf_sha256<const N: usize>(secret: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    // RFC 5869 limits the output to 255 * 32 bytes; every use here asks for at most 48.
    if let Ok(okm) = prk.expand(&[info], Length(N)) {
        let _ = okm.fill(&mut out[..]);
    }
    out
}

fn gcm(key: &[u8; 32]) -> Option<aead::LessSafeKey> {
    aead::UnboundKey::new(&aead::AES_256_GCM, key).ok().map(aead::LessSafeKey::new)
}

/// AES-256-GCM with a key that is used once, hence a nonce of zeros: ciphertext followed by the 16-byte tag.
pub fn gcm_seal(key: &[u8; 32], aad: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = plain.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    gcm(key)?.seal_in_place_append_tag(nonce, aead::Aad::from(aad), &mut buffer).ok()?;
    Some(buffer)
}

/// Opens what [`gcm_seal`] made; none when key, associated data or ciphertext differ.
pub fn gcm_open(key: &[u8; 32], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let nonce = aead::Nonce::assume_unique_for_key([0; 12]);
    let len = gcm(key)?.open_in_place(nonce, aead::Aad::from(aad), &mut buffer).ok()?.len();
    buffer.truncate(len);
    Some(buffer)
}

/// `N` random bytes from the operating system.
pub fn random<const N: usize>() -> Result<[u8; N], SignError> {
    let mut out = [0; N];
    let failed =
        |_| SignError { key: "the random generator".into(), why: "the system gives no random bytes".into() };
    SystemRandom::new().fill(&mut out).map_err(failed)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_curves_sign_and_verify_and_a_changed_message_does_not() {
        for alg in [Alg::Es256, Alg::Es384] {
            let (key, pkcs8) = SoftKey::generate(alg).unwrap();
            let signature = SoftKey::from_pkcs8(&pkcs8).unwrap().sign(b"hello").unwrap();
            assert!(verify(key.spki(), b"hello", &signature));
            assert!(!verify(key.spki(), b"hullo", &signature));
            assert_eq!(Alg::of_spki(key.spki()).unwrap().0, alg);
        }
    }

    #[test]
    fn der_signatures_are_minimal_integers() {
        let mut fixed = [0u8; 64];
        fixed[31] = 0x80;
        fixed[63] = 1;
        assert_eq!(der_signature(&fixed), [0x30, 7, 2, 2, 0, 0x80, 2, 1, 1]);
        assert_eq!(der_signature(&[0; 64]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    }

    #[test]
    fn sealed_bytes_open_only_with_their_associated_data() {
        let sealed = gcm_seal(&[7; 32], b"aad", b"secret").unwrap();
        assert_eq!(gcm_open(&[7; 32], b"aad", &sealed).unwrap().as_slice(), b"secret");
        assert!(gcm_open(&[7; 32], b"other", &sealed).is_none());
        assert!(gcm_open(&[8; 32], b"aad", &sealed).is_none());
        assert!(gcm_open(&[7; 32], b"aad", &sealed[..5]).is_none());
    }
}
