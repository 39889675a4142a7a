//! What people are told of at once, and what to do about it.

use crate::reason::Code;

/// What people are told of at once, beside what is told once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Alarm {
    /// A machine waits, and for no good reason.
    Reason(Code),
    /// HQ has made a newer bundle.
    BundleBehind,
    /// A machine has dropped an image.
    UpdateFailed,
    /// A machine has asked for the key of its disk.
    DiskShut,
    /// A machine has found no disk that it may use.
    NoDisk,
    /// The store was lost and made again.
    StoreLost,
    /// The inbox cannot be read or written.
    InboxTrouble,
    /// A machine's join went wrong on the machine.
    JoinFailed,
    /// A machine refuses its voucher.
    VoucherRefused,
    /// There were more than can be read.
    More,
}

impl Alarm {
    /// All but those that are reasons.
    pub const ALL: &[Self] = &[
        Self::BundleBehind,
        Self::UpdateFailed,
        Self::DiskShut,
        Self::NoDisk,
        Self::StoreLost,
        Self::InboxTrouble,
        Self::JoinFailed,
        Self::VoucherRefused,
        Self::More,
    ];

    /// The stable word.
    pub fn word(self) -> &'static str {
        self.row().0
    }

    /// What happened, in a sentence.
    pub fn sentence(self) -> &'static str {
        self.row().1
    }

    /// What is to be done.
    pub fn next(self) -> &'static str {
        self.row().2
    }

    fn row(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Reason(code) => (code.word(), code.person(), code.next()),
            Self::BundleBehind => (
                "bundle-behind",
                "A machine holds a newer bundle than this site, or says so.",
                "Apply HQ's latest bundle: `provisioner apply BUNDLE`. Once it is proved, nothing new is issued before.",
            ),
            Self::UpdateFailed => (
                "update-failed",
                "A machine has tried an image and dropped it.",
                "`provisioner explain MACHINE` says why; no other machine tries it. Have HQ name another version.",
            ),
            Self::DiskShut => (
                "disk-shut",
                "A machine's disk did not open by its TPM, and the machine has asked for the site's key.",
                "Nothing, where somebody changed its firmware. Otherwise look at the machine: somebody may have.",
            ),
            Self::NoDisk => (
                "no-disk",
                "A machine has found no disk that its system may be put on.",
                "Put an empty disk in; or say that one of its disks may be overwritten, as `provisioner explain MACHINE` shows.",
            ),
            Self::StoreLost => (
                "store-lost",
                "The site's store was lost, and made again of what the cluster and HQ know.",
                "Look at the disk of the provisioner. HQ arms registrations by device key anew where those machines \
                 are to be installed again.",
            ),
            Self::InboxTrouble => (
                "inbox-trouble",
                "A file in the inbox cannot be read, taken or moved.",
                "The log says why: free the disk, or let the provisioner read and move what lies in `inbox/`.",
            ),
            Self::JoinFailed => (
                "join-failed",
                "A machine says that its join went wrong, and for no reason that stands here.",
                "Look at its screen, and at `provisioner explain MACHINE`.",
            ),
            Self::VoucherRefused => (
                "voucher-refused",
                "A machine refuses its voucher, and for no reason that stands here.",
                "Look at its screen; HQ sends a new voucher with its next bundle.",
            ),
            Self::More => (
                "more-alarms",
                "There were more than sixty alarms within an hour; these are counted and not told.",
                "`provisioner machines` shows who is not well.",
            ),
        }
    }
}
