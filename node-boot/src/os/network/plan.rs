//! What site and slot say of a machine's network.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::range::Range;

/// Where the machine's configuration says what its network is.
const FILE: &str = "etc/node-boot/network.json";

/// What site and slot say; a machine without a plan speaks without a tag and asks for an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Plan {
    /// The machine's address; none where it asks for one.
    pub address: Option<Range>,
    /// Who passes on what is for elsewhere.
    pub gateway: Option<IpAddr>,
    /// The tag of its packets.
    pub vlan: Option<u16>,
    /// How several cables are one.
    pub bond: Option<Bond>,
    /// Longest packet, bytes.
    pub mtu: Option<u32>,
    /// Where the Pods of other machines are.
    pub routes: Vec<Way>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub search: Vec<String>,
}

/// How several cables are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bond {
    /// One carries everything; another one takes over when it fails.
    ActiveBackup,
}

/// A way to a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// `10.244.2.0/24`.
    pub to: Range,
    /// The machine that has them.
    pub via: IpAddr,
}

/// What the owner's file says of the first contact, where a network lets nobody in without it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FirstContact {
    vlan: Option<u16>,
    address: Option<Range>,
    gateway: Option<IpAddr>,
}

impl From<FirstContact> for Plan {
    fn from(FirstContact { vlan, address, gateway }: FirstContact) -> Self {
        Self { address, gateway, vlan, ..Self::default() }
    }
}

impl Plan {
    /// Where the plan leads, but for what its gateway passes on.
    pub fn ranges(&self) -> impl Iterator<Item = Range> {
        self.address.into_iter().chain(self.routes.iter().map(|way| way.to))
    }

    /// As the configuration below `root` has it.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.map_or("an address by DHCP".to_owned(), |own| format!("address {own}"));
        write!(f, "{address}")?;
        if let Some(gateway) = self.gateway {
            write!(f, ", gateway {gateway}")?;
        }
        if let Some(tag) = self.vlan {
            write!(f, ", VLAN {tag}")?;
        }
        if self.bond.is_some() {
            f.write_str(", all cables as one")?;
        }
        self.mtu.map_or(Ok(()), |mtu| write!(f, ", MTU {mtu}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read_and_said_in_words_and_one_that_says_little_is_one_too() {
        let text = r#"{"address":"10.7.0.13/24","gateway":"10.7.0.1","vlan":5,"bond":"active-backup","mtu":1280,
            "routes":[{"to":"10.244.2.0/24","via":"10.7.0.12"}],"dns":[],"search":[]}"#;
        let plan: Plan = serde_json::from_str(text).unwrap();
        let words = "address 10.7.0.13/24, gateway 10.7.0.1, VLAN 5, all cables as one, MTU 1280";
        assert_eq!(plan.to_string(), words);
        let old = r#"{"address":null,"routes":[],"dns":[],"search":[]}"#;
        assert_eq!(serde_json::from_str::<Plan>(old).unwrap(), Plan::default());
        let first = r#"{"vlan":5,"address":"10.7.0.9/24","gateway":"10.7.0.1"}"#;
        let first: Plan = serde_json::from_str::<FirstContact>(first).unwrap().into();
        assert_eq!(first.to_string(), "address 10.7.0.9/24, gateway 10.7.0.1, VLAN 5");
        assert_eq!(Plan::from(FirstContact::default()), Plan::default());
        for wrong in [r#"{"address":"10.7.0.13"}"#, r#"{"vlan":70000}"#, r#"{"bond":"magic"}"#, "[", ""] {
            assert!(serde_json::from_str::<Plan>(wrong).is_err(), "{wrong}");
        }
    }
}
