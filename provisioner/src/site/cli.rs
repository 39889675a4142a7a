//! The command line of a site.

/// What a site does.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Admits machines until it is stopped.
    Serve,
}

/// Runs one command.
pub fn run(_command: Command) -> anyhow::Result<()> {
    anyhow::bail!("no command yet")
}
