//! Bodies of RFC 7030 (EST): certificates in a PKCS#7 that holds nothing else, in base64.

use crate::bytes::{Malformed, b64, from_b64};

/// Media type of a certificate answer (RFC 7030 section 4.1.3).
pub const CERTS_TYPE: &str = "application/pkcs7-mime; smime-type=certs-only";
/// Media type of a request (RFC 7030 section 4.2.1).
pub const REQUEST_TYPE: &str = "application/pkcs10";
/// Media type of the attributes answer (RFC 7030 section 4.5.2).
pub const ATTRIBUTES_TYPE: &str = "application/csrattrs";
/// The answer to `csrattrs`: an empty sequence, since the provisioner sets every attribute itself. Base64 of `30 00`.
pub const NO_ATTRIBUTES: &str = "MAA=";

const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

/// One DER value (ITU-T X.690): its tag, its length, and what is in it.
pub fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let len = body.len().to_be_bytes();
    let significant = &len[len.iter().position(|byte| *byte != 0).unwrap_or(len.len() - 1)..];
    let mut out = vec![tag];
    if body.len() < 0x80 {
        out.extend_from_slice(significant);
    } else {
        out.push(0x80 | u8::try_from(significant.len()).unwrap_or(8));
        out.extend_from_slice(significant);
    }
    out.extend(body);
    out
}

/// A certs-only CMS `SignedData` (RFC 5652 section 5) of DER certificates, in one line of base64.
pub fn certs_only(certificates: &[&[u8]]) -> String {
    let content = element(0x30, &[DATA]);
    let certificates = element(0xa0, certificates);
    let signed = element(0x30, &[&[2, 1, 1], &[0x31, 0], &content, &certificates, &[0x31, 0]]);
    b64(&element(0x30, &[SIGNED_DATA, &element(0xa0, &[&signed])]))
}

/// One DER element: its tag, its content, and what follows it.
fn split(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (body, after) = rest.split_at_checked(len)?;
    Some((*tag, body, after))
}

/// The DER certificates of a certs-only body. Line breaks are allowed, as other servers write them.
pub fn read_certs_only(body: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    const SHAPE: Malformed = Malformed("a PKCS#7 of certificates");
    let der = read_base64(body).map_err(|_| SHAPE)?;
    certificates(&der).ok_or(SHAPE)
}

fn certificates(der: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (0x30, outer, _) = split(der)? else { return None };
    let (0xa0, wrapped, _) = split(outer.strip_prefix(SIGNED_DATA)?)? else { return None };
    let (0x30, mut rest, _) = split(wrapped)? else { return None };
    loop {
        let (tag, mut body, after) = split(rest)?;
        if tag != 0xa0 {
            rest = after;
            continue;
        }
        let mut found = Vec::new();
        while !body.is_empty() {
            let (_, _, after) = split(body)?;
            found.push(body[..body.len() - after.len()].to_vec());
            body = after;
        }
        return Some(found);
    }
}

/// A base64 body as EST clients send it, with or without line breaks; a PEM frame is also accepted.
pub fn read_base64(body: &[u8]) -> Result<Vec<u8>, Malformed> {
    let text = std::str::from_utf8(body).map_err(|_| Malformed("base64 text"))?;
    let kept: String =
        text.lines().filter(|line| !line.starts_with("-----")).flat_map(str::split_whitespace).collect();
    from_b64(&kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_come_back_as_they_went_in() {
        let (small, large) = (element(0x30, &[&[5, 0]]), element(0x30, &[&vec![7; 70_000]]));
        let text = certs_only(&[&small, &large]);
        assert_eq!(read_certs_only(text.as_bytes()).unwrap(), [small, large]);
    }

    #[test]
    fn cut_or_hostile_bodies_are_refused_without_a_panic() {
        let text = certs_only(&[&element(0x30, &[&[5, 0]])]);
        let der = from_b64(&text).unwrap();
        for cut in 0..der.len() - 2 {
            let _ = certificates(&der[..cut]);
        }
        assert!(read_certs_only(b"AAAA").is_err());
        assert!(read_certs_only(&b64(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).into_bytes()).is_err());
        assert!(read_certs_only(b"\xff").is_err());
    }
}
