//! The figures we are judged by: ours, the limit, the peers, the ratio, met or not, all measured in this run.

mod csr; // the raw Kubernetes path from request to certificate
mod limit; // the cryptography that an enrolment cannot avoid
mod size; // files, memory, packages, longest function and file
mod swarm; // machines against one core
mod table;

use table::Table;

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
    if wants("3") {
        match harness::missing_for_cluster() {
            Some(why) => table.skipped("3", "Kubernetes CSR path", &why),
            None => csr::report(&mut table)?,
        }
    }
    if wants("7") {
        size::report(&mut table)?;
    }
    println!("{table}");
    Ok(())
}
