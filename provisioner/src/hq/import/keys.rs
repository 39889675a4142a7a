//! Endorsement keys of a row: hashes as a machine prints them, and certificates as a maker lists them.

use protocol::bytes::from_b64;
use protocol::record::Auth;
use protocol::tpm::{NoEk, certified};

use super::Row;

/// Columns that name a key.
pub(super) const COLUMNS: [&str; 5] = ["ek-p256", "ek-p384", "ek-rsa", "ek-cert", "dev-key"];
const HASHES: [(&str, &str); 3] = [("ek-p256", "ecc-p256"), ("ek-p384", "ecc-p384"), ("ek-rsa", "rsa-2048")];
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The endorsement keys of a row, each once.
pub(super) fn endorsement(row: &mut Row<'_>) -> Vec<Auth> {
    let mut auth = Vec::new();
    let certificates = certificates(row.get("ek-cert").unwrap_or_default());
    for (place, der) in certificates.into_iter().enumerate() {
        match der.as_deref().ok_or(NoEk::Damaged).and_then(certified) {
            Ok((kind, sha256)) => {
                add(row, &mut auth, "ek-cert", Auth::TpmEk { alg: kind.to_string(), sha256 });
            }
            Err(no) => {
                row.wrong("ek-cert", format!("certificate {} of the cell is {no}", place + 1));
                break;
            }
        }
    }
    for (column, alg) in HASHES {
        if let Some(sha256) = row.digest(column) {
            add(row, &mut auth, column, Auth::TpmEk { alg: alg.to_owned(), sha256 });
        }
    }
    auth
}

/// A machine has one TPM, which has one key of each kind: another one is another machine's.
fn add(row: &mut Row<'_>, auth: &mut Vec<Auth>, column: &str, ek: Auth) {
    let alg = |auth: &Auth| match auth {
        Auth::TpmEk { alg, .. } => alg.clone(),
        _ => String::new(),
    };
    if let Some(other) = auth.iter().find(|other| alg(other) == alg(&ek)) {
        if *other != ek {
            row.wrong(column, format!("two keys of the kind {}: one machine has one", alg(&ek)));
        }
    } else {
        auth.push(ek);
    }
}

/// DER of each certificate of a cell: base64 with blanks between, or PEM. None where one is damaged.
fn certificates(cell: &str) -> Vec<Option<Vec<u8>>> {
    if !cell.contains(BEGIN) {
        return cell.split_whitespace().map(|text| from_b64(text).ok()).collect();
    }
    let body = |text: &str| {
        let (body, rest) = text.split_once(END)?;
        let body: String = body.split_whitespace().collect();
        // Other tools write about the next one before it; what has no line that begins it was left behind.
        let lost = rest.split_whitespace().any(|word| word.len() > 200);
        from_b64(&body).ok().filter(|_| !lost)
    };
    cell.split(BEGIN).skip(1).map(body).collect()
}
