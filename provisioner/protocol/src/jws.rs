//! Signed documents: JWS in its general JSON serialisation (RFC 7515 section 7.2.1) with exactly one signature and
//! exactly one certificate.

use serde::{Deserialize, Serialize};

use crate::bytes::{b64, b64u, from_b64, from_b64u};
use crate::cert::Cert;
use crate::crypto::{Alg, SignError, Signer, verify};
use crate::json;

/// The `typ` of each signed document.
pub mod typ {
    /// Voucher and voucher request (RFC 8366 in JWS form).
    pub(crate) const VOUCHER: &str = "voucher-jws+json";
    /// The owner's set of anchors.
    pub const ANCHORS: &str = "nodeboot-anchors+jws";
    /// Sites and signers that HQ withdrew.
    pub const REVOKED: &str = "nodeboot-revoked+jws";
    /// The index of a bundle.
    pub const BUNDLE: &str = "nodeboot-bundle+jws";
    /// A report of a site.
    pub(crate) const REPORT: &str = "nodeboot-report+jws";
    /// HQ's yes to a code.
    pub(crate) const APPROVAL: &str = "nodeboot-approval+jws";
    /// What an owner adds to images that are the same for everybody.
    pub(crate) const OWNER: &str = "nodeboot-owner+jws";
}

/// Why a signed document was not read; the letters are those of R5.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwsError {
    /// (a) Not the JSON of a JWS.
    #[error("it is not the JSON of a signed document: {0}")]
    Shape(String),
    /// (b) A member stands twice.
    #[error("a member stands in it twice")]
    Duplicate,
    /// (c) Not exactly one signature.
    #[error("it has {0} signatures, not one")]
    Signatures(usize),
    /// (d) Not exactly one certificate.
    #[error("it carries {0} certificates, not one")]
    Certificates(usize),
    /// (e) Another algorithm than the certificate's key has.
    #[error("algorithm {0:?} is not the one of its certificate's key")]
    Algorithm(String),
    /// (f) Another type of document.
    #[error("it is a document of type {0:?}")]
    Type(String),
    /// (g) It demands extensions.
    #[error("it demands the extensions of a crit header")]
    Crit,
    /// An unprotected header, which the protocol does not have.
    #[error("it has an unprotected header")]
    Unprotected,
}

impl JwsError {
    /// The letter of the case in R5.
    pub fn case(&self) -> char {
        match self {
            Self::Shape(_) | Self::Unprotected => 'a',
            Self::Duplicate => 'b',
            Self::Signatures(_) => 'c',
            Self::Certificates(_) => 'd',
            Self::Algorithm(_) => 'e',
            Self::Type(_) => 'f',
            Self::Crit => 'g',
        }
    }
}

#[derive(Serialize, Deserialize)]
struct General {
    payload: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    protected: String,
    #[serde(rename = "signature")]
    value: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    header: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    typ: String,
    #[serde(default)]
    x5c: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crit: Option<serde_json::Value>,
}

/// A document read by the rules above, whose signature was **not** looked at yet.
#[derive(Debug)]
pub struct Unverified {
    /// The certificate it names as its signer's.
    pub signer: Cert,
    payload: Vec<u8>,
    input: Vec<u8>,
    signature: Vec<u8>,
}

fn shape(error: &json::JsonError) -> JwsError {
    if error.is_duplicate() { JwsError::Duplicate } else { JwsError::Shape(error.to_string()) }
}

fn decoded(text: &str) -> Result<Vec<u8>, JwsError> {
    from_b64u(text).map_err(|error| JwsError::Shape(error.to_string()))
}

/// A document of any algorithm, whose signature was not looked at yet.
pub(crate) struct Shaped {
    pub alg: String,
    pub signer: Cert,
    pub payload: Vec<u8>,
    /// What the signature is over.
    pub input: Vec<u8>,
    pub signature: Vec<u8>,
}

/// Reads a document of type `typ`.
pub(crate) fn read_any(text: &[u8], typ: &str) -> Result<Shaped, JwsError> {
    let General { payload, signatures } = json::parse(text).map_err(|error| shape(&error))?;
    let [signature] = signatures.as_slice() else { return Err(JwsError::Signatures(signatures.len())) };
    if signature.header.is_some() {
        return Err(JwsError::Unprotected);
    }
    let header: Header = json::parse(&decoded(&signature.protected)?).map_err(|error| shape(&error))?;
    if header.crit.is_some() {
        return Err(JwsError::Crit);
    }
    if header.typ != typ {
        return Err(JwsError::Type(header.typ));
    }
    let [certificate] = header.x5c.as_slice() else {
        return Err(JwsError::Certificates(header.x5c.len()));
    };
    let der = from_b64(certificate).map_err(|error| JwsError::Shape(error.to_string()))?;
    let signer = Cert::parse(&der).map_err(|error| JwsError::Shape(error.to_string()))?;
    let bytes = decoded(&payload)?;
    // A duplicate member inside the payload is as much a second meaning as one outside.
    json::parse::<serde::de::IgnoredAny>(&bytes).map_err(|error| shape(&error))?;
    let input = format!("{}.{payload}", signature.protected).into_bytes();
    Ok(Shaped { alg: header.alg, signer, payload: bytes, input, signature: decoded(&signature.value)? })
}

impl Unverified {
    /// Reads a document that must be of type `typ`.
    pub fn read(text: &[u8], typ: &str) -> Result<Self, JwsError> {
        let Shaped { alg: name, signer, payload, input, signature } = read_any(text, typ)?;
        let alg = Alg::from_name(&name);
        if alg.is_none() || alg != Alg::of_spki(&signer.spki).map(|(alg, _)| alg) {
            return Err(JwsError::Algorithm(name));
        }
        Ok(Self { signer, payload, input, signature })
    }

    /// The payload, once its signature is found to be the certificate's.
    pub fn verified(&self) -> Option<&[u8]> {
        verify(&self.signer.spki, &self.input, &self.signature).then_some(self.payload.as_slice())
    }
}

/// Signs `payload` as a document of type `typ` with the key of `certificate`.
pub fn sign(payload: &[u8], typ: &str, certificate: &[u8], key: &dyn Signer) -> Result<String, SignError> {
    sign_as(key.alg().name(), payload, typ, certificate, |input| key.sign(input))
}

/// The same with an algorithm of this name.
pub(crate) fn sign_as(
    alg: &str,
    payload: &[u8],
    typ: &str,
    certificate: &[u8],
    sign: impl Fn(&[u8]) -> Result<Vec<u8>, SignError>,
) -> Result<String, SignError> {
    let header = Header { alg: alg.to_owned(), typ: typ.to_owned(), x5c: vec![b64(certificate)], crit: None };
    let protected = b64u(&json::to_vec(&header));
    let payload = b64u(payload);
    let value = b64u(&sign(format!("{protected}.{payload}").as_bytes())?);
    let document = General { payload, signatures: vec![Signature { protected, value, header: None }] };
    Ok(String::from_utf8_lossy(&json::to_vec(&document)).into_owned())
}
