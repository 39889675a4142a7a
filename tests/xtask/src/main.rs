//! The chores of the project: assets, tests, demo, bench.

mod go;
mod image;
mod kube;
mod need;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// The chores of the project.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Make sure that everything the tests and the demo need is on this computer.
    Kube,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Kube => need::need(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
