//! The packages that all of this is built from: each is code that somebody else may change.

use std::path::Path;

use anyhow::{Context, Result};

/// At most so many packages are locked, our own among them.
pub const LIMIT: usize = 300;

/// How many packages `Cargo.lock` names.
pub fn packages() -> Result<usize> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text.lines().filter(|line| *line == "[[package]]").count())
}
