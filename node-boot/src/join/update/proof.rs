//! The proof of an image that is tried: a machine that is well with it keeps it, and drops it otherwise.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::image::{Image, Kind};

use crate::console::say;
use crate::join::kubelet;
use crate::join::node::{self, Wanted};
use crate::os::bank::{self, Keeper};
use crate::os::init::power;
use crate::os::supervise::Handle;

/// Within this time an image has to prove itself.
pub(super) const HEALTHY: Duration = Duration::from_mins(10);
/// A kubelet that ends so often by itself does not run.
const ENDS: u32 = 3;
const LOOK: Duration = Duration::from_secs(1);

/// What an image has to show.
pub(super) struct Proof {
    /// Of this kind.
    pub kind: Kind,
    /// What the machine's Node has to say.
    pub wanted: Wanted,
    /// The Node's name.
    pub node: String,
    /// Where the kubelet's configuration is.
    pub root: PathBuf,
    /// Whether the provisioner was reached.
    pub reached: Arc<AtomicBool>,
    /// The cluster's programs.
    pub services: Handle,
}

impl Proof {
    /// Waits until all is well; else why not.
    pub fn within(&self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        loop {
            let ready =
                node::ready(&self.root, &self.node, &self.wanted).map_err(|error| format!("{error:#}"));
            let seen = Seen {
                ready,
                reached: self.reached.load(Ordering::Relaxed),
                ends: self.services.ends(kubelet::SERVICE),
                is_late: Instant::now() >= until,
            };
            if let Some(verdict) = verdict(seen, self.kind, time) {
                return verdict;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// What a look at a machine on trial shows.
struct Seen {
    /// Whether its Node is well, else why not.
    ready: Result<(), String>,
    /// Whether the provisioner was reached.
    reached: bool,
    /// How often the kubelet has ended by itself.
    ends: u32,
    /// Whether its time is over.
    is_late: bool,
}

/// What becomes of an image that has so much time; nothing yet where it may still prove itself.
fn verdict(seen: Seen, kind: Kind, time: Duration) -> Option<Result<(), String>> {
    let why = match seen.ready {
        Ok(()) if seen.reached => return Some(Ok(())),
        Ok(()) => "the provisioner was not reached".to_owned(),
        Err(why) => why,
    };
    if seen.ends >= ENDS {
        return Some(Err(format!("the kubelet has ended {ENDS} times; {why}")));
    }
    let late = || Err(format!("{} within {} minutes: {why}", kind.word(), time.as_secs() / 60));
    seen.is_late.then(late)
}

/// Keeps what was tried, or drops it.
pub(super) fn conclude(
    kind: Kind,
    staged: &Image,
    outcome: Result<(), String>,
    keeper: &Keeper,
    services: &Handle,
) -> Result<()> {
    let word = kind.word();
    match (kind, outcome) {
        (_, Ok(())) => {
            keep(kind, keeper, || bank::start_always(staged))?;
            say(&format!("All is well with {word} {}: it is kept.", staged.version));
            Ok(())
        }
        (Kind::Os, Err(why)) => {
            keeper.change(|banks| banks.os.give_up(&why))?;
            say(&format!("{word} {} is dropped: {why}. Starting the one before.", staged.version));
            power::ask_for_restart().context("asking for a new start")
        }
        (Kind::Kubernetes, Err(why)) => {
            drop_kubernetes(keeper, &why, services)?;
            say(&format!(
                "{word} {} was dropped: {why}. This machine goes on with the one before.",
                staged.version
            ));
            Ok(())
        }
    }
}

/// Keeps what was tried: an operating system once the firmware starts it always. Were it kept before that, a power cut in between
/// would leave the former one running, in the bank that is free for the next.
fn keep(kind: Kind, keeper: &Keeper, start_always: impl FnOnce() -> Result<()>) -> Result<()> {
    if kind == Kind::Os {
        start_always()?;
    }
    keeper.change(|banks| banks.of_mut(kind).keep())
}

/// Takes the image of Kubernetes that is tried away, and puts the kept one back.
pub(super) fn drop_kubernetes(keeper: &Keeper, why: &str, services: &Handle) -> Result<()> {
    let kept = keeper.change(|banks| {
        banks.kubernetes.fail(why);
        banks.kubernetes.kept.clone()
    })?;
    services.restart(kubelet::SERVICE, || switch(&kept))
}

/// Puts this image where programs find it, in place of the one that is there.
pub(super) fn switch(image: &Image) -> Result<()> {
    bank::unmount_kubernetes()?;
    bank::mount_kubernetes(image)
}

#[cfg(test)]
mod tests {
    use protocol::bytes::Digest;

    use super::*;
    use crate::os::bank::{Banks, FILE};
    use crate::state::State;

    #[test]
    fn a_system_is_kept_no_sooner_than_the_firmware_starts_it_always() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(folder.path()).unwrap();
        let image = |kind, root: u8| {
            let (version, root) = ("1".to_owned(), Digest([root; 32]));
            Image { kind, version, root, blocks: 1, size: 8192, program: None }
        };
        let tried = [image(Kind::Os, 3), image(Kind::Kubernetes, 4)];
        let mut banks = Banks::installed(&[image(Kind::Os, 1), image(Kind::Kubernetes, 2)]).unwrap();
        for image in &tried {
            banks.of_mut(image.kind).has_staged(image.clone());
            assert!(banks.of_mut(image.kind).begin_trial(&image.root));
        }
        state.save(FILE, &banks).unwrap();
        let keeper = Keeper::load(&state).unwrap().unwrap();
        assert!(keep(Kind::Os, &keeper, || anyhow::bail!("the firmware takes nothing")).is_err());
        assert_eq!(keeper.banks(), banks);
        keep(Kind::Os, &keeper, || {
            assert_eq!(keeper.banks(), banks, "a power cut now leaves it on trial");
            Ok(())
        })
        .unwrap();
        keep(Kind::Kubernetes, &keeper, || unreachable!("the firmware starts no Kubernetes")).unwrap();
        let after: Banks = state.load(FILE).unwrap().unwrap();
        assert_eq!([after.os.kept, after.kubernetes.kept], tried, "and it is on disk");
    }

    #[test]
    fn an_image_is_kept_when_all_is_well_and_dropped_for_a_reason_that_is_named() {
        let judged = |ready: Result<(), &str>, reached, ends, is_late| {
            let ready = ready.map_err(str::to_owned);
            verdict(Seen { ready, reached, ends, is_late }, Kind::Kubernetes, HEALTHY)
        };
        assert_eq!(judged(Ok(()), true, 0, false), Some(Ok(())));
        assert_eq!(judged(Ok(()), true, ENDS, true), Some(Ok(())), "all is well in the end");
        assert_eq!(judged(Ok(()), false, 0, false), None, "it may still prove itself");
        assert_eq!(judged(Err("no network yet"), true, ENDS - 1, false), None);
        for (reached, ends, is_late, words) in [
            (false, 0, true, "kubernetes within 10 minutes: the provisioner was not reached"),
            (false, ENDS, false, "the kubelet has ended 3 times; the provisioner was not reached"),
        ] {
            assert_eq!(judged(Ok(()), reached, ends, is_late), Some(Err(words.to_owned())));
        }
        let ended = judged(Err("no network yet"), true, ENDS, false).unwrap().unwrap_err();
        assert_eq!(ended, "the kubelet has ended 3 times; no network yet");
    }
}
