//! From one version to the next over the banks: kept where all is well, dropped with the reason where it is not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use harness::{Assets, Board, Bus, Vm, wait};
use tests::stage::{JOINED, SITE, Site, images_with};

use crate::{DEADLINE, pictured, site_and_machine};

/// Headquarters has the site's machines run these images.
pub fn order(site: &Site, images: &Path, system: &str) {
    let folder = images.display().to_string();
    site.hq.run(&["image", "add", &folder]).unwrap();
    let plan = format!("name: {SITE}\nsystem: {{ {system}, activate: now }}\n");
    site.hq.edit(&format!("sites/{SITE}/site.yaml"), &plan).unwrap();
    site.provisioner.run(&["images", "add", &folder]).unwrap();
    site.deliver().unwrap();
}

/// What the provisioner says of the machine in the slot.
fn explained(site: &Site) -> String {
    site.provisioner.run(&["explain", "node-1"]).unwrap()
}

/// Waits until the provisioner says this of the machine.
fn explains(site: &Site, words: &str) {
    let said = wait::until(words, DEADLINE, || {
        let said = explained(site);
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
    said.unwrap();
}

/// A machine that has installed itself and is a member.
fn member(name: &str) -> (Site, Vm, String) {
    let (site, mut vm) = site_and_machine(name, &Board::new("VM0005", Bus::Virtio));
    vm.power_on().unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    let node = site.ready_node("node-1").unwrap();
    (site, vm, node)
}

#[test]
#[ignore = "long: cargo xtask test --long runs it; a machine that starts seven times"]
fn an_operating_system_that_proves_itself_is_kept_and_one_that_does_not_come_up_is_dropped() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    images_with(&good, "0.2.0", &|_| None).unwrap();
    let ends_at_once = Assets::find().unwrap().program("loopback");
    images_with(&bad, "0.3.0", &|name| (name == "node-boot").then(|| ends_at_once.clone())).unwrap();
    let (site, vm, node) = member("update-os");

    order(&site, &good, "os: 0.2.0");
    vm.says("os 0.2.0 is here.", DEADLINE).unwrap();
    vm.says("All is well with os 0.2.0: it is kept.", DEADLINE).unwrap();
    assert_eq!(site.ready_node("node-1").unwrap(), node);
    explains(&site, "0.2.0, another one is in the other bank");

    order(&site, &bad, "os: 0.3.0");
    // It is started twice, and each time the one before after it.
    let dropped =
        "os 0.3.0 was dropped: it was started 2 times and did not come up. This machine goes on with 0.2.0.";
    vm.says(dropped, 2 * DEADLINE).unwrap();
    explains(&site, "0.2.0, another one is in the other bank; 0.3.0 was tried and dropped");
    assert_eq!(site.ready_node("node-1").unwrap(), node);
}

/// A program that calls itself another version.
fn renamed(program: &Path, version: &str, to: PathBuf) -> PathBuf {
    let mut bytes = fs::read(program).unwrap();
    let (old, new) = (harness::assets::KUBERNETES.as_bytes(), version.as_bytes());
    let places: Vec<_> = bytes.windows(old.len()).enumerate().filter(|(_, there)| *there == old).collect();
    let places: Vec<_> = places.into_iter().map(|(place, _)| place).collect();
    assert!(!places.is_empty() && old.len() == new.len());
    for place in places {
        bytes[place..place + new.len()].copy_from_slice(new);
    }
    fs::write(&to, bytes).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    to
}

#[test]
#[ignore = "long: cargo xtask test --long runs it; two more images are built and fetched; the unit tier holds what a bank does"]
fn kubernetes_moves_without_a_restart_and_moves_back_where_its_kubelet_does_not_run() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    let assets = Assets::find().unwrap();
    let kubelet = renamed(&assets.program("kubelet"), "v1.36.2", folder.path().join("kubelet"));
    images_with(&good, env!("CARGO_PKG_VERSION"), &|name| (name == "kubelet").then(|| kubelet.clone()))
        .unwrap();
    // It says which version it is, and knows none of a kubelet's arguments.
    let kubelet = renamed(&assets.program("kube-proxy"), "v1.36.1", folder.path().join("no-kubelet"));
    images_with(&bad, env!("CARGO_PKG_VERSION"), &|name| (name == "kubelet").then(|| kubelet.clone()))
        .unwrap();
    let (site, vm, node) = member("update-kubernetes");
    let version = |node: &str| {
        let path = "jsonpath={.status.nodeInfo.bootID} {.status.nodeInfo.kubeletVersion}";
        site.plane.kubectl(&["get", "node", node, "-o", path]).unwrap()
    };
    let before = version(&node);

    order(&site, &good, "kubernetes: v1.36.2");
    vm.says("All is well with kubernetes v1.36.2: it is kept.", DEADLINE).unwrap();
    assert_eq!(version(&node), before.replace("v1.36.3", "v1.36.2"), "it has not started anew");

    order(&site, &bad, "kubernetes: v1.36.1");
    vm.says("kubernetes v1.36.1 was dropped: the kubelet has ended 3 times", DEADLINE).unwrap();
    pictured(&vm, "dropped");
    explains(&site, "v1.36.2, another one is in the other bank; v1.36.1 was tried and dropped");
    assert_eq!(site.ready_node("node-1").unwrap(), node);
    assert_eq!(version(&node), before.replace("v1.36.3", "v1.36.2"));
}
