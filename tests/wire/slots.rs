//! Who gets which place.

use protocol::messages::Message;
use protocol::refusal::Wait;
use tests::pledge::Pledge;

use crate::Served;

/// Which machine holds the slot.
fn holder(served: &Served, slot: &str) -> String {
    let rows: serde_json::Value = serde_json::from_str(&served.site(&["slots", "--json"]).unwrap()).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["slot"] == slot).unwrap();
    row["machine"].as_str().unwrap().to_owned()
}

fn waits_for(served: &Served, pledge: &Pledge) -> String {
    pledge
        .connect(served.address)
        .unwrap()
        .send(Message::Config, "", "application/json", b"")
        .unwrap()
        .reason()
}

fn slots(served: &Served, text: &str) {
    served.hq.edit("sites/ship-7/slots.yaml", &format!("slots:\n{text}")).unwrap();
    served.deliver();
}

#[test]
fn a_machine_that_waits_gets_the_slot_that_a_new_bundle_brings() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    assert_eq!(waits_for(&served, &pledge), Wait::NoFreeSlot.code());
    slots(&served, "- name: node-1\n");
    assert!(holder(&served, "node-1").starts_with("mc_"));
    assert_eq!(waits_for(&served, &pledge), Wait::ClusterAway.code());
}

#[test]
fn a_slot_waits_for_a_machine_that_has_what_it_demands() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    slots(
        &served,
        "- name: a\n  requires: { tpm: true }\n- name: b\n  requires: { memory-mib: 1 }\n\
         - name: c\n  requires: { profile: intel-nuc-12 }\n- name: d\n  role: control-plane\n",
    );
    pledge.connect(served.address).unwrap().admission().unwrap();
    assert_eq!(waits_for(&served, &pledge), Wait::NoFreeSlot.code());
    slots(&served, "- name: e\n  requires: { profile: generic-uefi, memory-mib: 0 }\n");
    assert!(holder(&served, "e").starts_with("mc_"));
}

#[test]
fn a_slot_is_kept_for_the_machine_that_headquarters_named_unless_a_person_took_that_out() {
    let [absent, gone, other] = [(); 3].map(|()| Pledge::new().unwrap());
    let served = Served::with(&[&other]);
    let rows = format!("A1,{},ship-7,node-1\nA2,{},ship-7,node-2\n", absent.id(), gone.id());
    served.hq.edit("sites/ship-7/slots.yaml", "slots:\n- name: node-1\n- name: node-2\n").unwrap();
    served.hq.import(&format!("serial,dev-key,site,slot\n{rows}")).unwrap();
    slots(&served, "  []\n");
    gone.connect(served.address).unwrap().admission().unwrap();
    served.site(&["retire", "A2"]).unwrap();
    other.connect(served.address).unwrap().admission().unwrap();
    slots(&served, "- name: node-1\n");
    assert_eq!(waits_for(&served, &other), Wait::NoFreeSlot.code());
    slots(&served, "- name: node-1\n- name: node-2\n");
    assert_eq!((holder(&served, "node-1").as_str(), holder(&served, "node-2").is_empty()), ("", false));
    absent.connect(served.address).unwrap().admission().unwrap();
    assert!(holder(&served, "node-1").starts_with("mc_"));
}
