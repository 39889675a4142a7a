//! Images of a machine's own system as headquarters names them: each by the root of the hash tree behind it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::{Digest, hex};

/// Bytes of a block of data, and of hashes.
pub const BLOCK: u64 = 4096;
/// Symbols of a root that a partition is named after.
const NAMED_AFTER: usize = 16;

/// What an image holds; each has two banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Kernel, node-boot, container runtime.
    Os,
    /// The kubelet, kubeadm, and the images of Kubernetes' own Pods.
    Kubernetes,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Os, Self::Kubernetes];

    /// `os` or `kubernetes`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Os => "os",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// An image: a file system (EROFS) with its hash tree (dm-verity) behind it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it holds.
    pub kind: Kind,
    /// Its version, `0.1.0` or `v1.36.3`.
    pub version: String,
    /// SHA-256 of the top of its tree: nothing else comes out of it than what was built.
    pub root: Digest,
    /// Blocks of data; the tree follows at once.
    pub blocks: u64,
    /// Bytes, the tree among them.
    pub size: u64,
    /// What the firmware starts, where it is an operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
}

/// A file that the firmware starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// SHA-256 of its bytes.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
}

impl Image {
    /// Name of the partition that holds it: `os-0f1e2d3c4b5a6978`.
    pub fn partition(&self) -> String {
        format!("{}-{}", self.kind.word(), &hex(&self.root.0)[..NAMED_AFTER])
    }
}

/// The `images` section of a bundle: what headquarters lets the machines of a site run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Images {
    /// The images of the site.
    #[serde(default)]
    pub images: Vec<Image>,
    /// The oldest version of each kind that a machine may go to.
    #[serde(default)]
    pub floor: BTreeMap<Kind, String>,
}

impl Images {
    /// The image with this root, unless it is older than headquarters' floor.
    pub fn allowed(&self, root: &Digest) -> Result<&Image, NotAllowed> {
        let image = self.images.iter().find(|image| image.root == *root).ok_or(NotAllowed::Unknown)?;
        match self.floor.get(&image.kind) {
            Some(floor) if compare(&image.version, floor) == Ordering::Less => Err(NotAllowed::BelowFloor {
                kind: image.kind,
                version: image.version.clone(),
                floor: floor.clone(),
            }),
            _ => Ok(image),
        }
    }
}

/// Why a machine does not take an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Headquarters has signed no such image.
    #[error("headquarters has signed no such image")]
    Unknown,
    /// It is older than headquarters allows.
    #[error("{} {version} is older than {floor}, which is the oldest that headquarters allows", kind.word())]
    BelowFloor {
        /// Of which kind.
        kind: Kind,
        /// Its version.
        version: String,
        /// The oldest one.
        floor: String,
    },
}

/// What a machine says of its banks of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BankReport {
    /// Version that is kept.
    pub version: String,
    /// Its root.
    pub root: Digest,
    /// Root of what the other bank holds whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Digest>,
    /// Whether that is being tried.
    #[serde(default)]
    pub trial: bool,
    /// What was tried last and dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failed>,
    /// What it was ordered to take last, and does not take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Failed>,
}

/// An image that was tried and dropped, or that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Its version.
    pub version: String,
    /// Its root.
    pub root: Digest,
    /// Why, for a person.
    pub why: String,
}

/// Which of two versions is the later one: numbers between dots count as numbers, and what follows a hyphen comes before
/// the version without it (Semantic Versioning 2.0, section 11, as far as ours need it).
pub fn compare(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| {
        let text = text.strip_prefix('v').unwrap_or(text).to_owned();
        let text = text.split_once('+').map_or(text.clone(), |(text, _)| text.to_owned());
        let (numbers, before) = text
            .split_once('-')
            .map_or((text.clone(), None), |(numbers, before)| (numbers.to_owned(), Some(before.to_owned())));
        let numbers: Vec<u64> = numbers.split('.').map(|part| part.parse().unwrap_or(0)).collect();
        // Without anything behind a hyphen it is the later one.
        (numbers, before.is_none(), before)
    };
    parts(one).cmp(&parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_what_it_holds() {
        let image = Image {
            kind: Kind::Kubernetes,
            version: "v1.36.3".into(),
            root: Digest([0x0f; 32]),
            blocks: 1,
            size: 8192,
            program: None,
        };
        assert_eq!(image.partition(), "kubernetes-0f0f0f0f0f0f0f0f");
    }

    #[test]
    fn nothing_runs_that_headquarters_did_not_sign_or_that_is_below_its_floor() {
        let image = |version: &str, root: u8| Image {
            kind: Kind::Os,
            version: version.into(),
            root: Digest([root; 32]),
            blocks: 1,
            size: 8192,
            program: None,
        };
        let images = vec![image("0.9.0", 1), image("0.10.0", 2)];
        let images = Images { images, floor: BTreeMap::from([(Kind::Os, "0.10.0".to_owned())]) };
        assert_eq!(images.allowed(&Digest([2; 32])).unwrap().version, "0.10.0");
        assert_eq!(images.allowed(&Digest([3; 32])), Err(NotAllowed::Unknown));
        let old = images.allowed(&Digest([1; 32])).unwrap_err().to_string();
        assert_eq!(old, "os 0.9.0 is older than 0.10.0, which is the oldest that headquarters allows");
    }

    #[test]
    fn the_later_version_is_the_one_with_the_higher_number_and_not_the_longer_word() {
        for (older, newer) in [
            ("v1.9.10", "v1.36.3"),
            ("0.1.0", "0.1.1"),
            ("0.2.0-rc.1", "0.2.0"),
            ("2026.11.9", "2026.11.28"),
            ("", "0.0.1"),
        ] {
            assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
            assert_eq!(compare(newer, older), Ordering::Greater, "{older} {newer}");
        }
        assert_eq!(compare("v1.36.3", "1.36.3"), Ordering::Equal);
        assert_eq!(compare("v1.36.3+k3s1", "v1.36.3"), Ordering::Equal);
    }
}
