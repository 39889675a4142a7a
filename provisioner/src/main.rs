//! The registrar on site, and the commands of headquarters: arguments, logs, run.

use clap::{Parser, Subcommand};
use provisioner::{hq, plain, site};

/// Admits registered machines to the Kubernetes cluster of a site, also while headquarters cannot be reached.
#[derive(Parser)]
#[command(name = "provisioner", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// What headquarters does: keys, registrations, sites, bundles, reports.
    Hq(hq::cli::Args),
    #[command(flatten)]
    Site(site::cli::Command),
}

fn main() -> std::process::ExitCode {
    // A second provider somewhere in the tree would be a build error; that this one is installed twice is not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let done = match Cli::parse().command {
        Command::Hq(args) => hq::cli::run(args),
        Command::Site(command) => site::cli::run(command),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            eprintln!("error: {}", text.lines().map(plain::shown).collect::<Vec<_>>().join("\n"));
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn every_command_can_be_asked_for_its_help() {
        super::Cli::command().debug_assert();
    }
}
