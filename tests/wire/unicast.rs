//! A network that carries no multicast: a real DNS server names the provisioner.

use harness::{Hardware, Lan, Machine, Process};
use protocol::refusal::Refusal;
use tests::stage::{DEADLINE, Hq, Programs, Provisioner, Spare};

/// Port of DNS, as `ss` shows it.
const LISTENS: &str = "ss -Hlun sport = :53 | grep -q :53";

/// A server that names what dnsmasq's options say.
fn dns(on: &Machine, names: &[&str]) -> Process {
    let server = on.dnsmasq(names).unwrap();
    let listens = || on.run("sh", &["-c", LISTENS]).map_err(|_| server.last_words());
    harness::wait::until("dnsmasq", DEADLINE, listens).unwrap();
    server
}

#[test]
fn a_machine_that_hears_no_multicast_finds_its_site_by_dns() {
    if let Some(why) = harness::missing_for_dnsmasq() {
        return harness::skip(&why);
    }
    let programs = Programs::build().unwrap();
    let lan = Lan::new("unicast").unwrap();
    let hq = Hq::found(&programs, "Wire").unwrap();
    let mut provisioner = Provisioner::new(&lan, &programs, lan.address(2), false).unwrap();
    provisioner.certify(&hq).unwrap();
    provisioner.start().unwrap();
    let hardware = |host| Hardware { address: Some(lan.address(host)), tpm: false, ..Hardware::nuc("A1") };
    let server = Machine::new(&lan, "server", hardware(3)).unwrap();
    let mut spare = Spare::new(&lan, &programs, "spare", hardware(4), &hq).unwrap();
    for chain in ["INPUT", "OUTPUT"] {
        spare.machine.run("iptables", &["-A", chain, "-p", "udp", "--dport", "5353", "-j", "DROP"]).unwrap();
    }
    spare.machine.run("ip6tables", &["-A", "OUTPUT", "-p", "udp", "--dport", "5353", "-j", "DROP"]).unwrap();
    let discovers = |words: &str| {
        let said = spare.run(&["discover"]).unwrap_err().to_string();
        assert!(
            said.contains("no provisioner answered on the 1 interface(s)") && said.contains(words),
            "{said}"
        );
    };
    discovers("/etc/resolv.conf names no DNS server and search domain");
    // The first server that is named is off.
    let lines = "search other.test site.test\nnameserver 10.77.0.99\nnameserver 10.77.0.3\n";
    spare.machine.run("sh", &["-c", &format!("printf '{lines}' > /etc/resolv.conf")]).unwrap();
    let refuses = dns(&server, &[]);
    discovers("DNS does not answer");
    drop(refuses);
    let knows_nothing = dns(&server, &["--local=/test/"]);
    discovers("DNS names none under other.test, site.test");

    spare.start().unwrap();
    spare.says("Looking for this site's provisioner on the network.").unwrap();
    drop(knows_nothing);
    // Of its two provisioners one is off, and the other one is where only this record says.
    let redirect = "ip6tables -t nat -A PREROUTING -p tcp --dport 7444 -j REDIRECT --to-ports 7443";
    let set_up = format!("ip address add fd77::2/64 dev eth0 nodad && {redirect}");
    provisioner.machine.run("sh", &["-c", &set_up]).unwrap();
    spare.machine.run("ip", &["address", "add", "fd77::4/64", "dev", "eth0", "nodad"]).unwrap();
    let _names = dns(
        &server,
        &[
            "--local=/test/",
            "--srv-host=_brski-registrar._tcp.site.test,off.site.test,7443",
            "--srv-host=_brski-registrar._tcp.site.test,alias.site.test,7444",
            "--cname=alias.site.test,registrar.site.test",
            "--host-record=off.site.test,10.77.0.98",
            "--host-record=registrar.site.test,fd77::2",
        ],
    );
    spare.says("Found the provisioner at [fd77::2]:7444 (named by DNS)").unwrap();
    spare.says(Refusal::Unknown.sentence()).unwrap();
    let shown = spare.run(&["discover"]).unwrap();
    for candidate in ["10.77.0.98:7443", "[fd77::2]:7444"] {
        assert!(shown.contains(candidate) && shown.contains("(named by DNS)"), "{shown}");
    }
}
