//! The figures we are judged by: ours, the limit, the peers, the ratio, met or not, all measured in this run.

mod csr; // the raw Kubernetes path from request to certificate
mod discover; // a machine that asks where its site is
mod join; // what node-boot adds
mod limit; // the cryptography that an enrolment cannot avoid
mod size; // files, memory, packages, longest function and file
mod swarm; // machines against one core
mod table;

use table::Table;
use tests::stage::{Programs, Site};

fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let wanted: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wants = |goal: &str| wanted.is_empty() || wanted.iter().any(|word| word == goal);
    let mut table = Table::default();
    if wants("1") || wants("2") {
        let limit = limit::measure()?;
        limit.report(&mut table);
        swarm::report(&mut table, &limit)?;
    }
    if wants("3") || wants("4") {
        match harness::missing_for_cluster() {
            Some(why) => table.skipped("3, 4", "a join on a real cluster", &why),
            None => on_a_cluster(&mut table)?,
        }
    }
    if wants("7") {
        size::report(&mut table)?;
    }
    println!("{table}");
    Ok(())
}

/// Goals 3 and 4, on one site with a real cluster, with the programs that are shipped.
fn on_a_cluster(table: &mut Table) -> anyhow::Result<()> {
    let programs = Programs { node_boot: size::build_static("node-boot")?, ..Programs::release()? };
    let mut site = Site::with(programs, "bench", harness::Options::default(), &[])?;
    site.provisioner.start()?;
    site.deliver()?;
    let raw = csr::report(table, &site.plane)?;
    join::report(table, &mut site, raw)?;
    discover::report(table, &mut site)
}
