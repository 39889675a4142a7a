//! M7: what the machine is to be, written where it belongs.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, bail, ensure};
use protocol::messages::{Config, Message};
use protocol::refusal::{Refusal, Refused};

use super::enroll::Step;
use super::http::{Conversation, Meaning};
use crate::state::{Belief, State, write_file};

/// Asks for the configuration and checks that it is ours: R15b.
pub fn ask(talk: &mut Conversation, belief: &Belief, machine: Option<&str>) -> Result<Step<Config>> {
    let config = match talk.get::<Config>(Message::Config)? {
        Ok(config) => config,
        Err(Meaning::Wait(said, after)) => return Ok(Step::Wait(said, after)),
        Err(Meaning::No(said)) => return Ok(Step::No(said)),
        Err(Meaning::Good(_)) => return Ok(Step::Refused(Refusal::WrongAnswer.into())),
    };
    let wrong = |detail: &str| Ok(Step::Refused(Refused::new(Refusal::WrongAnswer, 'b', detail)));
    let held = belief.voucher.as_ref();
    if held.is_none_or(|held| held.epoch != config.epoch || held.site != config.site) {
        return wrong("it is for another epoch or site");
    }
    if machine.is_some_and(|machine| machine != config.machine) {
        return wrong("it is for another machine");
    }
    Ok(Step::Done(config))
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
    use super::*;

    #[test]
    fn files_never_leave_the_root() {
        assert_eq!(under(Path::new("/r"), "/etc/x").unwrap(), Path::new("/r/etc/x"));
        for path in ["etc/x", "/etc/../../x", "../x", ""] {
            assert!(under(Path::new("/r"), path).is_err(), "{path}");
        }
    }
}
