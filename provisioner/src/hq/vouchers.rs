//! Vouchers of anybody, shown and verified: lenient where a machine is strict, since published ones are older.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use protocol::bytes::{from_b64, from_b64u};
use protocol::cert::{Cert, certifies};
use protocol::crypto::{Alg, verify};
use serde_json::Value;

/// One signature of a document.
pub struct Signed {
    /// The certificates that it carries, the signer's first.
    pub chain: Vec<Cert>,
    /// What is wrong with it, in words; nothing where it is good.
    pub wrong: Option<String>,
}

impl Signed {
    /// Whether it is good: made by the key of its first certificate, and each certificate issued by the next.
    pub fn good(&self) -> bool {
        self.wrong.is_none()
    }
}

/// A JWS in general or flattened JSON, or in compact form, with any number of signatures: payload and signatures.
pub fn read(document: &[u8]) -> Result<(Value, Vec<Signed>)> {
    let text =
        std::str::from_utf8(document).ok().context("this is no text; only vouchers in JWS form are read")?;
    let text = text.trim();
    let document: Value = if text.starts_with('{') {
        protocol::json::parse(text.as_bytes()).context("this is no JWS")?
    } else {
        compact(text)?
    };
    let payload = document["payload"].as_str().context("no payload: this is no JWS")?;
    let content = protocol::json::parse(&from_b64u(payload)?).context("the payload is no JSON")?;
    let single = vec![document.clone()];
    let signatures = document["signatures"].as_array().unwrap_or(&single);
    ensure!(!signatures.is_empty(), "it has no signature");
    let signed = signatures.iter().map(|signature| check(signature, payload)).collect::<Result<_>>()?;
    Ok((content, signed))
}

fn compact(text: &str) -> Result<Value> {
    let parts: Vec<_> = text.split('.').collect();
    let [protected, payload, signature] = parts.as_slice() else { anyhow::bail!("this is no JWS") };
    Ok(serde_json::json!({ "protected": protected, "payload": payload, "signature": signature }))
}

fn check(signature: &Value, payload: &str) -> Result<Signed> {
    let protected = signature["protected"].as_str().context("a signature without protected header")?;
    let header: Value = protocol::json::parse(&from_b64u(protected)?).context("a header is no JSON")?;
    // Older tools put the certificates beside what is signed.
    let x5c = header.get("x5c").or_else(|| signature["header"].get("x5c"));
    let certificates = x5c.and_then(Value::as_array).into_iter().flatten();
    let chain = certificates.map(certificate).collect::<Result<Vec<_>>>()?;
    let value = from_b64u(signature["signature"].as_str().context("a signature without its value")?)?;
    let wrong = fault(&header, &chain, format!("{protected}.{payload}").as_bytes(), &value);
    Ok(Signed { chain, wrong })
}

fn certificate(coded: &Value) -> Result<Cert> {
    let der = from_b64(coded.as_str().context("a certificate that is no text")?)?;
    Cert::parse(&der).context("a certificate in the document cannot be read")
}

fn fault(header: &Value, chain: &[Cert], input: &[u8], value: &[u8]) -> Option<String> {
    let Some(signer) = chain.first() else { return Some("it names no certificate (x5c)".to_owned()) };
    let name = header["alg"].as_str().unwrap_or_default();
    let Some(alg) = Alg::from_name(name) else {
        return Some(format!("its algorithm {name:?} is neither ES256 nor ES384"));
    };
    if Alg::of_spki(&signer.spki).map(|(alg, _)| alg) != Some(alg) {
        return Some(format!("its algorithm {name} is not the one of its certificate's key"));
    }
    // An extension that must be understood changes what is signed, and none is understood here.
    if header.get("crit").is_some() {
        return Some("it demands extensions (crit)".to_owned());
    }
    if !verify(&signer.spki, input, value) {
        return Some("the document was altered, or another key has signed it".to_owned());
    }
    let stranger = chain.windows(2).position(|pair| !certifies(&pair[1], &pair[0]))?;
    Some(format!("certificate {} was not issued by the next one", stranger + 1))
}

/// What a voucher says, line by line, and who signed it with which certificates.
pub fn show(content: &Value, signed: &[Signed]) -> String {
    let mut text = String::new();
    for (kind, body) in content.as_object().into_iter().flatten() {
        let _ = writeln!(text, "{}", plain(kind));
        for (name, value) in body.as_object().into_iter().flatten() {
            let _ = writeln!(text, "  {}: {}", plain(name), shown(name, value));
        }
    }
    for signature in signed {
        let by = signature.chain.first();
        let by =
            by.map_or("nobody named".to_owned(), |cert| format!("{} (key {})", named(cert), cert.key_hash));
        let word = signature.wrong.as_ref().map_or("good".to_owned(), |why| format!("NOT GOOD ({why})"));
        let _ = writeln!(text, "signature {word}, by {by}");
        for (number, cert) in (1..).zip(&signature.chain) {
            let issuer = if cert.issuer.is_empty() { "an issuer without name" } else { &cert.issuer };
            let _ = writeln!(text, "  certificate {number}: {}, issued by {}", lifetime(cert), plain(issuer));
        }
    }
    text
}

fn shown(name: &str, value: &Value) -> String {
    let Some(coded) = value.as_str() else {
        let several = value.as_array().filter(|_| name.ends_with("-cert"));
        return several.map_or_else(
            || plain(&value.to_string()),
            |all| all.iter().map(|one| shown(name, one)).collect::<Vec<_>>().join("; "),
        );
    };
    match name {
        name if name.ends_with("-cert") => {
            let cert = from_b64(coded).ok().and_then(|der| Cert::parse(&der).ok());
            cert.map_or("a certificate that cannot be read".to_owned(), |cert| lifetime(&cert))
        }
        "manufacturer-proprietary" => plain(&String::from_utf8_lossy(&from_b64u(coded).unwrap_or_default())),
        // A request inside the request: the machine's own, which the registrar passes on; older ones in the clear.
        "prior-signed-voucher-request" => match read(&from_b64(coded).unwrap_or_else(|_| coded.into())) {
            Ok((content, signed)) => {
                format!("\n    {}", show(&content, &signed).trim_end().replace('\n', "\n    "))
            }
            Err(error) => format!("a request that cannot be read: {error}"),
        },
        _ => plain(coded),
    }
}

fn lifetime(cert: &Cert) -> String {
    format!("{} until {}", named(cert), cert.not_after)
}

fn named(cert: &Cert) -> String {
    if cert.common_name.is_empty() { "no common name".to_owned() } else { plain(&cert.common_name) }
}

/// A stranger's text on our terminal: without what moves the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|symbol| if symbol.is_control() { '\u{fffd}' } else { symbol }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(name: &str) -> String {
        let all: Value = serde_json::from_str(include_str!("../../protocol/tests/vectors/v1.json")).unwrap();
        all[name].to_string()
    }

    #[test]
    fn a_good_voucher_is_shown_with_its_signer_and_a_changed_one_is_not_good() {
        let (content, signed) = read(vector("voucher").as_bytes()).unwrap();
        assert!(signed.len() == 1 && signed[0].good());
        assert!(show(&content, &signed).contains("serial-number: ek:"));
        let other: Value = serde_json::from_str(&vector("voucher-dev-key")).unwrap();
        let mut changed: Value = serde_json::from_str(&vector("voucher")).unwrap();
        changed["payload"] = other["payload"].clone();
        assert!(!read(changed.to_string().as_bytes()).unwrap().1[0].good());
    }

    #[test]
    fn hostile_documents_are_refused_in_words() {
        for text in ["", "{}", "a.b", r#"{"payload":"e30","signatures":[{}]}"#, "x.e30.y"] {
            assert!(read(text.as_bytes()).is_err(), "{text}");
        }
        let nobody = read(b"e30.e30.").unwrap();
        assert!(
            show(&nobody.0, &nobody.1).contains("NOT GOOD (it names no certificate (x5c)), by nobody named")
        );
    }

    #[test]
    fn a_strangers_text_cannot_move_the_cursor() {
        let content = serde_json::json!({ "a\u{1b}[2J": { "b\n": "c\u{9b}1A", "d": ["\u{9b}"] } });
        assert!(show(&content, &[]).chars().all(|symbol| symbol == '\n' || !symbol.is_control()));
        assert_eq!(show(&content, &[]).lines().count(), 3);
    }
}
