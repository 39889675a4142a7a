//! Certifying a provisioner: its request to HQ and HQ's reply, sealed so that only that provisioner can open it.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::bytes::{B64, B64u, Digest};
use crate::claim::{Code, code_of};
use crate::crypto::{gcm_open, gcm_seal, hkdf_sha256};
use crate::json;

const INFO: &[u8] = b"nodeboot-ca-v1";
const HPKE_INFO: &[u8] = b"nodeboot-ca-v1\0";

/// What a provisioner asks of HQ.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaRequest {
    /// PKCS#10 by the issuing CA's key, DER.
    pub csr: B64u,
    /// `TPMT_PUBLIC` of the endorsement key; none without a TPM.
    pub ek: Option<B64u>,
    /// `TPMT_PUBLIC` of the issuing CA's key; none without a TPM.
    pub key: Option<B64u>,
    /// Body of `TPM2B_PRIVATE` of that key, which only that TPM can read: with it, nothing has to last on the machine until
    /// the reply comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private: Option<B64u>,
    /// Without a TPM: the key to seal the reply to, DER `SubjectPublicKeyInfo` on P-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<B64u>,
}

impl CaRequest {
    /// What ties the reply to this request.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.csr.0)
    }

    /// The code that a person reads to HQ where there is no TPM.
    pub fn code(&self) -> Code {
        code_of(&self.csr.0)
    }
}

/// HQ's reply.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CaReply {
    /// For a TPM: a credential, and what its secret opens.
    Tpm {
        /// Body of `TPM2B_ID_OBJECT`.
        blob: B64u,
        /// Body of `TPM2B_ENCRYPTED_SECRET`.
        secret: B64u,
        /// The grant, AES-256-GCM.
        ct: B64u,
    },
    /// Without a TPM: HPKE.
    Sealed {
        /// Encapsulated key.
        enc: B64u,
        /// The grant.
        ct: B64u,
    },
}

/// A provisioner that was certified in advance, as a site's stick carries it: request and reply. Nothing in it is of use
/// without the TPM that the request names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certified {
    /// What the provisioner asked.
    pub request: CaRequest,
    /// HQ's reply.
    pub reply: CaReply,
}

/// What the provisioner becomes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Grant {
    /// Issuing CA, then site CA, DER.
    pub chain: Vec<B64>,
    /// Private scalar that opens bundles.
    pub bundle_key: B64u,
    /// Private scalar for answers by voice.
    pub approve_key: B64u,
    /// HQ's public half for answers by voice, DER `SubjectPublicKeyInfo`.
    pub hq_approve: B64u,
    /// Anchors document: JWS text.
    pub anchors: String,
    /// Revoked document: JWS text.
    pub revoked: String,
}

/// Seals a grant under the secret `k` of a TPM credential.
pub fn seal_with_secret(grant: &Grant, k: &[u8; 32], request: &CaRequest) -> Option<B64u> {
    let key = hkdf_sha256::<32>(k, &[], INFO);
    let plain = Zeroizing::new(json::to_vec(grant));
    gcm_seal(&key, &request.digest().0, &plain).map(B64u)
}

/// Opens what [`seal_with_secret`] made; none when anything differs.
pub fn open_with_secret(ct: &[u8], k: &[u8; 32], request: &CaRequest) -> Option<Grant> {
    let key = hkdf_sha256::<32>(k, &[], INFO);
    json::parse(&gcm_open(&key, &request.digest().0, ct)?).ok()
}

/// Seals a grant to the key that a request without TPM names.
#[cfg(feature = "seal")]
pub fn seal_to_key(grant: &Grant, request: &CaRequest) -> Option<CaReply> {
    let plain = Zeroizing::new(json::to_vec(grant));
    let key = request.seal.as_ref()?;
    let (enc, ct) = crate::bundle::hpke_seal(&key.0, HPKE_INFO, &plain, &request.digest().0).ok()?;
    Some(CaReply::Sealed { enc: B64u(enc), ct: B64u(ct) })
}

/// Opens what [`seal_to_key`] made with the private scalar; none when anything differs.
#[cfg(feature = "bundle")]
pub fn open_with_key(enc: &[u8], ct: &[u8], scalar: &[u8], request: &CaRequest) -> Option<Grant> {
    let plain = crate::bundle::hpke_open(scalar, enc, HPKE_INFO, ct, &request.digest().0)?;
    json::parse(&plain).ok()
}
