//! Only what the owner signed is started: from a machine that believes nobody to a member that believes the owner alone.

use harness::{Board, Bus, Lan, Options, Vm};
use tests::stage::{Hq, JOINED, Programs, SITE, Site, on_stick, own_images};

use crate::{DEADLINE, pictured};

/// What a depot says at the end.
const READY: &str = "This machine is ready for ship-7.";

fn board(serial: &str) -> Board {
    Board { secure: true, ..Board::new(serial, Bus::Virtio) }
}

/// The depot's stick makes the machine ready, and it is off.
fn at_the_depot(hq: &Hq, vm: &mut Vm, options: &[&str]) -> std::path::PathBuf {
    let stick = hq.kit_with("depot", &[&["--depot"], options].concat()).unwrap();
    vm.lend_stick(&stick);
    vm.power_on().unwrap();
    vm.says(READY, DEADLINE).unwrap();
    pictured(vm, "depot");
    vm.is_off(DEADLINE).unwrap();
    vm.pull_stick();
    stick
}

#[test]
fn a_machine_gets_the_owners_keys_and_its_row_at_the_depot_and_joins_its_site_with_secure_boot_on() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("depot", Options::default()).unwrap();
    let slots = "slots:\n- name: node-1\n  address: 10.77.0.11\n  cidr: 10.77.0.0/24\n";
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), slots).unwrap();
    let mut vm = Vm::new(&site.lan, "depot-1", board("VM0005")).unwrap();
    let stick = at_the_depot(&site.hq, &mut vm, &["--flash"]);
    for words in [
        "Secure Boot is off, and the firmware has no owner yet",
        "Firmware: the firmware believes the owner's keys from its next start on.",
        "Registration: its row is in nodeboot/machines.csv on the stick, by the key of its TPM.",
        "Disk: the system is on vda; it needs no stick at its site.",
    ] {
        assert!(vm.console().contains(words), "{words}: {}", vm.console());
    }

    let table = String::from_utf8(on_stick(&stick, "nodeboot/machines.csv").unwrap()).unwrap();
    assert_eq!(table.lines().count(), 2, "{table}");
    site.hq.import(&table).unwrap();
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
    vm.plug_stick(&site.hq.kit().unwrap());
    vm.power_on().unwrap();
    vm.says("Installing on /dev/vda.", DEADLINE).unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    site.ready_node("node-1").unwrap();
    assert_eq!(vm.console().matches("Secure Boot is off").count(), 1, "at the depot: {}", vm.console());
    let said = site.provisioner.run(&["explain", "VM0005"]).unwrap();
    let line = said.lines().find(|line| line.contains("Secure Boot")).unwrap_or(&said);
    assert!(line.trim_end().ends_with("on"), "{said}");
}

#[test]
fn what_nobody_signed_is_not_started_and_another_owners_section_is_refused() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let (lan, programs, built) =
        (Lan::new("signed").unwrap(), Programs::build().unwrap(), own_images().unwrap());
    let [ours, theirs] = ["Example Line", "Other Line"].map(|owner| Hq::found(&programs, owner).unwrap());
    let mut vm = Vm::new(&lan, "signed-1", board("VM0006")).unwrap();
    let ours_stick = at_the_depot(&ours, &mut vm, &[]);
    let theirs_stick = theirs.kit().unwrap();
    let started = vm.console().matches("Starting.").count();

    let (unsigned, stick) = (std::fs::read(&built.uki).unwrap(), ours.path("mixed"));
    let section = on_stick(&ours_stick, layout::OWNER).unwrap();
    image::stick(&built, &unsigned, &section, &[], &stick).unwrap();
    vm.plug_stick(&stick);
    vm.power_on().unwrap();
    vm.says("Access Denied", DEADLINE).unwrap();
    vm.power_off();
    assert_eq!(vm.console().matches("Starting.").count(), started, "{}", vm.console());

    let (program, section) =
        (on_stick(&ours_stick, layout::PROGRAM).unwrap(), on_stick(&theirs_stick, layout::OWNER).unwrap());
    image::stick(&built, &program, &section, &[], &stick).unwrap();
    vm.power_on().unwrap();
    vm.says("the owner's section is signed by \"Other Line firmware db\"", DEADLINE).unwrap();
    pictured(&vm, "refused");
    assert!(!vm.console().contains("Found the provisioner"), "{}", vm.console());
}
