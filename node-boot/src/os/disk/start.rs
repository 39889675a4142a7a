//! The machine's own disk when it starts: opened by the TPM and mended where that helps; else what is wrong with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use layout::{STATE, WIPING};
use protocol::bytes::{B64u, Secret};
use protocol::tpm::{Spec, Tpm};
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};

use super::file_system::{is_formatted, mount_mended};
use super::header::Header;
use super::vault::{self, Part, Vault, header_of};
use super::{partitions_of, wipe};
use crate::console::say;
use crate::os::bank;
use crate::state as machine;

/// How long the disk with the state is waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// Where the agent reads why the state is not in use.
const SHUT: &str = "/run/shut.json";
/// The TPM, as the kernel names it.
const TPM: &str = "/dev/tpmrm0";
/// Where the state and Pods' volumes are mounted.
const STATE_AT: &str = "/var";
const VOLUMES_AT: &str = "/var/lib/volumes";

/// Why the machine's own state is not in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shut {
    /// For a person.
    pub why: String,
    /// Whether it is whole, and only its secret is missing: then the disk is left as it is.
    pub locked: bool,
}

impl Shut {
    fn locked(why: impl Into<String>) -> Self {
        Self { why: why.into(), locked: true }
    }

    fn damaged(why: impl Into<String>) -> Self {
        Self { why: why.into(), locked: false }
    }

    /// What was found when the machine was started; none where its state is in use, or where it has none.
    pub fn found() -> Option<Self> {
        serde_json::from_slice(&fs::read(SHUT).ok()?).ok()
    }
}

/// Mounts the machine's state where it has one that can be used; whether it did.
pub fn mount_own() -> Result<bool> {
    // A disk that the machine was not started from may take a moment longer.
    let until = Instant::now() + PATIENCE;
    let parts = loop {
        if let Some(disk) = partitions_of(WIPING) {
            wipe::go_on(&disk)?;
        }
        match partitions_of(STATE) {
            Some(parts) => break parts,
            None if Instant::now() >= until => return Ok(false),
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    match enter(&parts.state, &parts.volumes) {
        Ok(()) => Ok(true),
        Err(shut) => {
            say(&format!("This machine's own state is not in use: {}.", shut.why));
            fs::write(SHUT, protocol::json::to_vec(&shut)).context("noting why the state is not in use")?;
            Ok(false)
        }
    }
}

fn enter(state: &Path, volumes: &Path) -> Result<(), Shut> {
    let damaged = |error: anyhow::Error| Shut::damaged(format!("{error:#}"));
    let header = header_of(&[state, volumes]).map_err(damaged)?;
    let Some((mut tpm, header)) = chip(header, state, volumes)? else {
        mount_state(state).map_err(damaged)?;
        use_volumes(mount_mended(volumes, VOLUMES_AT));
        return Ok(());
    };
    let mut vault = unseal(&header, &mut tpm)?;
    let device = vault.open(Part::State, state).map_err(damaged)?;
    if let Err(error) = mount_state(&device) {
        let _ = vault::close(Part::State);
        return Err(damaged(error));
    }
    use_volumes(vault.open(Part::Volumes, volumes).and_then(|device| mount_mended(&device, VOLUMES_AT)));
    for partition in [state, volumes] {
        if Header::read(partition).is_ok_and(|found| found.as_ref() != Some(&header))
            && let Err(error) = vault.save(&[state, volumes])
        {
            say(&format!("A copy of the disk's header is damaged and stays so: {error:#}."));
        }
    }
    Ok(())
}

/// The disk's secret, once in a run. Before anything is read of what whoever had the disk may have written: no file system, and no
/// program that came with the state, is to get it.
fn unseal(header: &Header, tpm: &mut Tpm) -> Result<Vault, Shut> {
    let vault = Vault::by_tpm(header, tpm).map_err(|error| Shut::locked(why(&error)))?;
    tpm.close().map_err(|error| {
        Shut::locked(format!("the TPM would go on giving out the disk's secret, to every program: {error}"))
    })?;
    Ok(vault)
}

/// The TPM for a disk that is encrypted; none for one that is not, on a machine without TPM. A machine with a TPM uses no
/// other state than an encrypted one: anybody could have written that.
fn chip(header: Option<Header>, state: &Path, volumes: &Path) -> Result<Option<(Tpm, Header)>, Shut> {
    let is_plain = |partition: &Path| is_formatted(partition).unwrap_or(false);
    let Some(header) = check(header, Path::new(TPM).exists(), is_plain(state) || is_plain(volumes))? else {
        return Ok(None);
    };
    let tpm = Tpm::open(&Spec::Device(TPM.into())).map_err(|error| Shut::locked(error.to_string()))?;
    Ok(Some((tpm, header)))
}

/// What opens a disk with this header, or one that `is_plain`; none where it needs nothing.
fn check(header: Option<Header>, has_tpm: bool, is_plain: bool) -> Result<Option<Header>, Shut> {
    match header {
        Some(_) if !has_tpm => Err(Shut::locked(
            "the disk is encrypted by a TPM that is not there: switch it on in the firmware setup (TPM, PTT or fTPM)",
        )),
        None if has_tpm && is_plain => Err(Shut::locked(
            "the disk was set up while the TPM was off, and is not encrypted; it can be erased by `provisioner wipe`",
        )),
        None if has_tpm => Err(Shut::damaged("no copy of the disk's header is whole")),
        header => Ok(header),
    }
}

fn why(error: &protocol::tpm::Error) -> String {
    if error.changed() {
        "the firmware or its settings are not what they were (PCR 7), and the TPM does not open the disk"
            .to_owned()
    } else if error.foreign() {
        "the disk was encrypted by another TPM, or by this one before it was cleared".to_owned()
    } else {
        format!("the TPM does not open the disk: {error}")
    }
}

/// A machine without its Pods' volumes is worth more than none.
fn use_volumes(done: Result<()>) {
    if let Err(error) = done {
        say(&format!("Pods' volumes cannot be used: {error:#}."));
    }
}

/// Mounts the state. One that lost what the machine is, as mending may do, is none.
fn mount_state(device: &Path) -> Result<()> {
    mount_mended(device, STATE_AT)?;
    if Path::new(machine::STATE).join(bank::FILE).exists() {
        return Ok(());
    }
    unmount(STATE_AT, UnmountFlags::empty()).context("leaving the state")?;
    bail!("the state on {} has lost what this machine is", device.display())
}

/// Name of the machine's disk, where its header tells; for who keeps its key.
pub fn name_of_locked() -> Option<B64u> {
    let parts = partitions_of(STATE)?;
    header_of(&[&parts.state, &parts.volumes]).ok().flatten().map(|header| header.disk)
}

const NO_HEADER: &str =
    "the disk's header was damaged meanwhile: switch the machine off and on, and it installs itself anew";

/// Has the TPM open a locked disk again: by the key that the site kept, from the next start on. Whether it is that disk's key.
pub fn unlock(key: &Secret, tpm: &Mutex<Tpm>) -> Result<bool> {
    let parts = partitions_of(STATE)
        .context("the disk is gone: see to its cable, and switch the machine off and on")?;
    let both: [&Path; 2] = [&parts.state, &parts.volumes];
    let header = header_of(&both)?.context(NO_HEADER)?;
    let Some(mut vault) = Vault::by_site(&header, &key.0) else { return Ok(false) };
    let mut tpm = tpm.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    vault.seal(&mut tpm).context("sealing the disk's secret anew")?;
    vault.save(&both)?;
    Ok(true)
}

/// How the running system's state is kept, in a word.
pub fn kept() -> &'static str {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let source = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (device, at) = (words.next()?, words.next()?);
        (at == STATE_AT).then_some(device)
    });
    match source {
        Some(device) if device.starts_with("/dev/dm-") || device.starts_with("/dev/mapper/") => "encrypted",
        Some(device) if device.starts_with("/dev/") => "not encrypted",
        _ => "in memory",
    }
}

/// A disk that the system is or was on.
pub(super) struct Parts {
    pub disk: PathBuf,
    pub state: PathBuf,
    pub volumes: PathBuf,
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_machine_with_a_tpm_uses_no_state_in_the_clear_and_one_without_opens_nothing_that_is_encrypted() {
        let header = super::super::header::tests::header(1);
        for is_plain in [false, true] {
            assert_eq!(check(Some(header.clone()), true, is_plain).unwrap(), Some(header.clone()));
            let off = check(Some(header.clone()), false, is_plain).unwrap_err();
            assert!(off.locked && off.why.contains("TPM that is not there"), "{off:?}");
            assert_eq!(check(None, false, is_plain).unwrap(), None);
        }
        let plain = check(None, true, true).unwrap_err();
        assert!(plain.locked && plain.why.contains("not encrypted"), "{plain:?}");
        assert!(!check(None, true, false).unwrap_err().locked, "it is installed anew");
    }

    #[test]
    fn the_tpm_gives_a_disks_secret_out_once_in_a_run() {
        if Command::new("swtpm").arg("--version").output().is_err() {
            return harness::skip("`swtpm` is not installed");
        }
        let folder = tempfile::tempdir().unwrap();
        let [socket, control] = ["tpm", "control"].map(|name| folder.path().join(name));
        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "startup-clear"]);
        swtpm.arg("--tpmstate").arg(format!("dir={}", folder.path().display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", control.display()));
        let _power = harness::Process::start("swtpm", swtpm, &folder.path().join("log")).unwrap();
        let spec: Spec = format!("unix:{}", socket.display()).parse().unwrap();
        let open = || Tpm::open(&spec).map_err(|error| error.to_string());
        let mut tpm = harness::wait::until("the TPM", Duration::from_secs(10), open).unwrap();
        let tpm_seals = tpm.seal(&[5; 32]).unwrap();
        let header = Header { tpm: tpm_seals, ..super::super::header::tests::header(1) };
        unseal(&header, &mut tpm).unwrap();
        let again = unseal(&header, &mut tpm).err().map(|shut| (shut.locked, shut.why.contains("PCR 7")));
        assert_eq!(again, Some((true, true)), "nor to what comes after");
    }

    #[test]
    fn what_keeps_a_disk_shut_is_said_in_words_that_help() {
        use protocol::tpm::Error::Refused;
        let command = "TPM2_Unseal";
        for (code, words) in [(0x99d, "(PCR 7)"), (0x1df, "another TPM"), (0x9a2, "password")] {
            let said = why(&Refused { command, code });
            assert!(said.contains(words), "{said}");
        }
    }
}
