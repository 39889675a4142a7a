//! The stick's bits over the network: the firmware fetches them, and there is no stick.

use std::path::Path;

use harness::{Board, Bus, Hardware, Lan, Machine, Process};
use tests::stage::JOINED;

use crate::{DEADLINE, site_and_machine};

/// Any web server: it tells sizes, and keeps connections.
const WEB: &str = "import http.server as h, os, sys; os.chdir(sys.argv[1]); h.SimpleHTTPRequestHandler.protocol_version = 'HTTP/1.1'; \
                   h.test(h.SimpleHTTPRequestHandler, h.ThreadingHTTPServer, port=80)";
/// What a site's DHCP server says to firmware that starts over HTTP (UEFI 2.10 section 24.7): 16 is x86-64.
const OFFER: [&str; 5] = [
    "--port=0",
    "--dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,1h",
    "--dhcp-match=set:http,option:client-arch,16",
    "--dhcp-option-force=tag:http,option:vendor-class,HTTPClient",
    "--dhcp-boot=tag:http,http://10.77.0.3/stick.img",
];

/// A machine of the site that gives out the stick's bits.
fn gives_out(lan: &Lan, stick: &Path) -> (Machine, [Process; 2]) {
    let hardware = Hardware { address: Some(lan.address(3)), tpm: false, ..Hardware::nuc("WEB") };
    let server = Machine::new(lan, "web", hardware).unwrap();
    let folder = stick.with_file_name("web");
    std::fs::create_dir(&folder).unwrap();
    std::fs::hard_link(stick, folder.join("stick.img")).unwrap();
    let mut web = server.command("python3").unwrap();
    web.args(["-c", WEB]).arg(&folder);
    let both = [server.spawn("web", web).unwrap(), server.dnsmasq(&OFFER).unwrap()];
    (server, both)
}

#[test]
#[ignore = "long: cargo xtask test --long runs it; firmware under emulation fetches a gigabyte in minutes"]
fn a_machine_without_stick_whose_firmware_fetches_it_over_http_installs_itself_and_joins() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let (site, mut vm) = site_and_machine("http", &Board::new("VM0006", Bus::Nvme));
    let _web = gives_out(&site.lan, &site.hq.path("stick"));
    vm.pull_stick();
    vm.power_on().unwrap();
    vm.says("Installing on /dev/nvme0n1.", 2 * DEADLINE).unwrap();
    vm.says("The system is on the disk. Starting from there.", DEADLINE).unwrap();
    // The firmware could fetch it again; it starts the disk.
    vm.says(JOINED, DEADLINE).unwrap();
    site.ready_node("node-1").unwrap();
    assert_eq!(vm.console().matches("Installing on").count(), 1, "{}", vm.console());
}
