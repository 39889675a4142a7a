//! Signatures as firmware reads them: PKCS#7 (RFC 2315) by one RSA key with SHA-256.

use anyhow::{Context, Result};
use protocol::bytes::Digest;
use protocol::est::element;
use protocol::firmware::FirmwareSigner;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Tags of DER; `[0]` and `[2]` are a structure's own members.
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OWN_0: u8 = 0xa0;
const OWN_2: u8 = 0xa2;
/// Object identifiers, DER.
const DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const SIGNED_DATA: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const CONTENT_TYPE: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: [u8; 11] = [0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// `SPC_INDIRECT_DATA` and `SPC_PE_IMAGE_DATA` (Authenticode): "this is about a program, by its hash".
const INDIRECT: [u8; 12] = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
const PROGRAM: [u8; 12] = [0x06, 0x0a, 0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
/// Algorithms with their parameters: SHA-256 and RSA.
const SHA256: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00];
const RSA: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
/// No flags, and a file of no name.
const NO_FILE: [u8; 9] = [0x03, 0x01, 0x00, OWN_0, 0x04, OWN_2, 0x02, 0x80, 0x00];
const VERSION: [u8; 3] = [INTEGER, 1, 1];

/// A key and its certificate.
pub(super) struct Key<'a> {
    pub certificate: &'a [u8],
    pub signer: &'a dyn FirmwareSigner,
}

impl Key<'_> {
    /// `SignedData` over bytes that stand elsewhere, without attributes.
    pub(super) fn detached(&self, data: &[u8]) -> Result<Vec<u8>> {
        self.signed(&element(SEQUENCE, &[&DATA]), &[], data)
    }

    /// A signature for a program of this hash, as it stands in the program's file.
    pub(super) fn program(&self, hash: Digest) -> Result<Vec<u8>> {
        let about = element(SEQUENCE, &[&PROGRAM, &element(SEQUENCE, &[&NO_FILE])]);
        let hash = element(SEQUENCE, &[&SHA256, &element(OCTETS, &[&hash.0])]);
        // Its digest leaves out tag and length.
        let inside = [about, hash].concat();
        let content = element(SEQUENCE, &[&INDIRECT, &element(OWN_0, &[&element(SEQUENCE, &[&inside])])]);
        let digest = element(OCTETS, &[&Digest::of(&inside).0]);
        let attributes = [
            element(SEQUENCE, &[&CONTENT_TYPE, &element(SET, &[&INDIRECT])]),
            element(SEQUENCE, &[&MESSAGE_DIGEST, &element(SET, &[&digest])]),
        ]
        .concat();
        let signed = self.signed(&content, &element(OWN_0, &[&attributes]), &element(SET, &[&attributes]))?;
        Ok(element(SEQUENCE, &[&SIGNED_DATA, &element(OWN_0, &[&signed])]))
    }

    fn signed(&self, content: &[u8], attributes: &[u8], message: &[u8]) -> Result<Vec<u8>> {
        let signature = element(OCTETS, &[&self.signer.sign(message)?]);
        let signer = element(SEQUENCE, &[&VERSION, &self.names()?, &SHA256, attributes, &RSA, &signature]);
        let certificates = element(OWN_0, &[self.certificate]);
        let digests = element(SET, &[&SHA256]);
        Ok(element(SEQUENCE, &[&VERSION, &digests, content, &certificates, &element(SET, &[&signer])]))
    }

    /// By which the certificate is found: its issuer and serial number.
    fn names(&self) -> Result<Vec<u8>> {
        let (_, read) = X509Certificate::from_der(self.certificate)
            .ok()
            .context("the certificate for the firmware cannot be read")?;
        let serial = element(INTEGER, &[read.raw_serial()]);
        Ok(element(SEQUENCE, &[read.tbs_certificate.issuer.as_raw(), &serial]))
    }
}
