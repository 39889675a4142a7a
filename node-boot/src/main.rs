//! The agent on the machine, or PID 1 of it: arguments, run.

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    // A second provider somewhere in the tree would be a build error; that this one is installed twice is not.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if node_boot::os::init::is_init() {
        node_boot::os::init::run();
    }
    match node_boot::cli::run(node_boot::cli::Cli::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", node_boot::console::clean(&format!("error: {error:#}")));
            std::process::ExitCode::FAILURE
        }
    }
}
