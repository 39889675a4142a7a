//! The Pod images that the system brings: there may be no registry in reach.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::bank::{self, KUBERNETES};
use super::tool;
use crate::console::say;
use crate::state::write_file;

/// Those of every machine, and those of a control plane.
const EVERYWHERE: &str = "images";
const CONTROL_PLANE: &str = "control-plane";

/// What a machine runs whether or not there is a cluster: nothing but a control plane.
const STATIC_PODS: &str = "/etc/kubernetes/manifests";

/// One of them is taken within this time.
const IMPORTED: Duration = Duration::from_mins(5);
/// And those that it has are named within this time.
const LISTED: Duration = Duration::from_mins(1);

/// What containerd had of them once it had taken all; it stands with what containerd keeps, and is lost with it.
const TAKEN: &str = "/var/lib/containerd/pod-images.json";

/// Which archives of which image of Kubernetes containerd has taken, and every image that it had then.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Taken {
    kubernetes: String,
    archives: Vec<PathBuf>,
    images: BTreeSet<String>,
}

/// Gives them to containerd, which answers already, unless it has them; one that it does not take is named, and the
/// others go on.
pub fn import() {
    let mut archives = below(EVERYWHERE);
    if fs::read_dir(STATIC_PODS).is_ok_and(|mut manifests| manifests.next().is_some()) {
        archives.extend(below(CONTROL_PLANE));
    }
    let kubernetes = bank::mounted().unwrap_or_default();
    let before = fs::read(TAKEN).ok().and_then(|text| serde_json::from_slice::<Taken>(&text).ok());
    let has_all = |taken: &Taken| listed().is_ok_and(|now| now.is_superset(&taken.images));
    if before
        .is_some_and(|taken| taken.kubernetes == kubernetes && taken.archives == archives && has_all(&taken))
    {
        return;
    }
    let mut is_whole = true;
    for archive in &archives {
        if let Err(why) = import_one(archive) {
            say(&format!("The Pod image {} is not there: {why:#}.", archive.display()));
            is_whole = false;
        }
    }
    if is_whole && let Err(error) = note(kubernetes, archives) {
        say(&format!("Pod images are taken again at the next start: {error:#}."));
    }
}

/// Containerd itself does not wait until what it unpacks is on the disk.
fn note(kubernetes: String, archives: Vec<PathBuf>) -> Result<()> {
    let images = listed()?;
    rustix::fs::sync();
    let taken = Taken { kubernetes, archives, images };
    write_file(Path::new(TAKEN), &protocol::json::to_vec(&taken), 0o644)
}

/// Every image that containerd has: reference and digest.
fn listed() -> Result<BTreeSet<String>> {
    let mut list = tool::note()?;
    let mut ctr = Command::new("ctr");
    ctr.args(["--namespace", "k8s.io", "images", "list"]).stdout(list.try_clone()?);
    tool::run(ctr, "ctr", LISTED)?;
    let mut text = String::new();
    list.seek(SeekFrom::Start(0))?;
    list.read_to_string(&mut text)?;
    Ok(text.lines().filter_map(named).collect())
}

/// Reference and digest of a line of `ctr images list`.
fn named(line: &str) -> Option<String> {
    let digest = line.split_whitespace().find(|word| word.starts_with("sha256:"))?;
    Some(format!("{} {digest}", line.split_whitespace().next()?))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_has_is_known_by_reference_and_digest() {
        let list = "REF               TYPE                                       DIGEST        SIZE    PLATFORMS   LABELS\n\
                    localhost/pause:1 application/vnd.oci.image.manifest.v1+json sha256:0a1b   1.2 MiB linux/amd64 -\n";
        let images: Vec<_> = list.lines().filter_map(named).collect();
        assert_eq!(images, ["localhost/pause:1 sha256:0a1b"]);
    }
}
