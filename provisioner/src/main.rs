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

    /// Arguments of a command and of those below it whose help says no more than a word or two.
    fn short(command: &clap::Command) -> Vec<String> {
        let is_short = |arg: &&clap::Arg| {
            arg.get_help().is_none_or(|help| help.to_string().split_whitespace().count() < 3)
        };
        let short_ones = command.get_arguments().filter(is_short);
        let named = short_ones.map(|arg| format!("{} {}", command.get_name(), arg.get_id()));
        named
            .filter(|name| !name.ends_with(" json"))
            .chain(command.get_subcommands().flat_map(short))
            .collect()
    }

    #[test]
    fn the_help_of_every_argument_says_what_is_to_be_given() {
        assert_eq!(short(&super::Cli::command()), [""; 0]);
    }
}
