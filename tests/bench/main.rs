//! The figures we are judged by: ours, the limit, the peers, the ratio, met or not, all measured in this run.

mod csr; // the raw Kubernetes path from request to certificate
mod discover; // a machine that asks where its site is
mod join; // what node-boot adds
mod limit; // the cryptography that an enrolment cannot avoid
mod size; // files, memory, packages, longest function and file
mod swarm; // machines against one core
mod table;

use table::Table;
use tests::stage::Site;

fn main() -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let words: Vec<_> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == join::WATCH) {
        return join::watch(&words[1..]);
    }
    let wanted: Vec<_> = words.into_iter().filter(|word| !word.starts_with("--")).collect();
    if wanted.first().is_some_and(|word| word == discover::ASK) {
        return discover::ask();
    }
    let wants = |goal: &str| wanted.is_empty() || wanted.iter().any(|word| word == goal);
    let mut table = Table::default();
    if wants("1") || wants("2") {
        let measured = limit::measure().and_then(|limit| {
            limit.report(&mut table);
            swarm::report(&mut table, &limit)
        });
        table.unless_measured("1, 2", "machines against one core", measured);
    }
    if wants("3") || wants("4") {
        match harness::missing_for_cluster() {
            Some(why) => table.skipped("3, 4", "a join on a real cluster", &why),
            None => on_a_cluster(&mut table, &wants),
        }
    }
    if wants("7") {
        let measured = size::report(&mut table);
        table.unless_measured("7", "sizes", measured);
    }
    println!("\n{table}");
    anyhow::ensure!(table.is_whole(), "not everything could be measured");
    Ok(())
}

/// Goals 3 and 4, on one site with a real cluster.
fn on_a_cluster(table: &mut Table, wants: &dyn Fn(&str) -> bool) {
    let found = || -> anyhow::Result<Site> {
        let mut site = Site::with(size::shipped()?, "bench", harness::Options::default(), &[])?;
        site.provisioner.start()?;
        site.deliver()?;
        Ok(site)
    };
    let mut site = match found() {
        Ok(site) => site,
        Err(error) => return table.unless_measured("3, 4", "a site with a cluster", Err(error)),
    };
    if wants("4") {
        let measured = discover::report(table, &mut site);
        table.unless_measured("4", "a machine asks where its site is", measured);
    }
    if wants("3") {
        let measured = csr::report(table, &site.plane).and_then(|raw| join::report(table, &mut site, raw));
        table.unless_measured("3", "what node-boot adds to a join", measured);
    }
}
