//! Towards the provisioner: find it, prove who we are, check who it is, receive what we are to be.

pub mod claim; // the human code
pub mod configure; // M7: what we are to be
pub mod discover;
pub mod disk; // M14, and M4 for a disk that does not open
pub mod dns; // where is the registrar?
pub mod enroll; // vouchers, proof, certificate
pub mod http; // requests over one connection
pub mod identify; // our keys and names
pub mod own; // the provisioner on this very machine
pub mod race; // several candidates at once
pub mod sign; // where this machine stands, for who walks past
pub mod timed; // a deadline over a whole connection
pub mod tls; // whom we believe on the wire
pub mod voice; // an approval by telephone
