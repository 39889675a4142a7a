//! Which disk the system goes on: by the profile's rule, and never one that holds what is not ours.

use serde::Deserialize;

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
    /// Something else: what it looks like.
    Foreign(String),
}

/// The disk for the system: ours already, else the best empty one. Else what was found, for a person.
pub fn choose<'a>(disks: &'a [Seen], rule: &Rule) -> Result<&'a Seen, String> {
    let rank = |disk: &Seen| rule.transports.iter().position(|one| *one == disk.transport);
    let fits = |disk: &&Seen| !disk.is_guest && rank(disk).is_some() && disk.size >= rule.min_gib << 30;
    let mut good: Vec<_> =
        disks.iter().filter(fits).filter(|disk| !matches!(disk.holds, Holds::Foreign(_))).collect();
    // Of two that are equal the first by name: whoever asks again gets the same.
    good.sort_by_key(|disk| (disk.holds != Holds::Ours, rank(disk), disk.size, disk.name.clone()));
    good.first().copied().ok_or_else(|| found(disks, rule))
}

fn found(disks: &[Seen], rule: &Rule) -> String {
    let wanted = format!("{} GiB or more ({})", rule.min_gib, rule.transports.join(", "));
    let line = |disk: &Seen| {
        let why = match &disk.holds {
            _ if disk.is_guest => "can be pulled out".to_owned(),
            Holds::Foreign(what) => format!("holds {what}, which is not ours to overwrite"),
            _ if disk.size < rule.min_gib << 30 => "is too small".to_owned(),
            _ => format!("is connected by {:?}", disk.transport),
        };
        let size = if disk.size >> 30 > 0 {
            format!("{} GiB", disk.size >> 30)
        } else {
            format!("{} MiB", disk.size >> 20)
        };
        format!("{} ({size}) {why}", disk.name)
    };
    let lines: Vec<_> = disks.iter().map(line).collect();
    if lines.is_empty() {
        format!("There is no disk for the system: wanted is an empty one of {wanted}.")
    } else {
        format!(
            "There is no disk for the system: wanted is an empty one of {wanted}; {}. Put an empty disk in, or empty one of these \
             on another computer.",
            lines.join("; ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, transport: &str, gib: u64, holds: Holds) -> Seen {
        let (name, transport) = (name.to_owned(), transport.to_owned());
        Seen { name, transport, size: gib << 30, is_guest: false, holds }
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
        assert_eq!(choose(&disks, &rule()).unwrap().name, "nvme0n1", "of two equal ones always the same");
        assert_eq!(choose(&disks[..2], &rule()).unwrap().name, "nvme1n1");
        let with_ours = [disks[2].clone(), disk("sdb", "ata", 100, Ours)];
        assert_eq!(choose(&with_ours, &rule()).unwrap().name, "sdb");
    }

    #[test]
    fn what_is_not_ours_too_small_or_can_be_pulled_out_is_shown_and_left_alone() {
        let mut stick = disk("sdb", "ata", 100, Holds::Ours);
        stick.is_guest = true;
        let disks = [
            disk("sda", "ata", 100, Holds::Foreign("a partition table".into())),
            stick,
            disk("nvme0n1", "nvme", 8, Holds::Nothing),
            disk("vda", "virtio", 100, Holds::Nothing),
        ];
        let said = choose(&disks, &rule()).unwrap_err();
        for words in [
            "an empty one of 20 GiB or more (nvme, ata)",
            "sda (100 GiB) holds a partition table, which is not ours to overwrite",
            "sdb (100 GiB) can be pulled out",
            "nvme0n1 (8 GiB) is too small",
            "vda (100 GiB) is connected by \"virtio\"",
        ] {
            assert!(said.contains(words), "{said}");
        }
        assert!(choose(&[], &rule()).unwrap_err().contains("There is no disk"));
    }
}
