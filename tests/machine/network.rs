//! A network that lets nobody in without a tag, and two cables that are one.

use std::net::TcpStream;
use std::time::Duration;

use harness::{Board, Bus, wait};
use tests::stage::{JOINED, SITE};

use crate::{DEADLINE, site_and_machine};

const NETWORK: &str = "name: ship-7\nnetwork:\n  mtu: 1280\n  first-contact: { vlan: 5 }\n";
const SLOTS: &str =
    "slots:\n- { name: node-1, address: 10.77.0.11, cidr: 10.77.0.0/24, vlan: 5, bond: active-backup }\n";
/// The kubelet of the machine in the slot.
const KUBELET: &str = "10.77.0.11:10250";

#[test]
#[ignore = "long: cargo xtask test --long runs it; the wire tier holds all of it but tags and bonds"]
fn a_machine_behind_a_tag_finds_its_site_by_its_stick_and_stays_a_member_with_either_of_two_cables() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let board = Board { tag: Some(5), ..Board::new("VM0005", Bus::Virtio) };
    let (site, mut vm) = site_and_machine("tag", &board);
    site.hq.edit(&format!("sites/{SITE}/site.yaml"), NETWORK).unwrap();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    site.deliver().unwrap();
    vm.plug_stick(&site.hq.kit().unwrap());
    vm.power_on().unwrap();
    vm.says("The system is on the disk. Starting from there.", DEADLINE).unwrap();
    vm.says("address 10.77.0.11/24, VLAN 5, all cables as one, MTU 1280.", DEADLINE).unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    let node = site.ready_node("node-1").unwrap();
    let explained = site.provisioner.run(&["explain", &node]).unwrap();
    assert!(!explained.contains("its network"), "{explained}");
    for (out, is_in) in [(0, 1), (1, 0)] {
        vm.plug(is_in, true).unwrap();
        vm.plug(out, false).unwrap();
        wait::until("it to answer over the other cable", DEADLINE, || {
            let knock = || TcpStream::connect_timeout(&KUBELET.parse().unwrap(), Duration::from_secs(2));
            site.provisioner.machine.inside(knock).unwrap().map_err(|error| error.to_string())
        })
        .unwrap();
    }
    assert!(!vm.console().contains("is taken back"), "{}", vm.console());
}
