//! The figures we are judged by: ours, the limit, the peers, the ratio, met or not, all measured in this run.

mod csr; // the raw Kubernetes path from request to certificate
mod limit; // the cryptography that an enrolment cannot avoid
mod size; // files, memory, packages, longest function and file
mod swarm; // machines against one core
mod table;

use table::Table;

fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut table = Table::default();
    let limit = limit::measure()?;
    limit.report(&mut table);
    swarm::report(&mut table, &limit)?;
    match harness::missing_for_cluster() {
        Some(why) => table.skipped("3", "Kubernetes CSR path", &why),
        None => csr::report(&mut table)?,
    }
    size::report(&mut table)?;
    println!("{table}");
    Ok(())
}
