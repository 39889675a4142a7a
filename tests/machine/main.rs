//! The machine tier: virtual machines with a kernel of their own and node-boot as their PID 1.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use std::path::PathBuf;
use std::time::Duration;

use harness::{Board, Bus, Options, Vm, wait};
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
fn a_bare_machine_installs_itself_from_a_stick_and_becomes_a_ready_node() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("bare", Options::default()).unwrap();
    let board = Board { serial: "VM0001".into(), tpm: true, memory: 3072, disk: Some((Bus::Virtio, 10)) };
    let mut vm = Vm::new(&site.lan, "vm-1", board).unwrap();
    registered(&mut site, &vm);
    vm.plug_stick(&stick(&site));
    vm.power_on().unwrap();
    vm.says("The system is on the disk. Starting from there.", DEADLINE).unwrap();
    // The stick is still in; the firmware starts the disk, and nothing is installed again.
    vm.says("This machine is part of the cluster. It needs nothing.", DEADLINE).unwrap();
    let node = site.ready_node("node-1").unwrap();
    assert_eq!(vm.console().matches("Installing on").count(), 1, "{}", vm.console());
    // Without the stick, after a power cut, it is the same Node again.
    vm.power_off();
    vm.pull_stick();
    vm.power_on().unwrap();
    let joined = "This machine is part of the cluster. It needs nothing.";
    wait::until("it to be back", DEADLINE, || {
        let console = vm.console();
        if console.matches(joined).count() == 2 { Ok(()) } else { Err(console) }
    })
    .unwrap();
    assert_eq!(site.ready_node("node-1").unwrap(), node);
    assert_eq!(vm.console().matches("Installing on").count(), 1, "{}", vm.console());
}
