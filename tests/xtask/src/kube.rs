//! Builds Kubernetes, etcd, containerd, runc and the CNI programs from their pinned modules into a cache.

use crate::go::{self, Flags};
use crate::pod_image;
use anyhow::{Context as _, Result};
use harness::assets::{Assets, CONTROL_PLANE, IMAGES, KUBERNETES, PROGRAMS, cache};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

const PLUGINS: &str = "github.com/containernetworking/plugins/plugins";
const CONTAINERD: &str = "github.com/containerd/containerd/v2";

/// Makes sure that every program and image is there, building what is not; a stopped build resumes.
pub fn ensure() -> Result<()> {
    if Assets::find().is_ok() {
        eprintln!("kubernetes {KUBERNETES}: everything is there");
        return Ok(());
    }
    let cache = cache();
    fs::create_dir_all(cache.join("images")).with_context(|| format!("cannot create {}", cache.display()))?;
    let home = cache.parent().unwrap_or(&cache);
    let go = go::toolchain(home)?;
    let assets = Assets::wherever();
    let total = PROGRAMS.len() + IMAGES.len();
    for (number, name) in PROGRAMS.into_iter().enumerate() {
        let output = assets.program(name);
        timed(number + 1, total, name, &output, || {
            let (module, package) = source(name);
            go::build(&go, &modules().join(module), &package, &flags(name), &output)
        })?;
    }
    for (number, name) in IMAGES.into_iter().enumerate() {
        let output = assets.image(name);
        timed(PROGRAMS.len() + number + 1, total, &format!("image {name}"), &output, || {
            let more = |root: &Path| {
                if name == "kube-proxy" { pod_image::add_nft(root, &home.join("debian")) } else { Ok(()) }
            };
            // kubeadm asks for its own by the version.
            let tag =
                if name.starts_with("kube-") && CONTROL_PLANE.contains(&name) { KUBERNETES } else { "1" };
            if PROGRAMS.contains(&name) {
                return pod_image::pack([name, tag], &assets.program(name), more, &output);
            }
            let program = output.with_extension("program");
            let (module, package) = of_images(name);
            go::build(&go, &modules().join(module), &package, &flags(name), &program)?;
            pod_image::pack([name, tag], &program, more, &output)?;
            fs::remove_file(&program).context("cannot remove the unpacked program")
        })?;
    }
    Ok(())
}

fn timed(
    number: usize,
    total: usize,
    what: &str,
    output: &Path,
    work: impl FnOnce() -> Result<()>,
) -> Result<()> {
    if output.exists() {
        return Ok(());
    }
    let start = Instant::now();
    eprintln!("kubernetes {KUBERNETES}: {number} of {total}, building {what}");
    work()?;
    eprintln!("kubernetes {KUBERNETES}: {number} of {total}, {what} took {} s", start.elapsed().as_secs());
    Ok(())
}

/// The folder of module files and the package that a program is built from.
fn source(name: &str) -> (&'static str, String) {
    match name {
        "etcd" => ("etcd", "go.etcd.io/etcd/server/v3".into()),
        "bridge" | "loopback" => ("cni", format!("{PLUGINS}/main/{name}")),
        "host-local" => ("cni", format!("{PLUGINS}/ipam/{name}")),
        "runc" => ("runc", "github.com/opencontainers/runc".into()),
        "containerd" | "containerd-shim-runc-v2" | "ctr" => {
            ("containerd", format!("{CONTAINERD}/cmd/{name}"))
        }
        _ => ("kubernetes", format!("k8s.io/kubernetes/cmd/{name}")),
    }
}

/// The same for what is in an image alone.
fn of_images(name: &str) -> (&'static str, String) {
    match name {
        "coredns" => ("coredns", ".".into()),
        _ => ("images", format!("./{name}")),
    }
}

fn flags(name: &str) -> Flags {
    let plain = Flags { cgo: false, tags: "", linker: "-s -w".into() };
    match name {
        // Without seccomp every Pod fails, and seccomp is a C library.
        "runc" => {
            Flags { cgo: true, tags: "seccomp,netgo,osusergo", linker: "-s -w -extldflags -static".into() }
        }
        "containerd" | "containerd-shim-runc-v2" | "ctr" => {
            Flags { linker: format!("-s -w -X {CONTAINERD}/version.Version=v2.4.2"), ..plain }
        }
        _ if name.starts_with("kube") => {
            let set = "-X k8s.io/component-base/version.git";
            let linker = format!("-s -w {set}Version={KUBERNETES} {set}Major=1 {set}Minor=36");
            Flags { linker, ..plain }
        }
        _ => plain,
    }
}

fn modules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubernetes")
}
