//! Banks: which images the machine runs from, which one is tried, and what became of the last try. Nothing here looks at
//! a disk or a clock.

mod mounted; // Kubernetes' image, where programs find it

use protocol::image::{Image, Kind};
use serde::{Deserialize, Serialize};

pub use mounted::{KUBERNETES, mount_kubernetes};

/// Where the machine's state has this.
pub const FILE: &str = "banks.json";

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
}

impl Bank {
    fn new(kept: Image) -> Self {
        Self { kept }
    }
}

impl Banks {
    /// Those of a machine that was just installed from these images; none where one of the two is missing.
    pub fn installed(images: &[Image]) -> Option<Self> {
        let of = |kind: Kind| images.iter().find(|image| image.kind == kind).cloned().map(Bank::new);
        Some(Self { os: of(Kind::Os)?, kubernetes: of(Kind::Kubernetes)? })
    }
}
