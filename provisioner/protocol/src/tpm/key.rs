//! Keys that a TPM holds for us: kept as a blob that only that TPM can load, used as any other signer.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::client::Tpm;
use super::error::Error;
use super::public::Public;
use crate::bytes::{B64u, Digest};
use crate::crypto::{Alg, SignError, Signer};

/// A key as kept on the disk: its private half is encrypted by the TPM that made it. The JSON form is
/// `{"private","public"}`, the bodies of `TPM2B_PRIVATE` and `TPM2B_PUBLIC` in base64url.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBlob {
    /// Body of `TPM2B_PRIVATE`.
    pub private: B64u,
    /// Its public half.
    pub public: Public,
}

/// A key in a TPM that signs by ES256. Several may share one TPM; each signature is one command.
pub struct Key {
    tpm: Arc<Mutex<Tpm>>,
    blob: KeyBlob,
    spki: Vec<u8>,
}

impl Key {
    /// Loads the key once, so that a key of another TPM is noticed now ([`Error::foreign`]) and not at the first
    /// signature.
    pub fn load(tpm: Arc<Mutex<Tpm>>, blob: KeyBlob) -> Result<Self, Error> {
        tpm.lock().unwrap_or_else(PoisonError::into_inner).load(&blob)?;
        let spki = blob.public.spki();
        Ok(Self { tpm, blob, spki })
    }

    /// What is kept of it on the disk.
    pub fn blob(&self) -> &KeyBlob {
        &self.blob
    }
}

impl Signer for Key {
    fn alg(&self) -> Alg {
        Alg::Es256
    }

    fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut tpm = self.tpm.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = tpm.sign(&self.blob, &Digest::of(message));
        signed
            .map(Vec::from)
            .map_err(|error| SignError { key: "a key in the TPM".into(), why: error.to_string() })
    }
}
