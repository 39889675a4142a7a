//! Registrations: a table is imported, they are listed, one is ended.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use protocol::record::{Record, Status};

use super::args::MachinesCommand;
use super::next_id;
use crate::hq::Hq;
use crate::hq::import::{Bad, Imported, Known, import};
use crate::plain;

pub(super) fn run(hq: &Hq, command: MachinesCommand) -> Result<()> {
    match command {
        MachinesCommand::Import { file } => import_file(hq, &file),
        MachinesCommand::List { site, json } => {
            if let Some(site) = &site {
                hq.check_site(site)?;
            }
            let mut records = hq.records()?;
            records.retain(|record| site.as_ref().is_none_or(|site| record.site.contains(site)));
            let shown = if json { serde_json::to_string(&records)? + "\n" } else { listed(&records) };
            print!("{shown}");
            Ok(())
        }
        MachinesCommand::Revoke { machine, lost, rma, wipe } => {
            let status = if lost {
                Status::Lost
            } else if rma {
                Status::Rma
            } else {
                Status::Revoked
            };
            let record = hq.revoke(&machine, status, wipe)?;
            println!(
                "{} is {}. It is locked out as soon as the next bundle reaches its site.",
                record.id,
                status.word()
            );
            if wipe {
                println!("It erases its disk when it speaks there after that.");
            }
            for site in record.site.iter().filter(|site| hq.is_certified(site, &record)) {
                println!(
                    "It is a provisioner of {site} as well: new sticks leave that out, old ones do not. Machines go on \
                     believing it until `provisioner hq site revoke {site}`."
                );
            }
            Ok(())
        }
    }
}

fn import_file(hq: &Hq, file: &Path) -> Result<()> {
    let table = std::fs::read(file).with_context(|| format!("reading the table {}", file.display()))?;
    let with_slots = |site: String| Ok((site.clone(), hq.slots(&site)?));
    let sites = hq.site_names()?.into_iter().map(with_slots).collect::<Result<BTreeMap<_, _>>>()?;
    let mut known = Known { records: &hq.records()?, sites: &sites, new_id: &mut next_id };
    let refused = |bad: Vec<Bad>| {
        let lines: Vec<_> = bad.iter().map(ToString::to_string).collect();
        let (count, file) = (bad.len(), file.display());
        anyhow::anyhow!("nothing was imported; {count} to mend in {file}:\n- {}", lines.join("\n- "))
    };
    let Imported { records, warnings } = import(&table, &mut known).map_err(refused)?;
    records.iter().try_for_each(|record| hq.save_record(record))?;
    for warning in warnings {
        eprintln!("warning: {}", plain::shown(&warning));
    }
    println!("{} registered.", plain::count(records.len(), "machine"));
    Ok(())
}

fn listed(records: &[Record]) -> String {
    if records.is_empty() {
        return "No machine is registered.\n".to_owned();
    }
    let line = |record: &Record| {
        let sites: Vec<_> = record.site.iter().collect();
        vec![
            record.id.clone(),
            record.hints.product_serial.clone().unwrap_or_else(|| "-".to_owned()),
            sites.join(","),
            record.slot.clone().unwrap_or_else(|| record.roles.join("+")),
            record.status.word().to_owned(),
            record.canonical_id().map_or_else(|| "(label only)".to_owned(), |id| id.to_string()),
        ]
    };
    let head = ["MACHINE", "SERIAL", "SITE", "SLOT OR ROLES", "STATUS", "KEY"];
    plain::table(&head, records.iter().map(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registrations_stand_in_columns_under_a_header_however_long_a_serial_is() {
        let record = |id: &str, serial: &str| {
            let text = format!(
                r#"{{"id":"{id}","epoch":1,"site":"ship-7","slot":"node-1","match":{{"product-serial":"{serial}"}}}}"#
            );
            serde_json::from_str::<Record>(&text).unwrap()
        };
        let text = listed(&[record("mc_1", "A1"), record("mc_2", "A-SERIAL-THAT-GOES-ON-AND-ON")]);
        let places: Vec<_> = text.lines().map(|line| line.find("ship-7").or(line.find("SITE"))).collect();
        assert!(text.starts_with("MACHINE  SERIAL "), "{text}");
        assert_eq!(places, [places[0]; 3], "{text}");
    }
}
