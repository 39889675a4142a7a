//! The first machine of a site makes its cluster, by kubeadm's own phases and without a bootstrap token. What was done is
//! on disk before the next step begins; a step that a power cut ended is begun anew.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::console::say;
use crate::os::tool;
use crate::site::own;
use crate::state::State;
use crate::stop::pause;

/// How far this machine has come with its cluster.
const FILE: &str = "founding.json";
/// What kubeadm is told.
const CONFIG: &str = "/etc/kubernetes/kubeadm.yaml";
/// By whom the new cluster is finished; not kept.
const SUPER_ADMIN: &str = "/etc/kubernetes/super-admin.conf";
const ADMIN: &str = "/etc/kubernetes/admin.conf";
/// A phase of kubeadm has so long.
const PHASE: Duration = Duration::from_mins(5);
/// A half of `provisioner found` gives itself less.
const FOUNDED: Duration = Duration::from_mins(25);
/// The API server is waited for so long before all is begun again, and asked again after so long.
const SERVER: Duration = Duration::from_mins(30);
const AGAIN: Duration = Duration::from_secs(2);

/// A step that makes files.
struct Step {
    name: &'static str,
    says: &'static str,
    /// What is taken away before it, since a power cut may have left half of it.
    clear: &'static [&'static str],
    /// Phases of `kubeadm init`.
    phases: &'static [[&'static str; 2]],
}

const STEPS: [Step; 3] = [
    Step {
        name: "certificates",
        says: "Making the certificates of the new cluster.",
        clear: &["/etc/kubernetes/pki"],
        phases: &[["certs", "all"]],
    },
    Step {
        name: "credentials",
        says: "Making the credentials of the control plane.",
        clear: &[
            ADMIN,
            SUPER_ADMIN,
            "/etc/kubernetes/controller-manager.conf",
            "/etc/kubernetes/scheduler.conf",
        ],
        phases: &[
            ["kubeconfig", "admin"],
            ["kubeconfig", "super-admin"],
            ["kubeconfig", "controller-manager"],
            ["kubeconfig", "scheduler"],
        ],
    },
    Step {
        name: MANIFESTS,
        says: "Writing what the control plane is to run.",
        clear: &["/etc/kubernetes/manifests", "/var/lib/etcd"],
        phases: &[["etcd", "local"], ["control-plane", "apiserver"]],
    },
];
/// From here on this machine has a control plane.
const MANIFESTS: &str = "manifests";
/// From here on the API server has what it starts with, and its controllers: those that start while it does take from it, on a
/// small machine, what it needs to answer in time.
const CONTROLLERS: &str = "controllers";
/// The cluster is made.
const FINISHED: &str = "finished";

#[derive(Default, Serialize, Deserialize)]
struct Progress {
    /// The Node that the cluster is made by.
    node: String,
    done: Vec<String>,
}

impl Progress {
    fn has(&self, step: &str) -> bool {
        self.done.iter().any(|done| done == step)
    }
}

/// Whether this machine runs the control plane of a cluster that it made.
pub fn has_control_plane(state: &State) -> Result<bool> {
    Ok(state.load::<Progress>(FILE)?.is_some_and(|progress| progress.has(MANIFESTS)))
}

/// Whether it has begun a cluster as this Node, and is not done.
pub fn is_unfinished(state: &State, node: &str) -> Result<bool> {
    let progress = state.load::<Progress>(FILE)?;
    Ok(progress.is_some_and(|progress| progress.node == node && !progress.has(FINISHED)))
}

/// Everything that has to be on the disk before the control plane can start.
pub fn prepare(state: &State, node: &str) -> Result<()> {
    let mut progress =
        state.load::<Progress>(FILE)?.filter(|progress| progress.node == node).unwrap_or_default();
    node.clone_into(&mut progress.node);
    for step in STEPS {
        if progress.has(step.name) {
            continue;
        }
        say(step.says);
        step.clear.iter().try_for_each(|path| clear(Path::new(path)))?;
        for phase in step.phases {
            kubeadm(phase, &[])?;
        }
        note(state, &mut progress, step.name)?;
    }
    Ok(())
}

/// The control plane starts: gives the cluster what it starts with, lets the provisioner in, and forgets the
/// administrator.
pub fn finish(state: &State) -> Result<()> {
    let mut progress = state.load::<Progress>(FILE)?.context("this machine has begun no cluster")?;
    if !progress.has(CONTROLLERS) {
        say("Waiting for the new cluster's API server.");
        first_word()?;
        say("Giving the new cluster what it starts with.");
        provisioner("seed")?;
        for controllers in ["controller-manager", "scheduler"] {
            kubeadm(&["control-plane", controllers], &[])?;
        }
        note(state, &mut progress, CONTROLLERS)?;
    }
    say("Waiting for the new cluster's controllers.");
    provisioner("attach")?;
    for administrator in [ADMIN, SUPER_ADMIN] {
        clear(Path::new(administrator))?;
    }
    note(state, &mut progress, FINISHED)
}

/// The new cluster gets kubeadm's own notes of it, as soon as its API server answers.
fn first_word() -> Result<()> {
    let until = Instant::now() + SERVER;
    loop {
        match kubeadm(&["upload-config", "all"], &["--kubeconfig", SUPER_ADMIN]) {
            Err(error) if Instant::now() < until => {
                say(&format!("Not yet: {error:#}."));
                pause(AGAIN)?;
            }
            done => return done,
        }
    }
}

fn provisioner(half: &str) -> Result<()> {
    let mut provisioner = Command::new("provisioner");
    provisioner.args(["found", "--dir", own::FOLDER, half, SUPER_ADMIN]);
    tool::run(provisioner, &format!("provisioner found {half}"), FOUNDED)
}

/// What a step has made is on the disk before that it is done.
fn note(state: &State, progress: &mut Progress, step: &str) -> Result<()> {
    rustix::fs::sync();
    progress.done.push(step.to_owned());
    state.save(FILE, progress)
}

/// Takes a file away, or everything that is in a folder.
fn clear(path: &Path) -> Result<()> {
    let what = || format!("taking {} away", path.display());
    if !path.is_dir() {
        let gone = fs::remove_file(path);
        return gone
            .or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
            .with_context(what);
    }
    for entry in fs::read_dir(path).with_context(what)? {
        let entry = entry.with_context(what)?;
        let is_folder = entry.file_type().with_context(what)?.is_dir();
        let gone = if is_folder { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        gone.with_context(what)?;
    }
    Ok(())
}

fn kubeadm(phase: &[&str; 2], more: &[&str]) -> Result<()> {
    let mut kubeadm = Command::new("kubeadm");
    kubeadm.args(["init", "phase"]).args(phase).args(["--config", CONFIG]).args(more).stdout(Stdio::null());
    tool::run(kubeadm, &format!("kubeadm init phase {}", phase.join(" ")), PHASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_was_begun_goes_on_under_the_same_node_until_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(!has_control_plane(&state).unwrap() && !is_unfinished(&state, "node-1-a").unwrap());
        let mut progress = Progress { node: "node-1-a".into(), done: vec![] };
        for step in ["certificates", "credentials", MANIFESTS] {
            note(&state, &mut progress, step).unwrap();
            assert!(is_unfinished(&state, "node-1-a").unwrap());
            assert!(!is_unfinished(&state, "node-1-b").unwrap(), "another installation begins anew");
        }
        assert!(has_control_plane(&state).unwrap());
        note(&state, &mut progress, FINISHED).unwrap();
        assert!(has_control_plane(&state).unwrap() && !is_unfinished(&state, "node-1-a").unwrap());
    }

    #[test]
    fn what_a_power_cut_left_half_done_is_taken_away_and_what_is_not_there_is_no_fault() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pki");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("ca.key"), "half").unwrap();
        fs::write(dir.path().join("admin.conf"), "half").unwrap();
        for _ in 0..2 {
            for name in ["pki", "admin.conf"] {
                clear(&dir.path().join(name)).unwrap();
            }
            assert!(!folder.join("ca.key").exists() && !dir.path().join("admin.conf").exists());
        }
    }
}
