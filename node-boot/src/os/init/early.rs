//! What the kernel leaves to PID 1: file systems of its own, settings, names.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use protocol::bytes::{Digest, hex};
use rustix::mount::{MountFlags, mount};

use super::{OWNER, System, modules};
use crate::console::say;
use crate::os::bank::{self, Banks};
use crate::os::{disk, network, variables};
use crate::owner::images_of;
use crate::state::{STATE, State};
use crate::trace::{self, Spent};

/// File systems that are windows into the kernel.
const KERNELS_OWN: [(&str, &str, &str); 4] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=755"),
    ("tmpfs", "/run", "mode=755"),
];
/// What the system needs beside them. A kernel without the last ones has nothing to show there.
const SYSTEMS: [(&str, &str, &str); 7] = [
    ("tmpfs", "/tmp", "mode=1777"),
    ("devpts", "/dev/pts", "mode=620,ptmxmode=666"),
    ("tmpfs", "/dev/shm", "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "nsdelegate"),
    ("bpf", "/sys/fs/bpf", ""),
    ("efivarfs", variables::FOLDER, ""),
    ("securityfs", "/sys/kernel/security", ""),
];
/// What a machine in a cluster is set to: Pods' packets pass, and after a panic it comes back by itself.
const SETTINGS: [(&str, &str); 6] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("vm/overcommit_memory", "1"),
];
/// Folders that configuration is written to, over the image that nobody writes to.
const WRITABLE: [&str; 2] = ["/etc", "/opt"];

fn put(kind: &str, at: &str, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options)?;
    let flags = if matches!(kind, "devtmpfs" | "devpts") { MountFlags::NOSUID } else { MountFlags::NODEV };
    let flags = if kind == "tmpfs" { MountFlags::NOSUID } else { flags };
    mount(kind, at, kind, flags, &*options).with_context(|| format!("mounting {kind} on {at}"))
}

/// Mounts what nothing works without.
pub fn mount_kernels_own() -> Result<()> {
    for (kind, at, options) in KERNELS_OWN {
        fs::create_dir_all(at)?;
        put(kind, at, options)?;
    }
    Ok(())
}

/// The screen is for people: the kernel's own words go to its ring.
pub fn quieten() {
    let _ = fs::write("/proc/sys/kernel/printk", "1");
}

/// Makes the running system out of the image: writable folders, control groups, drivers, network, names.
pub fn system() -> Result<System> {
    trace::ended("the system's program", Spent::Own);
    modules::load_listed(Path::new("/usr/lib/node-boot/modules"))?;
    trace::ended("drivers of every machine", Spent::Drivers);
    for (kind, at, options) in SYSTEMS {
        let mounted = fs::create_dir_all(at).map_err(Into::into).and_then(|()| put(kind, at, options));
        // Only the ones that Pods need are worth stopping for.
        if matches!(kind, "tmpfs" | "cgroup2" | "devpts") {
            mounted?;
        }
    }
    modules::load_for_hardware();
    trace::ended("drivers of this machine", Spent::Drivers);
    for (setting, value) in SETTINGS {
        // A setting whose driver is not there has nothing to set.
        let _ = fs::write(Path::new("/proc/sys").join(setting), value);
    }
    // Cables take seconds to get a link: meanwhile the disk is opened.
    network::links_up();
    trace::ended("settings and links", Spent::Own);
    let system = if disk::mount_own()? { System::Installed } else { System::Live };
    trace::ended("the machine's own disk", Spent::Disk);
    if system == System::Live {
        // What is written is gone when the machine is switched off.
        put("tmpfs", "/var", "mode=755")?;
    }
    for folder in WRITABLE {
        over(folder, system)?;
    }
    for folder in ["/var/lib", "/var/log", "/var/tmp"] {
        fs::create_dir_all(folder)?;
    }
    into_a_leaf()?;
    name()?;
    trace::ended("folders and names", Spent::Own);
    // Without it the machine cannot join, but it can say so, and be told of another one.
    if let Err(error) = kubernetes(system) {
        say(&format!("Kubernetes is not there: {error:#}."));
    }
    trace::ended("the image of Kubernetes", Spent::Disk);
    Ok(system)
}

/// Mounts the image of Kubernetes: the one that the machine's state names, or that came with the stick.
fn kubernetes(system: System) -> Result<()> {
    let banks = match system {
        System::Installed => State::open(Path::new(STATE))?.load::<Banks>(bank::FILE)?,
        System::Live => Banks::installed(&images_of(Path::new(OWNER))?),
    };
    let bank = banks.context("nothing says which image it is")?.kubernetes;
    // One that is tried and cannot be mounted is dropped by the agent.
    bank::mount_kubernetes(bank.in_use()).or_else(|_| bank::mount_kubernetes(&bank.kept))
}

/// An overlay whose changes last as long as the state does.
fn over(folder: &str, system: System) -> Result<()> {
    let place = if system == System::Installed { "/var/lib/over" } else { "/run/over" };
    let own = format!("{place}{folder}");
    fs::create_dir_all(format!("{own}/upper"))?;
    fs::create_dir_all(format!("{own}/work"))?;
    let options = format!("lowerdir={folder},upperdir={own}/upper,workdir={own}/work");
    put("overlay", folder, &options)
}

/// Control groups are given to Pods from the top; a process in the top one would be in the way. Where there is not enough of
/// the processor, all of the system together gets half of what the kubelet gives the Pods of a single one (39): with the
/// same as everybody, a kubelet that asks takes it from the API server that is to answer.
fn into_a_leaf() -> Result<()> {
    let top = Path::new("/sys/fs/cgroup");
    fs::create_dir_all(top.join("init"))?;
    fs::write(top.join("init/cgroup.procs"), "0").context("moving to a control group of its own")?;
    let shared = fs::write(top.join("cgroup.subtree_control"), "+cpu")
        .and_then(|()| fs::write(top.join("init/cpu.weight"), "20"));
    if let Err(error) = shared {
        say(&format!("The processor is not shared out: {error}."));
    }
    Ok(())
}

/// Names that programs ask for: the same at every start of the same machine.
fn name() -> Result<()> {
    let uuid = fs::read_to_string("/sys/class/dmi/id/product_uuid").unwrap_or_default();
    let id = hex(&Digest::of(format!("machine-id {}", uuid.trim()).as_bytes()).0[..16]);
    fs::write("/etc/machine-id", format!("{id}\n"))?;
    fs::write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")?;
    if !Path::new("/etc/resolv.conf").exists() {
        fs::write("/etc/resolv.conf", "")?;
    }
    rustix::system::sethostname(b"node-boot").context("naming the machine")
}
