//! What a machine whose whole system is ours makes of its network, seen by `ip`; DHCP servers are real ones.

use harness::{Hardware, Lan, Machine, Process, wait};
use tests::stage::{DEADLINE, Hq, Programs, Provisioner, Spare};

/// The lines of a slot without an address.
const NOTHING: &str = r#"{"address":null,"dns":[],"search":[],"routes":[]}"#;
const FOREVER: u32 = 600;

/// A machine whose network is kept.
struct Bare {
    machine: Machine,
    keeps: Option<Process>,
}

impl Bare {
    /// With an empty disk.
    fn new(lan: &Lan) -> Self {
        let machine = Machine::new(lan, "bare", Hardware { tpm: false, ..Hardware::nuc("A1") }).unwrap();
        Self { machine, keeps: None }
    }

    /// Keeps it from now on; this plan is tried for so many seconds.
    fn keep(&mut self, plan: &str, trial: u32) {
        self.machine.write("/etc/node-boot/network.json", plan).unwrap();
        let mut command = self.machine.command(Programs::build().unwrap().node_boot).unwrap();
        command.args(["network", "--trial", &trial.to_string()]);
        self.keeps = None;
        self.keeps = Some(self.machine.spawn("network", command).unwrap());
    }

    /// Waits until a command shows all of this.
    fn shows(&self, words: &str, all: &[&str]) -> String {
        self.until(words, |said| all.iter().all(|words| said.contains(words)))
    }

    fn until(&self, words: &str, is_so: impl Fn(&str) -> bool) -> String {
        let parts: Vec<_> = words.split(' ').collect();
        let look = || {
            let said = self.machine.run(parts[0], &parts[1..]).map_err(|error| error.to_string())?;
            let log = self.keeps.as_ref().map(Process::last_words).unwrap_or_default();
            if is_so(&said) { Ok(said) } else { Err(said + &log) }
        };
        wait::until(&format!("{words:?} to show it"), DEADLINE, look).unwrap()
    }

    /// Waits until it has said this.
    fn says(&self, words: &str) {
        self.says_times(words, 1);
    }

    /// The same so many times since it was made; all that it has said.
    fn says_times(&self, words: &str, times: usize) -> String {
        let said = || {
            let log = self.keeps.as_ref().unwrap().log();
            if log.matches(words).count() >= times { Ok(log) } else { Err(log) }
        };
        wait::until(&format!("the machine to say {words:?}"), DEADLINE, said).unwrap()
    }
}

/// A machine of this address that is a DHCP server, or a router, as these options of dnsmasq say.
fn serves(lan: &Lan, host: u8, options: &[&str]) -> (Machine, Process) {
    let hardware = Hardware { address: Some(lan.address(host)), tpm: false, ..Hardware::nuc("S1") };
    let server = Machine::new(lan, &format!("server{host}"), hardware).unwrap();
    server.run("ip", &["address", "add", &format!("fd77::{host}/64"), "dev", "eth0", "nodad"]).unwrap();
    let serves = server.dnsmasq(options).unwrap();
    (server, serves)
}

/// What is missing, said.
fn cannot() -> bool {
    harness::missing_for_dnsmasq().as_deref().map(harness::skip).is_some()
}

#[test]
fn a_machine_takes_address_ways_and_packet_size_of_its_slot_and_they_follow_the_cable() {
    if cannot() {
        return;
    }
    let lan = Lan::new("network").unwrap();
    let mut bare = Bare::new(&lan);
    let plan = r#"{"address":"10.77.0.11/24","gateway":"10.77.0.1","mtu":1280,"dns":["10.77.0.1"],"search":[],
        "routes":[{"to":"10.244.2.0/24","via":"10.77.0.12"},{"to":"10.244.3.0/24","via":"10.99.0.1"}]}"#;
    bare.keep(plan, FOREVER);
    let ways = |port: &str| {
        bare.shows("ip -4 -o address show", &[&format!("{port}    inet 10.77.0.11/24 ")]);
        let own =
            [format!("default via 10.77.0.1 dev {port}"), format!("10.244.2.0/24 via 10.77.0.12 dev {port}")];
        let routes = bare.shows("ip route", &own.each_ref().map(String::as_str));
        assert!(!routes.contains("10.244.3.0"), "its machine is on no cable of ours: {routes}");
        bare.shows(&format!("ip link show {port}"), &["mtu 1280"]);
    };
    ways("eth0");
    bare.says("There is no way to 10.244.3.0/24");
    bare.shows("cat /etc/resolv.conf", &["nameserver 10.77.0.1\n"]);
    bare.shows("ip -6 -o address show eth0", &["scope link"]);
    bare.machine.run("ip", &["link", "add", "eth1", "type", "veth", "peer", "far"]).unwrap();
    bare.machine.unplug().unwrap();
    bare.machine.run("ip", &["link", "set", "far", "up"]).unwrap();
    ways("eth1");
    bare.until("ip -4 -o address show eth0", str::is_empty);
}

#[test]
fn a_plan_by_which_nobody_is_reached_is_taken_back_and_tried_again_only_when_it_was_changed() {
    if cannot() {
        return;
    }
    let lan = Lan::new("trial").unwrap();
    let mut bare = Bare::new(&lan);
    let _one = serves(&lan, 3, &["--port=0", "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,1h"]);
    let _other = serves(&lan, 4, &["--port=0", "--dhcp-range=10.77.0.60,10.77.0.60,255.255.255.0,1h"]);
    let wrong =
        r#"{"address":"10.99.0.11/24","gateway":"10.99.0.1","dns":["10.99.0.1"],"search":[],"routes":[]}"#;
    bare.keep(wrong, FOREVER);
    bare.shows("ip -4 -o address show eth0", &["inet 10.99.0.11/24 "]);
    // A power cut is not the plan's fault: what worked is in force again, and the plan is tried once more.
    bare.machine.power_off();
    bare.machine.power_on().unwrap();
    bare.keep(wrong, 2);
    bare.says("Trying headquarters' network for this machine: address 10.99.0.11/24, gateway 10.99.0.1.");
    bare.says("taken back: no provisioner was reached within 2 s with address 10.99.0.11/24");
    bare.says("The former one is in force: an address by DHCP.");
    let addresses = bare.shows("ip -4 -o address show eth0", &["inet 10.77.0."]);
    assert_eq!(addresses.lines().count(), 1, "of one server of the two: {addresses}");
    bare.until("ip route", |routes| !routes.contains("10.99"));
    bare.keep(wrong, 2);
    let log = bare.says_times("Got the address 10.77.0.", 2);
    assert_eq!(log.matches("Trying").count(), 2, "it is as bad as before: {log}");
    bare.keep(&wrong.replace("10.99.0.11", "10.99.0.12"), FOREVER);
    bare.says("Trying headquarters' network for this machine: address 10.99.0.12/24");
}

#[test]
fn a_machine_gets_address_ways_resolver_and_packet_size_of_a_dhcp_server_and_gives_them_back_in_time() {
    if cannot() {
        return;
    }
    let lan = Lan::new("dhcp").unwrap();
    let mut bare = Bare::new(&lan);
    bare.keep(NOTHING, FOREVER);
    let options = [
        "--port=0",
        "--dhcp-range=10.77.0.50,10.77.0.50,255.255.255.0,120",
        "--dhcp-option=option:router,10.77.0.3",
        "--dhcp-option=option:dns-server,10.77.0.53",
        "--dhcp-option=option:domain-search,a.test,b.test",
        "--dhcp-option=option:mtu,1280",
        "--dhcp-option=option:classless-static-route,0.0.0.0/0,10.77.0.3,10.88.0.0/16,10.77.0.4",
    ];
    let server = serves(&lan, 3, &options);
    // The kernel takes it away by itself when the time is over, whatever becomes of this program.
    let address = bare.shows("ip -4 -o address show eth0", &["inet 10.77.0.50/24 ", "valid_lft 1"]);
    assert!(address.contains("sec"), "{address}");
    bare.shows("ip route", &["default via 10.77.0.3 dev eth0", "10.88.0.0/16 via 10.77.0.4 dev eth0"]);
    bare.shows("ip link show eth0", &["mtu 1280"]);
    bare.shows("cat /etc/resolv.conf", &["nameserver 10.77.0.53\nsearch a.test b.test\n"]);
    bare.shows("ip -6 -o address show eth0", &["scope link"]);
    // An agent that was killed and starts anew takes away nothing that it has not asked about.
    drop(server);
    bare.keep(NOTHING, FOREVER);
    bare.until("cat /etc/resolv.conf", |said| !said.contains("10.77"));
    bare.shows("ip -4 -o address show eth0", &["inet 10.77.0.50/24 "]);
    bare.shows("ip route", &["default via 10.77.0.3 dev eth0"]);
    // Without its cable there is no address, and none over another server's head.
    bare.machine.unplug().unwrap();
    bare.until("ip -4 -o address show eth0", str::is_empty);
    let _other = serves(&lan, 4, &["--port=0", "--dhcp-range=10.77.0.60,10.77.0.60,255.255.255.0,infinite"]);
    bare.machine.plug().unwrap();
    bare.shows("ip -4 -o address show eth0", &["inet 10.77.0.60/24 ", "valid_lft forever"]);
    bare.shows("ip link show eth0", &["mtu 1500"]);
}

#[test]
fn a_machine_on_a_network_of_ipv6_alone_finds_its_site_by_the_routers_dns() {
    if cannot() {
        return;
    }
    let lan = Lan::new("six").unwrap();
    let mut bare = Bare::new(&lan);
    bare.machine.run("sh", &["-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"]).unwrap();
    for tables in ["iptables", "ip6tables"] {
        let drop = ["-A", "OUTPUT", "-p", "udp", "--dport", "5353", "-j", "DROP"];
        bare.machine.run(tables, &drop).unwrap();
    }
    bare.keep(NOTHING, FOREVER);
    let options = [
        "--enable-ra",
        "--dhcp-range=fd77::,ra-only,64",
        "--dhcp-option=option6:dns-server,[fd77::3]",
        "--dhcp-option=option6:domain-search,site.test",
        "--srv-host=_brski-registrar._tcp.site.test,registrar.site.test,7443",
        "--host-record=registrar.site.test,fd77::2",
    ];
    let _router = serves(&lan, 3, &options);
    bare.shows("ip -6 -o address show eth0", &["inet6 fd77:"]);
    bare.shows("ip -6 route", &["default via fe80:"]);
    bare.shows("cat /etc/resolv.conf", &["nameserver fd77::3\nsearch site.test\n"]);
    let node_boot = Programs::build().unwrap().node_boot;
    let found = bare.machine.run(node_boot, &["discover"]).unwrap();
    assert!(found.contains("[fd77::2]:7443") && found.contains("(named by DNS)"), "{found}");
}

#[test]
fn a_machine_gets_its_address_by_dhcpv6_where_the_router_says_so_and_finds_its_site_by_it() {
    if cannot() {
        return;
    }
    let programs = Programs::build().unwrap();
    let lan = Lan::new("managed").unwrap();
    let hq = Hq::found(&programs, "Wire").unwrap();
    let mut provisioner = Provisioner::new(&lan, &programs, lan.address(2), false).unwrap();
    provisioner.machine.run("ip", &["address", "add", "fd77::2/64", "dev", "eth0", "nodad"]).unwrap();
    provisioner.certify(&hq).unwrap();
    provisioner.start().unwrap();
    let options = [
        "--enable-ra",
        "--dhcp-range=fd77::50,fd77::50,64,1h",
        "--dhcp-option=option6:dns-server,[fd77::3]",
        "--dhcp-option=option6:domain-search,site.test",
        "--srv-host=_brski-registrar._tcp.site.test,registrar.site.test,7443",
        "--host-record=registrar.site.test,fd77::2",
    ];
    let _router = serves(&lan, 3, &options);
    let hardware = Hardware { tpm: false, ..Hardware::nuc("A1") };
    let mut spare = Spare::new(&lan, &programs, "spare", hardware, &hq).unwrap();
    // Nobody is met by multicast, nor without an address that is known beyond the cable.
    let drops = [&["-p", "udp", "--dport", "5353"][..], &["-p", "tcp", "-d", "fe80::/10"]];
    for drop in drops {
        let drop = [&["-A", "OUTPUT", "-o", "eth0"][..], drop, &["-j", "DROP"]].concat();
        spare.machine.run("ip6tables", &drop).unwrap();
    }
    spare.run_with(&["--system", "installed"]);
    spare.start().unwrap();
    spare.says("Got the address fd77::50 by DHCPv6 from fe80:").unwrap();
    spare.says("Found the provisioner at [fd77::2]:7443").unwrap();
    let addresses = spare.machine.run("ip", &["-6", "-o", "address", "show", "eth0"]).unwrap();
    assert!(addresses.contains("inet6 fd77::50/128 "), "{addresses}");
    assert_eq!(addresses.matches("fd77:").count(), 1, "it makes none for itself there: {addresses}");
}

#[test]
fn an_address_by_dhcpv6_has_its_time_outlives_a_start_anew_and_goes_with_the_cable() {
    if cannot() {
        return;
    }
    let lan = Lan::new("six-time").unwrap();
    let mut bare = Bare::new(&lan);
    bare.keep(NOTHING, FOREVER);
    let range = ["--port=0", "--enable-ra", "--dhcp-range=fd77::50,fd77::60,64,1h"];
    // The router names none itself.
    let names = [
        "--dhcp-option=tag:dhcpv6,option6:dns-server,[fd77::53]",
        "--dhcp-option=tag:dhcpv6,option6:domain-search,a.test",
    ];
    let server = serves(&lan, 3, &[&range[..], &names].concat());
    let address = bare.shows("ip -6 -o address show eth0", &["inet6 fd77::", "/128 ", "valid_lft 3"]);
    assert!(address.contains("sec"), "{address}");
    bare.says("by DHCPv6 from fe80:");
    bare.shows("ip -6 route", &["fd77::/64 dev eth0 proto kernel", "default via fe80:"]);
    bare.shows("cat /etc/resolv.conf", &["nameserver fd77::53\nsearch a.test\n"]);
    bare.shows("ip -6 route get fd77::3", &[" src fd77::"]);
    // An agent that was killed and starts anew takes away nothing that it has not asked about.
    drop(server);
    bare.keep(NOTHING, FOREVER);
    bare.until("cat /etc/resolv.conf", |said| !said.contains("fd77"));
    bare.shows("ip -6 -o address show eth0", &["inet6 fd77::", "/128 "]);
    // Nor does it have another one from the same server.
    let server = serves(&lan, 4, &[&range[..], &names].concat());
    bare.says("by DHCPv6 from fe80:");
    let again = bare.shows("ip -6 -o address show eth0", &["inet6 fd77::", "/128 "]);
    assert_eq!(again.matches("/128 ").count(), 1, "{again}");
    let own = |text: &str| text.split_whitespace().find(|word| word.ends_with("/128")).map(str::to_owned);
    assert_eq!(own(&again), own(&address), "the machine's name is the same at every start");
    // Without its cable there is no address, and with a plan of its own none is asked for.
    bare.machine.unplug().unwrap();
    bare.until("ip -6 -o address show eth0", |said| !said.contains("/128"));
    let plan = r#"{"address":"fd77::11/64","dns":[],"search":[],"routes":[]}"#;
    bare.keep(plan, FOREVER);
    bare.machine.plug().unwrap();
    bare.shows("ip -6 -o address show eth0", &["inet6 fd77::11/64 "]);
    bare.shows("ip -6 route", &["default via fe80:"]);
    std::thread::sleep(std::time::Duration::from_secs(3));
    bare.until("ip -6 -o address show eth0", |said| !said.contains("/128"));
    drop(server);
}

#[test]
fn a_machine_that_makes_its_own_address_gets_name_servers_by_dhcpv6_where_the_router_says_so() {
    if cannot() {
        return;
    }
    let lan = Lan::new("stateless").unwrap();
    let mut bare = Bare::new(&lan);
    bare.keep(NOTHING, FOREVER);
    // The router names none itself.
    let options = [
        "--port=0",
        "--enable-ra",
        "--dhcp-range=fd77::,ra-stateless,64",
        "--dhcp-option=tag:dhcpv6,option6:dns-server,[fd77::53],[fe80::53]",
        "--dhcp-option=tag:dhcpv6,option6:domain-search,a.test,b.test",
    ];
    let _router = serves(&lan, 3, &options);
    bare.shows("ip -6 -o address show eth0", &["inet6 fd77:"]);
    let names = "nameserver fd77::53\nnameserver fe80::53%eth0\nsearch a.test b.test\n";
    bare.shows("cat /etc/resolv.conf", &[names]);
    bare.until("ip -6 -o address show eth0", |said| !said.contains("/128"));
}

#[test]
fn a_machine_without_a_dhcp_server_says_so_where_it_finds_nobody_and_finds_its_site_over_its_cable_alone() {
    if cannot() {
        return;
    }
    let programs = Programs::build().unwrap();
    let lan = Lan::new("alone").unwrap();
    let hq = Hq::found(&programs, "Wire").unwrap();
    let mut provisioner = Provisioner::new(&lan, &programs, lan.address(2), false).unwrap();
    provisioner.certify(&hq).unwrap();
    let hardware = Hardware { tpm: false, ..Hardware::nuc("A1") };
    let mut spare = Spare::new(&lan, &programs, "spare", hardware, &hq).unwrap();
    spare.run_with(&["--system", "installed"]);
    spare.start().unwrap();
    spare.says("on this cable alone: no DHCP server gives this machine an address.").unwrap();
    provisioner.start().unwrap();
    spare.says("Found the provisioner at [fe80::").unwrap();
}

#[test]
fn a_machine_takes_the_address_that_its_stick_names_for_the_first_contact_where_nothing_else_leads_to_the_site()
 {
    if cannot() {
        return;
    }
    let programs = Programs::build().unwrap();
    let lan = Lan::new("first").unwrap();
    let hq = Hq::found(&programs, "Wire").unwrap();
    let mut provisioner = Provisioner::new(&lan, &programs, lan.address(2), false).unwrap();
    provisioner.certify(&hq).unwrap();
    provisioner.start().unwrap();
    let hardware = Hardware { tpm: false, ..Hardware::nuc("A1") };
    let mut spare = Spare::new(&lan, &programs, "spare", hardware, &hq).unwrap();
    let mut owner: serde_json::Value =
        serde_json::from_slice(&std::fs::read(hq.owner_file()).unwrap()).unwrap();
    owner["network"] = serde_json::json!({ "address": "10.77.0.99/24" });
    spare.machine.write("/etc/node-boot/owner.json", owner.to_string()).unwrap();
    spare.machine.run("ip6tables", &["-A", "OUTPUT", "-o", "eth0", "-j", "DROP"]).unwrap();
    spare.run_with(&["--system", "installed"]);
    spare.start().unwrap();
    spare.says("Found the provisioner at 10.77.0.2:7443").unwrap();
}
