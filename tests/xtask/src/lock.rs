//! Holds the number of locked packages to its limit.

use ::tests::lock::{LIMIT, packages};
use anyhow::{Result, ensure};

/// Fails where more packages are locked than anybody would look through.
pub fn check() -> Result<()> {
    judge(packages()?)
}

fn judge(count: usize) -> Result<()> {
    ensure!(
        count <= LIMIT,
        "Cargo.lock names {count} packages, and the limit is {LIMIT}: `cargo tree` shows what brings them, and a \
         feature that nobody uses is often the cause."
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_package_too_many_fails_with_a_sentence() {
        assert!(judge(LIMIT).is_ok());
        let said = judge(LIMIT + 1).unwrap_err().to_string();
        assert!(said.contains("301") && said.ends_with('.'), "{said}");
    }
}
