//! What is in the image of Kubernetes: its programs, and the images of the Pods that it brings.

use std::process::Command;

use anyhow::{Context, Result};

use crate::recipe::Inputs;
use crate::tree::Tree;

/// Its programs.
const PROGRAMS: [&str; 2] = ["kubeadm", "kubelet"];

/// Pod images that only control-plane machines run: they have a folder of their own.
const CONTROL_PLANE: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Its version, as the kubelet says it.
pub(crate) fn version(inputs: &Inputs<'_>) -> Result<String> {
    let kubelet = (inputs.program)("kubelet");
    let said = Command::new(&kubelet).arg("--version").output();
    let said = said.with_context(|| format!("running {}", kubelet.display()))?.stdout;
    let said = String::from_utf8_lossy(&said);
    let version = said.trim().strip_prefix("Kubernetes ").context("the kubelet does not say its version")?;
    Ok(version.to_owned())
}

pub(crate) fn tree(inputs: &Inputs<'_>) -> Result<Tree> {
    let mut tree = Tree::default();
    for name in PROGRAMS {
        tree.program(&format!("bin/{name}"), &(inputs.program)(name))?;
    }
    for (name, file) in inputs.pods {
        let folder = if CONTROL_PLANE.contains(name) { "control-plane" } else { "images" };
        tree.copy(&format!("{folder}/{name}.tar"), file);
    }
    Ok(tree)
}
