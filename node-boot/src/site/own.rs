//! The provisioner on this very machine, where headquarters certified it as one: it comes with the stick, and runs as long
//! as the machine does.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, Result};
use protocol::id::Id;
use protocol::tpm::{Ek, Spec};

use crate::console::say;
use crate::os::supervise::{Ready, Service, Services};
use crate::os::tool;
use crate::state::write_file;

/// Where it keeps its things.
pub const FOLDER: &str = "/var/lib/provisioner";
/// How the bundle is called in the provisioner's inbox.
const TAKEN: &str = "site.nbb";

/// A provisioner is made within this time: the TPM makes its keys.
const MADE: Duration = Duration::from_mins(5);

/// What a machine needs to become a provisioner.
pub struct Setting<'a> {
    /// The files of the stick.
    pub kit: &'a Path,
    /// The TPM that holds the provisioner's key.
    pub tpm: Option<&'a Spec>,
    /// Its endorsement keys.
    pub eks: &'a [Ek],
    /// The owner's file.
    pub owner: &'a Path,
    /// Whether this machine was installed before: what it was then, its provisioner does not know any more.
    pub returns: bool,
}

/// What makes a machine with these endorsement keys a provisioner, on a stick.
pub fn files(eks: &[Ek]) -> Vec<String> {
    let hashes = eks.iter().filter_map(|ek| if let Id::Ek(hash) = ek.id() { Some(hash) } else { None });
    hashes.map(layout::provisioner).collect()
}

/// Starts this machine's own provisioner, after making it of what the stick has for this machine; none where this machine
/// is none.
pub fn start(setting: &Setting<'_>) -> Result<Option<Services>> {
    let folder = Path::new(FOLDER);
    if !is_certified(folder) && !take(setting, folder)? {
        return Ok(None);
    }
    if let Err(error) = deliver(setting.kit, folder) {
        say(&format!("The stick's bundle does not reach the provisioner: {error:#}."));
    }
    say("This machine is a provisioner of its site. Starting it.");
    let argv = ["provisioner", "serve", "--dir", FOLDER].map(str::to_owned).to_vec();
    let ready = Ready::Unix(folder.join("admin.sock").display().to_string());
    let service = Service { name: "provisioner".to_owned(), argv, ready };
    Services::start(vec![service], |_| {}).map(Some)
}

/// Has this machine's provisioner make its keys in `folder`, and its request to headquarters: JSON. What is to be done with
/// that is said on standard error.
pub fn request(site: &str, folder: &Path, tpm: Option<&str>, owner: &Path) -> Result<String> {
    let mut init = Command::new("provisioner");
    init.args(["init", "--site", site]).arg("--dir").arg(folder).arg("--owner").arg(owner);
    if let Some(tpm) = tpm {
        init.args(["--tpm", tpm]);
    }
    // It asks nothing, and what it shows is for the person.
    init.stdout(std::io::stderr());
    tool::run(init, "`provisioner init`", MADE).map_err(|error| {
        let is_missing =
            error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::NotFound);
        let no_program = "this machine has no `provisioner` to certify";
        error.context(if is_missing { no_program } else { "there is no request" })
    })?;
    let file = folder.join("ca-request.json");
    fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))
}

/// The last file that is written when a provisioner is made.
fn is_certified(folder: &Path) -> bool {
    folder.join("identity.json").exists()
}

/// Makes the provisioner; whether the stick has one for this machine.
fn take(setting: &Setting<'_>, folder: &Path) -> Result<bool> {
    let mut places = files(setting.eks).into_iter().map(|file| setting.kit.join(file));
    let found = places.find(|place| place.exists());
    let Some((certified, tpm)) = found.zip(setting.tpm) else { return Ok(false) };
    let mut init = Command::new("provisioner");
    init.arg("init").arg("--dir").arg(folder).arg("--certified").arg(certified);
    init.args(["--tpm", &tpm.to_string()]).arg("--owner").arg(setting.owner);
    if setting.returns {
        init.arg("--returns");
    }
    init.stdout(Stdio::null());
    tool::run(init, "`provisioner init`", MADE).context("this machine does not become a provisioner")?;
    Ok(true)
}

/// Puts the stick's bundle where the provisioner takes it, once.
fn deliver(stick: &Path, folder: &Path) -> Result<()> {
    let Ok(bundle) = fs::read(stick.join(layout::BUNDLE)) else { return Ok(()) };
    let inbox = folder.join("inbox");
    let is_it = |before: &&str| fs::read(inbox.join(before).join(TAKEN)).is_ok_and(|taken| taken == bundle);
    if ["done", "refused"].iter().any(is_it) {
        return Ok(());
    }
    write_file(&inbox.join(TAKEN), &bundle, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_is_given_to_the_provisioner_once_and_a_newer_one_again() {
        let dir = tempfile::tempdir().unwrap();
        let (stick, folder) = (dir.path().join("stick"), dir.path().join("provisioner"));
        deliver(&stick, &folder).unwrap();
        assert!(!folder.exists(), "a stick without a bundle");
        fs::create_dir_all(stick.join("nodeboot")).unwrap();
        for bundle in ["1", "2"] {
            fs::write(stick.join(layout::BUNDLE), bundle).unwrap();
            deliver(&stick, &folder).unwrap();
            let inbox = folder.join("inbox");
            fs::create_dir_all(inbox.join("done")).unwrap();
            fs::rename(inbox.join(TAKEN), inbox.join("done").join(TAKEN)).unwrap();
            deliver(&stick, &folder).unwrap();
            assert!(!inbox.join(TAKEN).exists(), "it was taken");
        }
    }
}
