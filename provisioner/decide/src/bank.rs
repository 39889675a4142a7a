//! Which image a machine is told to stage or to try.

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
    /// Wait until it may be tried: the site's order, or another machine's turn.
    Wait,
    /// It was tried and dropped: another image, or a person.
    Failed,
}

/// The next step towards the wanted image. Staging is free; `may` says whether it may be tried now.
pub fn step(banks: Banks, may: bool) -> Step {
    match banks {
        Banks { runs: true, .. } | Banks { trial: true, .. } => Step::Nothing,
        Banks { failed: true, .. } => Step::Failed,
        Banks { staged: false, .. } => Step::Stage,
        _ if may => Step::Activate,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_what_is_tried_and_what_failed_is_never_tried_again_and_nothing_is_tried_before_it_is_whole()
    {
        for bits in 0..32u8 {
            let bit = |place: u8| bits >> place & 1 == 1;
            let banks = Banks { runs: bit(0), staged: bit(1), trial: bit(2), failed: bit(3) };
            let step = step(banks, bit(4));
            if banks.runs || banks.trial {
                assert_eq!(step, Step::Nothing, "{banks:?}");
            } else if banks.failed {
                assert_eq!(step, Step::Failed, "{banks:?}");
            } else {
                assert_eq!(step == Step::Stage, !banks.staged, "{banks:?}");
                assert_eq!(step == Step::Activate, banks.staged && bit(4), "{banks:?}");
            }
        }
    }
}
