//! Registrations as files: one machine, one file, one line in a pull request.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use protocol::record::{Record, Status};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Hq, read, write};

/// The keys that a registration may have. A site takes those that it does not know, of a newer HQ; a person here has
/// mistyped them, and `statuss: lost` would leave a lost machine in force.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // Reading is the whole purpose.
struct Keys {
    id: IgnoredAny,
    epoch: IgnoredAny,
    status: Option<IgnoredAny>,
    site: IgnoredAny,
    slot: Option<IgnoredAny>,
    roles: Option<IgnoredAny>,
    r#match: Option<MatchKeys>,
    auth: Option<Vec<AuthKeys>>,
    policy: Option<PolicyKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(dead_code)]
struct MatchKeys {
    product_serial: Option<IgnoredAny>,
    board_serial: Option<IgnoredAny>,
    system_uuid: Option<IgnoredAny>,
    mac: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct AuthKeys {
    r#type: IgnoredAny,
    alg: Option<IgnoredAny>,
    sha256: IgnoredAny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(dead_code)]
struct PolicyKeys {
    auto: Option<IgnoredAny>,
    accept: Option<IgnoredAny>,
    not_before: Option<IgnoredAny>,
    not_after: Option<IgnoredAny>,
    wipe: Option<IgnoredAny>,
}

/// Reads one registration, as strictly as what people edit has to be read.
fn record(path: &Path) -> Result<Record> {
    read::<Keys>(path)?;
    let record: Record = read(path)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    ensure!(
        name == record.id,
        "{} is a registration of {}: its file is called {}.yaml, and each machine has one",
        path.display(),
        record.id,
        record.id
    );
    Ok(record)
}

impl Hq {
    /// Every registration, by id.
    pub fn records(&self) -> Result<Vec<Record>> {
        let folder = self.dir.join("machines");
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(vec![]) };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        paths.iter().map(|path| record(path)).collect()
    }

    /// Saves a registration.
    pub fn save_record(&self, record: &Record) -> Result<()> {
        write(&self.dir.join("machines").join(format!("{}.yaml", record.id)), record)
    }

    /// The registration that a person means: by id, or by serial.
    pub fn find_record(&self, wanted: &str) -> Result<Record> {
        let fits = |record: &Record| {
            record.id == wanted
                || record.hints.product_serial.as_deref().is_some_and(|s| s.eq_ignore_ascii_case(wanted))
        };
        let mut found: Vec<_> = self.records()?.into_iter().filter(fits).collect();
        match found.len() {
            0 => bail!("no machine is registered as {wanted}; `provisioner hq machines list` shows them"),
            1 => found.pop().context("the machine"),
            many => bail!("{many} machines are registered as {wanted}; use the id"),
        }
    }

    /// Ends a registration.
    pub fn revoke(&self, wanted: &str, status: Status, wipe: bool) -> Result<Record> {
        let mut record = self.find_record(wanted)?;
        ensure!(
            record.status != Status::Revoked || status == Status::Revoked,
            "{} is revoked, and that is for ever: it cannot become {}",
            record.id,
            status.word()
        );
        record.status = status;
        record.policy.wipe |= wipe;
        self.save_record(&record)?;
        Ok(record)
    }
}

/// A new id: milliseconds and chance in the symbols of Crockford's base32, so that ids sort by age.
pub fn new_id(millis: u64, chance: [u8; 6]) -> String {
    const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let symbol = |value: u64| char::from(SYMBOLS[usize::try_from(value & 31).unwrap_or_default()]);
    let mut id = String::from("mc_");
    (0..10u32).rev().for_each(|place| id.push(symbol(millis >> (5 * place))));
    let chance = chance.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    (0..8u32).rev().for_each(|place| id.push(symbol(chance >> (5 * place))));
    id
}

#[cfg(test)]
mod tests {
    use protocol::bytes::Digest;
    use protocol::clock::Time;
    use protocol::record::{Auth, Match, Policy, Sites};

    use super::*;

    /// One in which every key is written.
    fn whole() -> Record {
        let serial = || Some("S1".to_owned());
        Record {
            id: "mc_1".into(),
            epoch: 1,
            status: Status::Lost,
            site: Sites::One("ship-7".into()),
            slot: Some("node-1".into()),
            roles: vec!["worker".into()],
            hints: Match {
                product_serial: serial(),
                board_serial: serial(),
                system_uuid: serial(),
                mac: vec!["52:54:00:12:34:56".into()],
            },
            auth: vec![Auth::TpmEk { alg: "ecc-p256".into(), sha256: Digest([1; 32]) }],
            policy: Policy {
                auto: false,
                accept: Some(vec!["tpm-ek".into()]),
                not_before: Some(Time(1)),
                not_after: Some(Time(2)),
                wipe: true,
            },
        }
    }

    #[test]
    fn a_registration_with_a_key_that_does_not_exist_is_refused_and_every_one_that_does_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mc_1.yaml");
        write(&path, &whole()).unwrap();
        assert_eq!(record(&path).unwrap(), whole());
        let text = std::fs::read_to_string(&path).unwrap();
        for (key, typo) in [("status:", "statuss:"), ("wipe:", "wip:"), ("mac:", "macs:"), ("alg:", "algo:")]
        {
            assert!(text.contains(key), "{text}");
            std::fs::write(&path, text.replacen(key, typo, 1)).unwrap();
            let said = format!("{:#}", record(&path).unwrap_err());
            assert!(said.contains("mc_1.yaml") && said.contains(typo.trim_end_matches(':')), "{said}");
        }
        let copy = dir.path().join("mc_1 copy.yaml");
        write(&copy, &whole()).unwrap();
        assert!(record(&copy).unwrap_err().to_string().contains("called mc_1.yaml"));
    }
}
