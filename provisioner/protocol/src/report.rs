//! What a site tells HQ: joins, burned keys, proven ids, alarms.

use serde::{Deserialize, Serialize};

use crate::bytes::{B64u, Digest};
use crate::cert::{self, CMC_RA, Cert};
use crate::clock::{Time, effective};
use crate::crypto::{SignError, Signer};
use crate::id::Id;
use crate::json;
use crate::jws::{self, Unverified, typ};
use crate::refusal::{Refusal, Refused};

/// Ids that a machine proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// Its record, or the name of the claim it came by.
    pub machine: String,
    /// What it proved.
    pub ids: Vec<Id>,
}

/// A single-use key, and the node key that it is bound to for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Burned {
    /// Hash of the device key.
    pub key: Digest,
    /// Hash of the node key.
    pub s: Digest,
}

/// A machine that became a Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its record.
    pub machine: String,
    /// Hash of its node key.
    pub s: Digest,
    /// Its slot.
    pub slot: String,
    /// Its Node.
    pub node: String,
    /// When.
    pub at: Time,
}

/// Something HQ should look into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// The stable word of the refusal.
    pub reason: String,
    /// The machine or id it is about.
    pub about: String,
    /// When it was first seen.
    pub at: Time,
}

/// A slot that a machine of a pool or role was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// The slot.
    pub slot: String,
    /// The record of the machine.
    pub machine: String,
}

/// A machine that a person approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// The site's own name for the machine.
    pub machine: String,
    /// The slot it got.
    pub slot: String,
    /// The proven ids, from which HQ makes a record.
    pub ids: Vec<Id>,
    /// `hq` for a signed approval, `voice` for one by telephone.
    pub by: String,
    /// The code that HQ approved, five bytes: HQ registers what it has approved, and nothing else.
    pub sas: B64u,
}

/// The payload of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The site.
    pub site: String,
    /// Hash of the issuing CA's key of the provisioner that speaks.
    pub provisioner: Digest,
    /// Rises with each report of one provisioner.
    pub seq: u64,
    /// When it was made.
    #[serde(rename = "created-on")]
    pub created_on: Time,
    /// The bundle in force.
    pub bundle: u64,
    /// Hashes of single-use keys that were used.
    #[serde(default)]
    pub burned: Vec<Digest>,
    /// The same keys, each with the node key that it is bound to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bound: Vec<Burned>,
    /// Ids that were proven.
    #[serde(default)]
    pub proven: Vec<Ids>,
    /// Machines that joined.
    #[serde(default)]
    pub joins: Vec<Join>,
    /// Alarms.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// Slots that were filled.
    #[serde(default)]
    pub fills: Vec<Fill>,
    /// Approvals that were used.
    #[serde(default)]
    pub approvals: Vec<Approved>,
}

/// A report, signed by the provisioner's leaf: JWS text.
pub fn make(report: &Report, leaf: &[u8], key: &dyn Signer) -> Result<String, SignError> {
    jws::sign(&json::to_vec(report), typ::REPORT, leaf, key)
}

/// What HQ knows of the provisioner that a report names.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its site.
    pub site: &'a str,
    /// Its issuing CA.
    pub issuing: &'a Cert,
    /// The number of its last report.
    pub last_seq: u64,
}

/// Reads who made a report, before anything of it is believed.
pub fn read_provisioner(text: &[u8]) -> Result<Digest, Refused> {
    #[derive(Deserialize)]
    struct Who {
        provisioner: Digest,
    }
    let refused = |detail: String| Refused::new(Refusal::ReportRefused, 'a', detail);
    let document = Unverified::read(text, typ::REPORT).map_err(|error| refused(error.to_string()))?;
    let payload = document.verified().ok_or_else(|| refused("the signature is wrong".into()))?;
    json::parse::<Who>(payload).map(|who| who.provisioner).map_err(|error| refused(error.to_string()))
}

/// Checks a report at HQ, whose clock says `now`. R47.
pub fn check(text: &[u8], source: &Source<'_>, now: Time) -> Result<Report, Refused> {
    let refused = |case, detail: String| Refused::new(Refusal::ReportRefused, case, detail);
    let document = Unverified::read(text, typ::REPORT).map_err(|error| refused('a', error.to_string()))?;
    let payload = document.verified().ok_or_else(|| refused('a', "the signature is wrong".into()))?;
    let leaf = &document.signer;
    // A site that was away for longer than its leaf lives still has things to say: the chain counts, not the date.
    let at = effective(leaf.not_before, Some(now.min(leaf.not_after.plus(-1))), [source.issuing.not_before]);
    cert::serves(&leaf.der, &[], std::slice::from_ref(source.issuing), at)
        .map_err(|error| refused('a', error.to_string()))?;
    if !leaf.has_usage(CMC_RA) {
        return Err(refused('a', "it is not signed by a provisioner".into()));
    }
    let report: Report = json::parse(payload).map_err(|error| refused('a', error.to_string()))?;
    if report.seq <= source.last_seq {
        return Err(refused('b', format!("number {} is not above {}", report.seq, source.last_seq)));
    }
    if report.site != source.site || report.provisioner != source.issuing.key_hash {
        return Err(refused('c', format!("it is of {}", report.site)));
    }
    Ok(report)
}
