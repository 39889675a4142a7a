//! What a hardware model is and how it is set up, and which one a machine is: the most specific match, by name among
//! equals, with the reason in words.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use protocol::inventory::Facts;
use serde::{Deserialize, Serialize};

/// A hardware model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// Which machines are of it.
    #[serde(rename = "match", default)]
    pub pattern: Pattern,
    /// Which disk the system goes on.
    #[serde(default)]
    pub disk: DiskRule,
    /// Which network cards count.
    #[serde(default)]
    pub nics: NicRule,
    /// More arguments for the kernel.
    #[serde(default)]
    pub kernel_arguments: Vec<String>,
    /// What the kubelet keeps free.
    #[serde(default)]
    pub kubelet: KubeletShare,
    /// What is odd about the model.
    #[serde(default)]
    pub quirks: Vec<Quirk>,
}

/// SMBIOS strings, with `*` for anything. An empty pattern matches every machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Pattern {
    /// `sys_vendor`.
    pub vendor: Option<String>,
    /// `product_name`.
    pub product: Option<String>,
    /// `product_version`.
    pub version: Option<String>,
    /// `board_name`.
    pub board: Option<String>,
}

/// Which disk the system goes on: never a removable one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct DiskRule {
    /// Transports in order of preference.
    pub transports: Vec<String>,
    /// No smaller one, GiB.
    pub min_gib: u64,
}

/// Which network cards count.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NicRule {
    /// Their drivers; empty means any.
    pub drivers: Vec<String>,
}

/// What the kubelet keeps free, in Kubernetes' quantities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KubeletShare {
    /// `systemReserved`.
    #[serde(rename(deserialize = "system-reserved"))]
    pub system_reserved: BTreeMap<String, String>,
    /// `kubeReserved`.
    #[serde(rename(deserialize = "kube-reserved"))]
    pub kube_reserved: BTreeMap<String, String>,
    /// `evictionHard`.
    #[serde(rename(deserialize = "eviction-hard"))]
    pub eviction_hard: BTreeMap<String, String>,
    /// The image of the container that holds a Pod's namespaces.
    #[serde(rename(deserialize = "pause-image"))]
    pub pause_image: String,
}

impl Default for KubeletShare {
    fn default() -> Self {
        Self {
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            eviction_hard: BTreeMap::new(),
            pause_image: "localhost/pause:1".to_owned(),
        }
    }
}

/// What is odd about a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Quirk {
    /// It has no TPM.
    NoTpm,
    /// Its clock starts at zero after a power cut.
    NoRtcBattery,
    /// Its serials are placeholders.
    JunkSerials,
}

/// A profile that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("profile {name}: {why}")]
pub struct ProfileError {
    /// The file.
    pub name: String,
    /// Line, column and what is wrong.
    pub why: String,
}

/// All profiles of a site.
#[derive(Clone, Debug)]
pub struct Profiles(Vec<Profile>);

macro_rules! built_in {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../hw-profiles/", $name, ".yaml")))),*] };
}

const BUILT_IN: [(&str, &str); 6] =
    built_in!("generic-uefi", "intel-nuc-11", "intel-nuc-12", "intel-nuc-13", "onlogic-fanless", "qemu");

impl Profiles {
    /// Those that come with the program.
    pub fn built_in() -> Self {
        let read = |(name, text)| Self::read(name, text).ok();
        Self(BUILT_IN.into_iter().filter_map(read).collect())
    }

    /// Reads one profile in YAML.
    pub fn read(name: &str, text: &str) -> Result<Profile, ProfileError> {
        crate::yaml::read(text)
            .map_err(|error| ProfileError { name: name.to_owned(), why: error.to_string() })
    }

    /// Puts HQ's profile in the place of the one of that name.
    pub fn set(&mut self, profile: Profile) {
        self.0.retain(|known| known.name != profile.name);
        self.0.push(profile);
    }

    /// The profile called `name`.
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.0.iter().find(|profile| profile.name == name)
    }

    /// The profile of a machine, and why it is this one.
    pub fn of(&self, facts: &Facts) -> Option<(&Profile, String)> {
        let mut fitting: Vec<_> = self
            .0
            .iter()
            .filter_map(|profile| profile.pattern.matched(facts).map(|by| (profile, by)))
            .collect();
        fitting.sort_by_key(|(profile, by)| (Reverse(by.len()), profile.name.clone()));
        let (profile, by) = fitting.into_iter().next()?;
        let why = if by.is_empty() { "no other profile fits".to_owned() } else { by.join(", ") };
        Some((profile, format!("{}: {why}", profile.name)))
    }
}

impl Pattern {
    /// The fields by which it matches, in words; none when it does not.
    fn matched(&self, facts: &Facts) -> Option<Vec<String>> {
        let dmi = &facts.dmi;
        let fields = [
            ("vendor", &self.vendor, &dmi.vendor),
            ("product", &self.product, &dmi.product),
            ("version", &self.version, &dmi.version),
            ("board", &self.board, &dmi.board),
        ];
        let mut by = Vec::new();
        for (name, pattern, value) in fields {
            if let Some(pattern) = pattern {
                if !glob(pattern, value) {
                    return None;
                }
                by.push(format!("{name} is {value}"));
            }
        }
        Some(by)
    }
}

/// Whether `text` is `pattern`, where each `*` stands for anything; case does not matter.
fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_ascii_lowercase(), text.to_ascii_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(vendor: &str, product: &str) -> Facts {
        let mut facts = Facts::default();
        facts.dmi.vendor = vendor.into();
        facts.dmi.product = product.into();
        facts
    }

    #[test]
    fn every_built_in_profile_can_be_read() {
        for (name, text) in BUILT_IN {
            assert_eq!(Profiles::read(name, text).unwrap().name, name);
        }
    }

    #[test]
    fn the_most_specific_profile_wins_and_says_why() {
        let profiles = Profiles::built_in();
        let (profile, why) = profiles.of(&machine("Intel(R) Client Systems", "NUC12WSHi5")).unwrap();
        assert_eq!(profile.name, "intel-nuc-12");
        assert_eq!(why, "intel-nuc-12: vendor is Intel(R) Client Systems, product is NUC12WSHi5");
        assert_eq!(profiles.of(&machine("QEMU", "Standard PC")).unwrap().0.name, "qemu");
        assert_eq!(profiles.of(&machine("Nobody", "")).unwrap().1, "generic-uefi: no other profile fits");
    }

    #[test]
    fn a_star_stands_for_anything_and_nothing_else_does() {
        for (pattern, text) in
            [("NUC12*", "nuc12wshi5"), ("*", ""), ("a*c", "abc"), ("a*b*c", "aXbYc"), ("a", "A")]
        {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a*c", "ab"), ("a", "ab"), ("*b", "a"), ("a*b*c", "acb"), ("ab*ba", "aba")] {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }
}
