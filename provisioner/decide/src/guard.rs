//! The storm guard: when nothing may be replaced, however dead it looks.

use crate::reason::Code;

/// The site's members as seen in one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Machines that are, or were until they went missing, members.
    pub members: usize,
    /// Those of them that are missing.
    pub gone: usize,
    /// Replacements begun and not finished.
    pub replacing: usize,
    /// Whether the cluster cannot be seen.
    pub blind: bool,
}

/// Whether one machine may be replaced now; if not, the reason to show on each that waits for it.
///
/// Half of the site gone is still a fault of machines (one of two); more than half is a fault of the network, or ours.
pub fn may_replace(fleet: &Fleet) -> Result<(), Code> {
    if fleet.blind {
        Err(Code::ClusterAway)
    } else if fleet.gone > fleet.members.saturating_sub(fleet.gone) {
        Err(Code::MostGone)
    } else if fleet.replacing > 0 {
        Err(Code::OneAtATime)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blind_is_not_dead_most_gone_is_a_storm_and_one_is_replaced_at_a_time() {
        let fleet = |members, gone, replacing, blind| Fleet { members, gone, replacing, blind };
        let tries = [
            (fleet(3, 1, 0, false), Ok(())),
            (fleet(2, 1, 0, false), Ok(())),
            (fleet(10, 5, 0, false), Ok(())),
            (fleet(10, 6, 0, false), Err(Code::MostGone)),
            (fleet(1, 1, 0, false), Err(Code::MostGone)),
            (fleet(3, 2, 1, false), Err(Code::MostGone)),
            (fleet(3, 1, 1, false), Err(Code::OneAtATime)),
            (fleet(3, 0, 0, true), Err(Code::ClusterAway)),
            (fleet(0, usize::MAX, 0, false), Err(Code::MostGone)),
        ];
        for (fleet, expected) in tries {
            assert_eq!(may_replace(&fleet), expected, "{fleet:?}");
        }
    }
}
