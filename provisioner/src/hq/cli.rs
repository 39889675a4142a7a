//! The command line of headquarters.

/// What headquarters does.
#[derive(clap::Args)]
pub struct Args {}

/// Runs one command.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("no command yet")
}
