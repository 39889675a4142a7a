//! What goes wrong on a real site in the middle of a join: said in words on both sides, and nothing is lost.

use harness::{Hardware, Options};
use tests::stage::{Csv, DEADLINE, DIR, SITE, SLOTS, Site, Spare};

/// A site with three slots, and a registered spare for the first that is not switched on yet.
fn site_and_spare(name: &str) -> (Site, Spare) {
    let mut site = Site::build(name, Options::default()).unwrap();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    let spare = site.spare(&format!("{name}-1"), 11, Hardware::nuc("TROUBLE0001")).unwrap();
    let mut rows = Csv::default();
    rows.add(&spare.registration().unwrap(), &[("site", SITE), ("slot", "node-1")]);
    site.hq.import(&rows.text()).unwrap();
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
    (site, spare)
}

fn nodes(site: &Site) -> Vec<String> {
    let said = site.plane.kubectl(&["get", "nodes", "-o", "name"]).unwrap();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn an_api_server_that_goes_away_half_way_is_waited_for() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (mut site, mut spare) = site_and_spare("away");
    site.plane.kill_api();
    spare.start().unwrap();
    spare.says("cluster does not answer").unwrap();
    // The machine may notice it before the provisioner's next look does.
    harness::wait::until("the provisioner to say what is wrong with the site", DEADLINE, || {
        let health = site.provisioner.run(&["explain", "TROUBLE0001"]).map_err(|error| error.to_string())?;
        if health.contains("this site") { Ok(()) } else { Err(health) }
    })
    .unwrap();
    site.plane.start_api().unwrap();
    site.ready_node("node-1").unwrap();
    // One that hangs is worse than one that is gone: nothing waits for it without end.
    site.plane.freeze_api(true);
    let said = site.provisioner.run(&["machines"]).unwrap();
    assert!(said.contains("node-1"), "{said}");
    site.plane.freeze_api(false);
    assert_eq!(nodes(&site).len(), 1);
}

#[test]
fn r39c_a_kubelet_newer_than_the_api_server_is_not_let_in() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("newer");
    let script = spare.machine.on_disk("/var/lib/newer");
    spare.machine.write("/var/lib/newer", "#!/bin/sh\necho Kubernetes v1.99.0\n").unwrap();
    let script = script.display().to_string();
    let over = format!("chmod 755 {script} && mount --bind {script} \"$(command -v kubelet)\"");
    spare.machine.run("sh", &["-c", &over]).unwrap();
    spare.start().unwrap();
    spare.says("The cluster must be changed first").unwrap();
    spare.says("newer than the API server").unwrap();
    assert_eq!(nodes(&site).len(), 0);
    // Once its kubelet fits it goes on by itself.
    spare.machine.run("sh", &["-c", "umount \"$(command -v kubelet)\""]).unwrap();
    site.ready_node("node-1").unwrap();
}

#[test]
fn two_machines_with_one_serial_are_two_machines_to_their_keys_and_an_error_to_hq() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut first) = site_and_spare("twins");
    let mut second = site.spare("twins-2", 12, Hardware::nuc("TROUBLE0001")).unwrap();
    let row = second.registration().unwrap();
    let mut rows = Csv::default();
    rows.add(&row, &[("site", SITE), ("slot", "node-2")]);
    let refused = site.hq.import(&rows.text()).unwrap_err().to_string();
    assert!(refused.contains("TROUBLE0001") && refused.contains("import-refused"), "{refused}");
    // Without the serial, which names neither of them for sure, its key is enough.
    let mut rows = Csv::default();
    rows.add(&row, &[("site", SITE), ("slot", "node-2"), ("serial", "")]);
    site.hq.import(&rows.text()).unwrap();
    site.deliver().unwrap();
    first.start().unwrap();
    second.start().unwrap();
    let (one, two) = (site.ready_node("node-1").unwrap(), site.ready_node("node-2").unwrap());
    assert!(one.starts_with("node-1-") && two.starts_with("node-2-"), "{one} {two}");
    assert_eq!(nodes(&site).len(), 2);
}

#[test]
fn a_machine_whose_cable_is_plugged_in_later_joins() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("cable");
    spare.machine.unplug().unwrap();
    spare.start().unwrap();
    spare.says("No network: please check the cable.").unwrap();
    spare.machine.plug().unwrap();
    site.ready_node("node-1").unwrap();
}

#[test]
fn r36_a_machine_that_was_retired_and_is_wanted_again_comes_back_under_a_new_name() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("again");
    spare.start().unwrap();
    let first = site.ready_node("node-1").unwrap();
    site.provisioner.run(&["retire", &first]).unwrap();
    harness::wait::until("the Node to be gone", DEADLINE, || {
        if nodes(&site).is_empty() { Ok(()) } else { Err(nodes(&site).join(" ")) }
    })
    .unwrap();
    site.provisioner.run(&["retire", "TROUBLE0001", "--undo"]).unwrap();
    spare.says("Making a new key for a new name.").unwrap();
    let second = site.ready_node("node-1").unwrap();
    assert_ne!(second, first, "a name is never used twice");
}

#[test]
fn a_machine_that_is_installed_anew_is_another_node_and_its_former_one_writes_nothing_any_more() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("anew");
    spare.start().unwrap();
    let first = site.ready_node("node-1").unwrap();
    spare.stop().unwrap();
    spare.machine.run("sh", &["-c", "rm -rf /var/lib/node-boot/* /var/lib/kubelet/*"]).unwrap();
    spare.start().unwrap();
    harness::wait::until("another Node in its place", DEADLINE, || match nodes(&site).as_slice() {
        [one] if !one.ends_with(&first) => Ok(()),
        other => Err(other.join(" ")),
    })
    .unwrap();
    assert_ne!(site.ready_node("node-1").unwrap(), first);
    let policies = site.plane.kubectl(&["get", "validatingadmissionpolicies", "-o", "name"]).unwrap();
    assert!(policies.contains(&format!("/{first}.revoked.nodeboot.dev")), "{policies}");
}

#[test]
fn r39a_a_cluster_in_which_nodes_may_approve_themselves_later_gets_no_new_machine_until_that_is_undone() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("later");
    let mut second = site.spare("later-2", 12, Hardware::nuc("TROUBLE0002")).unwrap();
    let mut rows = Csv::default();
    rows.add(&second.registration().unwrap(), &[("site", SITE), ("slot", "node-2")]);
    site.hq.import(&rows.text()).unwrap();
    site.deliver().unwrap();
    spare.start().unwrap();
    site.ready_node("node-1").unwrap();
    let role = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let bind = ["create", "clusterrolebinding", "rotation", "--clusterrole", role, "--group", "system:nodes"];
    site.plane.kubectl(&bind).unwrap();
    harness::wait::until("the provisioner to notice", DEADLINE, || {
        let said = site.provisioner.run(&["explain", "TROUBLE0001"]).map_err(|error| error.to_string())?;
        if said.contains("nodes may approve their own certificates") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    second.start().unwrap();
    second.says("kubectl delete clusterrolebinding rotation").unwrap();
    assert_eq!(nodes(&site).len(), 1);
    site.plane.kubectl(&["delete", "clusterrolebinding", "rotation"]).unwrap();
    site.ready_node("node-2").unwrap();
}

#[test]
fn a_machine_whose_slot_hq_corrects_takes_it_after_a_person_took_it_out_and_back() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("corrected");
    let slots = "slots:\n- name: node-1\n  address: 10.77.0.11\n- name: node-2\n";
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), slots).unwrap();
    spare.start().unwrap();
    let first = site.ready_node("node-1").unwrap();
    let file = std::fs::read_dir(site.hq.dir().join("machines")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("slot: node-1", "slot: node-2")).unwrap();
    site.deliver().unwrap();
    assert_eq!(nodes(&site), [format!("node/{first}")], "what it holds is its own");
    site.provisioner.run(&["retire", &first]).unwrap();
    harness::wait::until("both places to be free", DEADLINE, || {
        let slots = site.provisioner.run(&["slots"]).map_err(|error| error.to_string())?;
        if slots.matches("(free)").count() == 2 { Ok(()) } else { Err(slots) }
    })
    .unwrap();
    site.provisioner.run(&["retire", "TROUBLE0001", "--undo"]).unwrap();
    site.ready_node("node-2").unwrap();
}

#[test]
fn a_spare_that_waits_gets_the_slot_of_a_machine_that_was_retired_and_not_one_that_is_kept_for_another() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut named) = site_and_spare("waits");
    site.hq
        .edit(
            &format!("sites/{SITE}/slots.yaml"),
            "slots:\n- name: node-1\n  address: 10.77.0.11\n- name: node-2\n",
        )
        .unwrap();
    let mut others: Vec<_> = (2..=3)
        .map(|n| site.spare(&format!("waits-{n}"), 10 + n, Hardware::nuc(&format!("WAITS000{n}"))).unwrap())
        .collect();
    let mut rows = Csv::default();
    for other in &others {
        rows.add(&other.registration().unwrap(), &[("site", SITE), ("roles", "worker")]);
    }
    site.hq.import(&rows.text()).unwrap();
    site.deliver().unwrap();
    let [first, second] = others.as_mut_slice() else { panic!("two") };
    first.start().unwrap();
    let held = site.ready_node("node-2").unwrap();
    second.start().unwrap();
    second.says("Every place in the cluster is taken; this machine stands by.").unwrap();
    assert_eq!(nodes(&site), [format!("node/{held}")], "node-1 is kept for the machine that HQ named");
    named.start().unwrap();
    site.ready_node("node-1").unwrap();
    site.provisioner.run(&["retire", &held]).unwrap();
    harness::wait::until("the spare to take its place", DEADLINE, || {
        let now = nodes(&site);
        let taken = now.len() == 2 && !now.contains(&format!("node/{held}"));
        if taken { Ok(()) } else { Err(now.join(" ")) }
    })
    .unwrap();
    assert_ne!(site.ready_node("node-2").unwrap(), held);
}

#[test]
fn a_machine_that_a_person_has_to_allow_waits_for_the_yes_and_then_joins() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("asks");
    let folder = site.hq.dir().join("machines");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("auto: true"), "{text}");
    std::fs::write(&file, text.replace("auto: true", "auto: false")).unwrap();
    site.deliver().unwrap();
    spare.start().unwrap();
    spare.says("Waiting for a person at the site to say yes.").unwrap();
    assert!(nodes(&site).is_empty());
    site.provisioner.run(&["approve", "--machine", "TROUBLE0001"]).unwrap();
    site.ready_node("node-1").unwrap();
}

#[test]
fn a_full_disk_under_the_store_loses_nothing_and_is_over_when_there_is_room() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (mut site, mut spare) = site_and_spare("full");
    site.provisioner.kill();
    let shell = |line: &str| site.provisioner.machine.run("sh", &["-c", line]);
    shell(&format!(
        "cp -a {DIR} /run/kept && mount -t tmpfs -o size=8m,mode=700 tmpfs {DIR} && cp -a /run/kept/. {DIR}"
    ))
    .unwrap();
    site.provisioner.start().unwrap();
    let shell = |line: &str| site.provisioner.machine.run("sh", &["-c", line]);
    shell(&format!("cat /dev/zero > {DIR}/ballast || true")).unwrap();
    spare.start().unwrap();
    spare.says("The provisioner could not do this now; it is asked again.").unwrap();
    shell(&format!("rm {DIR}/ballast")).unwrap();
    let node = site.ready_node("node-1").unwrap();
    harness::wait::until("the machine to be a member", DEADLINE, || {
        let said = site.provisioner.run(&["explain", &node]).map_err(|error| error.to_string())?;
        if said.contains("Member") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    assert_eq!(nodes(&site).len(), 1);
}

#[test]
fn a_member_hears_at_once_whom_headquarters_believes_no_more() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let (site, mut spare) = site_and_spare("withdrawn");
    spare.start().unwrap();
    site.ready_node("node-1").unwrap();
    site.hq.run(&["site", "add", "ship-9"]).unwrap();
    site.hq.run(&["site", "revoke", "ship-9"]).unwrap();
    site.deliver().unwrap();
    let withdrawn = std::fs::read_to_string(site.hq.dir().join("revoked.jws")).unwrap();
    let file = spare.machine.on_disk("/var/lib/node-boot/belief.json");
    harness::wait::until("the machine to keep what was withdrawn", DEADLINE, || {
        let belief = std::fs::read(&file).map_err(|error| error.to_string())?;
        let belief: serde_json::Value = serde_json::from_slice(&belief).map_err(|error| error.to_string())?;
        let kept = &belief["kept"]["revoked"]["0"];
        if kept.as_str().is_some_and(|text| text.trim() == withdrawn.trim()) {
            Ok(())
        } else {
            Err(kept.to_string())
        }
    })
    .unwrap();
}
