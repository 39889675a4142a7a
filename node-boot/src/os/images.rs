//! The Pod images that the system brings: there may be no registry in reach.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::bank::KUBERNETES;
use crate::console::say;

/// Gives them to containerd, which answers already; one that it does not take is named, and the others go on.
pub fn import() {
    let mut files: Vec<_> = fs::read_dir(Path::new(KUBERNETES).join("images"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    files.sort();
    for file in files {
        if let Err(why) = import_one(&file) {
            say(&format!("The Pod image {} is not there: {why}.", file.display()));
        }
    }
}

fn import_one(file: &Path) -> Result<(), String> {
    let mut tool = Command::new("ctr");
    tool.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(file).stdin(Stdio::null());
    let done = tool.output().map_err(|error| error.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
}
