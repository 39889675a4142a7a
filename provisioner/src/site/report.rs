//! What HQ is told: every event is saved when it happens, and goes into the next signed report.

use std::path::PathBuf;

use anyhow::Result;
use protocol::id::Id;
use protocol::report::{Alarm, Approved, Burned, Fill, Ids, Join, Report};
use serde::{Deserialize, Serialize};

use super::Site;
use super::store::{Change, EVENTS, Look, StoreError};

/// Something that HQ has to hear of.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A single-use key was used.
    Burned(Burned),
    /// A machine proved an id.
    Proven(String, Id),
    /// A machine became a Node.
    Joined(Join),
    /// Something to look into.
    Alarm(Alarm),
    /// A slot was given to a machine.
    Filled(String, String),
    /// A person approved a machine.
    Approved(Approved),
}

/// Saves an event: its number.
pub fn note(tx: &Change<'_>, event: &Event) -> Result<u64, StoreError> {
    tx.append(EVENTS, "event", event)
}

impl Site {
    /// Writes everything that HQ has not acknowledged into a signed report: the path of its file.
    pub async fn report(&self) -> Result<PathBuf> {
        let seq = self.store.write(|tx| tx.next("report")).await?;
        let mut report = Report {
            site: self.name().to_owned(),
            provisioner: self.keys.issuing.key_hash,
            seq,
            created_on: self.now(),
            bundle: self.word().seq,
            burned: vec![],
            bound: vec![],
            proven: vec![],
            joins: vec![],
            alarms: vec![],
            fills: vec![],
            approvals: vec![],
        };
        let events = self.store.look()?.list::<Event>(EVENTS)?;
        // What happens from here on is in no report yet.
        let until: u64 = events.last().and_then(|(number, _)| number.parse().ok()).unwrap_or(0);
        for (_, event) in events {
            match event {
                Event::Burned(burned) => {
                    report.burned.push(burned.key);
                    report.bound.push(burned);
                }
                Event::Proven(machine, id) => report.proven.push(Ids { machine, ids: vec![id] }),
                Event::Joined(join) => report.joins.push(join),
                Event::Alarm(alarm) => report.alarms.push(alarm),
                Event::Filled(slot, machine) => report.fills.push(Fill { slot, machine }),
                Event::Approved(approved) => report.approvals.push(approved),
            }
        }
        let (leaf, key) = self.keys.leaf();
        let text = protocol::report::make(&report, &leaf.der, &*key)?;
        let folder = self.dir.join("outbox");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{}-{seq}.jws", self.name()));
        super::keys::save(&path, text.as_bytes())?;
        self.store.write(move |tx| tx.put(super::store::META, &format!("reported/{seq}"), &until)).await?;
        Ok(path)
    }

    /// Forgets the events that HQ acknowledges with `seq`, the highest report it has of this provisioner.
    pub(crate) fn acknowledge(tx: &Change<'_>, seq: u64) -> Result<(), StoreError> {
        let until: u64 = tx.get(super::store::META, &format!("reported/{seq}"))?.unwrap_or(0);
        for (number, _) in tx.all(EVENTS, "")? {
            if number.parse::<u64>().is_ok_and(|number| number <= until) {
                tx.remove(EVENTS, &number)?;
            }
        }
        Ok(())
    }
}
