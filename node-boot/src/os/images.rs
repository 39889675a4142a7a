//! The Pod images that the system brings: there may be no registry in reach.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;

use super::bank::KUBERNETES;
use super::tool;
use crate::console::say;

/// Those of every machine, and those of a control plane.
const EVERYWHERE: &str = "images";
const CONTROL_PLANE: &str = "control-plane";

/// What a machine runs whether or not there is a cluster: nothing but a control plane.
const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// One of them is taken within this time.
const IMPORTED: Duration = Duration::from_mins(5);

/// Gives them to containerd, which answers already; one that it does not take is named, and the others go on.
pub fn import() {
    let mut files = below(EVERYWHERE);
    if fs::read_dir(STATIC_PODS).is_ok_and(|mut manifests| manifests.next().is_some()) {
        files.extend(below(CONTROL_PLANE));
    }
    for file in files {
        if let Err(why) = import_one(&file) {
            say(&format!("The Pod image {} is not there: {why:#}.", file.display()));
        }
    }
}

fn below(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(Path::new(KUBERNETES).join(folder)).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
    files.sort();
    files
}

fn import_one(file: &Path) -> Result<()> {
    let mut ctr = Command::new("ctr");
    ctr.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(file).stdout(Stdio::null());
    tool::run(ctr, "ctr", IMPORTED)
}
