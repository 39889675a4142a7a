//! What a person at the site reads when something cannot be done, or was done to a machine that runs.

use std::fs;

use tests::pledge::Pledge;
use tests::stage::SITE;

use crate::Served;

/// Why this was refused: it is an error, and no longer than a line.
fn refused(said: anyhow::Result<String>, words: &[&str]) {
    let said = said.unwrap_err().to_string();
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    assert!(said.trim().lines().count() == 1, "{said}");
}

#[test]
fn a_provisioner_is_begun_and_certified_once_for_one_site() {
    let served = Served::with(&[]);
    let reply = served.hq.path("reply.json").display().to_string();
    refused(served.site(&["init", "--reply", &reply]), &["is already certified for ship-7"]);

    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("new").display().to_string();
    let owner = served.hq.owner_file().display().to_string();
    let init = |site: &str, more: &[&str]| {
        served.elsewhere(&[&["init", "--dir", &dir, "--site", site, "--owner", &owner], more].concat())
    };
    let first = init(SITE, &[]).unwrap();
    assert_eq!(init(SITE, &[]).unwrap(), first, "the same once more shows the same request");
    refused(init("ship-8", &[]), &["has a request for ship-7", "this is for ship-8", "--again"]);
    assert_ne!(init("ship-8", &["--again"]).unwrap(), first);
    let text = fs::read(&reply).unwrap();
    fs::write(&reply, &text[..text.len() / 2]).unwrap();
    refused(
        served.elsewhere(&["init", "--dir", &dir, "--reply", &reply]),
        &["this is no reply of HQ's, or one that is cut off"],
    );
}

#[test]
fn what_is_no_kubeconfig_is_called_so_in_a_line() {
    let served = Served::with(&[]);
    let file = served.hq.path("admin.conf");
    for text in ["]}:\n\t- garbage\n  {", "apiVersion: v1\nkind: Config\n", ""] {
        fs::write(&file, text).unwrap();
        refused(served.site(&["attach", &file.display().to_string()]), &["admin.conf is no kubeconfig: "]);
    }
}

#[test]
fn serve_says_what_is_missing_and_which_option_gives_another_port() {
    let served = Served::with(&[]);
    let mut other = served.beside();
    let log = fs::read_to_string(other.folder.path().join("log")).unwrap();
    for missing in ["no bundle from HQ yet: run `provisioner apply BUNDLE`", "not attached to a cluster"] {
        assert!(log.contains(missing), "{log}");
    }
    other.kill();
    let (taken, free) = (served.address.to_string(), "127.0.0.1:0");
    for (listen, metrics, option) in
        [(taken.as_str(), free, "--listen"), (free, &served.metrics.to_string(), "--metrics")]
    {
        let said = other.site(&["serve", "--listen", listen, "--metrics", metrics]).unwrap_err().to_string();
        assert!(said.contains(&format!("({option} gives another address)")), "{said}");
        assert!(!said.contains("serving"), "{said}");
    }
}

#[test]
fn whoever_retires_a_machine_that_runs_is_told_so_and_the_audit_line_reads_like_it() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    refused(served.site(&["retire", "WIRE000"]), &["has not proved itself here yet", "plug it in"]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let said = served.site(&["retire", "WIRE000"]).unwrap();
    let id = said.split(':').next().unwrap();
    assert!(said.contains("It was seen to run: it was heard"), "{said}");
    assert!(said.contains(&format!("`provisioner retire --undo {id}`")), "{said}");
    let log = fs::read_to_string(served.folder.path().join("log")).unwrap();
    assert!(log.contains("what=\"retire WIRE000\""), "{log}");
}

#[test]
fn a_free_slot_is_explained_with_the_machine_that_it_is_kept_for() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[]);
    served.slots(&["node-1", "node-2"]);
    served.hq.import(&format!("serial,dev-key,site,slot\nKEPT001,{},{SITE},node-1\n", pledge.id())).unwrap();
    served.deliver();
    let kept = served.site(&["explain", "node-1"]).unwrap();
    for words in ["node-1: Free", "a slot that no machine holds", "It is kept for mc_", "KEPT001"] {
        assert!(kept.contains(words), "{kept}");
    }
    let open = served.site(&["explain", "node-2"]).unwrap();
    assert!(open.contains("The next registered worker takes it"), "{open}");
}
