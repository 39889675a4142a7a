//! dnsmasq on a machine: the DHCP server, the router or the DNS server of a site.

use crate::assets::on_path;
use crate::error::Result;
use crate::machine::Machine;
use crate::process::Process;

/// It stays in front, writes no files, knows nothing of this computer, and is the only server of its network.
const ALWAYS: [&str; 9] = [
    "--keep-in-foreground",
    "--user=root",
    "--pid-file=",
    "--no-resolv",
    "--no-hosts",
    "--no-ping",
    "--leasefile-ro",
    "--dhcp-authoritative",
    "--log-dhcp",
];

impl Machine {
    /// Starts it here, as these options say.
    pub fn dnsmasq(&self, options: &[&str]) -> Result<Process> {
        let mut command = self.command("dnsmasq")?;
        command.args(ALWAYS).args(options);
        self.spawn("dnsmasq", command)
    }
}

/// Why this machine cannot run tests of the wire tier that need it, in one line, or `None` when it can.
pub fn missing_for_dnsmasq() -> Option<String> {
    let absent = || "`dnsmasq` is not installed: run `cargo xtask kube`".to_owned();
    crate::missing().or_else(|| (!on_path("dnsmasq")).then(absent))
}
