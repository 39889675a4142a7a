//! Whom a firmware is to believe, as it takes it: lists of certificates, each with the signature of whoever may say so (UEFI
//! 2.10 sections 8.2.2 and 32.4.1).

use anyhow::{Context, Result};
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::firmware::{ATTRIBUTES, CERTIFICATES, Variable};
use uuid::Uuid;

use super::pkcs7::Key;

/// `EFI_CERT_TYPE_PKCS7_GUID`: the signature is PKCS#7.
const PKCS7: &str = "4aafd29d-68df-49ee-8aa9-347d375665a7";
/// `WIN_CERT_TYPE_EFI_GUID` of revision 2, as it stands behind the length of a `WIN_CERTIFICATE_UEFI_GUID`.
const KIND: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];
/// Bytes before the signature: length, revision, kind, GUID.
const HEADER: usize = 24;

/// A list of one certificate. Who put it there is named after the certificate itself.
pub(super) fn list(certificate: &[u8]) -> Result<Vec<u8>> {
    let mut owner = [0; 16];
    owner.copy_from_slice(&Digest::of(certificate).0[..16]);
    let entry = u32::try_from(owner.len() + certificate.len())?;
    let size = u32::try_from(28 + entry as usize)?;
    let mut list = guid(CERTIFICATES)?.to_vec();
    for number in [size, 0, entry] {
        list.extend(number.to_le_bytes());
    }
    list.extend(owner);
    list.extend(certificate);
    Ok(list)
}

/// What is written to a variable so that it holds `content`: the time, the signature of `by`, the content.
pub(super) fn update(variable: &Variable, content: &[u8], at: Time, by: &Key<'_>) -> Result<Vec<u8>> {
    let time = time(at)?;
    let name: Vec<u8> = variable.name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let message = [&name[..], &guid(variable.vendor)?, &ATTRIBUTES.to_le_bytes(), &time, content].concat();
    let signature = by.detached(&message)?;
    let size = u32::try_from(HEADER + signature.len())?;
    Ok([&time[..], &size.to_le_bytes(), &KIND, &guid(PKCS7)?, &signature, content].concat())
}

fn guid(text: &str) -> Result<[u8; 16]> {
    Ok(text.parse::<Uuid>().context("a GUID")?.to_bytes_le())
}

/// `EFI_TIME` to the second.
fn time(at: Time) -> Result<[u8; 16]> {
    // 2026-11-22T12:00:00Z
    let text = at.to_string();
    let part = |from: usize, to: usize| text.get(from..to).and_then(|digits| digits.parse::<u16>().ok());
    let mut out = [0; 16];
    out[..2].copy_from_slice(&part(0, 4).context("a year")?.to_le_bytes());
    for (place, from) in (2..).zip([5, 8, 11, 14, 17]) {
        out[place] = part(from, from + 2).and_then(|number| u8::try_from(number).ok()).context("a time")?;
    }
    Ok(out)
}
