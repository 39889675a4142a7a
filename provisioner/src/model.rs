//! A site and its slots as HQ writes them in YAML and the bundle carries them in JSON.

mod system; // which versions its machines run

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use protocol::id::is_slot_name;
use serde::{Deserialize, Serialize};

pub use self::system::{Activate, SystemPlan, foreign_build};

/// A site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What every machine on it is told of the network.
    #[serde(default)]
    pub network: Network,
    /// Its cluster.
    #[serde(default)]
    pub cluster: ClusterPlan,
    /// What its machines run, where their whole system is ours.
    #[serde(default, skip_serializing_if = "SystemPlan::says_nothing")]
    pub system: SystemPlan,
}

/// What every machine of a site is told of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<IpAddr>,
    /// Search domains.
    #[serde(default)]
    pub search: Vec<String>,
    /// Time servers.
    #[serde(default)]
    pub ntp: Vec<String>,
    /// Who passes on what is for elsewhere: the gateway of every slot in whose range it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Longest packet, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// What the first contact of a machine of ours needs, where the network lets nobody in without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_contact: Option<FirstContact>,
    /// HTTP proxy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Addresses that no machine of ours may claim: gateways, virtual addresses.
    #[serde(default)]
    pub reserved: Vec<IpAddr>,
}

/// What a stick says of the network to a machine that has heard of no slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirstContact {
    /// VLAN tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// An address with the length of its prefix; of one machine at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Who passes on what is for elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// What the machines have to know of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct ClusterPlan {
    /// The distribution whose templates are used.
    pub distribution: String,
    /// DNS domain of the cluster.
    pub domain: String,
    /// Address of the cluster's DNS.
    pub dns: IpAddr,
    /// Range of Service addresses.
    pub service_cidr: String,
    /// Range from which each slot gets 256 Pod addresses, an IPv4 /16.
    pub pod_cidr: String,
    /// The slot whose machine founds the cluster, where the site has none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
}

impl ClusterPlan {
    /// What is wrong with it, and what would be right.
    pub fn fault(&self) -> Option<String> {
        let is_range = |text: &str| Range::parse(text).is_some();
        let faults = [
            (!is_range(&self.service_cidr), "service-cidr", &self.service_cidr, "10.96.0.0/12"),
            (
                !is_range(&self.pod_cidr) || !self.pod_cidr.ends_with("/16"),
                "pod-cidr",
                &self.pod_cidr,
                "10.244.0.0/16",
            ),
        ];
        let (_, key, text, right) = faults.into_iter().find(|(is_so, ..)| *is_so)?;
        Some(format!("cluster.{key} {text:?}: an address, a slash and a number, as in {right}"))
    }
}

impl Default for ClusterPlan {
    fn default() -> Self {
        Self {
            distribution: "kubeadm".to_owned(),
            domain: "cluster.local".to_owned(),
            dns: IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
            service_cidr: "10.96.0.0/12".to_owned(),
            pod_cidr: "10.244.0.0/16".to_owned(),
            found: None,
        }
    }
}

/// The slots of a site, as the file and the bundle's section hold them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    /// In the order of the file; the place of a slot decides its range of Pod addresses.
    pub slots: Vec<Slot>,
}

/// A place in the cluster that wants a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Slot {
    /// Its name, the beginning of its Nodes' names.
    pub name: String,
    /// What the machine does.
    #[serde(default)]
    pub role: Role,
    /// What the machine must have.
    #[serde(default)]
    pub requires: Requires,
    /// Labels of its Node.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Taints that its Node registers with.
    #[serde(default)]
    pub taints: Vec<Taint>,
    /// The machine's address, where it has a fixed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The range that the machine's addresses must be in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// Who passes on what is for elsewhere, where it is another one than the site's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// VLAN tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// How all cables of the machine are one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<Bond>,
    /// Range of Pod addresses, where not derived from the slot's place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr: Option<String>,
}

/// How all cables of a machine are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bond {
    /// One carries everything; another one takes over when it fails.
    ActiveBackup,
}

/// What a machine in a slot does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It runs Pods.
    #[default]
    Worker,
    /// It runs the cluster's control plane too.
    ControlPlane,
}

impl Role {
    /// `worker` or `control-plane`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::ControlPlane => "control-plane",
        }
    }
}

/// What a slot demands of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Requires {
    /// A hardware profile by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// At least so much memory, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// A TPM.
    #[serde(default)]
    pub tpm: bool,
}

/// A taint (`core/v1` `Taint`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(default)]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What is wrong with a site or its slots, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct Wrong {
    /// Which site or slot.
    pub place: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

impl Network {
    /// What is wrong with it.
    pub fn fault(&self) -> Option<String> {
        if let Some(mtu) = self.mtu.filter(|mtu| !(1280..=9216).contains(mtu)) {
            return Some(format!("network.mtu {mtu}: between 1280, which IPv6 needs, and 9216"));
        }
        let first = self.first_contact.as_ref()?;
        if first.vlan.is_some_and(|tag| !is_tag(tag)) {
            return Some("network.first-contact.vlan is a number between 1 and 4094".to_owned());
        }
        let wrong = first.address.as_deref().filter(|text| Range::parse(text).is_none())?;
        Some(format!(
            "network.first-contact.address {wrong}: an address, a slash and a number, as in 10.7.0.9/24"
        ))
    }
}

impl Slot {
    /// The machine's gateway: its own, or the site's where that is in its range.
    pub fn gateway_at(&self, network: &Network) -> Option<IpAddr> {
        let range = self.cidr.as_deref().and_then(Range::parse);
        self.gateway.or(network.gateway.filter(|gateway| range.is_some_and(|range| range.contains(gateway))))
    }

    /// What is wrong with its network, and what would be right.
    fn network_faults(&self) -> Vec<&'static str> {
        let range = self.cidr.as_deref().and_then(Range::parse);
        let outside = |address: Option<IpAddr>| {
            range.as_ref().zip(address).is_some_and(|(range, address)| !range.contains(&address))
        };
        let pods = self.pod_cidr.as_deref().map(Range::parse);
        let faults = [
            (pods == Some(None), "pod-cidr is an address, a slash and a number of bits, as in 10.244.9.0/24"),
            (
                self.cidr.is_some() && range.is_none(),
                "cidr is an address, a slash and a number of bits, as in 10.7.0.0/24",
            ),
            (outside(self.address), "address is not in cidr"),
            (outside(self.gateway), "gateway is not in cidr"),
            (self.gateway.is_some() && self.gateway == self.address, "gateway is the machine's own address"),
            (
                self.vlan.is_some_and(|tag| !is_tag(tag)),
                "vlan is a number between 1 and 4094; without a tag there is none",
            ),
        ];
        faults.into_iter().filter(|(is_so, _)| *is_so).map(|(_, what)| what).collect()
    }

    /// The address that the machine gives itself, with the length of its range's prefix: `10.7.0.13/24`. None where the
    /// slot has no address, or no range.
    pub fn own_address(&self) -> Option<String> {
        let (_, prefix) = self.cidr.as_deref()?.split_once('/')?;
        Some(format!("{}/{prefix}", self.address?))
    }
}

impl Slots {
    /// The slot called `name`.
    pub fn get(&self, name: &str) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.name == name)
    }

    /// The slot called `name` of `site`; where there is none, what to do.
    pub fn named(&self, site: &str, name: &str) -> Result<&Slot, String> {
        let names: Vec<_> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
        self.get(name).ok_or_else(|| {
            let file = format!("sites/{site}/slots.yaml");
            match names.as_slice() {
                [] => format!("{site} has no slots yet: write {name} into {file}"),
                names => {
                    format!("{site} has no slot {name}; {file} names {}", names.join(", "))
                }
            }
        })
    }

    /// The range of Pod addresses of the slot called `name`: its own, or the n-th /24 of the cluster's /16.
    pub fn pod_cidr(&self, name: &str, plan: &ClusterPlan) -> Option<String> {
        let place = self.slots.iter().position(|slot| slot.name == name)?;
        if let Some(own) = &self.slots[place].pod_cidr {
            return Some(own.clone());
        }
        let (first, second) = plan
            .pod_cidr
            .split_once('.')
            .and_then(|(first, rest)| rest.split_once('.').map(|(second, _)| (first, second)))?;
        (place < 255).then(|| format!("{first}.{second}.{}.0/24", place + 1))
    }

    /// Every fault, not only the first.
    pub fn faults(&self) -> Vec<Wrong> {
        let mut faults = Vec::new();
        let mut seen = std::collections::BTreeSet::new();
        let mut addresses = BTreeMap::new();
        for slot in &self.slots {
            let mut wrong = |what: String| faults.push(Wrong { place: format!("slot {}", slot.name), what });
            if !is_slot_name(&slot.name) {
                wrong("a name is at most 50 small letters, digits and hyphens, as in node-3".to_owned());
            }
            if !seen.insert(&slot.name) {
                wrong("two slots have this name; names are unique".to_owned());
            }
            for taint in &slot.taints {
                if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
                    wrong(format!("effect {:?}: NoSchedule, PreferNoSchedule or NoExecute", taint.effect));
                }
            }
            if let Some(other) = slot.address.and_then(|address| addresses.insert(address, &slot.name)) {
                wrong(format!("its address is {other}'s too; give each its own"));
            }
            slot.network_faults().into_iter().for_each(|what| wrong(what.to_owned()));
        }
        faults
    }
}

/// Whether a number can be a VLAN's (IEEE 802.1Q).
fn is_tag(tag: u16) -> bool {
    (1..=4094).contains(&tag)
}

/// A range of addresses (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    network: IpAddr,
    bits: u8,
}

impl Range {
    /// Reads `10.7.0.0/24` or `fd00::/64`.
    pub fn parse(text: &str) -> Option<Self> {
        let (network, bits) = text.split_once('/')?;
        let (network, bits): (IpAddr, u8) = (network.parse().ok()?, bits.parse().ok()?);
        let most = if network.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Self { network, bits })
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: &IpAddr) -> bool {
        let number = |address: &IpAddr| match address {
            IpAddr::V4(four) => (u128::from(u32::from(*four)), 32),
            IpAddr::V6(six) => (u128::from(*six), 128),
        };
        let ((mine, size), (theirs, other)) = (number(&self.network), number(address));
        let shift = size - u32::from(self.bits);
        size == other && (mine.checked_shr(shift) == theirs.checked_shr(shift))
    }
}

#[cfg(test)]
mod tests;
