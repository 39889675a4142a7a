//! Which disk the system goes on: by the profile's rule, and never one that holds what is not ours.

use protocol::messages::NoDisk;
use serde::Deserialize;

use super::table;

/// The profile's rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Rule {
    /// Transports, the preferred first.
    pub transports: Vec<String>,
    /// No smaller one, GiB.
    pub min_gib: u64,
}

/// A disk as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name, `nvme0n1`.
    pub name: String,
    /// `nvme`, `ata`, `usb`, `virtio`, `mmc`.
    pub transport: String,
    /// Bytes.
    pub size: u64,
    /// Whether it can be pulled out.
    pub is_guest: bool,
    /// What is on it.
    pub holds: Holds,
}

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Zeros.
    Nothing,
    /// Our system, or the beginning of it.
    Ours,
    /// Something else.
    Foreign(Foreign),
    /// Nobody knows: it cannot be read, and why.
    Unreadable(String),
}

/// What is somebody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// What it looks like.
    pub what: String,
    /// What stands for this disk and its beginning, when a person says that it may be overwritten.
    pub mark: String,
}

impl Rule {
    fn rank(&self, disk: &Seen) -> Option<usize> {
        self.transports.iter().position(|one| *one == disk.transport)
    }

    fn is_large(&self, disk: &Seen) -> bool {
        disk.size >= self.min_gib << 30 && table::layout(disk.size).is_ok()
    }

    /// Whether the system could be on it, whatever it holds.
    fn fits(&self, disk: &Seen) -> bool {
        !disk.is_guest && self.rank(disk).is_some() && self.is_large(disk)
    }
}

impl Seen {
    fn foreign(&self) -> Option<&Foreign> {
        if let Holds::Foreign(foreign) = &self.holds { Some(foreign) } else { None }
    }

    fn unreadable(&self) -> Option<&str> {
        if let Holds::Unreadable(why) = &self.holds { Some(why) } else { None }
    }
}

/// The disk for the system: ours already, else the best empty one. Else what was found, for a person. Within its first minutes
/// (`is_early`) a disk that cannot be read may be this machine's own, and come to itself.
pub fn choose<'a>(disks: &'a [Seen], rule: &Rule, is_early: bool) -> Result<&'a Seen, NoDisk> {
    let fitting: Vec<_> = disks.iter().filter(|disk| rule.fits(disk)).collect();
    let is_usable = |disk: &&Seen| disk.foreign().is_none() && disk.unreadable().is_none();
    let mut good: Vec<_> = fitting.iter().copied().filter(is_usable).collect();
    // Of two that are equal the first by name: whoever asks again gets the same.
    good.sort_by_key(|disk| (disk.holds != Holds::Ours, rule.rank(disk), disk.size, disk.name.clone()));
    let best = good
        .first()
        .copied()
        .ok_or_else(|| NoDisk { found: found(disks, rule), marks: marks(disks, rule) })?;
    let failing = fitting.iter().find_map(|disk| disk.unreadable().map(|why| (&disk.name, why)));
    match failing.filter(|_| is_early && best.holds != Holds::Ours) {
        None => Ok(best),
        Some((name, why)) => Err(NoDisk {
            found: format!(
                "{name} cannot be read ({why}), and may be this machine's own: {} is taken if it stays so for five minutes.",
                best.name
            ),
            marks: vec![],
        }),
    }
}

/// The disk of this mark, where the system could be on it.
pub fn marked<'a>(disks: &'a [Seen], rule: &Rule, mark: &str) -> Option<&'a Seen> {
    disks.iter().find(|disk| rule.fits(disk) && disk.foreign().is_some_and(|foreign| foreign.mark == mark))
}

fn marks(disks: &[Seen], rule: &Rule) -> Vec<String> {
    let fitting = disks.iter().filter(|disk| rule.fits(disk));
    fitting.filter_map(|disk| Some(disk.foreign()?.mark.clone())).collect()
}

fn found(disks: &[Seen], rule: &Rule) -> String {
    let wanted = format!("{} GiB or more ({})", rule.min_gib, rule.transports.join(", "));
    let line = |disk: &Seen| {
        let (mark, why) = match &disk.holds {
            _ if disk.is_guest => (String::new(), "can be pulled out".to_owned()),
            Holds::Unreadable(why) => (String::new(), format!("cannot be read: {why}")),
            _ if !rule.is_large(disk) => (String::new(), "is too small".to_owned()),
            Holds::Foreign(Foreign { what, mark }) if rule.fits(disk) => {
                (format!(", {mark}"), format!("holds {what}, which is not ours to overwrite"))
            }
            _ => (String::new(), format!("is connected by {:?}", disk.transport)),
        };
        let size = if disk.size >> 30 > 0 {
            format!("{} GiB", disk.size >> 30)
        } else {
            format!("{} MiB", disk.size >> 20)
        };
        format!("{} ({size}{mark}) {why}", disk.name)
    };
    let lines: Vec<_> = disks.iter().map(line).collect();
    let seen = if lines.is_empty() { "there is none at all".to_owned() } else { lines.join("; ") };
    format!(
        "There is no disk for the system: wanted is an empty one of {wanted}; {seen}. Put an empty one in."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, transport: &str, gib: u64, holds: Holds) -> Seen {
        let (name, transport) = (name.to_owned(), transport.to_owned());
        Seen { name, transport, size: gib << 30, is_guest: false, holds }
    }

    fn foreign(mark: &str) -> Holds {
        Holds::Foreign(Foreign { what: "a partition table".into(), mark: mark.into() })
    }

    fn rule() -> Rule {
        Rule { transports: vec!["nvme".into(), "ata".into()], min_gib: 20 }
    }

    #[test]
    fn the_best_empty_disk_is_taken_and_ours_before_any_other() {
        use Holds::{Nothing, Ours};
        let disks = [
            disk("sda", "ata", 100, Nothing),
            disk("nvme1n1", "nvme", 200, Nothing),
            disk("nvme0n1", "nvme", 200, Nothing),
            disk("mmcblk0", "mmc", 100, Nothing),
        ];
        assert_eq!(
            choose(&disks, &rule(), true).unwrap().name,
            "nvme0n1",
            "of two equal ones always the same"
        );
        assert_eq!(choose(&disks[..2], &rule(), true).unwrap().name, "nvme1n1");
        let with_ours = [disks[2].clone(), disk("sdb", "ata", 100, Ours)];
        assert_eq!(choose(&with_ours, &rule(), true).unwrap().name, "sdb");
    }

    #[test]
    fn what_is_not_ours_too_small_or_can_be_pulled_out_is_shown_and_left_alone() {
        let mut stick = disk("sdb", "ata", 100, Holds::Ours);
        stick.is_guest = true;
        let disks = [
            disk("sda", "ata", 100, foreign("1a2b3c4d")),
            stick,
            disk("nvme0n1", "nvme", 8, foreign("00000001")),
            disk("vda", "virtio", 100, foreign("00000002")),
            disk("sdc", "ata", 100, Holds::Unreadable("Input/output error".into())),
        ];
        let none = choose(&disks, &rule(), true).unwrap_err();
        assert_eq!(none.marks, ["1a2b3c4d"], "the others would be of no use");
        let said = none.found;
        for words in [
            "an empty one of 20 GiB or more (nvme, ata)",
            "sda (100 GiB, 1a2b3c4d) holds a partition table, which is not ours to overwrite",
            "sdb (100 GiB) can be pulled out",
            "nvme0n1 (8 GiB) is too small",
            "vda (100 GiB) is connected by \"virtio\"",
            "sdc (100 GiB) cannot be read: Input/output error",
        ] {
            assert!(said.contains(words), "{said}");
        }
        assert!(choose(&[], &rule(), true).unwrap_err().found.contains("there is none at all"));
    }

    #[test]
    fn a_disk_that_cannot_be_read_is_waited_for_a_while_and_does_not_keep_another_one_for_ever() {
        let bad = disk("sda", "ata", 100, Holds::Unreadable("Input/output error".into()));
        let disks = [bad.clone(), disk("sdb", "ata", 100, Holds::Nothing)];
        let waits = choose(&disks, &rule(), true).unwrap_err();
        assert!(
            waits.found.starts_with("sda cannot be read (Input/output error)") && waits.marks.is_empty(),
            "{waits:?}"
        );
        assert_eq!(choose(&disks, &rule(), false).unwrap().name, "sdb");
        let with_ours = [bad.clone(), disk("sdb", "ata", 100, Holds::Ours)];
        assert_eq!(choose(&with_ours, &rule(), true).unwrap().name, "sdb");
        let small = Seen { size: 0, ..bad };
        assert_eq!(
            choose(&[small, disks[1].clone()], &rule(), true).unwrap().name,
            "sdb",
            "a reader without a card"
        );
    }

    #[test]
    fn a_yes_to_one_disk_is_none_to_another_and_to_none_that_cannot_be_used() {
        let mut stick = disk("sdb", "ata", 100, foreign("5"));
        stick.is_guest = true;
        let disks = [
            disk("sda", "ata", 100, foreign("1")),
            disk("nvme0n1", "nvme", 100, foreign("2")),
            disk("sdc", "ata", 8, foreign("3")),
            disk("sdd", "ata", 100, Holds::Ours),
            stick,
        ];
        let found = |mark| marked(&disks, &rule(), mark).map(|disk| disk.name.as_str());
        assert_eq!([found("1"), found("2")], [Some("sda"), Some("nvme0n1")]);
        assert_eq!(["3", "4", "5", ""].map(found), [None; 4]);
    }
}
