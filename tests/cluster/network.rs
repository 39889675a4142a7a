//! A member whose whole system is ours gets another network from headquarters: a good one, and one that leads nowhere.

use harness::{Hardware, Machine, Options};
use tests::stage::{Csv, DEADLINE, JOINED, SITE, Site, Spare};

/// Waits until `provisioner explain` says this of the machine, or no more.
fn explains(site: &Site, machine: &str, words: &str, says: bool) {
    harness::wait::until(&format!("{words:?} to be explained"), DEADLINE, || {
        let said = site.provisioner.run(&["explain", machine]).map_err(|error| error.to_string())?;
        if said.contains(words) == says { Ok(()) } else { Err(said) }
    })
    .unwrap();
}

fn slot(site: &Site, address: &str, cidr: &str) {
    let slots = format!("slots:\n- name: node-1\n  address: {address}\n  cidr: {cidr}\n");
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), &slots).unwrap();
}

#[test]
fn a_member_takes_a_new_network_and_gives_one_back_that_cuts_it_off_and_headquarters_hears_why() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("plans", Options::default()).unwrap();
    let mut spare = Spare::new(&site.lan, &site.programs, "bare", Hardware::nuc("A1"), &site.hq).unwrap();
    spare.run_with(&["--system", "installed", "--trial", "5"]);
    slot(&site, "10.77.0.11", "10.77.0.0/24");
    let mut rows = Csv::default();
    rows.add(&spare.registration().unwrap(), &[("site", SITE), ("slot", "node-1")]);
    site.hq.import(&rows.text()).unwrap();
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
    // A network of IPv4 alone, with a DHCP server.
    let hardware = Hardware { address: Some(site.lan.address(3)), tpm: false, ..Hardware::nuc("S1") };
    let server = Machine::new(&site.lan, "server", hardware).unwrap();
    let _dhcp = server.dnsmasq(&["--port=0", "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,1h"]).unwrap();
    spare.machine.run("ip6tables", &["-A", "OUTPUT", "-o", "eth0", "-j", "DROP"]).unwrap();

    spare.start().unwrap();
    spare.says("Got the address 10.77.0.50/24 from 10.77.0.3 (eth0).").unwrap();
    spare.says("Trying headquarters' network for this machine: address 10.77.0.11/24.").unwrap();
    spare.says(JOINED).unwrap();
    let node = site.ready_node("node-1").unwrap();
    explains(&site, &node, "its network", false);

    slot(&site, "10.99.0.11", "10.99.0.0/24");
    site.deliver().unwrap();
    spare.says("Trying headquarters' network for this machine: address 10.99.0.11/24.").unwrap();
    spare.says("taken back: no provisioner was reached within 5 s with address 10.99.0.11/24").unwrap();
    explains(&site, &node, "no provisioner was reached within 5 s with address 10.99.0.11/24", true);
    let addresses = spare.machine.run("ip", &["-4", "-o", "address", "show", "eth0"]).unwrap();
    assert!(addresses.contains("inet 10.77.0.11/24 ") && addresses.lines().count() == 1, "{addresses}");

    slot(&site, "10.77.0.12", "10.77.0.0/24");
    site.deliver().unwrap();
    spare.says("Trying headquarters' network for this machine: address 10.77.0.12/24.").unwrap();
    explains(&site, &node, "its network", false);
    let addresses = spare.machine.run("ip", &["-4", "-o", "address", "show", "eth0"]).unwrap();
    assert!(addresses.contains("inet 10.77.0.12/24 "), "{addresses}");
    assert_eq!(site.ready_node("node-1").unwrap(), node, "it was a member all the time");
    // A link-local address leads to the provisioner, and to nobody else.
    spare.machine.run("ip6tables", &["-D", "OUTPUT", "-o", "eth0", "-j", "DROP"]).unwrap();
    slot(&site, "10.98.0.11", "10.98.0.0/24");
    site.deliver().unwrap();
    spare.says("taken back: no API server answers any more with address 10.98.0.11/24").unwrap();
    explains(&site, &node, "no API server answers any more with address 10.98.0.11/24", true);
    let said = spare.log();
    assert_eq!(said.matches("Starting the cluster's programs").count(), 1, "{said}");
}
