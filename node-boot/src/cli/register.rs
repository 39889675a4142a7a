//! What headquarters needs to register this machine; and to let it be a provisioner as well.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use protocol::crypto::Signer as _;
use protocol::id::{Id, is_slot_name};
use protocol::inventory::Facts;
use protocol::record::is_junk;

use super::Where;
use super::show::{NO_TPM, look, model};
use crate::console;
use crate::site::identify::Identity;
use crate::site::own;

/// What headquarters registers this machine by: column and value.
pub(crate) fn columns(identity: &Identity, facts: &Facts) -> [(&'static str, String); 6] {
    let hash = |alg: &str| {
        let chip = identity.tpm.as_ref()?;
        let ek = chip.eks.iter().find(|ek| ek.kind().to_string() == alg)?;
        match ek.id() {
            Id::Ek(hash) => Some(hash.to_string()),
            _ => None,
        }
    };
    let device = identity.device.as_ref().map(|key| key.key_hash().to_string());
    // A table is opened by programs that compute what begins so.
    let starts_formula = |text: &str| text.starts_with(['=', '+', '-', '@', '\t']);
    let clean = |text: &str| {
        let text = text.replace([',', '"', '\n', '\r'], " ");
        if starts_formula(&text) { text.replacen(&text[..1], " ", 1) } else { text }
    };
    let serial = Some(&facts.dmi.serial).filter(|serial| !is_junk(serial));
    [
        ("serial", serial.map(|serial| clean(serial)).unwrap_or_default()),
        ("model", clean(&model(facts))),
        ("ek-p256", hash("ecc-p256").unwrap_or_default()),
        ("ek-p384", hash("ecc-p384").unwrap_or_default()),
        ("ek-rsa", hash("rsa-2048").unwrap_or_default()),
        ("dev-key", device.unwrap_or_default()),
    ]
}

/// What headquarters needs to register this machine: JSON, a row for its table, and a picture of the first.
pub(super) fn row(at: &Where, csv: bool, json: bool) -> Result<()> {
    let (identity, facts) = look(at)?;
    let columns = columns(&identity, &facts);
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<_> = columns.iter().map(|(_, value)| value.as_str()).collect();
    let row = format!("{}\n{}", names.join(","), values.join(","));
    if csv {
        println!("{row}");
        return Ok(());
    }
    let object: serde_json::Map<_, _> = columns
        .iter()
        .map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(value.as_str())))
        .collect();
    let text = serde_json::to_string(&object).context("the registration")?;
    println!("{text}");
    if !json {
        println!("\n{row}\n\nThe same for a telephone's camera:\n{}", console::picture(&text).join("\n"));
    }
    Ok(())
}

/// Has the provisioner of this machine make its keys, and prints its request: with the answer, the machine can be one of
/// the site's provisioners. What is to be done with it goes to standard error.
pub(super) fn request(at: &Where, site: &str, dir: &Path) -> Result<()> {
    ensure!(
        is_slot_name(site),
        "a site's name is at most 50 small letters, digits and hyphens, as in ship-7"
    );
    if at.tpm().is_none() {
        eprintln!("warning: {NO_TPM}");
    }
    let text = own::request(site, dir, at.tpm(), &at.owner)?;
    println!("{text}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::show::names;
    use crate::site::identify::identify;
    use crate::state::State;

    #[test]
    fn a_row_holds_no_placeholder_and_no_blank() {
        let dir = tempfile::tempdir().unwrap();
        let mut facts = Facts::default();
        facts.dmi.serial = "Default string".into();
        let identity = identify(&State::open(dir.path()).unwrap(), None, &facts).unwrap();
        let row = columns(&identity, &facts);
        assert_eq!([row[0].1.as_str(), row[1].1.as_str()], ["", ""]);
        for (serial, cell) in [("=1+1", " 1+1"), ("@a,\"b", " a  b"), ("PF-2=3", "PF-2=3")] {
            facts.dmi.serial = serial.into();
            assert_eq!(columns(&identity, &facts)[0].1, cell, "no table computes it");
        }
        let named: Vec<_> = names(&identity, &facts).into_iter().map(|(name, _)| name).collect();
        assert_eq!(named, ["model", "serial", "device key (file)", "node key (file)"]);
    }
}
