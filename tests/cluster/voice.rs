//! A machine that nobody registered, approved by telephone and confirmed on a stick: a Ready Node, then HQ's own.

use std::fs;

use harness::{Hardware, Options, wait};
use tests::stage::{DEADLINE, SITE, SLOTS, Site, Spare};

/// Waits until `node-boot status` says `words`.
fn stands(spare: &Spare, words: &str) {
    wait::until(&format!("node-boot to stand at {words:?}"), DEADLINE, || {
        let said = spare.run(&["status"]).map_err(|error| error.to_string())?;
        if said.contains(words) { Ok(()) } else { Err(said) }
    })
    .unwrap();
}

#[test]
fn r13_two_people_let_a_machine_in_without_a_voucher_and_hq_takes_it_over_as_it_runs() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let mut site = Site::build_of("voice", Options::default(), &["--allow-phone"]).unwrap();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    site.provisioner.start().unwrap();
    site.deliver().unwrap();
    site.provisioner.run(&["window"]).unwrap();
    let mut spare = site.spare("spare-1", 11, Hardware::nuc("GEWS1240001X")).unwrap();
    spare.machine.write("/stick/label", "a stick").unwrap();
    spare.run_with(&["--stick", &spare.machine.on_disk("/stick").display().to_string(), "--patience", "2"]);
    spare.start().unwrap();
    let code = spare.code().unwrap();
    let on_stick = spare.machine.on_disk("/stick/nodeboot/code.txt");
    assert!(fs::read_to_string(&on_stick).unwrap().starts_with(&code), "a machine without a screen");

    let answer = site.hq.answer("node-1", &code).unwrap();
    site.provisioner.run(&["approve", "--slot", "node-1", "--code", &answer]).unwrap();
    spare.says("rename").unwrap();
    // A power cut and a restart of the other end, at the worst moment.
    spare.kill();
    site.provisioner.kill();
    site.provisioner.start().unwrap();
    spare.start().unwrap();
    spare.says("rename").unwrap();
    let question = fs::read_to_string(&on_stick).unwrap();
    assert!(question.starts_with(&code) && question.contains("site ship-7"), "{question}");
    assert_eq!(site.plane.kubectl(&["get", "nodes", "-o", "name"]).unwrap(), "", "nobody has confirmed");
    fs::rename(&on_stick, spare.machine.on_disk("/stick/nodeboot/confirm.txt")).unwrap();
    let node = site.ready_node("node-1").unwrap();
    stands(&spare, "approved by telephone");

    site.report().unwrap();
    stands(&spare, "epoch 1");
    assert_eq!(site.ready_node("node-1").unwrap(), node, "the same Node: nobody enrolled again");
    let explained = site.provisioner.run(&["explain", &node]).unwrap();
    assert!(explained.starts_with("mc_"), "{explained}");
}
