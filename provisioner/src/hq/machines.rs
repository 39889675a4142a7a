//! Registrations as files: one machine, one file, one line in a pull request.

use anyhow::{Context, Result, bail, ensure};
use protocol::record::{Record, Status};

use super::{Hq, read, write};

impl Hq {
    /// Every registration, by id.
    pub fn records(&self) -> Result<Vec<Record>> {
        let folder = self.dir.join("machines");
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(vec![]) };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
        paths.iter().map(|path| read(path)).collect()
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
