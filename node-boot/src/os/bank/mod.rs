//! Banks: which images the machine runs from, which one is tried, and what became of the last try. Nothing in this file
//! looks at a disk or a clock.

mod disk; // into the bank that is not in use, and what the firmware starts next
mod keeper; // one word on all of it, on disk before it counts
mod mounted; // Kubernetes' image, where programs find it
mod write; // an image onto a partition, each block checked before it is written

use std::collections::BTreeMap;

use protocol::bytes::Digest;
use protocol::image::{BankReport, Failed, Image, Kind};
use serde::{Deserialize, Serialize};

pub use disk::{stage, start_always, start_once};
pub use keeper::{Keeper, is_tried};
pub use mounted::{KUBERNETES, mount_kubernetes, mounted, unmount_kubernetes};
pub use write::{Source, check_program, is_whole};
#[cfg(test)]
pub(crate) use write::{tests::built, write};

/// Where the machine's state has this.
pub const FILE: &str = "banks.json";
/// How often an image is started that never said what is wrong: power may fail during the first try.
const TRIES: u8 = 2;

/// The banks of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banks {
    /// Of the operating system.
    pub os: Bank,
    /// Of Kubernetes.
    pub kubernetes: Bank,
}

/// Two banks of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bank {
    /// The image that has proved itself.
    pub kept: Image,
    /// What the other bank holds, whole.
    #[serde(default)]
    pub staged: Option<Image>,
    /// Whether that is being tried.
    #[serde(default)]
    pub trial: Option<Trial>,
    /// What was tried last and dropped.
    #[serde(default)]
    pub failed: Option<Failed>,
    /// What was ordered last, and is not taken as long as headquarters' floor stands.
    #[serde(default)]
    pub refused: Option<Failed>,
}

/// A try of the staged image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// How often it was started.
    pub tries: u8,
    /// Why it is to be dropped.
    #[serde(default)]
    pub why: Option<String>,
}

/// What a start finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Started {
    /// The image that is kept: nothing is tried.
    Kept,
    /// The image that is tried.
    OnTrial,
    /// The image that is kept, while another one is to be tried that did not have its chance yet.
    TryAgain,
    /// The image that is kept: another one was tried and dropped.
    FellBack,
}

impl Bank {
    fn new(kept: Image) -> Self {
        Self { kept, staged: None, trial: None, failed: None, refused: None }
    }

    /// The other bank is about to be written: what it held is not whole any more.
    pub fn clear(&mut self) {
        (self.staged, self.trial) = (None, None);
    }

    /// Whether this image is to be written to the other bank: neither what is tried nor what is there already is written over.
    pub fn lacks(&self, image: &Image) -> bool {
        self.trial.is_none() && self.staged.as_ref() != Some(image)
    }

    /// The other bank holds this image, whole.
    pub fn has_staged(&mut self, image: Image) {
        (self.staged, self.trial) = (Some(image), None);
    }

    /// Lets the staged image be tried, if it is this one and was not dropped before; whether it does.
    pub fn begin_trial(&mut self, root: &Digest) -> bool {
        let is = |image: &Image| image.root == *root;
        let dropped = self.failed.as_ref().is_some_and(|failed| failed.root == *root);
        if dropped || !self.staged.as_ref().is_some_and(is) {
            return false;
        }
        self.trial.get_or_insert_default();
        true
    }

    /// Another try begins: counted before it is made.
    pub fn count_try(&mut self) {
        if let Some(trial) = &mut self.trial {
            trial.tries = trial.tries.saturating_add(1);
        }
    }

    /// The image that is to be in use now.
    pub fn in_use(&self) -> &Image {
        match (&self.trial, &self.staged) {
            (Some(Trial { tries, why: None }), Some(staged)) if *tries < TRIES => staged,
            _ => &self.kept,
        }
    }

    /// What a start with the image of this root means. A trial that is over is noted as such.
    pub fn start(&mut self, running: &Digest) -> Started {
        let Some(trial) = &self.trial else { return Started::Kept };
        if self.staged.as_ref().is_some_and(|staged| staged.root == *running) && trial.why.is_none() {
            return Started::OnTrial;
        }
        if trial.why.is_none() && trial.tries < TRIES && self.staged.is_some() {
            return Started::TryAgain;
        }
        let silent = format!("it was started {} times and did not come up", trial.tries);
        let why = trial.why.clone().unwrap_or(silent);
        self.fail(&why);
        Started::FellBack
    }

    /// Why the image that is tried is to be dropped: the next start finds it.
    pub fn give_up(&mut self, why: &str) {
        if let Some(trial) = &mut self.trial {
            trial.why.get_or_insert_with(|| why.to_owned());
        }
    }

    /// The image that was tried is dropped.
    pub fn fail(&mut self, why: &str) {
        self.trial = None;
        if let Some(staged) = &self.staged {
            let (version, root) = (staged.version.clone(), staged.root);
            self.failed = Some(Failed { version, root, why: why.to_owned() });
        }
    }

    /// The image that was tried has proved itself; the one before stays in the other bank.
    pub fn keep(&mut self) {
        self.trial = None;
        if let Some(staged) = self.staged.take() {
            self.staged = Some(std::mem::replace(&mut self.kept, staged));
            self.failed = None;
        }
    }

    fn report(&self) -> BankReport {
        BankReport {
            version: self.kept.version.clone(),
            root: self.kept.root,
            staged: self.staged.as_ref().map(|image| image.root),
            trial: self.trial.is_some(),
            failed: self.failed.clone(),
            refused: self.refused.clone(),
        }
    }
}

impl Banks {
    /// Those of a machine that was just installed from these images; none where one of the two is missing.
    pub fn installed(images: &[Image]) -> Option<Self> {
        let of = |kind: Kind| images.iter().find(|image| image.kind == kind).cloned().map(Bank::new);
        Some(Self { os: of(Kind::Os)?, kubernetes: of(Kind::Kubernetes)? })
    }

    /// The banks of a kind.
    pub fn of(&self, kind: Kind) -> &Bank {
        match kind {
            Kind::Os => &self.os,
            Kind::Kubernetes => &self.kubernetes,
        }
    }

    /// The same, to be changed.
    pub fn of_mut(&mut self, kind: Kind) -> &mut Bank {
        match kind {
            Kind::Os => &mut self.os,
            Kind::Kubernetes => &mut self.kubernetes,
        }
    }

    /// The kubelet starts, with the image of Kubernetes in the partition called `mounted`: another try of that, where it is tried.
    pub fn start_kubelet(&mut self, mounted: &str) -> Started {
        let bank = &mut self.kubernetes;
        let staged = bank.staged.as_ref().filter(|staged| staged.partition() == mounted);
        let running = staged.unwrap_or(&bank.kept).root;
        let started = bank.start(&running);
        if started == Started::TryAgain {
            bank.fail("its image cannot be mounted");
        }
        bank.count_try();
        started
    }

    /// What the provisioner is told.
    pub fn report(&self) -> BTreeMap<Kind, BankReport> {
        Kind::ALL.into_iter().map(|kind| (kind, self.of(kind).report())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(root: u8) -> Image {
        let (kind, root) = (Kind::Os, Digest([root; 32]));
        Image { kind, version: format!("0.{}.0", root.0[0]), root, blocks: 1, size: 8192, program: None }
    }

    fn staged() -> Bank {
        let mut bank = Bank::new(image(1));
        bank.has_staged(image(2));
        bank
    }

    /// What is on disk, read again: all that a power cut leaves.
    fn after_a_cut(bank: &Bank) -> Bank {
        protocol::json::parse(&protocol::json::to_vec(bank)).unwrap()
    }

    #[test]
    fn an_image_that_proves_itself_is_kept_and_the_one_before_stays_in_reach() {
        let mut bank = staged();
        assert!(bank.begin_trial(&image(2).root));
        bank.count_try();
        assert_eq!(after_a_cut(&bank).start(&image(2).root), Started::OnTrial);
        bank.keep();
        assert_eq!(
            (bank.kept.clone(), bank.staged.clone(), bank.trial.clone()),
            (image(2), Some(image(1)), None)
        );
        assert_eq!(bank.start(&image(2).root), Started::Kept);
    }

    #[test]
    fn a_cut_before_the_first_try_leaves_that_try_and_one_during_it_leaves_another() {
        let mut bank = staged();
        assert!(bank.begin_trial(&image(2).root));
        assert_eq!(after_a_cut(&bank).start(&image(1).root), Started::TryAgain);
        bank.count_try();
        assert_eq!(after_a_cut(&bank).start(&image(1).root), Started::TryAgain);
        bank.count_try();
        let mut bank = after_a_cut(&bank);
        assert_eq!(bank.start(&image(1).root), Started::FellBack);
        assert_eq!(bank.failed.as_ref().unwrap().why, "it was started 2 times and did not come up");
        assert_eq!(bank.start(&image(1).root), Started::Kept);
    }

    #[test]
    fn an_image_that_says_what_is_wrong_is_dropped_at_once_and_not_tried_again() {
        let mut bank = staged();
        assert!(bank.begin_trial(&image(2).root));
        bank.count_try();
        bank.give_up("the kubelet does not start");
        bank.give_up("anything later");
        assert_eq!(bank.in_use(), &image(1));
        let mut bank = after_a_cut(&bank);
        assert_eq!(bank.start(&image(1).root), Started::FellBack);
        let failed = bank.failed.clone().unwrap();
        assert_eq!((failed.root, failed.why.as_str()), (image(2).root, "the kubelet does not start"));
        assert!(!bank.begin_trial(&image(2).root));
    }

    #[test]
    fn nothing_is_tried_that_is_not_whole_in_the_other_bank() {
        let mut bank = staged();
        assert!(!bank.begin_trial(&image(3).root));
        bank.clear();
        assert!(!bank.begin_trial(&image(2).root));
        assert_eq!(bank.in_use(), &image(1));
        assert_eq!(bank.start(&image(1).root), Started::Kept);
    }

    #[test]
    fn nothing_is_written_over_what_is_tried() {
        let mut bank = staged();
        assert!(bank.lacks(&image(3)) && !bank.lacks(&image(2)), "one is there already");
        assert!(bank.begin_trial(&image(2).root) && !bank.lacks(&image(3)));
        bank.give_up("it hangs");
        assert!(!bank.lacks(&image(3)), "it runs until the machine starts anew");
    }

    #[test]
    fn a_kubernetes_that_takes_the_machine_down_with_it_is_started_twice_and_no_more() {
        let of = |kind, root| Image { kind, ..image(root) };
        let (kept, tried) = (of(Kind::Kubernetes, 1), of(Kind::Kubernetes, 2));
        let mut banks = Banks::installed(&[of(Kind::Os, 9), kept.clone()]).unwrap();
        banks.kubernetes.has_staged(tried.clone());
        assert!(banks.kubernetes.begin_trial(&tried.root));
        // It was put in place of the former one, and then the machine started anew, again and again.
        banks.kubernetes.count_try();
        assert_eq!(banks.kubernetes.in_use(), &tried);
        assert_eq!(banks.start_kubelet(&tried.partition()), Started::OnTrial);
        assert_eq!(banks.kubernetes.in_use(), &kept);
        assert_eq!(banks.start_kubelet(&kept.partition()), Started::FellBack);
        assert_eq!(banks.start_kubelet(&kept.partition()), Started::Kept);
        assert!(!banks.kubernetes.begin_trial(&tried.root));
    }

    #[test]
    fn a_kubernetes_that_cannot_be_mounted_is_dropped_at_once() {
        let of = |kind, root| Image { kind, ..image(root) };
        let mut banks = Banks::installed(&[of(Kind::Os, 9), of(Kind::Kubernetes, 1)]).unwrap();
        banks.kubernetes.has_staged(of(Kind::Kubernetes, 2));
        assert!(banks.kubernetes.begin_trial(&image(2).root));
        assert_eq!(banks.start_kubelet(&of(Kind::Kubernetes, 1).partition()), Started::TryAgain);
        assert_eq!(banks.kubernetes.failed.as_ref().unwrap().why, "its image cannot be mounted");
        assert_eq!(banks.start_kubelet(""), Started::Kept);
    }

    #[test]
    fn whatever_happens_one_of_two_known_images_is_in_use_and_the_kept_one_never_changes_but_by_keeping() {
        // Every order of six events, up to six of them, with a power cut after each.
        let act = |bank: &mut Bank, what: u32| match what {
            0 => bank.clear(),
            1 => bank.has_staged(image(2)),
            2 => drop(bank.begin_trial(&image(2).root)),
            3 => bank.count_try(),
            4 => bank.give_up("x"),
            _ => drop(bank.start(&image(1).root)),
        };
        for story in 0..6u32.pow(6) {
            let mut bank = Bank::new(image(1));
            for place in 0..6 {
                act(&mut bank, story / 6u32.pow(place) % 6);
                bank = after_a_cut(&bank);
                assert_eq!(bank.kept, image(1));
                assert!([image(1), image(2)].contains(bank.in_use()));
                assert!(bank.in_use() == &bank.kept || bank.trial.is_some());
            }
        }
    }
}
