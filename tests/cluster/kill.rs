//! Power cuts at every persisted step, of the machine and of the provisioner: the machine always ends Ready, under one
//! identity.

use harness::{Hardware, Options};
use tests::stage::{Csv, SITE, Site, Spare};

/// More steps than there are.
const STEPS: u32 = 40;

fn machine(site: &Site, n: u32) -> (Spare, Csv) {
    let hardware = Hardware { tpm: false, ..Hardware::nuc(&format!("KILL{n:04}")) };
    let host = u8::try_from(20 + n).unwrap();
    let spare = site.spare(&format!("kill-{n}"), host, hardware).unwrap();
    let mut rows = Csv::default();
    rows.add(&spare.registration().unwrap(), &[("site", SITE), ("slot", &format!("slot-{n}"))]);
    (spare, rows)
}

fn slots(site: &Site) {
    let slot = |n: u32| format!("- name: slot-{n}\n  address: 10.77.0.{}\n", 20 + n);
    let all: String = (1..=STEPS).map(slot).collect();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), &format!("slots:\n{all}")).unwrap();
}

fn one_identity(site: &Site, n: u32) {
    let label = format!("slot.node-restriction.kubernetes.io/name=slot-{n}");
    let nodes = site.plane.kubectl(&["get", "nodes", "-l", &label, "-o", "name"]).unwrap();
    assert_eq!(nodes.lines().count(), 1, "slot-{n}: {nodes}");
}

#[test]
fn node_boot_killed_at_every_step_goes_on_and_ends_ready() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("kill", Options::default()).unwrap();
    slots(&site);
    site.provisioner.start().unwrap();
    let mut walked = 0;
    for n in 1..=STEPS {
        let (mut spare, rows) = machine(&site, n);
        site.hq.import(&rows.text()).unwrap();
        site.deliver().unwrap();
        // `register` has made the keys already; the steps counted are those of the join.
        println!("step {n}");
        if !spare.start_until_rename(n).unwrap() {
            walked = n - 1;
            break;
        }
        spare.start().unwrap();
        site.ready_node(&format!("slot-{n}")).unwrap();
        one_identity(&site, n);
    }
    assert!((8..STEPS).contains(&walked), "{walked} steps were walked");
    println!("{walked} steps were walked");
}

#[test]
fn a_provisioner_killed_at_every_flush_loses_nothing_and_the_machine_ends_ready() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("flush", Options::default()).unwrap();
    slots(&site);
    site.provisioner.start().unwrap();
    for n in 1..=10 {
        let (mut spare, rows) = machine(&site, n);
        site.hq.import(&rows.text()).unwrap();
        site.deliver().unwrap();
        site.provisioner.kill();
        site.provisioner.start_until_flush(n).unwrap();
        spare.start().unwrap();
        let killed = || if site.provisioner.running() { Err("it runs".to_owned()) } else { Ok(()) };
        // One that is not killed within the time has flushed less often than n times: then the join goes on.
        let _ =
            harness::wait::until("the provisioner to be killed", std::time::Duration::from_secs(4), killed);
        site.provisioner.kill();
        site.provisioner.start().unwrap();
        site.ready_node(&format!("slot-{n}")).unwrap();
        one_identity(&site, n);
    }
}
