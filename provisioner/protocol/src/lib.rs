//! What crosses the wire between a machine and its site, and what headquarters signs.
//!
//! Nothing in here reads a clock, a socket or a disk, but [`clock::system`] and the link to a TPM: times, random bytes
//! and documents are arguments. The wire form is version 1; a reader ignores JSON members it does not know and
//! refuses duplicate ones.

pub mod anchors; // whom a machine trusts: the owner's two pairs of anchors, and what they took back
pub mod approval; // a person's yes: the code on the screen, HQ's signed answer, the answer by voice
pub mod attest; // proof of a key: TPM, IDevID, device key
#[cfg(feature = "bundle")]
pub mod bundle; // everything HQ tells a site, signed, numbered, sealed
pub mod bytes; // base64 in its two spellings, PEM, and SHA-256 digests
pub mod cert; // certificates as read, and the chains they form
#[cfg(feature = "bundle")]
pub mod certify; // how a provisioner becomes one: its request, HQ's sealed reply
pub mod claim; // the human code: commit, reveal, compare
pub mod clock; // times, and what time it is at least
pub mod crypto; // keys that sign, and the primitives under the protocol
pub mod csr; // certificate requests as received
pub mod dns; // DNS as bytes: where a service is, who a host is
pub mod est; // RFC 7030 bodies
pub mod firmware; // keys that a machine's firmware believes
pub mod heartbeat; // 37 bytes that say "I live"
pub mod id; // the names a machine can prove, and the one it is only labelled with
pub mod image; // images of a machine's own system, as HQ names them
pub mod inventory; // what a machine says of its hardware
pub mod issue; // certificates and requests as made
pub mod json; // JSON without duplicate members
pub mod jws; // signed documents
pub mod mdns; // multicast DNS as bytes
pub mod messages; // each request: path, size, who may send it, its JSON
pub mod pvr; // the voucher request of a pledge
pub mod record; // what HQ says of one machine
pub mod refusal; // every refusal and every wait, with the sentence a person reads
pub mod report; // what a site tells HQ
pub mod responder; // a service instance on a cable: what it says to whom, and when
pub mod section; // what an owner adds to images that are the same for everybody
#[cfg(feature = "tls")]
pub mod tls; // keys that sign a handshake, and the signatures believed
pub mod tpm; // TPM 2.0 structures and commands
pub mod voucher; // "this machine belongs to the site with this CA"
