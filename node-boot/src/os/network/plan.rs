//! What site and slot say of a machine's network.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::range::Range;

/// Where the machine's configuration says what its network is.
const FILE: &str = "etc/node-boot/network.json";

/// What site and slot say; nothing of it is what a machine without a plan does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The machine's address; none where it asks for one.
    pub address: Option<Range>,
    /// Where the Pods of other machines are.
    pub routes: Vec<Way>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

/// A way to a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// `10.244.2.0/24`.
    pub to: Range,
    /// The machine that has them.
    pub via: IpAddr,
}

impl Plan {
    /// As the configuration below `root` has it.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }
}
