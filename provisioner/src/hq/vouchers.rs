//! Vouchers of anybody, shown and verified: lenient where a machine is strict, since published ones are older.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use protocol::bytes::{from_b64, from_b64u};
use protocol::cert::Cert;
use protocol::crypto::{Alg, verify};
use serde_json::Value;

/// One signature of a document.
pub struct Signed {
    /// Whose it is, by the certificate that it carries.
    pub by: String,
    /// Whether it is good.
    pub good: bool,
}

/// A JWS in general or flattened JSON, or in compact form, with any number of signatures: payload and signatures.
pub fn read(text: &str) -> Result<(Value, Vec<Signed>)> {
    let text = text.trim();
    let document: Value = if text.starts_with('{') { serde_json::from_str(text)? } else { compact(text)? };
    let payload = document["payload"].as_str().context("no payload: this is no JWS")?;
    let content: Value = serde_json::from_slice(&from_b64u(payload)?).context("the payload is no JSON")?;
    let single = vec![document.clone()];
    let signatures = document["signatures"].as_array().unwrap_or(&single);
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
    let header: Value = serde_json::from_slice(&from_b64u(protected)?)?;
    let from_either = |name: &str| {
        let own = header.get(name).cloned();
        own.or_else(|| signature["header"].get(name).cloned()).unwrap_or_default()
    };
    let x5c = from_either("x5c");
    let Some(certificate) = x5c.as_array().and_then(|chain| chain.first()).and_then(Value::as_str) else {
        return Ok(Signed { by: "nobody named (no x5c)".to_owned(), good: false });
    };
    let cert = Cert::parse(&from_b64(certificate)?)?;
    let alg = header["alg"].as_str().and_then(Alg::from_name);
    let fits = alg.is_some() && alg == Alg::of_spki(&cert.spki).map(|(alg, _)| alg);
    let value = from_b64u(signature["signature"].as_str().unwrap_or_default())?;
    let good = fits && verify(&cert.spki, format!("{protected}.{payload}").as_bytes(), &value);
    Ok(Signed { by: format!("{} (key {})", cert.common_name, cert.key_hash), good })
}

/// What a voucher says, line by line.
pub fn show(content: &Value, signed: &[Signed]) -> String {
    let mut text = String::new();
    for (kind, body) in content.as_object().into_iter().flatten() {
        let _ = writeln!(text, "{kind}");
        for (name, value) in body.as_object().into_iter().flatten() {
            let shown = match (name.as_str(), value.as_str()) {
                (name, Some(der)) if name.ends_with("-cert") => {
                    from_b64(der).ok().and_then(|der| Cert::parse(&der).ok()).map_or_else(
                        || "a certificate".to_owned(),
                        |cert| format!("{} until {}", cert.common_name, cert.not_after),
                    )
                }
                ("manufacturer-proprietary", Some(coded)) => {
                    let plain = from_b64u(coded).unwrap_or_default();
                    String::from_utf8_lossy(&plain).into_owned()
                }
                (_, Some(plain)) => plain.to_owned(),
                (_, None) => value.to_string(),
            };
            let _ = writeln!(text, "  {name}: {shown}");
        }
    }
    for signature in signed {
        let word = if signature.good { "good" } else { "NOT GOOD" };
        let _ = writeln!(text, "signature {word}, by {}", signature.by);
    }
    text
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
        let (content, signed) = read(&vector("voucher")).unwrap();
        assert!(signed.len() == 1 && signed[0].good);
        assert!(show(&content, &signed).contains("serial-number: ek:"));
        let other: Value = serde_json::from_str(&vector("voucher-dev-key")).unwrap();
        let mut changed: Value = serde_json::from_str(&vector("voucher")).unwrap();
        changed["payload"] = other["payload"].clone();
        assert!(!read(&changed.to_string()).unwrap().1[0].good);
    }

    #[test]
    fn hostile_documents_are_refused_in_words() {
        for text in ["", "{}", "a.b", "{\"payload\":\"e30\",\"signatures\":[{}]}", "x.e30.y"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
