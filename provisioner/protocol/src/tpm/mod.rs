//! The machine's TPM 2.0: its endorsement keys, the key it holds for us, and the proof that it holds it.

#[cfg(feature = "credential")]
mod certificate; // what a TPM's maker says of its endorsement keys
mod client; // what we ask of a TPM: keys, signatures, activated credentials
mod command; // commands and answers as bytes
#[cfg(feature = "credential")]
mod credential; // a secret that only one TPM can read, made in software
mod error; // what went wrong, and what a person can do about it
mod key; // keys that a TPM holds for us
mod link; // one conversation with a TPM: retries, handles, rest
mod public; // public areas and their templates
mod seal; // secrets that are given out only while the machine is as it was
mod transport; // the ways to a TPM
mod wire; // big-endian integers and sized buffers

#[cfg(feature = "credential")]
pub use certificate::{NoEk, certified};
pub use client::Tpm;
#[cfg(feature = "credential")]
pub use credential::{Credential, CredentialError, make_credential};
pub use error::Error;
pub use key::{Key, KeyBlob};
pub use public::{Ek, EkKind, NotInTpm, Public};
pub use seal::Sealed;
pub use transport::{BadSpec, Spec, Transport};
