//! A site for tests: a LAN with its switch, a control plane, and machines, each in namespaces of its own.
//!
//! Nothing outlives its owner. Each room hangs on a pipe that the test process holds: when that closes, for
//! whatever reason, the kernel ends every process of the room and with them go its mounts and interfaces.

pub mod assets;
mod cgroup;
mod control;
mod cuts;
mod dnsmasq;
mod error;
mod folder;
mod lan;
mod machine;
mod process;
mod recorder;
mod recording;
mod room;
mod tpm;
mod vm;
pub mod wait;

pub use assets::Assets;
pub use control::{ControlPlane, Options};
pub use cuts::{Cut, Dice, Log, Replay};
pub use dnsmasq::missing_for_dnsmasq;
pub use error::{Error, Result};
pub use lan::{Lan, Port};
pub use machine::{Hardware, Machine};
pub use process::Process;
pub use recorder::{Part, Recorder};
pub use recording::Recording;
pub use tpm::Tpm;
pub use vm::{Board, Bus, Vm};

/// Why this machine cannot run the wire tier, in one line, or `None` when it can.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root: run as root".into());
    }
    ["ip", "nsenter", "unshare", "swtpm", "swtpm_setup"]
        .into_iter()
        .find(|program| !assets::on_path(program))
        .map(|program| format!("`{program}` is not installed: run `cargo xtask kube`"))
}

/// Why this machine cannot run the cluster tier, in one line, or `None` when it can.
pub fn missing_for_cluster() -> Option<String> {
    missing().or_else(|| Assets::find().err().map(|error| error.to_string()))
}

/// Why this machine cannot run the machine tier, in one line, or `None` when it can.
pub fn missing_for_machine() -> Option<String> {
    let absent = ["qemu-system-x86_64", "mkfs.erofs", "depmod", "dnsmasq"]
        .into_iter()
        .find(|name| !assets::on_path(name));
    missing_for_cluster()
        .or_else(|| absent.map(|program| format!("`{program}` is not installed: run `cargo xtask kube`")))
        .or_else(|| {
            (!std::path::Path::new(TUN).exists()).then(|| format!("a virtual machine's cable needs {TUN}"))
        })
}

/// Why this machine cannot record a disk, in one line, or `None` when it can.
pub fn missing_for_recorder() -> Option<String> {
    if !assets::on_path("qemu-storage-daemon") {
        return Some("`qemu-storage-daemon` is not installed: run `cargo xtask kube`".into());
    }
    let may = std::fs::File::options().read(true).write(true).open(FUSE).is_ok();
    let needs = || format!("a recorded disk needs root, {FUSE} and {LOOP}");
    (!may || !std::path::Path::new(LOOP).exists() || !rustix::process::geteuid().is_root()).then(needs)
}

/// Where the kernel takes a program's file system.
const FUSE: &str = "/dev/fuse";
/// Where it makes a device of a part of a file.
const LOOP: &str = "/dev/loop-control";

/// Where the kernel makes the other end of a virtual machine's cable.
const TUN: &str = "/dev/net/tun";

/// Leaves a test whose needs are missing. Where the tier was found fit to run (`TIERS_MUST_RUN`), that is a failure:
/// a skipped test never counts as passed.
///
/// # Panics
///
/// Where the tier was found fit to run.
pub fn skip(why: &str) {
    assert!(std::env::var_os("TIERS_MUST_RUN").is_none(), "this test had to run: {why}");
    eprintln!("skipped: {why}");
}
