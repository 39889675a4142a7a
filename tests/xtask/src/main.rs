//! The chores of the project: assets, tests, demo, bench.

mod demo; // stories, told as they happen
mod deny; // cargo-deny
mod go; // its toolchain
mod kube; // Kubernetes and what runs beside it, from source
mod lock; // how many packages we build on
mod need; // what this computer needs
mod outdated; // pinned inputs for which something newer waits
mod pod_image; // from a program to an image
mod system; // the images of the operating system
mod test; // every tier

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
    /// Measure the figures we are judged by, beside their limits and peers.
    Bench {
        /// Numbers of goals; all of them where none is given.
        goals: Vec<String>,
    },
    /// Build the images of the operating system.
    Image {
        /// Where they are put.
        #[arg(long, default_value = "target/image")]
        out: std::path::PathBuf,
    },
    /// Make sure that everything the tests and the demo need is on this computer.
    Kube,
    /// List pinned inputs for which something newer waits in a registry.
    Outdated,
    /// Tell the main job as a story, on real parts.
    Demo {
        /// Keep the site until Enter is pressed.
        #[arg(long)]
        keep: bool,
        /// The same for a bare machine: a virtual one with an empty disk, started from a stick.
        #[arg(long, conflicts_with = "keep")]
        vm: bool,
        /// How a site is founded: two bare machines and one stick, no cluster before.
        #[arg(long, conflicts_with_all = ["keep", "vm"])]
        found: bool,
    },
    /// Run every tier of tests, or those whose name contains a word.
    Test {
        /// Part of a tier's name: style, unit, wire, cluster, machine, …
        only: Option<String>,
        /// Also those tests of the machine tier that take longer than CI can give them; else they count as skipped.
        #[arg(long)]
        long: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().chore {
        Chore::Bench { goals } => bench(&goals),
        Chore::Image { out } => system::images(&out),
        Chore::Kube => need::need(),
        Chore::Outdated => outdated::outdated(),
        Chore::Demo { vm: true, .. } => demo::vm::demo(),
        Chore::Demo { found: true, .. } => demo::found::demo(),
        Chore::Demo { keep, .. } => demo::demo(keep),
        Chore::Test { only, long } => test::test(only.as_deref(), long),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(goals: &[String]) -> anyhow::Result<()> {
    need::need()?;
    println!("building for release (a first build takes some minutes)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = std::process::Command::new(cargo)
        .args(["bench", "--quiet", "-p", "tests", "--"])
        .args(goals)
        .status()?;
    anyhow::ensure!(done.success(), "the bench failed");
    Ok(())
}
