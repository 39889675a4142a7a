//! The provisioner's own folder: who did what, whose its secrets are, and how it comes back from a backup.

use std::os::unix::fs::PermissionsExt as _;

use provisioner::site::store::{AUDIT, Look as _, Store};

use crate::Served;

#[test]
fn whoever_acts_leaves_a_line_that_a_power_cut_does_not_take_and_whoever_looks_does_not() {
    let mut served = Served::with(&[]);
    served.site(&["window", "--minutes", "7"]).unwrap();
    served.site(&["approve", "--slot", "node-1", "--code", "WT0T-BSPH-K"]).unwrap_err();
    served.site(&["claims"]).unwrap();
    served.kill();
    let store = Store::open(&served.path().join("store.redb")).unwrap();
    let lines: Vec<serde_json::Value> =
        store.look().unwrap().list(AUDIT).unwrap().into_iter().map(|(_, line)| line).collect();
    let acts: Vec<_> =
        lines.iter().filter(|line| !line["what"].as_str().unwrap().contains("apply")).collect();
    let [window, approval] = acts.as_slice() else { panic!("{lines:?}") };
    assert!(window["what"].as_str().unwrap().contains('7') && window["outcome"] == "done", "{window}");
    assert!(window["who"].as_str().unwrap().starts_with("uid "), "{window}");
    assert_eq!(approval["what"], "approve by voice for node-1");
    assert!(approval["outcome"].as_str().unwrap().contains("the owner does not allow it"), "{approval}");
}

#[test]
fn nobody_else_on_the_computer_reads_a_file_of_the_provisioner() {
    let served = Served::with(&[]);
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&served.path()), 0o700);
    for name in ["identity.json", "trust.json", "issuing-ca.key", "leaf.key"] {
        assert_eq!(mode(&served.path().join(name)), 0o600, "{name}");
    }
}

#[test]
fn a_backup_brings_everything_back_that_cannot_be_made_again() {
    let served = Served::with(&[]);
    let kept = ["identity.json", "trust.json", "issuing-ca.key", "owner.json", "cluster.json", "roles.json"];
    // Of a cluster that is gone, and of people who may look: nothing here reads them.
    std::fs::write(served.path().join("cluster.json"), "{}").unwrap();
    std::fs::write(served.path().join("roles.json"), r#"{"users":{"1000":"view"}}"#).unwrap();
    let file = served.hq.path("backup").display().to_string();
    served.site(&["backup", &file]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join("new");
    served.elsewhere(&["restore", "--dir", &new.display().to_string(), &file]).unwrap();
    for name in kept {
        let read = |folder: &std::path::Path| std::fs::read(folder.join(name)).unwrap();
        assert!(read(&served.path()) == read(&new), "{name}");
    }
    assert!(new.join("store.redb").exists());
}
