//! M7: what the machine is to be, written where it belongs.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail, ensure};
use protocol::messages::{Config, Message};
use protocol::refusal::{Refusal, Refused};

use super::enroll::{Proved, Step};
use super::http::Meaning;
use super::voice;
use crate::state::{Belief, State, write_file};

/// Asks for the configuration and checks that it is ours.
pub fn ask(site: &mut Proved, belief: &Belief) -> Result<Step<Config>> {
    let config = match site.talk().get::<Config>(Message::Config)? {
        Ok(config) => config,
        Err(Meaning::Wait(said, after)) => return Ok(Step::Wait(said, after)),
        Err(Meaning::No(said)) => return Ok(Step::No(said)),
        Err(Meaning::Good(_)) => return Ok(Step::Refused(Refusal::WrongAnswer.into())),
    };
    Ok(match check(&config, belief, site.machine()) {
        Ok(()) => Step::Done(config),
        Err(refused) => Step::Refused(refused),
    })
}

/// Whether a configuration is for this machine as it belongs to its site now: R15b, R13e. `machine` is its name, where
/// M4 has said that on the same connection.
pub fn check(config: &Config, belief: &Belief, machine: Option<&str>) -> Result<(), Refused> {
    let wrong = |detail: &str| Err(Refused::new(Refusal::WrongAnswer, 'b', detail));
    let Some(held) = belief.voucher.as_ref() else { return wrong("this machine belongs to no site") };
    if held.epoch != config.epoch || held.site != config.site {
        return wrong("it is for another epoch or site");
    }
    if machine.is_some_and(|machine| machine != config.machine) {
        return wrong("it is for another machine");
    }
    voice::check_role(held.epoch, &config.role)
}

/// Writes every file under `root`, and keeps the configuration.
pub fn write(state: &State, root: &Path, config: &Config) -> Result<()> {
    for file in &config.files {
        let path = under(root, &file.path)?;
        let mode = u32::from_str_radix(&file.mode, 8).ok().filter(|mode| mode & !0o777 == 0);
        let Some(mode) = mode else {
            bail!("{} has the permissions {:?}, which are none", file.path, file.mode)
        };
        // What is there already, as it is to be, is not written again.
        if std::fs::read(&path).ok().as_deref() != Some(&file.data.0) {
            write_file(&path, &file.data.0, mode)?;
        }
    }
    state.save("config.json", config)
}

/// A path below `root`: absolute, and without steps back up.
fn under(root: &Path, path: &str) -> Result<PathBuf> {
    let path = Path::new(path);
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ensure!(path.is_absolute() && plain, "{} is no absolute path", path.display());
    Ok(root.join(path.strip_prefix("/").unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use protocol::anchors::Kept;
    use protocol::bytes::{B64u, Digest};
    use protocol::clock::Time;

    use super::*;
    use crate::state::Held;

    fn belief(epoch: u32) -> Belief {
        let kept = Kept { anchors: String::new(), rank: 1, revoked: std::collections::BTreeMap::new() };
        let (pin, pin_key) = (B64u(vec![]), Digest([0; 32]));
        let held = Held { epoch, site: "ship-7".into(), machine: None, pin, pin_key };
        Belief { kept, image: Time(0), floor: Time(0), voucher: Some(held), index: None, bundle: 0 }
    }

    fn config(epoch: u32) -> Config {
        Config {
            machine: "mc_1".into(),
            epoch,
            site: "ship-7".into(),
            slot: "node-1".into(),
            node: "node-1-abcdef".into(),
            role: "worker".into(),
            files: vec![],
            api: vec![],
            cluster_ca: String::new(),
            found: false,
        }
    }

    #[test]
    fn r15b_a_configuration_for_another_machine_epoch_or_site_is_refused() {
        let id = |config: &Config, machine| {
            check(config, &belief(1), machine).map_err(|refused| refused.id()).err().unwrap_or_default()
        };
        assert_eq!(id(&config(1), Some("mc_1")), "");
        assert_eq!(id(&config(1), None), "", "M4 was done on an earlier connection");
        assert_eq!(id(&config(1), Some("mc_2")), "R15b");
        assert_eq!(id(&config(2), Some("mc_1")), "R15b");
        assert_eq!(id(&config(0), Some("mc_1")), "R15b");
        assert_eq!(id(&Config { site: "ship-8".into(), ..config(1) }, Some("mc_1")), "R15b");
        let nowhere = Belief { voucher: None, ..belief(1) };
        assert_eq!(check(&config(0), &nowhere, None).unwrap_err().id(), "R15b");
    }

    #[test]
    fn r13e_a_machine_without_voucher_takes_no_control_plane_role() {
        let control_plane = |epoch| Config { role: "control-plane".into(), ..config(epoch) };
        assert_eq!(check(&control_plane(0), &belief(0), None).unwrap_err().id(), "R13e");
        assert!(check(&config(0), &belief(0), None).is_ok());
        assert!(check(&control_plane(1), &belief(1), None).is_ok(), "a voucher came");
    }

    #[test]
    fn files_never_leave_the_root() {
        assert_eq!(under(Path::new("/r"), "/etc/x").unwrap(), Path::new("/r/etc/x"));
        for path in ["etc/x", "/etc/../../x", "../x", ""] {
            assert!(under(Path::new("/r"), path).is_err(), "{path}");
        }
    }
    #[test]
    fn a_file_that_would_run_as_somebody_else_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state")).unwrap();
        for (mode, written) in [("0644", true), ("4755", false), ("2755", false), ("rwx", false)] {
            let data = B64u(b"#!/bin/sh".to_vec());
            let file = protocol::messages::File { path: format!("/bin/{mode}"), mode: mode.into(), data };
            let config = Config { files: vec![file], ..config(1) };
            assert_eq!(write(&state, dir.path(), &config).is_ok(), written, "{mode}");
            assert_eq!(dir.path().join("bin").join(mode).exists(), written, "{mode}");
        }
    }
}
