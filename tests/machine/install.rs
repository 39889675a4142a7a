//! From a stick onto a disk, and from the disk into the cluster, without a key being touched.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use harness::{Board, Bus, Vm, wait};
use tests::stage::{JOINED, code_in};

use crate::{DEADLINE, pictured, site_and_machine, trace};

#[test]
fn a_bare_machine_installs_itself_once_is_the_same_node_after_a_power_cut_and_heeds_its_power_button() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let (site, mut vm) = site_and_machine("bare", &Board::new("VM0001", Bus::Virtio));
    vm.power_on().unwrap();
    vm.says("The site has accepted this machine.", DEADLINE).unwrap();
    pictured(&vm, "accepted");
    vm.says("50 % of it are done.", DEADLINE).unwrap();
    pictured(&vm, "installing");
    vm.says("The system is on the disk. Starting from there.", DEADLINE).unwrap();
    // The stick is still in; the firmware starts the disk, and nothing is installed again.
    vm.says(JOINED, DEADLINE).unwrap();
    trace::check(&vm.console());
    pictured(&vm, "member");
    let node = site.ready_node("node-1").unwrap();
    vm.power_off();
    vm.pull_stick();
    vm.power_on().unwrap();
    joined(&vm, 2);
    assert_eq!(site.ready_node("node-1").unwrap(), node);
    assert_eq!(vm.console().matches("Installing on").count(), 1, "{}", vm.console());
    assert_eq!(shows_of_its_state(&vm), [""; 0], "whoever takes the disk reads nothing");
    vm.press_power().unwrap();
    vm.is_off(DEADLINE).unwrap();
    assert!(vm.console().contains("Switching off."), "{}", vm.console());
}

#[test]
fn a_machine_without_tpm_that_nobody_registered_shows_its_code_is_approved_and_joins() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let board = Board { card: "e1000e", tpm: false, ..Board::new("VM0003", Bus::Ata) };
    let (site, mut vm) = site_and_machine("code", &board);
    site.provisioner.run(&["window"]).unwrap();
    vm.power_on().unwrap();
    let code = wait::until("its code", DEADLINE, || {
        let console = vm.console();
        code_in(&console).ok_or(console)
    });
    pictured(&vm, "code");
    site.approve("node-1", &code.unwrap()).unwrap();
    vm.says("Installing on /dev/sda.", DEADLINE).unwrap();
    vm.says("This machine has no TPM: its disk is not encrypted.", DEADLINE).unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    let node = site.ready_node("node-1").unwrap();
    assert!(site.provisioner.run(&["explain", &node]).unwrap().contains("not encrypted"));
    vm.power_off();
    assert_eq!(shows_of_its_state(&vm), IN_THE_STATE, "what is looked for is there");
}

#[test]
#[ignore = "long: cargo xtask test --long runs it; a machine that starts six times"]
fn a_machine_comes_back_with_other_firmware_and_after_damage_and_is_blank_once_wiped() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let (site, mut vm) = site_and_machine("firmware", &Board::new("VM0005", Bus::Virtio));
    vm.power_on().unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    let node = site.ready_node("node-1").unwrap();
    vm.power_off();
    vm.pull_stick();
    vm.change_firmware().unwrap();
    vm.power_on().unwrap();
    vm.says("the firmware or its settings are not what they were (PCR 7)", DEADLINE).unwrap();
    pictured(&vm, "shut");
    vm.says("The site's key opens this machine's disk. Starting from there.", DEADLINE).unwrap();
    joined(&vm, 2);
    assert_eq!(site.ready_node("node-1").unwrap(), node);
    assert_eq!(vm.console().matches("Installing on").count(), 1, "{}", vm.console());
    // The header that is left is the volumes'.
    vm.power_off();
    let disk = File::options().write(true).open(vm.disk()).unwrap();
    disk.write_all_at(&vec![0; 200 << 20], SYSTEM_END).unwrap();
    vm.power_on().unwrap();
    vm.says("This machine's own state is not in use", DEADLINE).unwrap();
    joined(&vm, 3);
    assert_eq!(vm.console().matches("Installing on").count(), 2, "{}", vm.console());
    let node = site.ready_node("node-1").unwrap();
    site.provisioner.run(&["wipe", &node]).unwrap();
    vm.says("This machine is wiped.", DEADLINE).unwrap();
    pictured(&vm, "wiped");
    let said = site.provisioner.run(&["explain", "VM0005"]).unwrap();
    assert!(said.contains("wiped"), "{said}");
    vm.power_off();
    let disk = File::open(vm.disk()).unwrap();
    for at in [0, SYSTEM_END, disk.metadata().unwrap().len() - MIB] {
        let mut found = vec![0; 1024 * 1024];
        disk.read_exact_at(&mut found, at).unwrap();
        assert!(found.iter().all(|byte| *byte == 0), "at {at}");
    }
}

/// Waits until the machine has joined for the n-th time.
pub fn joined(vm: &Vm, n: usize) {
    let look = || {
        let console = vm.console();
        if console.matches(JOINED).count() == n { Ok(()) } else { Err(console) }
    };
    wait::until("it to be back", DEADLINE, look).unwrap();
}

const MIB: u64 = 1024 * 1024;
/// Where state and volumes begin: behind the firmware's partition and the banks.
const SYSTEM_END: u64 = (1 + 256 + 2 * 512 + 2 * 1024) * MIB;
/// Names of files of the state, and what a node key looks like in one.
const IN_THE_STATE: [&str; 4] =
    ["belief.json", "node.der", "kubelet-client-current.pem", "BEGIN PRIVATE KEY"];

/// Which of these stand on the disk, where state and volumes are.
fn shows_of_its_state(vm: &Vm) -> Vec<&'static str> {
    let disk = File::open(vm.disk()).unwrap();
    let (mut found, mut piece) = (vec![], vec![0; 4 * 1024 * 1024]);
    let end = disk.metadata().unwrap().len();
    // What stands across the end of a piece is found by the next one.
    for at in (SYSTEM_END..end).step_by(piece.len() - 64) {
        let length = disk.read_at(&mut piece, at).unwrap();
        if piece[..length].iter().all(|byte| *byte == 0) {
            continue;
        }
        found.extend(
            IN_THE_STATE
                .into_iter()
                .filter(|name| piece[..length].windows(name.len()).any(|window| window == name.as_bytes())),
        );
    }
    IN_THE_STATE.into_iter().filter(|name| found.contains(name)).collect()
}

#[test]
#[ignore = "long: cargo xtask test --long runs it; the machine of the depot's test is flashed as well"]
fn a_machine_whose_disk_was_flashed_at_the_depot_needs_no_stick() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let (site, mut vm) = site_and_machine("flashed", &Board::new("VM0004", Bus::Nvme));
    vm.flash(&site.hq.path("stick")).unwrap();
    vm.pull_stick();
    vm.power_on().unwrap();
    vm.says("Installing on /dev/nvme0n1.", DEADLINE).unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    site.ready_node("node-1").unwrap();
}

#[test]
fn a_disk_with_somebodys_data_is_left_alone_until_a_person_says_yes() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let board = Board { card: "e1000e", ..Board::new("VM0002", Bus::Ata) };
    let (site, mut vm) = site_and_machine("data", &board);
    let disk = File::options().read(true).write(true).open(vm.disk()).unwrap();
    disk.write_all_at(b"a letter to somebody", 4096).unwrap();
    vm.power_on().unwrap();
    vm.says("holds data, which is not ours to overwrite", DEADLINE).unwrap();
    pictured(&vm, "data");
    let mut kept = [0; 8192];
    disk.read_exact_at(&mut kept, 0).unwrap();
    assert!(kept[4096..].starts_with(b"a letter to somebody") && kept[..4096].iter().all(|byte| *byte == 0));
    let said = site.provisioner.run(&["explain", "VM0002"]).unwrap();
    let (_, mark) = said.split_once("--overwrite ").unwrap();
    let mark = mark.split('`').next().unwrap();
    site.provisioner.run(&["approve", "--machine", "VM0002", "--overwrite", mark]).unwrap();
    vm.says("may be overwritten: it is empty now.", DEADLINE).unwrap();
    vm.says("The system is on the disk.", DEADLINE).unwrap();
}
