//! Sizes: the static agent, the packages, the longest function and file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use tests::stage::{Programs, static_program};

use crate::table::{Figure, Table};

/// Adds every size to the table.
pub fn report(table: &mut Table) -> Result<()> {
    for (program, limit) in [("node-boot", 3.0), ("provisioner", 8.0)] {
        let size = file_size(&static_program(program)?)?;
        table.add(&Figure {
            goal: "7",
            what: &format!("{program}, one static file"),
            ours: format!("{size:.2} MB"),
            beside: format!("limit {limit} MB"),
            ratio: Some(size / limit),
            met: Some(size <= limit),
        });
    }
    let (count, limit) = (tests::lock::packages()?, tests::lock::LIMIT);
    #[allow(clippy::cast_precision_loss)] // No lock file names 2^52 packages.
    let ratio = count as f64 / limit as f64;
    table.add(&Figure {
        goal: "7",
        what: "locked packages, whole workspace",
        ours: count.to_string(),
        beside: format!("limit {limit}"),
        ratio: Some(ratio),
        met: Some(count <= limit),
    });
    let anchor = |table: &mut Table, what: &str, ours: String| {
        table.add(&Figure { goal: "7", what, ours, beside: String::new(), ratio: None, met: None });
    };
    let (file, lines) = longest_file()?;
    anchor(table, "longest file", format!("{lines} lines, {file}"));
    let (function, lines) = longest_function()?;
    anchor(table, "longest function", format!("{lines} lines, {function}"));
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file_size(path: &Path) -> Result<f64> {
    #[allow(clippy::cast_precision_loss)] // No program is larger than 2^52 bytes.
    Ok(fs::metadata(path)?.len() as f64 / 1e6)
}

/// The programs as they are shipped.
pub fn shipped() -> Result<Programs> {
    Ok(Programs { provisioner: static_program("provisioner")?, node_boot: static_program("node-boot")? })
}

fn sources() -> Result<Vec<PathBuf>> {
    let output = Command::new("git").args(["ls-files", "*.rs"]).current_dir(root()).output()?;
    Ok(String::from_utf8(output.stdout)?.lines().map(PathBuf::from).collect())
}

fn longest_file() -> Result<(String, usize)> {
    let mut longest = (String::new(), 0);
    for path in sources()? {
        let lines = fs::read_to_string(root().join(&path))?.lines().count();
        if lines > longest.1 {
            longest = (path.display().to_string(), lines);
        }
    }
    Ok(longest)
}

/// By indentation, which rustfmt guarantees: from a line with `fn` to the closing brace in the same column.
fn longest_function() -> Result<(String, usize)> {
    let mut longest = (String::new(), 0);
    for path in sources()? {
        let text = fs::read_to_string(root().join(&path))?;
        let lines: Vec<_> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start();
            let is_fn =
                ["fn ", "pub fn ", "async fn ", "pub async fn ", "pub(crate) fn ", "pub(crate) async fn "];
            if !is_fn.iter().any(|start| words.starts_with(start)) {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| **line == close).unwrap_or(0) + 1;
            if length > longest.1 {
                let name =
                    words.split(['(', '<']).next().unwrap_or_default().rsplit(' ').next().unwrap_or_default();
                longest = (format!("{name} in {}", path.display()), length);
            }
        }
    }
    Ok(longest)
}
