//! What a machine whose whole system is ours makes of its network, seen by `ip`.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use harness::{Hardware, Lan, Machine};
use node_boot::os::network::apply;

#[test]
fn a_machine_takes_the_address_and_the_ways_of_its_slot_and_takes_them_again_as_they_are() {
    if let Some(why) = harness::missing() {
        return harness::skip(&why);
    }
    let lan = Lan::new("network").unwrap();
    let machine = Machine::new(&lan, "bare", Hardware { tpm: false, ..Hardware::nuc("A1") }).unwrap();
    let index = machine.run("cat", &["/sys/class/net/eth0/ifindex"]).unwrap().trim().parse().unwrap();
    let site: SocketAddr = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7443, 0, index).into();
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("etc/node-boot")).unwrap();
    let plan = r#"{"address":"10.77.0.11/24","dns":["10.77.0.1"],"search":[],
        "routes":[{"to":"10.244.2.0/24","via":"10.77.0.12"},{"to":"10.244.3.0/24","via":"10.99.0.1"}]}"#;
    std::fs::write(root.path().join("etc/node-boot/network.json"), plan).unwrap();
    for _ in 0..2 {
        machine.inside(|| apply(root.path(), Some(site)).unwrap()).unwrap();
        let addresses = machine.run("ip", &["-4", "-o", "address", "show", "eth0"]).unwrap();
        assert!(addresses.contains("inet 10.77.0.11/24 ") && addresses.lines().count() == 1, "{addresses}");
        let routes = machine.run("ip", &["route"]).unwrap();
        assert!(routes.contains("10.244.2.0/24 via 10.77.0.12 dev eth0"), "{routes}");
        assert!(!routes.contains("10.244.3.0"), "its machine is on no cable of ours: {routes}");
    }
    assert_eq!(
        std::fs::read_to_string(root.path().join("etc/resolv.conf")).unwrap(),
        "nameserver 10.77.0.1\n"
    );
    let plan = plan.replace("10.77.0.11/24", "fd77::11/64");
    std::fs::write(root.path().join("etc/node-boot/network.json"), plan).unwrap();
    machine.inside(|| apply(root.path(), Some(site)).unwrap()).unwrap();
    let addresses = machine.run("ip", &["-6", "-o", "address", "show", "eth0"]).unwrap();
    assert!(addresses.contains("inet6 fd77::11/64 scope global"), "{addresses}");
}
