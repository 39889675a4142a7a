//! What the machine is made of: facts for the provisioner, which decides what they mean.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use protocol::inventory::{Disk, Dmi, Facts, Nic};

/// A kubelet that has not said its version by then says none: a join does not hang on it.
const PATIENCE: Duration = Duration::from_secs(5);

fn text(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Looks around, but for the kubelet's version, which [`Kubelet`] finds out. `dmi` is where the kernel shows SMBIOS
/// strings.
pub fn look(dmi: &Path, has_tpm: bool) -> Facts {
    let status = text(Path::new("/proc/self/status"));
    Facts {
        dmi: read_dmi(dmi),
        tpm: if has_tpm { "2.0".to_owned() } else { String::new() },
        disks: disks(),
        nics: names("/sys/class/net").iter().filter_map(|name| nic(name)).collect(),
        cpu: cpu(),
        cores: std::thread::available_parallelism()
            .map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(0)),
        arch: std::env::consts::ARCH.to_owned(),
        memory: memory(),
        kernel: text(Path::new("/proc/sys/kernel/osrelease")),
        cgroups: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { 2 } else { 1 },
        kubelet: String::new(),
        adjusts_oom: has_capability(&status, 24),
        state: String::new(),
        secure_boot: super::secure::state(),
    }
}

/// Bit of `CapEff`; 24 is `CAP_SYS_RESOURCE` (`linux/capability.h`).
fn has_capability(status: &str, bit: u32) -> bool {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|bits| bits >> bit & 1 == 1)
}

fn read_dmi(dmi: &Path) -> Dmi {
    let field = |name: &str| text(&dmi.join(name));
    Dmi {
        vendor: field("sys_vendor"),
        product: field("product_name"),
        version: field("product_version"),
        serial: field("product_serial"),
        uuid: field("product_uuid"),
        board_vendor: field("board_vendor"),
        board: field("board_name"),
        board_serial: field("board_serial"),
        bios: field("bios_version"),
    }
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every disk, and nothing that only looks like one.
pub fn disks() -> Vec<Disk> {
    names("/sys/block").iter().filter_map(|name| disk(name)).collect()
}

fn disk(name: &str) -> Option<Disk> {
    let virtual_ones = ["loop", "ram", "zram", "pmem", "dm-", "md", "sr", "fd", "nbd"];
    if virtual_ones.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let folder = Path::new("/sys/block").join(name);
    let device = fs::canonicalize(&folder).map(|path| path.display().to_string()).unwrap_or_default();
    let transports =
        [("/nvme/", "nvme"), ("/usb", "usb"), ("/ata", "ata"), ("virtio", "virtio"), ("/mmc", "mmc")];
    Some(Disk {
        name: name.to_owned(),
        // The kernel counts sectors of 512 bytes, whatever the disk has.
        size: text(&folder.join("size")).parse::<u64>().unwrap_or(0).saturating_mul(512),
        transport: transports
            .iter()
            .find(|(part, _)| device.contains(part))
            .map_or("", |(_, name)| name)
            .to_owned(),
        model: text(&folder.join("device/model")),
        removable: text(&folder.join("removable")) == "1",
        rotational: text(&folder.join("queue/rotational")) == "1",
    })
}

fn nic(name: &str) -> Option<Nic> {
    let folder = Path::new("/sys/class/net").join(name);
    // 1 is Ethernet (`linux/if_arp.h`); what is made of cards says what it is, and Pods' ends are none.
    let made = text(&folder.join("uevent")).contains("DEVTYPE=");
    let card = text(&folder.join("type")) == "1" && !made && !name.starts_with("veth");
    if !card || name.starts_with("cni") {
        return None;
    }
    let driver = fs::read_link(folder.join("device/driver")).ok();
    Some(Nic {
        name: name.to_owned(),
        mac: text(&folder.join("address")).to_lowercase(),
        driver: driver
            .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
            .unwrap_or_default(),
        speed: text(&folder.join("speed")).parse().unwrap_or(0),
        carrier: text(&folder.join("carrier")) == "1",
    })
}

fn cpu() -> String {
    let all = text(Path::new("/proc/cpuinfo"));
    let line = all.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

fn memory() -> u64 {
    let all = text(Path::new("/proc/meminfo"));
    let line = all.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// The version of the kubelet on this machine. The program takes longer to say it than a whole enrolment takes: it is
/// asked meanwhile.
#[derive(Debug)]
pub struct Kubelet(Option<Receiver<String>>);

impl Kubelet {
    /// Asks the program called `kubelet`, without waiting for what it says.
    pub fn ask() -> Self {
        let (tell, said) = channel();
        // Where no thread can be had nothing is said, as by a machine without kubelet.
        let asked = std::thread::Builder::new().spawn(move || tell.send(kubelet()));
        drop(asked);
        Self(Some(said))
    }

    /// Asks once more: the program may have been replaced. One that has not answered yet is not asked a second time.
    pub fn ask_again(&mut self) {
        self.0 = self.0.take().or_else(|| Self::ask().0);
    }

    /// Its version, `v1.36.3`; empty where there is none, or where it does not say it in time.
    pub fn version(&mut self) -> String {
        self.ask_again();
        let said = self.0.as_ref().map(|said| said.recv_timeout(PATIENCE));
        if said != Some(Err(RecvTimeoutError::Timeout)) {
            self.0 = None;
        }
        said.and_then(Result::ok).unwrap_or_default()
    }
}

fn kubelet() -> String {
    let output = Command::new("kubelet").arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    said.split_whitespace().last().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_any_dmi_still_has_facts() {
        let facts = look(Path::new("/no/such/folder"), false);
        assert_eq!(facts.dmi, Dmi::default());
        assert!(facts.memory > 0 && facts.cores > 0 && !facts.arch.is_empty());
    }

    #[test]
    fn capabilities_are_read_from_their_bit() {
        assert!(has_capability("Name: x\nCapEff:\t0000000001000000\n", 24));
        assert!(!has_capability("CapEff:\t000001fffeffffff\n", 24));
        assert!(!has_capability("", 24));
    }
}
