//! The voucher request of a pledge (RFC 8995 section 5.2, in JWS form): what it says of itself, signed by its node
//! key and bound to the provisioner it speaks to.

use serde::{Deserialize, Serialize};

use crate::bytes::{B64, B64u, Digest};
use crate::clock::Time;
use crate::crypto::{SignError, Signer};
use crate::id::Id;
use crate::inventory::Facts;
use crate::json;
use crate::jws::{self, Unverified, typ};
use crate::refusal::{Refusal, Refused};

/// What the pledge says of itself (`manufacturer-proprietary`). None of it is proven.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    /// Every id it has, labels included.
    pub ids: Vec<Id>,
    /// Its hardware.
    #[serde(default)]
    pub hw: Facts,
    /// Epoch of the voucher it holds, 0 for none.
    #[serde(default)]
    pub epoch: u32,
    /// Number of the highest bundle index it holds, 0 for none.
    #[serde(default)]
    pub bundle: u64,
    /// The latest HQ-signed time it has seen.
    pub floor: Time,
    /// What it can do: `tpm-ek`, `dev-key`, `idevid`, `screen`.
    #[serde(default)]
    pub caps: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(rename = "created-on")]
    created_on: Time,
    nonce: B64,
    assertion: String,
    #[serde(rename = "serial-number")]
    serial_number: Id,
    #[serde(rename = "proximity-registrar-cert")]
    leaf: B64,
    #[serde(rename = "manufacturer-proprietary")]
    claims: B64u,
}

#[derive(Serialize, Deserialize)]
struct Wrapper {
    #[serde(rename = "ietf-voucher-request:voucher")]
    request: Body,
}

/// A voucher request that is what it says it is: of the machine with the key `S`, for this provisioner.
#[derive(Clone, Debug)]
pub struct Pvr {
    /// The id the machine goes by.
    pub id: Id,
    /// The rest of what it says.
    pub claims: Claims,
}

/// A voucher request: JWS text. `certificate` is the pledge's self-signed one, `leaf` the provisioner's of this
/// session, both DER; `claims.ids` begins with the most canonical id.
pub fn make(
    claims: &Claims,
    leaf: &[u8],
    nonce: [u8; 16],
    now: Time,
    certificate: &[u8],
    key: &dyn Signer,
) -> Result<String, SignError> {
    let missing = || SignError { key: "the node key".into(), why: "the machine has no id to go by".into() };
    let request = Body {
        created_on: now,
        nonce: B64(nonce.to_vec()),
        assertion: "proximity".to_owned(),
        serial_number: claims.ids.first().cloned().ok_or_else(missing)?,
        leaf: B64(leaf.to_vec()),
        claims: B64u(json::to_vec(claims)),
    };
    jws::sign(&json::to_vec(&Wrapper { request }), typ::VOUCHER, certificate, key)
}

/// Checks a voucher request from the machine whose TLS key is `s`, for the provisioner whose leaf is `leaf` (DER).
/// R19, R20.
pub fn check(text: &[u8], s: &Digest, leaf: &[u8]) -> Result<Pvr, Refused> {
    let malformed = |detail: String| Refused::new(Refusal::PvrMalformed, 'b', detail);
    let document = Unverified::read(text, typ::VOUCHER).map_err(|error| malformed(error.to_string()))?;
    let signature = |detail: &str| Refused::new(Refusal::PvrSignature, 'c', detail);
    let payload = document.verified().ok_or_else(|| signature("the signature is wrong"))?;
    if document.signer.key_hash != *s {
        return Err(signature("it is signed by another key than the one of this connection"));
    }
    let Wrapper { request } = json::parse(payload).map_err(|error| malformed(error.to_string()))?;
    if request.leaf.0 != leaf {
        return Err(Refusal::OtherProvisioner.into());
    }
    if !(16..=32).contains(&request.nonce.0.len()) {
        return Err(malformed(format!("a nonce of {} bytes", request.nonce.0.len())));
    }
    let claims: Claims = json::parse(&request.claims.0).map_err(|error| malformed(error.to_string()))?;
    if claims.ids.len() > 32 {
        return Err(malformed(format!("{} ids", claims.ids.len())));
    }
    Ok(Pvr { id: request.serial_number, claims })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{Alg, SoftKey};

    #[test]
    fn r19b_a_nonce_has_16_to_32_bytes_and_a_machine_at_most_32_names() {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let pledge = crate::issue::pledge(&key).unwrap();
        let s = Digest::of(key.spki());
        let verdict = |nonce: usize, names: usize| {
            let id = Id::Key(s);
            let (hw, floor, caps) = (Facts::default(), Time(0), vec![]);
            let claims = Claims { ids: vec![id.clone(); names], hw, epoch: 0, bundle: 0, floor, caps };
            let request = Body {
                created_on: Time(0),
                nonce: B64(vec![7; nonce]),
                assertion: "proximity".to_owned(),
                serial_number: id,
                leaf: B64(b"leaf".to_vec()),
                claims: B64u(json::to_vec(&claims)),
            };
            let text = jws::sign(&json::to_vec(&Wrapper { request }), typ::VOUCHER, &pledge, &key).unwrap();
            check(text.as_bytes(), &s, b"leaf").map(drop).map_err(|refused| refused.id())
        };
        assert_eq!([verdict(16, 1), verdict(32, 32)], [Ok(()), Ok(())]);
        for (nonce, names) in [(15, 1), (33, 1), (0, 1), (16, 33)] {
            assert_eq!(verdict(nonce, names), Err("R19b".to_owned()), "{nonce} {names}");
        }
    }
}
