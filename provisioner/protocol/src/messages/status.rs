//! M11: how a machine is, and what it is to believe and to do.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::Digest;
use crate::image::{BankReport, Kind};

/// M11, request.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusRequest {
    /// Number of the highest bundle index held.
    #[serde(default)]
    pub bundle: u64,
    /// Number of the anchors document held.
    #[serde(default)]
    pub anchors: u64,
    /// Number of the revoked document held.
    #[serde(default)]
    pub revoked: u64,
    /// Ids of orders carried out.
    #[serde(default)]
    pub done: Vec<Done>,
    /// How the machine is.
    #[serde(default)]
    pub health: Health,
    /// Digest of the `images` section held, where the machine's whole system is ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Digest>,
}

/// How a machine is, in a few words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The step `node-boot` is at.
    #[serde(default)]
    pub step: String,
    /// The kubelet's version, empty where unknown.
    #[serde(default)]
    pub kubelet: String,
    /// The index it was ordered to show: JWS text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    /// What of its network is not as headquarters wants it; none where all is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Its banks, where its whole system is ours.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub banks: BTreeMap<Kind, BankReport>,
    /// Why it is not installed, where it found no disk for its system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_disk: Option<NoDisk>,
}

/// Which disks a machine has found, none of which it may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoDisk {
    /// Which they are, and what is wrong with each, in words.
    pub found: String,
    /// Marks of those that it could use if what they hold were nobody's: eight hexadecimal digits that stand for one disk
    /// and its beginning as they were seen.
    pub marks: Vec<String>,
}

/// An order that was carried out, or could not be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The order.
    pub id: String,
    /// Whether it went well.
    pub ok: bool,
}

/// Something a machine is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name, for [`Done`].
    pub id: String,
    /// What to do.
    #[serde(flatten)]
    pub act: Act,
}

/// What a machine can be told to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Act {
    /// Show the highest bundle index it holds.
    ShowIndex,
    /// Erase its disk and switch itself off: it is a blank machine again.
    Wipe,
    /// Take the disk of this mark ([`NoDisk`]) whatever it holds: a person at the site has said so.
    Overwrite {
        /// Its mark.
        mark: String,
    },
    /// Write this image to the bank that is not in use.
    Stage {
        /// Root of the image.
        root: Digest,
    },
    /// Try the image that was staged.
    Activate {
        /// Root of the image.
        root: Digest,
    },
    /// An act of a later version: kept, reported as not done.
    #[serde(other)]
    Unknown,
}

/// M11, answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// Where the machine stands: the stable word of its life.
    pub state: String,
    /// Number of the bundle in force here.
    pub bundle: u64,
    /// Its index, when newer than the machine's: JWS text.
    #[serde(default)]
    pub index: Option<String>,
    /// A voucher of a higher epoch: JWS text.
    #[serde(default)]
    pub voucher: Option<String>,
    /// A newer anchors document: JWS text.
    #[serde(default)]
    pub anchors: Option<String>,
    /// A newer revoked document: JWS text.
    #[serde(default)]
    pub revoked: Option<String>,
    /// What to do.
    #[serde(default)]
    pub orders: Vec<Order>,
    /// The `images` section of that bundle, where the machine holds another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_of_a_later_version_is_kept_as_unknown() {
        let order: Order = serde_json::from_str(r#"{"id":"1","do":"fly"}"#).unwrap();
        assert_eq!(order.act, Act::Unknown);
    }
}
