//! The announcement on the LAN, seen by programs that nobody here wrote: Python's zeroconf and Avahi.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use harness::{Hardware, Lan, Machine, Process, wait};
use protocol::cert::Cert;
use protocol::mdns;
use protocol::messages::{MACHINE_SERVICE, PROXY_SERVICE, REGISTRAR_SERVICE};
use tests::stage::{Csv, DEADLINE, Hq, Programs, Provisioner, SITE, Spare};

/// Debian's own interpreter, for which Debian's packages are.
const PYTHON: &str = "/usr/bin/python3";

/// A LAN with a provisioner that serves, and a machine of somebody who looks around.
struct Site {
    provisioner: Provisioner,
    guest: Machine,
    own: String,
}

/// Why this computer cannot look.
fn missing(program: &str) -> Option<String> {
    let installed = harness::assets::on_path(program);
    harness::missing()
        .or_else(|| (!installed).then(|| format!("`{program}` is not installed: run `cargo xtask kube`")))
}

fn without_zeroconf() -> Option<String> {
    let import = std::process::Command::new(PYTHON).args(["-c", "import zeroconf"]).output();
    let there = import.is_ok_and(|output| output.status.success());
    harness::missing()
        .or_else(|| (!there).then(|| "python3-zeroconf is not installed: run `cargo xtask kube`".into()))
}

impl Site {
    fn build(name: &str) -> Self {
        let programs = Programs::build().unwrap();
        let lan = Lan::new(name).unwrap();
        let hq = Hq::found(&programs, "Wire").unwrap();
        let mut provisioner = Provisioner::new(&lan, &programs, lan.address(2), false).unwrap();
        provisioner.certify(&hq).unwrap();
        provisioner.start().unwrap();
        let own = Cert::parse(&crate::site_anchor(&hq)).unwrap().key_hash.short_hex();
        Self { provisioner, guest: guest(&lan), own }
    }
}

fn guest(lan: &Lan) -> Machine {
    let hardware = Hardware { address: Some(lan.address(3)), tpm: false, ..Hardware::nuc("GUEST") };
    Machine::new(lan, "guest", hardware).unwrap()
}

/// `zeroconf` on a machine, looking for these services by these kinds of address.
fn zeroconf(on: &Machine, kinds: &str, services: &[&str]) -> Process {
    let mut command = on.command(PYTHON).unwrap();
    command.args(["-c", include_str!("browse.py"), kinds]).args(services);
    on.spawn(&format!("zeroconf-{kinds}"), command).unwrap()
}

/// Waits for a line of it that fits; the line.
fn line(of: &Process, what: &str, fits: impl Fn(&str) -> bool) -> String {
    wait::until(what, DEADLINE, || {
        let log = of.log();
        log.lines().find(|line| fits(line)).map(str::to_owned).ok_or(log)
    })
    .unwrap()
}

#[test]
fn zeroconf_sees_both_services_and_nothing_more_than_they_may_say() {
    if let Some(why) = without_zeroconf() {
        return harness::skip(&why);
    }
    let mut site = Site::build("zeroconf");
    let link_local = site.provisioner.machine.link_local().unwrap().to_string();
    let services = [REGISTRAR_SERVICE, PROXY_SERVICE];
    let browsers = ["V4Only", "V6Only"].map(|kinds| zeroconf(&site.guest, kinds, &services));
    for (browser, address) in browsers.iter().zip(["10.77.0.2", &link_local]) {
        for service in services {
            let head = format!("seen ship-7-1.{service}. ship-7-1.local. 7443 txtvers=1 own={} ", site.own);
            let seen = line(browser, &head, |line| line.starts_with("seen") && line.contains(service));
            let addresses = seen.strip_prefix(&head).unwrap_or_else(|| panic!("{seen:?} is not {head:?}"));
            assert!(addresses.split(' ').any(|one| one == address), "{seen}");
        }
    }
    site.provisioner.stop().unwrap();
    for (browser, service) in browsers.iter().flat_map(|browser| services.map(|service| (browser, service))) {
        line(browser, "its goodbye", |line| line == format!("gone ship-7-1.{service}."));
    }
}

/// Somebody who does not share the port of multicast DNS.
fn port_taken(on: &Machine) -> Process {
    let script = "import socket,threading\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
                  s.bind(('::',5353))\nprint('taken',flush=True)\nthreading.Event().wait()";
    let mut command = on.command(PYTHON).unwrap();
    command.args(["-c", script]);
    let taken = on.spawn("taken", command).unwrap();
    line(&taken, "the port to be taken", |line| line == "taken");
    taken
}

#[test]
fn zeroconf_sees_where_a_machine_stands_until_it_says_goodbye() {
    if let Some(why) = without_zeroconf() {
        return harness::skip(&why);
    }
    let programs = Programs::build().unwrap();
    let lan = Lan::new("sign").unwrap();
    let hq = Hq::found(&programs, "Wire").unwrap();
    let guest = guest(&lan);
    let browsers = ["V4Only", "V6Only"].map(|kinds| zeroconf(&guest, kinds, &[MACHINE_SERVICE]));
    let hardware = Hardware { address: Some(lan.address(4)), tpm: false, ..Hardware::nuc("SPARE0000001") };
    let mut spare = Spare::new(&lan, &programs, "spare", hardware, &hq).unwrap();
    let registration = spare.registration().unwrap();
    let mut taken = port_taken(&spare.machine);
    spare.start().unwrap();
    spare.says("Looking for this site's provisioner").unwrap();
    taken.kill();
    let stands = |state: &str| {
        let seen = format!(" 0 txtvers=1 st={state} ");
        browsers.each_ref().map(|browser| line(browser, &seen, |line| line.contains(&seen)))
    };
    let [four, six] = stands("new");
    let instance = four.split(['.', ' ']).nth(1).unwrap();
    assert!(instance.len() == 11 && instance.starts_with("nb-"), "{four}");
    assert!(four.starts_with(&format!("seen {instance}.{MACHINE_SERVICE}. {instance}.local. 0 ")), "{four}");
    assert!(four.contains(" 10.77.0.4") && six.contains(" fe80::"), "{four}, {six}");
    for secret in ["SPARE", SITE, "NUC"] {
        assert!(!browsers[0].log().contains(secret), "{secret} is told to everybody");
    }

    let mut provisioner = Provisioner::new(&lan, &programs, lan.address(2), false).unwrap();
    provisioner.certify(&hq).unwrap();
    provisioner.start().unwrap();
    stands("error"); // the site does not know it
    let mut rows = Csv::default();
    rows.add(&registration, &[("site", SITE), ("roles", "worker")]);
    hq.import(&rows.text()).unwrap();
    provisioner.run(&["apply", &hq.bundle().unwrap().display().to_string()]).unwrap();
    stands("wait"); // there is no cluster yet
    spare.stop().unwrap();
    let gone = format!("gone {instance}.{MACHINE_SERVICE}.");
    for browser in &browsers {
        line(browser, &gone, |line| line == gone);
    }
}

/// The bus and the daemon of Avahi, on a machine of its own: neither touches this computer's.
fn avahi(on: &Machine) -> [Process; 2] {
    on.run("mkdir", &["-p", "/run/dbus"]).unwrap();
    let mut bus = on.command("dbus-daemon").unwrap();
    bus.args(["--system", "--nofork", "--nopidfile"]);
    let bus = on.spawn("dbus", bus).unwrap();
    let socket = || on.run("test", &["-S", "/run/dbus/system_bus_socket"]).map_err(|_| bus.log());
    wait::until("the bus", DEADLINE, socket).unwrap();
    let mut daemon = on.command("avahi-daemon").unwrap();
    daemon.args(["--no-drop-root", "--no-chroot", "--no-rlimits", "--file=/dev/null"]);
    let daemon = on.spawn("avahi-daemon", daemon).unwrap();
    wait::until("avahi-daemon", DEADLINE, || {
        let log = daemon.log();
        if log.contains("startup complete") { Ok(()) } else { Err(log) }
    })
    .unwrap();
    [bus, daemon]
}

#[test]
fn avahi_sees_both_services_by_both_kinds_of_address() {
    for program in ["avahi-daemon", "avahi-browse", "dbus-daemon"] {
        if let Some(why) = missing(program) {
            return harness::skip(&why);
        }
    }
    let site = Site::build("avahi");
    let _running = avahi(&site.guest);
    for service in [REGISTRAR_SERVICE, PROXY_SERVICE] {
        let kind = service.trim_end_matches(".local");
        for family in ["IPv4", "IPv6"] {
            let head = format!("=;eth0;{family};ship-7-1;{kind};local;ship-7-1.local;");
            let found = wait::until(&head, DEADLINE, || {
                let said =
                    site.guest.run("avahi-browse", &["-rpt", kind]).map_err(|error| error.to_string())?;
                said.lines().find(|line| line.starts_with(&head)).map(str::to_owned).ok_or(said)
            });
            let found = found.unwrap();
            // Avahi names the last string first.
            let tail = format!(";7443;\"own={}\" \"txtvers=1\"", site.own);
            assert!(found.ends_with(&tail), "{found} does not end with {tail}");
        }
    }
}

/// Asks once from `from`, and gives every datagram that comes back until it has been quiet for a second.
fn ask_once(from: &UdpSocket, to: SocketAddr) -> Vec<(SocketAddr, Vec<u8>)> {
    from.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    from.send_to(&mdns::question(7, REGISTRAR_SERVICE), to).unwrap();
    let mut buffer = [0; 1500];
    let answers = std::iter::from_fn(|| {
        let (length, source) = from.recv_from(&mut buffer).ok()?;
        Some((source, buffer[..length].to_vec()))
    });
    answers.collect()
}

fn socket(address: IpAddr) -> UdpSocket {
    UdpSocket::bind((address, 0)).unwrap()
}

#[test]
fn who_asks_once_gets_one_answer_and_nobody_off_the_link_gets_any() {
    if let Some(why) = harness::missing() {
        return harness::skip(&why);
    }
    let site = Site::build("once");
    let (here, guest) = (&site.provisioner.machine, &site.guest);
    let (six, port) = (here.link_local().unwrap(), mdns::PORT);
    // A way back exists: what keeps the answer from a stranger is our word alone.
    here.run("ip", &["route", "add", "default", "via", "10.77.0.3"]).unwrap();
    here.run("ip", &["-6", "route", "add", "default", "via", "fe80::3", "dev", "eth0"]).unwrap();
    for address in ["fe80::3/64", "192.0.2.9/32", "2001:db8::9/128"] {
        guest.run("ip", &["address", "add", address, "dev", "eth0"]).unwrap();
    }
    let index = guest.run("cat", &["/sys/class/net/eth0/ifindex"]).unwrap().trim().parse().unwrap();
    guest.run("ip", &["route", "add", "224.0.0.0/4", "dev", "eth0"]).unwrap();
    let group_v6 = SocketAddr::from(std::net::SocketAddrV6::new(mdns::GROUP_V6, port, 0, index));
    let own_v6 = SocketAddr::from(std::net::SocketAddrV6::new(six, port, 0, index));
    let own_v4 = SocketAddr::from((Ipv4Addr::new(10, 77, 0, 2), port));
    guest
        .inside(|| {
            let near = socket(Ipv4Addr::new(10, 77, 0, 3).into());
            let near_v6 =
                UdpSocket::bind(std::net::SocketAddrV6::new("fe80::3".parse().unwrap(), 0, 0, index))
                    .unwrap();
            let answers = wait::until("the provisioner to answer", DEADLINE, || {
                let answers = ask_once(&near, (mdns::GROUP_V4, port).into());
                if answers.is_empty() { Err("nothing".to_owned()) } else { Ok(answers) }
            });
            assert_eq!(answers.unwrap().len(), 1, "by IPv4");
            let answers = ask_once(&near_v6, group_v6);
            assert_eq!(answers.len(), 1, "by IPv6");
            let found = mdns::read_answer(&answers[0].1).unwrap();
            assert!(found.port == 7443 && found.own == site.own && answers[0].0.ip() == IpAddr::V6(six));
            let far = socket(Ipv4Addr::new(192, 0, 2, 9).into());
            let far_v6 = socket("2001:db8::9".parse::<Ipv6Addr>().unwrap().into());
            for (from, to) in [
                (&far, SocketAddr::from((mdns::GROUP_V4, port))),
                (&far, own_v4),
                (&far_v6, group_v6),
                (&far_v6, own_v6),
            ] {
                assert!(ask_once(from, to).is_empty(), "a stranger was answered who asked {to}");
            }
            assert_eq!(ask_once(&near, own_v4).len(), 1, "and it still answers");
        })
        .unwrap();
    let at_home =
        || ask_once(&socket(Ipv4Addr::new(10, 77, 0, 2).into()), (mdns::GROUP_V4, port).into()).len();
    assert_eq!(here.inside(at_home).unwrap(), 1, "a machine may ask on the computer of the provisioner");
}
