//! Where the Kubernetes programs are: built once per computer by `cargo xtask kube`, or brought by the user.

use crate::{Error, Result};
use ring::digest::{Context, SHA256};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Every program that a cluster of ours is made of.
pub const PROGRAMS: [&str; 15] = [
    "etcd",
    "bridge",
    "loopback",
    "host-local",
    "runc",
    "containerd",
    "containerd-shim-runc-v2",
    "ctr",
    "kubeadm",
    "kube-apiserver",
    "kubectl",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];

/// Pod images; in a cluster they are `localhost/<name>:1`, those of [`CONTROL_PLANE`] but etcd's of Kubernetes' version.
pub const IMAGES: [&str; 8] = [
    "pause",
    "hello",
    "coredns",
    "kube-proxy",
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
/// Those of them that only control-plane machines run.
pub const CONTROL_PLANE: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// The version of Kubernetes that is built.
pub const KUBERNETES: &str = "v1.36.3";

/// What decides the bytes of the programs: a change in any of these asks for a new build.
const PINS: [&[u8]; 17] = [
    include_bytes!("../../kubernetes/cni/go.mod"),
    include_bytes!("../../kubernetes/cni/go.sum"),
    include_bytes!("../../kubernetes/containerd/go.mod"),
    include_bytes!("../../kubernetes/containerd/go.sum"),
    include_bytes!("../../kubernetes/coredns/go.mod"),
    include_bytes!("../../kubernetes/coredns/go.sum"),
    include_bytes!("../../kubernetes/coredns/main.go"),
    include_bytes!("../../kubernetes/etcd/go.mod"),
    include_bytes!("../../kubernetes/etcd/go.sum"),
    include_bytes!("../../kubernetes/images/go.mod"),
    include_bytes!("../../kubernetes/images/hello/main.go"),
    include_bytes!("../../kubernetes/images/nft.yaml"),
    include_bytes!("../../kubernetes/images/pause/main.go"),
    include_bytes!("../../kubernetes/kubernetes/go.mod"),
    include_bytes!("../../kubernetes/kubernetes/go.sum"),
    include_bytes!("../../kubernetes/runc/go.mod"),
    include_bytes!("../../kubernetes/runc/go.sum"),
];

/// A complete set of programs and images on this computer.
#[derive(Clone, Debug)]
pub struct Assets {
    folders: Vec<PathBuf>,
}

impl Assets {
    /// Finds a complete set, or says what is missing and how to get it.
    pub fn find() -> Result<Self> {
        let assets = Self::wherever();
        let absent = PROGRAMS.into_iter().map(|name| assets.program(name));
        let absent =
            absent.chain(IMAGES.into_iter().map(|name| assets.image(name))).find(|path| !path.exists());
        match absent {
            None => Ok(assets),
            Some(path) => Err(Error::Missing {
                object: path.display().to_string(),
                remedy: "run `cargo xtask kube`, or set KUBE_ASSETS to a folder with the programs".into(),
            }),
        }
    }

    /// The folders in which to look, whether or not anything is in them yet.
    pub fn wherever() -> Self {
        let brought = env::var_os("KUBE_ASSETS").map(PathBuf::from);
        Self { folders: brought.into_iter().chain([cache()]).collect() }
    }

    /// The path of a program; where it is missing, the path at which it would be built.
    pub fn program(&self, name: &str) -> PathBuf {
        let mut places = self.folders.iter().map(|folder| folder.join(name));
        places.find(|path| path.exists()).unwrap_or_else(|| cache().join(name))
    }

    /// The path of a Pod image, a docker-archive for `ctr -n k8s.io images import`.
    pub fn image(&self, name: &str) -> PathBuf {
        let mut places = self.folders.iter().map(|folder| folder.join("images").join(format!("{name}.tar")));
        places
            .find(|path| path.exists())
            .unwrap_or_else(|| cache().join("images").join(format!("{name}.tar")))
    }

    /// A `PATH` on which these programs come first.
    pub fn path(&self) -> OsString {
        let rest = env::var_os("PATH").unwrap_or_default();
        let folders = self.folders.iter().cloned().chain(env::split_paths(&rest));
        env::join_paths(folders).unwrap_or(rest)
    }
}

/// Where the programs of this very checkout are kept between runs, outside of it.
pub fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
    let caches = env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from);
    caches.join("node-boot").join(format!("kube-{}", pins()))
}

/// Whether a program is on `PATH`, or where administrators' programs are.
pub fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let places: Vec<_> = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).collect();
    places.iter().any(|folder: &PathBuf| Path::new(folder).join(program).is_file())
}

fn pins() -> String {
    let mut context = Context::new(&SHA256);
    for pin in PINS {
        context.update(pin);
    }
    hex(&context.finish().as_ref()[..8])
}

/// Bytes as small hexadecimal letters.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubernetes_version_is_the_pinned_one() {
        let pinned = include_str!("../../kubernetes/kubernetes/go.mod");
        assert!(pinned.contains(&format!("k8s.io/kubernetes {KUBERNETES}\n")));
    }
}
