//! What is in the images, and that the same inputs make the same bits.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use image::Built;
use serde_json::Value;
use tests::stage::{images_with, own_images, run};

/// Every program of a machine: another one has to argue for itself.
const PROGRAMS: [&str; 14] = [
    "opt/cni/bin/bridge",
    "opt/cni/bin/host-local",
    "opt/cni/bin/loopback",
    "usr/bin/containerd",
    "usr/bin/containerd-shim-runc-v2",
    "usr/bin/ctr",
    "usr/bin/mount",
    "usr/bin/node-boot",
    "usr/bin/provisioner",
    "usr/bin/runc",
    "usr/bin/umount",
    // A state that was damaged is mended on the spot: nobody at the machine can.
    "usr/sbin/e2fsck",
    "usr/sbin/mke2fs",
    "usr/lib64/ld-linux-x86-64.so.2",
];

/// Those that come with Kubernetes.
const KUBERNETES: [&str; 2] = ["bin/kubeadm", "bin/kubelet"];

fn programs(folder: &Path, below: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            programs(&path, below, found);
        } else if kind.is_file() && entry.metadata().unwrap().permissions().mode() & 0o111 != 0 {
            found.push(path.strip_prefix(below).unwrap().display().to_string());
        }
    }
}

#[test]
fn a_machine_has_these_programs_and_no_shell() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let images = own_images().unwrap();
    for (image, wanted) in [(images.os.1, &PROGRAMS[..]), (images.kubernetes.1, &KUBERNETES)] {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        run(Command::new("fsck.erofs").arg(format!("--extract={}", root.display())).arg(image)).unwrap();
        let mut found = Vec::new();
        programs(&root, &root, &mut found);
        // Libraries are marked as programs in the distribution too.
        found.retain(|path| !path.starts_with("usr/lib/x86_64-linux-gnu/"));
        found.sort();
        let mut wanted: Vec<_> = wanted.iter().map(|path| (*path).to_owned()).collect();
        wanted.sort();
        assert_eq!(found, wanted);
    }
}

#[test]
fn the_bill_of_materials_says_of_every_program_what_it_is_made_from() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let images = own_images().unwrap();
    let text = std::fs::read(images.uki.with_file_name("sbom.json")).unwrap();
    let bill: Value = serde_json::from_slice(&text).unwrap();
    let list = |key: &str| bill[key].as_array().unwrap().clone();
    let (components, made_of) = (list("components"), list("dependencies"));
    let component = |reference: &Value| components.iter().find(|one| one["bom-ref"] == *reference).unwrap();
    let of_os = PROGRAMS.iter().map(|path| format!("os/{path}"));
    let of_kubernetes = KUBERNETES.iter().map(|path| format!("kubernetes/{path}"));
    let others = ["node-boot.efi", "first archive/init"].map(str::to_owned);
    for name in of_os.chain(of_kubernetes).chain(others) {
        let its = made_of.iter().find(|one| one["ref"] == *name).unwrap_or_else(|| panic!("{name}"));
        let parts = its["dependsOn"].as_array().unwrap();
        assert!(!parts.is_empty(), "{name}");
        for part in parts.iter().map(component) {
            let licensed =
                part["purl"].as_str().unwrap().starts_with("pkg:deb/").then(|| &part["licenses"][0]);
            assert!(part["version"].is_string() && licensed.is_none_or(Value::is_object), "{name}: {part}");
        }
    }
}

#[test]
fn a_second_build_makes_the_same_bits() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let first = own_images().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let second = images_with(folder.path(), env!("CARGO_PKG_VERSION"), &|_| None).unwrap();
    assert_eq!(first.images(), second.images());
    let bill = |built: &Built| built.uki.with_file_name("sbom.json");
    let files = [
        (first.uki.clone(), second.uki.clone()),
        (first.os.1.clone(), second.os.1.clone()),
        (first.kubernetes.1.clone(), second.kubernetes.1.clone()),
        (bill(&first), bill(&second)),
    ];
    for (one, two) in files {
        assert!(std::fs::read(&one).unwrap() == std::fs::read(&two).unwrap(), "{}", one.display());
    }
}
