//! Proof of a key on this very connection: by the TPM, by an IDevID certificate, by a device key.

use serde::{Deserialize, Serialize};

use crate::bytes::{B64u, Digest, Secret};
use crate::crypto::{hmac_sha256, same, verify};
use crate::id::Id;

/// What binds a proof to a connection: the exporter value `X` (RFC 9266) and the hash `S` of the machine's TLS key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// TLS exporter, label `EXPORTER-Channel-Binding`, no context.
    pub x: [u8; 32],
    /// Hash of the machine's node key.
    pub s: Digest,
}

/// M4, first request: one of the three methods.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum Request {
    /// The endorsement key proves that it holds the node key in the same TPM.
    TpmEk {
        /// `TPMT_PUBLIC` of the endorsement key.
        ek: B64u,
        /// `TPMT_PUBLIC` of the node key.
        key: B64u,
        /// The disk that the machine cannot open, 16 bytes. Then the proof is for that alone: the key of this connection
        /// does not become the machine's, and its former one stays.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disk: Option<B64u>,
    },
    /// An IEEE 802.1AR certificate signs the connection.
    Idevid {
        /// The certificate, DER.
        cert: B64u,
        /// ES256 (`r || s`) or RS256 over [`Binding::idevid_message`].
        sig: B64u,
    },
    /// A device key signs the connection.
    DevKey {
        /// Its public half, DER.
        spki: B64u,
        /// ES256 over [`Binding::dev_key_message`].
        sig: B64u,
    },
}

/// M4, answer to a TPM's first request: a secret that only the genuine TPM can read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Challenge {
    /// Name of the challenge, 16 bytes.
    pub id: B64u,
    /// Body of `TPM2B_ID_OBJECT`.
    pub blob: B64u,
    /// Body of `TPM2B_ENCRYPTED_SECRET`.
    pub secret: B64u,
    /// Seconds it is good for.
    pub ttl: u32,
}

/// M4, a TPM's second request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proof {
    /// [`Binding::tpm_proof`].
    pub proof: B64u,
}

/// M4, the last answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Proven {
    /// The ids proven on this connection.
    pub ids: Vec<Id>,
    /// The record they belong to, if any.
    pub machine: Option<String>,
    /// Where the request named a disk: what the site has to say of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
}

/// What a site has to say of the disk of a machine that cannot open it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The key that this machine gave the site for it (M14), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
    /// Whether a person has ordered it to be erased.
    #[serde(default)]
    pub wipe: bool,
}

impl Binding {
    /// HMAC over the challenge's name and this connection, keyed by the secret that the TPM gave out.
    pub fn tpm_proof(&self, secret: &[u8; 32], challenge: &[u8; 16]) -> [u8; 32] {
        hmac_sha256(secret, &[b"nodeboot-attest-v1\0", challenge, &self.x, &self.s.0])
    }

    /// Whether `proof` is right, in time that does not depend on where it is wrong. R29a.
    pub fn check_tpm_proof(&self, secret: &[u8; 32], challenge: &[u8; 16], proof: &[u8]) -> bool {
        same(&self.tpm_proof(secret, challenge), proof)
    }

    /// What a device key signs.
    pub fn dev_key_message(&self) -> Vec<u8> {
        [b"nodeboot-devkey-v1\0", &self.x[..], &self.s.0].concat()
    }

    /// What an IDevID key signs.
    pub(crate) fn idevid_message(&self) -> Vec<u8> {
        [b"nodeboot-idevid-v1\0", &self.x[..], &self.s.0].concat()
    }

    /// The id that a device key's signature proves; none when it is wrong.
    pub fn check_dev_key(&self, spki: &[u8], signature: &[u8]) -> Option<Id> {
        verify(spki, &self.dev_key_message(), signature).then(|| Id::Key(Digest::of(spki)))
    }

    /// The id that an IDevID's signature proves; none when it is wrong. ES256, ES384 or RS256 by the kind of key.
    pub fn check_idevid(&self, certificate: &[u8], signature: &[u8]) -> Option<Id> {
        let cert = crate::cert::Cert::parse(certificate).ok()?;
        let message = self.idevid_message();
        let good = verify(&cert.spki, &message, signature) || verify_rs256(&cert.spki, &message, signature);
        good.then(|| Id::Idevid(Digest::of(certificate)))
    }
}

fn verify_rs256(spki: &[u8], message: &[u8], signature: &[u8]) -> bool {
    use x509_parser::prelude::FromDer;
    use x509_parser::x509::SubjectPublicKeyInfo;
    let Ok((_, info)) = SubjectPublicKeyInfo::from_der(spki) else { return false };
    let key = ring::signature::UnparsedPublicKey::new(
        &ring::signature::RSA_PKCS1_2048_8192_SHA256,
        &info.subject_public_key.data,
    );
    key.verify(message, signature).is_ok()
}
