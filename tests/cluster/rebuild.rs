//! The provisioner's store is lost: Nodes stay as they are, and so do the machines behind them.

use harness::{Hardware, Options};
use tests::stage::{Csv, DIR, SITE, SLOTS, Site, Spare};

/// Every Node with what must not change: its name, its UID, its slot, its machine.
fn nodes(site: &Site) -> String {
    let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.uid} \
                {.metadata.labels.slot\\.node-restriction\\.kubernetes\\.io/name} \
                {.metadata.labels.machine\\.node-restriction\\.kubernetes\\.io/id}{'\\n'}{end}";
    site.plane.kubectl(&["get", "nodes", "-o", path]).unwrap()
}

fn member(site: &Site, n: u8, hardware: Hardware) -> (Spare, Csv) {
    let spare = site.spare(&format!("spare-{n}"), 10 + n, hardware).unwrap();
    let mut rows = Csv::default();
    rows.add(&spare.registration().unwrap(), &[("site", SITE), ("roles", "worker")]);
    (spare, rows)
}

#[test]
fn a_lost_store_changes_no_node_and_gives_nobodys_slot_away() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("rebuild", Options::default()).unwrap();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    let plain = |serial: &str| Hardware { tpm: false, ..Hardware::nuc(serial) };
    let mut spares = Vec::new();
    for (n, hardware) in
        [(1, Hardware::nuc("LOST0001")), (2, plain("LOST0002")), (3, Hardware::nuc("LOST0003"))]
    {
        let (spare, rows) = member(&site, n, hardware);
        site.hq.import(&rows.text()).unwrap();
        spares.push(spare);
    }
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
    let mut late = spares.pop().unwrap();
    for (n, spare) in spares.iter_mut().enumerate() {
        spare.start().unwrap();
        site.ready_node(&format!("node-{}", n + 1)).unwrap();
    }
    let labelled = |said: &str| said.lines().count() == 2 && said.lines().all(|line| line.contains(" mc_"));
    harness::wait::until("both Nodes to name their machines", tests::stage::DEADLINE, || {
        let said = nodes(&site);
        if labelled(&said) { Ok(()) } else { Err(said) }
    })
    .unwrap();
    let before = nodes(&site);
    let rotated: Vec<_> =
        spares.iter().map(|spare| std::fs::read(spare.machine.on_disk(NODE_CERTIFICATE)).unwrap()).collect();

    site.provisioner.kill();
    std::fs::remove_file(site.provisioner.machine.on_disk(&format!("{DIR}/store.redb"))).unwrap();
    // One that is off while the store is made again is not forgotten either.
    spares[0].kill();
    site.provisioner.start().unwrap();
    // A machine that comes now gets the slot that is free, and no other.
    late.start().unwrap();
    site.ready_node("node-3").unwrap();
    // Another start, at which the Nodes cannot be seen: what was not learned yet is not denied either.
    site.plane.kill_api();
    site.provisioner.kill();
    site.provisioner.start().unwrap();
    spares[0].start().unwrap();
    spares[0].says("The provisioner could not do this now; it is asked again.").unwrap();
    site.plane.start_api().unwrap();
    for node in before.lines().filter_map(|line| line.split(' ').next()) {
        harness::wait::until("the machine to be a member again", tests::stage::DEADLINE, || {
            let said = site.provisioner.run(&["explain", node]).map_err(|error| error.to_string())?;
            if said.contains("Member") && said.contains("intel-nuc-12") { Ok(()) } else { Err(said) }
        })
        .unwrap();
    }
    assert!(nodes(&site).starts_with(&before), "{before}\n{}", nodes(&site));
    for (spare, certificate) in spares.iter().zip(&rotated) {
        assert_eq!(
            std::fs::read(spare.machine.on_disk(NODE_CERTIFICATE)).unwrap(),
            *certificate,
            "nobody enrolled again"
        );
    }
}

/// Where a machine keeps its node certificate.
const NODE_CERTIFICATE: &str = "/var/lib/node-boot/node.der";
