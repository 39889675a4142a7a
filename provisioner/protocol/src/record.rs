//! What HQ says of one machine: serials as hints, keys as proof, site, slot or roles, policy.

use serde::{Deserialize, Serialize};

use crate::bytes::Digest;
use crate::clock::Time;
use crate::id::Id;

/// Whether HQ wants the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It may join.
    #[default]
    Active,
    /// It is missing; whoever has it must not join.
    Lost,
    /// HQ took it out of service.
    Revoked,
    /// It was sent back to its maker.
    Rma,
}

impl Status {
    /// Its word, as registrations spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
            Self::Rma => "rma",
        }
    }
}

/// The site a machine belongs to, or the pool of sites it may join first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Sites {
    /// Exactly this one.
    One(String),
    /// The first of these that it joins.
    Pool(Vec<String>),
}

impl Sites {
    /// Whether the machine may join `site`.
    pub fn contains(&self, site: &str) -> bool {
        self.iter().any(|name| name == site)
    }

    /// The sites, one or several.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let slice = match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Pool(names) => names.as_slice(),
        };
        slice.iter().map(String::as_str)
    }
}

/// Labels that may also stand on another machine: never a proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct Match {
    /// DMI product serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product_serial: Option<String>,
    /// DMI board serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub board_serial: Option<String>,
    /// DMI system UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_uuid: Option<String>,
    /// Addresses of network cards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mac: Vec<String>,
}

/// A way to prove that a machine is the registered one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Auth {
    /// The endorsement key of its TPM.
    TpmEk {
        /// `ecc-p256`, `ecc-p384` or `rsa-2048`; empty, and left out, where only the hash is known. Nothing is proved
        /// by it: it orders the keys of one machine.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        alg: String,
        /// Hash of the key's SPKI.
        sha256: Digest,
    },
    /// Its IEEE 802.1AR certificate.
    Idevid {
        /// Hash of the certificate.
        sha256: Digest,
    },
    /// A key on its disk or on a claim stick.
    DevKey {
        /// Hash of the key's SPKI.
        sha256: Digest,
    },
}

impl Auth {
    /// The id that this proof proves.
    pub fn id(&self) -> Id {
        match self {
            Self::TpmEk { sha256, .. } => Id::Ek(*sha256),
            Self::Idevid { sha256 } => Id::Idevid(*sha256),
            Self::DevKey { sha256 } => Id::Key(*sha256),
        }
    }

    /// Its type as HQ's policy names it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::TpmEk { .. } => "tpm-ek",
            Self::Idevid { .. } => "idevid",
            Self::DevKey { .. } => "dev-key",
        }
    }

    /// Stronger proofs have higher classes: a key that cannot be copied is worth more than one that can.
    pub fn class(&self) -> u8 {
        match self {
            Self::TpmEk { .. } | Self::Idevid { .. } => 2,
            Self::DevKey { .. } => 1,
        }
    }

    /// Most canonical first: EK on P-256, P-384, RSA or unknown, then IDevID, then device key.
    fn order(&self) -> u8 {
        match self {
            Self::TpmEk { alg, .. } => match alg.as_str() {
                "ecc-p256" => 0,
                "ecc-p384" => 1,
                _ => 2,
            },
            Self::Idevid { .. } => 3,
            Self::DevKey { .. } => 4,
        }
    }
}

/// What HQ allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Policy {
    /// Whether a good proof suffices; otherwise a person at the site must say yes.
    #[serde(default = "yes")]
    pub auto: bool,
    /// Types of proof that count, where not just the strongest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Vec<String>>,
    /// Not before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Not after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// Whether a machine that HQ does not want any more is to erase its disk when it speaks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wipe: bool,
}

fn yes() -> bool {
    true
}

impl Default for Policy {
    fn default() -> Self {
        Self { auto: true, accept: None, not_before: None, not_after: None, wipe: false }
    }
}

/// The registration of one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `mc_…`, HQ's name for it.
    pub id: String,
    /// Rises when it is moved or its site's CA is replaced.
    pub epoch: u32,
    /// Whether HQ wants it.
    #[serde(default)]
    pub status: Status,
    /// Where it belongs.
    pub site: Sites,
    /// The one slot it is for; none where `roles` are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// Roles among whose free slots the site picks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Hints.
    #[serde(default, rename = "match")]
    pub hints: Match,
    /// Proofs.
    #[serde(default)]
    pub auth: Vec<Auth>,
    /// Policy.
    #[serde(default)]
    pub policy: Policy,
}

impl Record {
    /// The proofs that count: those HQ lists, or all of the strongest class there is.
    pub fn accepted(&self) -> impl Iterator<Item = &Auth> {
        let strongest = self.auth.iter().map(Auth::class).max().unwrap_or(0);
        self.auth.iter().filter(move |auth| match &self.policy.accept {
            Some(kinds) => kinds.iter().any(|kind| kind == auth.kind()),
            None => auth.class() == strongest,
        })
    }

    /// Whether a site made it, after an approval by voice that HQ has not taken into its own registrations yet.
    pub fn by_voice(&self) -> bool {
        self.epoch == crate::voucher::VOICE_EPOCH
    }

    /// The id its voucher names; none for a record of mere hints.
    pub fn canonical_id(&self) -> Option<Id> {
        self.auth.iter().min_by_key(|auth| auth.order()).map(Auth::id)
    }

    /// Whether a hint of this record matches one of `ids` or of the hardware's other labels.
    pub fn hinted_by(&self, labels: &Match) -> bool {
        let same = |mine: &Option<String>, theirs: &Option<String>| match (mine, theirs) {
            (Some(mine), Some(theirs)) => !is_junk(mine) && mine.trim().eq_ignore_ascii_case(theirs.trim()),
            _ => false,
        };
        same(&self.hints.product_serial, &labels.product_serial)
            || same(&self.hints.board_serial, &labels.board_serial)
            || same(&self.hints.system_uuid, &labels.system_uuid)
            || self
                .hints
                .mac
                .iter()
                .any(|mac| labels.mac.iter().any(|theirs| mac.eq_ignore_ascii_case(theirs)))
    }
}

/// Serials and UUIDs that makers leave in by mistake: they name nobody.
const JUNK: &[&str] = &[
    "0",
    "123456789",
    "0123456789",
    "to be filled by o.e.m.",
    "default string",
    "system serial number",
    "not specified",
    "not applicable",
    "none",
    "n/a",
    "unknown",
    "oem",
    "invalid",
    "chassis serial number",
    "03000200-0400-0500-0006-000700080009",
];

/// Whether a serial or UUID is a placeholder: empty, one symbol repeated, or a maker's default text.
pub fn is_junk(text: &str) -> bool {
    let text = text.trim().to_ascii_lowercase();
    let mut symbols = text.chars().filter(|symbol| *symbol != '-');
    let first = symbols.next();
    symbols.all(|symbol| Some(symbol) == first) || JUNK.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn makers_placeholders_name_nobody() {
        let junk = [
            "",
            " ",
            "0",
            "00000000",
            "-",
            "To Be Filled By O.E.M.",
            "Default string",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        ];
        for text in junk.iter().chain(JUNK) {
            assert!(is_junk(text), "{text:?}");
        }
        assert!(!is_junk("5CG1234ABC"));
        assert!(!is_junk("4c4c4544-0042-3510-8052-b4c04f4d3633"));
    }

    #[test]
    fn only_the_strongest_proof_counts_unless_hq_lists_others() {
        let digest = Digest::of(b"x");
        let auth =
            vec![Auth::TpmEk { alg: "ecc-p256".into(), sha256: digest }, Auth::DevKey { sha256: digest }];
        let mut record: Record =
            serde_json::from_str(r#"{"id":"mc_1","epoch":1,"site":"s","roles":["worker"]}"#).unwrap();
        record.auth = auth;
        assert_eq!(record.accepted().map(Auth::kind).collect::<Vec<_>>(), ["tpm-ek"]);
        record.policy.accept = Some(vec!["dev-key".into()]);
        assert_eq!(record.accepted().map(Auth::kind).collect::<Vec<_>>(), ["dev-key"]);
        assert_eq!(record.canonical_id(), Some(Id::Ek(digest)));
    }

    #[test]
    fn of_an_endorsement_key_the_hash_is_enough() {
        let auth = Auth::TpmEk { alg: String::new(), sha256: Digest::of(b"x") };
        let text = serde_json::to_string(&auth).unwrap();
        assert!(!text.contains("alg"), "{text}");
        assert_eq!(serde_json::from_str::<Auth>(&text).unwrap(), auth);
        assert!(auth.order() < Auth::DevKey { sha256: Digest::of(b"y") }.order());
    }

    #[test]
    fn a_junk_serial_hints_at_nobody() {
        let mut record: Record = serde_json::from_str(r#"{"id":"mc_1","epoch":1,"site":["a","b"]}"#).unwrap();
        record.hints.product_serial = Some("None".into());
        let labels = Match { product_serial: Some("None".into()), ..Match::default() };
        assert!(!record.hinted_by(&labels));
        assert!(record.site.contains("b"));
    }
}
