//! The main job: a registered machine is plugged in and becomes a Ready Node while headquarters is away.

use harness::{Hardware, Options};
use tests::stage::{Csv, SITE, SLOTS, Site};

const POD: &str = r"apiVersion: v1
kind: Pod
metadata: { name: hello }
spec:
  terminationGracePeriodSeconds: 1
  nodeName: NODE
  containers:
  - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
";

#[test]
fn a_registered_machine_becomes_a_ready_node_and_a_thief_with_its_serial_does_not() {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let mut site = Site::build("join", Options::default()).unwrap();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS).unwrap();
    let mut spare = site.spare("spare-1", 11, Hardware::nuc("GEWS1240001X")).unwrap();
    let mut rows = Csv::default();
    rows.add(&spare.registration().unwrap(), &[("site", SITE), ("slot", "node-1")]);
    site.hq.import(&rows.text()).unwrap();
    site.provisioner.start().unwrap();
    site.deliver().unwrap();

    spare.start().unwrap();
    let node = site.ready_node("node-1").unwrap();
    assert!(node.starts_with("node-1-"), "{node}");
    site.plane
        .kubectl_until("the default account", tests::stage::DEADLINE, &["get", "sa", "default"], |_| true)
        .unwrap();
    spare.import_images(&site.assets().unwrap()).unwrap();
    site.plane.apply(&POD.replace("NODE", &node)).unwrap();
    let pod = ["get", "pod", "hello", "-o", "jsonpath={.status.phase}"];
    site.plane.kubectl_until("the Pod", tests::stage::DEADLINE, &pod, |said| said == "Running").unwrap();
    let explained = site.provisioner.run(&["explain", &node]).unwrap();
    assert!(explained.contains("Member"), "{explained}");
    assert!(explained.contains("intel-nuc-12"), "its hardware is known and matched: {explained}");

    let mut thief = site.spare("thief", 66, Hardware::nuc("GEWS1240001X")).unwrap();
    thief.start().unwrap();
    thief.says("Right label, wrong hardware. Call HQ.").unwrap();
    let nodes = site.plane.kubectl(&["get", "nodes", "-o", "name"]).unwrap();
    assert_eq!(nodes.trim(), format!("node/{node}"), "machine 1 is untouched");
}
