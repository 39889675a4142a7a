//! The machine tier: virtual machines with a kernel of their own and node-boot as their PID 1.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use std::path::PathBuf;
use std::time::Duration;

use harness::{Board, Options, Vm};
use protocol::bytes::b64;
use tests::stage::{SITE, Site, own_images};

/// An emulated machine takes its time.
const DEADLINE: Duration = Duration::from_mins(4);

/// A site with one slot, which a machine with this TPM is registered for by its maker's certificates.
fn registered(site: &mut Site, vm: &Vm) {
    site.hq
        .edit(
            &format!("sites/{SITE}/slots.yaml"),
            "slots:\n- name: node-1\n  address: 10.77.0.11\n  cidr: 10.77.0.0/24\n",
        )
        .unwrap();
    let cell =
        vm.tpm().unwrap().certificates().unwrap().iter().map(|der| b64(der)).collect::<Vec<_>>().join(" ");
    site.hq.import(&format!("serial,ek-cert,site,slot\nVM0001,{cell},{SITE},node-1\n")).unwrap();
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
}

/// The stick of this owner.
fn stick(site: &Site) -> PathBuf {
    let stick = site.hq.path("stick");
    image::stick(&own_images().unwrap(), &site.hq.owner_file(), &stick).unwrap();
    stick
}

#[test]
fn a_bare_machine_starts_from_a_stick_and_becomes_a_ready_node_over_a_link_local_cable() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("bare", Options::default()).unwrap();
    let mut vm =
        Vm::new(&site.lan, "vm-1", Board { serial: "VM0001".into(), tpm: true, memory: 3072 }).unwrap();
    registered(&mut site, &vm);
    vm.plug_stick(&stick(&site));
    vm.power_on().unwrap();
    vm.says("This machine is part of the cluster. It needs nothing.", DEADLINE).unwrap();
    site.ready_node("node-1").unwrap();
}
