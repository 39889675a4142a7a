//! The owner's section: what an owner adds to images that are the same for everybody, signed with the key by which the
//! firmware knows that owner.

use serde::{Deserialize, Serialize};

use crate::bytes::B64;
use crate::cert::Cert;
use crate::crypto::SignError;
use crate::firmware::{self, FirmwareSigner};
use crate::jws::{self, JwsError, typ};

/// What makes a stick a depot's: machines that start from it are made ready, and switch themselves off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Depot {
    /// The site whose machines they are.
    pub site: String,
    /// Whether the stick's bits are written on the machine's disk as well.
    #[serde(default)]
    pub flash: bool,
    /// Keys for the firmware.
    pub keys: FirmwareKeys,
}

/// The owner's keys as the firmware takes them: contents of authenticated variables (UEFI 2.10 section 8.2.2), each with
/// its signature in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirmwareKeys {
    /// The platform key: whose machine it is.
    pub pk: B64,
    /// The key exchange key: who may change what is believed.
    pub kek: B64,
    /// Whose programs are started.
    pub db: B64,
}

/// A section whose signature is its certificate's. Whether that certificate is believed is for the reader.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate that it names.
    pub signer: Cert,
    /// What was signed: JSON.
    pub payload: Vec<u8>,
}

/// Why a section is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SectionError {
    /// It is damaged, or something else.
    #[error("it is cut off, or no owner's section at all: {0}")]
    Document(#[from] JwsError),
    /// It is not what was signed.
    #[error("it was changed after headquarters had signed it")]
    Altered,
}

/// Reads a section and looks at its signature.
pub fn read(text: &[u8]) -> Result<Signed, SectionError> {
    let document = jws::read_any(text, typ::OWNER)?;
    if document.alg != firmware::ALG {
        return Err(JwsError::Algorithm(document.alg).into());
    }
    if !firmware::verify(&document.signer.spki, &document.input, &document.signature) {
        return Err(SectionError::Altered);
    }
    Ok(Signed { signer: document.signer, payload: document.payload })
}

/// Signs a section with the key of `certificate`: JWS text.
pub fn sign(payload: &[u8], certificate: &[u8], key: &dyn FirmwareSigner) -> Result<String, SignError> {
    jws::sign_as(firmware::ALG, payload, typ::OWNER, certificate, |input| key.sign(input))
}
