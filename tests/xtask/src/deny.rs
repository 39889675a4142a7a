//! cargo-deny, kept in the cache since building it takes minutes.

use std::process::Command;

/// Why licences and bans cannot be checked here; installs cargo-deny on continuous integration.
pub fn missing() -> Option<String> {
    if present() || (std::env::var_os("CI").is_some() && install()) {
        return None;
    }
    Some("cargo-deny is not installed: run `cargo install cargo-deny --locked`".into())
}

fn present() -> bool {
    Command::new("cargo").args(["deny", "--version"]).output().is_ok_and(|output| output.status.success())
}

fn install() -> bool {
    eprintln!("licences: building cargo-deny once, about four minutes");
    let done = Command::new("cargo").args(["install", "cargo-deny", "--locked", "--quiet"]).status();
    done.is_ok_and(|status| status.success())
}
