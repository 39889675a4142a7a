//! A site is founded from one stick: two machines with empty disks, one of which founds the cluster, and Pods that talk. No
//! cluster and no provisioner are there before, headquarters is away, and nobody touches a key.

use tests::stage::found::{Founding, PATIENCE};
use tests::stage::{JOINED, whole_images};

use crate::pictured;

#[test]
#[ignore = "long: cargo xtask test --long runs it; two machines under emulation take ten minutes; the cluster tier founds a site in namespaces"]
fn a_site_is_founded_from_one_stick_and_two_machines_with_empty_disks() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    whole_images().unwrap();
    let mut site = Founding::plan("founding").unwrap();
    let stick = site.hq.whole_kit().unwrap();
    for vm in [&mut site.first, &mut site.second] {
        vm.plug_stick(&stick);
        vm.power_on().unwrap();
    }
    site.first.says("This machine founds the cluster of its site.", PATIENCE).unwrap();
    pictured(&site.first, "founding");
    site.first.says("The cluster is founded.", PATIENCE).unwrap();
    site.first.says(JOINED, PATIENCE).unwrap();
    site.second.says(JOINED, PATIENCE).unwrap();

    let pods = site.pods().unwrap();
    for ((name, address), (other, at)) in [(&pods[0], &pods[1]), (&pods[1], &pods[0])] {
        let heard = format!("{name} heard: hello from {other}");
        let ask = format!("http://{address}:8080/ask/{at}:8080");
        site.answered("one Pod to hear another", &ask, |said| said.trim() == heard).unwrap();
        let ask = format!("http://{address}:8080/ask/hello.shop");
        site.answered("a Service by its name", &ask, |said| said.contains(" heard: hello from hello-"))
            .unwrap();
    }
}
