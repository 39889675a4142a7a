//! Everything HQ tells a site: a signed, numbered index of sections by digest, compressed, sealed to the site.

use std::collections::BTreeMap;
use std::io::Read;

use hpke::Kem as _;
use hpke::{Deserializable, OpModeR, Serializable, aead::AesGcm256, kdf::HkdfSha256, kem::DhP256HkdfSha256};
use serde::{Deserialize, Serialize};

use crate::anchors::Trust;
use crate::bytes::Digest;
use crate::clock::Time;
use crate::crypto::Alg;
use crate::json;
use crate::jws::{Unverified, typ};
use crate::refusal::{Refusal, Refused};

/// No file is larger, bytes.
pub const FILE_LIMIT: usize = 16 * 1024 * 1024;
/// No bundle is larger once expanded, bytes.
pub const EXPANDED_LIMIT: usize = 64 * 1024 * 1024;
/// What a file begins with.
pub const MAGIC: &[u8; 4] = b"NBB1";

const ENC_SIZE: usize = 65;
const HEAD: usize = 12;

/// A section by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// `records`, `vouchers`, `revocations`, `site`, `slots`, `templates`, `profiles`, `images`, `seed`, or one that
    /// this reader does not know and keeps.
    pub name: String,
    /// Digest of its bytes.
    pub sha256: Digest,
    /// Its size, bytes.
    pub size: u64,
}

/// The payload of a bundle's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Rises with each bundle of the site.
    pub seq: u64,
    /// The bundle this is a change of; none when it is complete in itself.
    pub base: Option<u64>,
    /// The site it is for.
    pub site: String,
    /// When HQ made it.
    #[serde(rename = "created-on")]
    pub created_on: Time,
    /// The highest report HQ has of each provisioner, by the hash of its issuing CA's key.
    #[serde(default)]
    pub reports: BTreeMap<Digest, u64>,
    /// What belongs to it.
    pub sections: Vec<Section>,
}

/// A bundle that was opened; its signature and number are not checked yet.
#[derive(Debug)]
pub struct Opened {
    /// The index: JWS text.
    pub index: String,
    /// The sections carried, by digest of their bytes.
    pub carried: BTreeMap<Digest, Vec<u8>>,
}

fn refused(case: char, detail: impl Into<String>) -> Refused {
    Refused::new(Refusal::BundleRefused, case, detail)
}

fn info(site: &str) -> Vec<u8> {
    [b"nodeboot-bundle-v1\0", site.as_bytes()].concat()
}

/// The plain form: `u32` length and index, then for each section its digest, `u64` length and bytes.
pub fn container(index: &str, carried: &[&[u8]]) -> Vec<u8> {
    let length = u32::try_from(index.len()).unwrap_or(u32::MAX);
    let mut out = [&length.to_be_bytes()[..], index.as_bytes()].concat();
    for bytes in carried {
        out.extend_from_slice(&Digest::of(bytes).0);
        out.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        out.extend_from_slice(bytes);
    }
    out
}

fn read_container(plain: &[u8]) -> Option<Opened> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let (index, mut rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let mut carried = BTreeMap::new();
    while !rest.is_empty() {
        let (digest, after) = rest.split_first_chunk::<32>()?;
        let (length, after) = after.split_first_chunk::<8>()?;
        let (bytes, after) = after.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?)?;
        carried.insert(Digest(*digest), bytes.to_vec());
        rest = after;
    }
    Some(Opened { index: String::from_utf8(index.to_vec()).ok()?, carried })
}

/// Opens a bundle file of `site` with the site's bundle key (private scalar, 32 bytes). R45 a and g.
pub fn open(file: &[u8], site: &str, key: &[u8]) -> Result<Opened, Refused> {
    if file.len() > FILE_LIMIT {
        return Err(refused('g', format!("{} bytes; at most {FILE_LIMIT}", file.len())));
    }
    let not_ours = |what: &str| refused('a', what);
    if file.len() < HEAD + ENC_SIZE || &file[..4] != MAGIC {
        return Err(not_ours("it is no bundle"));
    }
    let (head, rest) = file.split_at(HEAD);
    let (enc, sealed) = rest.split_at(ENC_SIZE);
    let wrong_key = |_| not_ours("it is sealed to another site, or was altered");
    let key = <DhP256HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(key).map_err(wrong_key)?;
    let enc = <DhP256HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(enc).map_err(wrong_key)?;
    let packed = hpke::single_shot_open::<AesGcm256, HkdfSha256, DhP256HkdfSha256>(
        &OpModeR::Base,
        &key,
        &enc,
        &info(site),
        sealed,
        head,
    )
    .map_err(wrong_key)?;
    read_container(&expand(&packed)?).ok_or_else(|| not_ours("its parts do not add up"))
}

fn expand(packed: &[u8]) -> Result<Vec<u8>, Refused> {
    let damaged = |error: String| refused('a', error);
    let stream =
        ruzstd::decoding::StreamingDecoder::new(packed).map_err(|error| damaged(error.to_string()))?;
    let mut plain = Vec::new();
    let limit = EXPANDED_LIMIT as u64 + 1;
    stream.take(limit).read_to_end(&mut plain).map_err(|error| damaged(error.to_string()))?;
    if plain.len() > EXPANDED_LIMIT {
        return Err(refused('g', format!("more than {EXPANDED_LIMIT} bytes once expanded")));
    }
    Ok(plain)
}

/// Who may give orders to this site: the setting in which a bundle's index is checked.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Anchors and withdrawals in force.
    pub trust: &'a Trust,
    /// This site.
    pub site: &'a str,
    /// Number of the bundle in force, 0 for none.
    pub seq: u64,
    /// The latest HQ-signed time seen.
    pub floor: Time,
    /// The real-time clock.
    pub rtc: Option<Time>,
}

/// An index that was signed by HQ for this site.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The index.
    pub index: Index,
    /// The floor it raises.
    pub floor: Time,
}

/// Checks an index alone, as a machine shows it: signer, signature, site. R45 b, c.
pub fn check_index(text: &str, setting: &Setting<'_>) -> Result<Checked, Refused> {
    let document =
        Unverified::read(text.as_bytes(), typ::BUNDLE).map_err(|error| refused('b', error.to_string()))?;
    setting
        .trust
        .check_signer(&document.signer, setting.floor, setting.rtc)
        .map_err(|e| refused('b', e.detail))?;
    let payload = document.verified().ok_or_else(|| refused('b', "the signature is wrong"))?;
    let index: Index = json::parse(payload).map_err(|error| refused('b', error.to_string()))?;
    if index.site != setting.site {
        return Err(refused('c', format!("it is for {}", index.site)));
    }
    Ok(Checked { floor: index.created_on.min(document.signer.not_after), index })
}

/// Checks an opened bundle: index, number, base, and every carried section. R45 b–f.
pub fn check(opened: &Opened, setting: &Setting<'_>) -> Result<Checked, Refused> {
    let checked = check_index(&opened.index, setting)?;
    let index = &checked.index;
    if index.seq <= setting.seq {
        return Err(refused('d', format!("number {} is not above {}", index.seq, setting.seq)));
    }
    if index.base.is_some_and(|base| base != setting.seq) {
        let base = index.base.unwrap_or_default();
        return Err(refused('e', format!("it changes bundle {base}, but {} is in force", setting.seq)));
    }
    for (digest, bytes) in &opened.carried {
        let named = index.sections.iter().find(|section| section.sha256 == *digest);
        let fits = named.is_some_and(|section| section.size == bytes.len() as u64);
        if !fits || Digest::of(bytes) != *digest {
            return Err(refused('f', format!("section {digest} is not what the index says")));
        }
    }
    Ok(checked)
}

/// Seals a container to the site's bundle key (DER `SubjectPublicKeyInfo`): the bytes of the `.nbb` file.
#[cfg(feature = "seal")]
pub fn seal(index: &str, carried: &[&[u8]], site: &str, key: &[u8]) -> Result<Vec<u8>, Refused> {
    let plain = container(index, carried);
    if plain.len() > EXPANDED_LIMIT {
        return Err(refused('g', format!("{} bytes; at most {EXPANDED_LIMIT}", plain.len())));
    }
    let packed = zstd::encode_all(plain.as_slice(), 19).map_err(|error| refused('g', error.to_string()))?;
    let head = [&MAGIC[..], &Digest::of(key).0[..8]].concat();
    let (enc, sealed) = hpke_seal(key, &info(site), &packed, &head)?;
    let file = [&head[..], &enc, &sealed].concat();
    if file.len() > FILE_LIMIT {
        return Err(refused('g', format!("{} bytes; at most {FILE_LIMIT}", file.len())));
    }
    Ok(file)
}

/// HPKE (RFC 9180) base mode, DHKEM(P-256), HKDF-SHA256, AES-256-GCM: encapsulated key and ciphertext.
#[cfg(feature = "seal")]
pub fn hpke_seal(spki: &[u8], info: &[u8], plain: &[u8], aad: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Refused> {
    let unfit = || refused('a', "the key to seal to is no P-256 key");
    let (Alg::Es256, point) = Alg::of_spki(spki).ok_or_else(unfit)? else { return Err(unfit()) };
    let key = <DhP256HkdfSha256 as hpke::Kem>::PublicKey::from_bytes(point).map_err(|_| unfit())?;
    let sealed = hpke::single_shot_seal::<AesGcm256, HkdfSha256, DhP256HkdfSha256>(
        &hpke::OpModeS::Base,
        &key,
        info,
        plain,
        aad,
    );
    sealed
        .map(|(enc, sealed)| (enc.to_bytes().to_vec(), sealed))
        .map_err(|error| refused('a', error.to_string()))
}

/// Opens what [`hpke_seal`] made with the private scalar; none when anything differs.
pub(crate) fn hpke_open(
    scalar: &[u8],
    enc: &[u8],
    info: &[u8],
    sealed: &[u8],
    aad: &[u8],
) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let key = <DhP256HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(scalar).ok()?;
    let enc = <DhP256HkdfSha256 as hpke::Kem>::EncappedKey::from_bytes(enc).ok()?;
    let mode = OpModeR::Base;
    hpke::single_shot_open::<AesGcm256, HkdfSha256, DhP256HkdfSha256>(&mode, &key, &enc, info, sealed, aad)
        .ok()
        .map(zeroize::Zeroizing::new)
}

/// The public half (DER `SubjectPublicKeyInfo`) of a private scalar on P-256.
pub fn public_of(scalar: &[u8]) -> Option<Vec<u8>> {
    let key = <DhP256HkdfSha256 as hpke::Kem>::PrivateKey::from_bytes(scalar).ok()?;
    Some(Alg::Es256.spki(&DhP256HkdfSha256::sk_to_pk(&key).to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anchors::tests::{Owner, T};
    use crate::clock::YEAR;
    use crate::jws::sign;

    #[test]
    fn no_bundle_says_that_it_is_later_than_its_signer_lives() {
        let owner = Owner::new();
        let (certificate, key) = &owner.signer;
        let floor = |created_on| {
            let (site, reports) = ("s".to_owned(), BTreeMap::new());
            let index = Index { seq: 1, base: None, site, created_on, reports, sections: vec![] };
            let text = sign(&json::to_vec(&index), typ::BUNDLE, &certificate.der, key).unwrap();
            let setting = Setting { trust: &owner.trust(), site: "s", seq: 0, floor: T, rtc: None };
            check_index(&text, &setting).unwrap().floor
        };
        assert_eq!(floor(T.plus(YEAR)), T.plus(YEAR));
        assert_eq!(floor(T.plus(500 * YEAR)), certificate.not_after);
    }
}
