//! Which image a machine is told to stage or to try, and why it waits where it is told neither.

use crate::version::Skew;

/// What is known of a machine's banks of one kind, beside the image that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a fact of its own.
pub struct Banks {
    /// The wanted image is the one that is kept.
    pub runs: bool,
    /// It is whole in the other bank.
    pub staged: bool,
    /// An image is being tried, or is to be tried next.
    pub trial: bool,
    /// It was tried and dropped.
    pub failed: bool,
    /// The machine says that it does not take it.
    pub refused: bool,
}

/// What the site has of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// All of it.
    Whole,
    /// Not the image.
    NoImage,
    /// The image, and not the program that firmware starts, signed.
    NoProgram,
}

/// What has to hold at the site before an image is staged, and tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)]
pub struct Terms {
    /// What the site has of it.
    pub store: Store,
    /// Another machine has tried it and dropped it.
    pub dropped: bool,
    /// Whether it fits the API server; an operating system always does. None where that cannot be seen.
    pub skew: Option<Skew>,
    /// The machine is a member of the cluster.
    pub member: bool,
    /// The site's plan, or a person, lets what was staged be tried.
    pub released: bool,
    /// Another machine tries an image.
    pub tried: bool,
    /// The turn is this machine's, or nobody's.
    pub turn: bool,
    /// Nothing is ordered or tried in the machine's other pair of banks.
    pub alone: bool,
}

/// What a machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: all is well, or it is at it.
    Nothing,
    /// Write it to the bank that is not in use.
    Stage,
    /// Try it.
    Activate,
    /// Nothing yet, or nothing any more.
    Wait(Why),
}

/// Why an image is neither staged nor tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// This machine dropped it.
    Dropped,
    /// This machine does not take it.
    Refused,
    /// The site does not have it.
    NoImage,
    /// The site has it without its signed program.
    NoProgram,
    /// Another machine dropped it.
    Spoilt,
    /// It is newer than the API server, or too old for it.
    Unfit,
    /// Which API server there is cannot be seen.
    Unseen,
    /// The machine is no member.
    NoMember,
    /// Nobody has let it be tried.
    Held,
    /// Another machine tries an image.
    Tried,
    /// It is another machine's turn.
    Turn,
    /// The machine does something with its other banks.
    Busy,
}

impl Why {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Dropped,
        Self::Refused,
        Self::NoImage,
        Self::NoProgram,
        Self::Spoilt,
        Self::Unfit,
        Self::Unseen,
        Self::NoMember,
        Self::Held,
        Self::Tried,
        Self::Turn,
        Self::Busy,
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// What is so, in a sentence.
    pub fn sentence(self) -> &'static str {
        self.row().1
    }

    /// What happens next, or what is to be done.
    pub fn next(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Dropped => (
                "image-dropped",
                "This machine tried it and dropped it.",
                "It is not tried again: mend what the machine said, and have HQ name another version in site.yaml.",
            ),
            Self::Refused => (
                "image-refused",
                "This machine does not take it.",
                "It takes it once HQ's `floor` in images.yaml allows it, or HQ names another version in site.yaml.",
            ),
            Self::NoImage => (
                "image-not-here",
                "The site does not have this image.",
                "It is staged once somebody brings it: `provisioner images add FOLDER`.",
            ),
            Self::NoProgram => (
                "program-not-here",
                "The site has this image, and not the program that HQ signed for it.",
                "It is staged once somebody brings the folder that `provisioner hq image add` signed: \
                 `provisioner images add FOLDER`.",
            ),
            Self::Spoilt => (
                "image-spoilt",
                "Another machine of the site tried it and dropped it.",
                "No other machine tries it: HQ names another version in site.yaml, or that machine is taken out.",
            ),
            Self::Unfit => (
                "kubernetes-unfit",
                "This version of Kubernetes does not fit the cluster's API server.",
                "It is tried once the API server is not older, and at most three minors newer.",
            ),
            Self::Unseen => (
                "cluster-unseen",
                "The version of the cluster's API server is not known now.",
                "It is tried once the cluster answers.",
            ),
            Self::NoMember => (
                "no-member",
                "It is here, and only a member of the cluster tries an image.",
                "It is tried once the machine is a member.",
            ),
            Self::Held => (
                "held",
                "It is here, and the site's plan holds it back.",
                "It is tried once somebody at the site says `provisioner activate`.",
            ),
            Self::Tried => (
                "tried-elsewhere",
                "It is here, and another machine of the site tries an image first.",
                "It is tried once that machine has kept or dropped its own, or is taken out.",
            ),
            Self::Turn => (
                "not-its-turn",
                "It is here, and it is another machine's turn.",
                "It is tried once that machine is done, or has not been for half an hour.",
            ),
            Self::Busy => (
                "one-by-one",
                "It is here, and the machine is at its other image.",
                "It is tried once that one is done.",
            ),
        }
    }
}

/// The next step towards the wanted image. Staging is free where the site has it; a try is not. What no patience helps
/// against is said before what ends by itself.
pub fn step(banks: Banks, terms: Terms) -> Step {
    let wait = match banks {
        Banks { runs: true, .. } | Banks { trial: true, .. } => return Step::Nothing,
        Banks { failed: true, .. } => Why::Dropped,
        Banks { refused: true, .. } => Why::Refused,
        Banks { staged: false, .. } => match terms.store {
            Store::Whole => return Step::Stage,
            Store::NoImage => Why::NoImage,
            Store::NoProgram => Why::NoProgram,
        },
        Banks { staged: true, .. } => match terms {
            Terms { dropped: true, .. } => Why::Spoilt,
            Terms { skew: Some(Skew::TooNew | Skew::TooOld), .. } => Why::Unfit,
            Terms { member: false, .. } => Why::NoMember,
            Terms { skew: None, .. } => Why::Unseen,
            Terms { released: false, .. } => Why::Held,
            Terms { tried: true, .. } => Why::Tried,
            Terms { turn: false, .. } => Why::Turn,
            Terms { alone: false, .. } => Why::Busy,
            _ => return Step::Activate,
        },
    };
    Step::Wait(wait)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every machine at every site.
    fn everything(mut look: impl FnMut(Banks, Terms)) {
        let stores = [Store::Whole, Store::NoImage, Store::NoProgram];
        let skews = [Some(Skew::Fits), Some(Skew::TooNew), Some(Skew::TooOld), None];
        for bits in 0..1u16 << 11 {
            let bit = |place: u16| bits >> place & 1 == 1;
            let (runs, staged, trial, failed, refused) = (bit(0), bit(1), bit(2), bit(3), bit(4));
            let banks = Banks { runs, staged, trial, failed, refused };
            for store in stores {
                for skew in skews {
                    let (dropped, member, released) = (bit(5), bit(6), bit(7));
                    let (tried, turn, alone) = (bit(8), bit(9), bit(10));
                    look(banks, Terms { store, dropped, skew, member, released, tried, turn, alone });
                }
            }
        }
    }

    #[test]
    fn what_runs_what_is_tried_and_what_failed_is_never_tried_again_and_nothing_is_tried_before_it_is_whole()
    {
        everything(|banks, terms| {
            let step = step(banks, terms);
            let at_rest = banks.runs || banks.trial;
            assert_eq!(step == Step::Nothing, at_rest, "{banks:?}");
            let wanted = !at_rest && !banks.failed && !banks.refused;
            let stages = wanted && !banks.staged && terms.store == Store::Whole;
            assert_eq!(step == Step::Stage, stages, "{banks:?} {terms:?}");
            let may = terms.member && terms.released && terms.turn && terms.alone;
            let free = !terms.tried && !terms.dropped && terms.skew == Some(Skew::Fits);
            assert_eq!(step == Step::Activate, wanted && banks.staged && may && free, "{banks:?} {terms:?}");
        });
    }

    #[test]
    fn every_wait_occurs_and_holds_for_what_it_says() {
        let mut found = BTreeSet::new();
        everything(|banks, terms| {
            let Step::Wait(why) = step(banks, terms) else { return };
            found.insert(why);
            let holds = match why {
                Why::Dropped => banks.failed,
                Why::Refused => banks.refused,
                Why::NoImage => terms.store == Store::NoImage && !banks.staged,
                Why::NoProgram => terms.store == Store::NoProgram && !banks.staged,
                Why::Spoilt => terms.dropped,
                Why::Unfit => matches!(terms.skew, Some(Skew::TooNew | Skew::TooOld)),
                Why::Unseen => terms.skew.is_none(),
                Why::NoMember => !terms.member,
                Why::Held => !terms.released,
                Why::Tried => terms.tried,
                Why::Turn => !terms.turn,
                Why::Busy => !terms.alone,
            };
            assert!(holds, "{why:?}: {banks:?} {terms:?}");
        });
        assert!(found.iter().eq(Why::ALL), "{found:?}");
        let words: BTreeSet<_> = Why::ALL.iter().map(|why| why.word()).collect();
        assert_eq!(words.len(), Why::ALL.len(), "one word never means two waits");
    }
}
