//! The Pod images that the system brings: there may be no registry in reach.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::bank::KUBERNETES;
use crate::console::say;

/// Those of every machine, and those of a control plane.
const EVERYWHERE: &str = "images";
const CONTROL_PLANE: &str = "control-plane";

/// What a machine runs whether or not there is a cluster: nothing but a control plane.
const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// Gives them to containerd, which answers already; one that it does not take is named, and the others go on.
pub fn import() {
    let mut files = below(EVERYWHERE);
    if fs::read_dir(STATIC_PODS).is_ok_and(|mut manifests| manifests.next().is_some()) {
        files.extend(below(CONTROL_PLANE));
    }
    for file in files {
        if let Err(why) = import_one(&file) {
            say(&format!("The Pod image {} is not there: {why}.", file.display()));
        }
    }
}

fn below(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(KUBERNETES).join(folder)).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn import_one(file: &Path) -> Result<(), String> {
    let mut tool = Command::new("ctr");
    tool.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(file).stdin(Stdio::null());
    let done = tool.output().map_err(|error| error.to_string())?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()) }
}
