//! Whom a machine trusts: the owner's two pairs of anchors, and what headquarters took back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bytes::{B64, Digest};
use crate::cert::{self, Cert};
use crate::clock::{Time, effective};
use crate::jws::{Unverified, typ};
use crate::refusal::{Refusal, Refused};

/// The payload of an anchors document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorsDoc {
    /// Rises with each document of one rank.
    pub seq: u64,
    /// When HQ made it.
    #[serde(rename = "created-on")]
    pub created_on: Time,
    /// Voucher anchors A and B.
    pub voucher: [B64; 2],
    /// Site anchors A and B.
    pub site: [B64; 2],
    /// Keys that nobody is to believe any more.
    #[serde(default)]
    pub distrust: Vec<Digest>,
    /// Whether a machine may be admitted by voice alone.
    #[serde(default)]
    pub allow_phone: bool,
}

/// A withdrawn CA of a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedSite {
    /// For people: site and generation.
    pub name: String,
    /// Hash of the CA's key.
    pub spki: Digest,
}

/// The payload of a revoked document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokedDoc {
    /// Rises with each document of one rank.
    pub seq: u64,
    /// Withdrawn CAs.
    #[serde(default)]
    pub sites: Vec<RevokedSite>,
    /// Withdrawn signers; only an anchor may name them.
    #[serde(default)]
    pub signers: Vec<Digest>,
}

/// The word of HQ that a machine or a provisioner believes, as kept on disk: the documents themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The anchors document in force.
    pub anchors: String,
    /// Rank by which it was accepted (1: anchor A, 2: anchor B).
    pub rank: u8,
    /// The latest revoked document of each rank (0: signer).
    #[serde(default)]
    pub revoked: BTreeMap<u8, String>,
}

/// Anchors and withdrawals in force.
#[derive(Clone, Debug)]
pub struct Trust {
    kept: Kept,
    signer: Digest,
    seq: u64,
    created_on: Time,
    voucher: Vec<Cert>,
    site: Vec<Cert>,
    distrust: Vec<Digest>,
    allow_phone: bool,
    revoked: BTreeMap<u8, (Digest, RevokedDoc)>,
}

fn refused(case: char, detail: impl Into<String>) -> Refused {
    Refused::new(Refusal::HqWordRefused, case, detail)
}

fn payload<T: serde::de::DeserializeOwned>(document: &Unverified) -> Result<T, Refused> {
    let bytes = document.verified().ok_or_else(|| refused('e', "the signature is wrong"))?;
    crate::json::parse(bytes).map_err(|error| refused('e', error.to_string()))
}

fn certs(pair: &[B64; 2]) -> Result<Vec<Cert>, Refused> {
    pair.iter().map(|der| Cert::parse(&der.0).map_err(|error| refused('e', error.to_string()))).collect()
}

impl Trust {
    /// The trust an image or owner file carries: an anchors document signed by one of the anchors it names.
    pub fn from_image(document: &str) -> Result<Self, Refused> {
        let read =
            Unverified::read(document.as_bytes(), typ::ANCHORS).map_err(|e| refused('e', e.to_string()))?;
        let doc: AnchorsDoc = payload(&read)?;
        let voucher = certs(&doc.voucher)?;
        let place = voucher.iter().position(|anchor| anchor.key_hash == read.signer.key_hash);
        let rank = place.ok_or_else(|| refused('e', "it is not signed by an anchor it names"))?;
        let rank = if rank == 0 { 1 } else { 2 };
        Self::of(doc, read.signer.key_hash, rank, document.to_owned(), BTreeMap::new())
    }

    /// Trust as it was kept on disk. The documents were verified before they were kept.
    pub fn from_kept(kept: &Kept) -> Result<Self, Refused> {
        let read = |text: &str, typ| {
            Unverified::read(text.as_bytes(), typ).map_err(|error| refused('e', error.to_string()))
        };
        let anchors = read(&kept.anchors, typ::ANCHORS)?;
        let (doc, signer) = (payload(&anchors)?, anchors.signer.key_hash);
        let mut trust = Self::of(doc, signer, kept.rank, kept.anchors.clone(), BTreeMap::new())?;
        for (rank, text) in &kept.revoked {
            let document = read(text, typ::REVOKED)?;
            trust.revoked.insert(*rank, (document.signer.key_hash, payload(&document)?));
        }
        trust.kept.revoked.clone_from(&kept.revoked);
        Ok(trust)
    }

    fn of(
        doc: AnchorsDoc,
        signer: Digest,
        rank: u8,
        text: String,
        revoked: BTreeMap<u8, (Digest, RevokedDoc)>,
    ) -> Result<Self, Refused> {
        Ok(Self {
            voucher: certs(&doc.voucher)?,
            site: certs(&doc.site)?,
            signer,
            seq: doc.seq,
            created_on: doc.created_on,
            distrust: doc.distrust,
            allow_phone: doc.allow_phone,
            kept: Kept { anchors: text, rank, revoked: BTreeMap::new() },
            revoked,
        })
    }

    /// What to keep on disk.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Number of the anchors document in force.
    pub fn anchors_seq(&self) -> u64 {
        self.seq
    }

    /// When the anchors document in force was made, and the notAfter of the anchor that caps it as a floor.
    pub fn created_on(&self) -> Time {
        let cap =
            self.voucher.get(usize::from(self.kept.rank.saturating_sub(1))).map(|anchor| anchor.not_after);
        self.created_on.min(cap.unwrap_or(self.created_on))
    }

    /// Whether `other` is not the word of these anchors: none of them signed it, or another anchor B stands in it.
    pub fn disowns(&self, other: &Self) -> bool {
        let b = |trust: &Self| trust.voucher.last().map(|anchor| anchor.key_hash);
        self.rank_of(&other.signer).is_none() || b(self) != b(other)
    }

    /// The highest number among the revoked documents in force, with the document that has it.
    pub fn latest_revoked(&self) -> Option<(u64, &str)> {
        let latest = self.revoked.iter().max_by_key(|(rank, (_, doc))| (doc.seq, **rank))?;
        self.kept.revoked.get(latest.0).map(|text| (latest.1.1.seq, text.as_str()))
    }

    /// Whether a machine may be admitted by voice alone.
    pub fn allow_phone(&self) -> bool {
        self.allow_phone
    }

    /// Site anchors that are still believed.
    pub fn site_anchors(&self) -> Vec<Cert> {
        self.site.iter().filter(|anchor| !self.distrusts(&anchor.key_hash)).cloned().collect()
    }

    /// Voucher anchors that are still believed.
    pub fn voucher_anchors(&self) -> Vec<Cert> {
        self.voucher.iter().filter(|anchor| !self.distrusts(&anchor.key_hash)).cloned().collect()
    }

    /// Whether HQ took back all belief in this key.
    pub fn distrusts(&self, key: &Digest) -> bool {
        self.distrust.contains(key) || self.withdrawn().any(|doc| doc.signers.contains(key))
    }

    /// Whether this key belongs to a withdrawn CA of a site, or is distrusted.
    pub fn withdrew_site(&self, key: &Digest) -> bool {
        self.distrusts(key) || self.withdrawn().any(|doc| doc.sites.iter().any(|site| site.spki == *key))
    }

    /// Revoked documents in force: one of a distrusted key drops out.
    fn withdrawn(&self) -> impl Iterator<Item = &RevokedDoc> {
        self.revoked.values().filter(|(signer, _)| !self.distrust.contains(signer)).map(|(_, doc)| doc)
    }

    /// 1 for anchor A, 2 for anchor B; none for other keys.
    fn rank_of(&self, key: &Digest) -> Option<u8> {
        let place = self.voucher.iter().position(|anchor| anchor.key_hash == *key)?;
        Some(if place == 0 { 1 } else { 2 })
    }

    /// Whether `certificate` may sign vouchers, bundles and approvals at `floor` or later: R6.
    pub fn check_signer(&self, certificate: &Cert, floor: Time, rtc: Option<Time>) -> Result<Time, Refused> {
        let refused = |case, detail: &str| Refused::new(Refusal::VoucherSigner, case, detail);
        let anchors = self.voucher_anchors();
        let starts =
            anchors.iter().map(|anchor| anchor.not_before).filter(|start| *start <= certificate.not_before);
        let at = effective(floor, rtc, starts.chain([certificate.not_before]));
        match cert::signs(&certificate.der, &anchors, at) {
            Err(cert::ChainError::Untrusted) => {
                Err(refused('a', "not issued by one of the owner's voucher anchors"))
            }
            Err(cert::ChainError::Usage) => {
                Err(refused('b', "its certificate is not meant for signing vouchers"))
            }
            Err(cert::ChainError::Expired) => Err(refused('c', "its certificate has expired")),
            Ok(()) if self.distrusts(&certificate.key_hash) => Err(refused('d', "HQ distrusts this signer")),
            Ok(()) => Ok(at),
        }
    }

    /// Takes a newer anchors document over, or says why not: R14.
    pub fn accept_anchors(&self, document: &str) -> Result<Self, Refused> {
        let read =
            Unverified::read(document.as_bytes(), typ::ANCHORS).map_err(|e| refused('e', e.to_string()))?;
        let rank = self
            .rank_of(&read.signer.key_hash)
            .ok_or_else(|| refused('e', "not signed by a trusted anchor"))?;
        let doc: AnchorsDoc = payload(&read)?;
        if rank < self.kept.rank || self.distrusts(&read.signer.key_hash) {
            return Err(refused('a', "anchor B has spoken; anchor A cannot overrule it"));
        }
        if rank == self.kept.rank && doc.seq <= self.seq {
            return Err(refused('b', format!("number {} is not above {}", doc.seq, self.seq)));
        }
        let (voucher, site) = (certs(&doc.voucher)?, certs(&doc.site)?);
        if rank == 1 && (voucher != self.voucher || site != self.site || doc.distrust != self.distrust) {
            return Err(refused('c', "anchor A cannot change the anchors nor distrust a key"));
        }
        if doc.distrust.contains(&read.signer.key_hash) {
            return Err(refused('c', "nothing but a new image takes anchor B away"));
        }
        let signer = read.signer.key_hash;
        let mut next = Self::of(doc, signer, rank, document.to_owned(), self.revoked.clone())?;
        next.kept.revoked.clone_from(&self.kept.revoked);
        Ok(next)
    }

    /// Takes a newer revoked document over, or says why not: R14.
    pub fn accept_revoked(&self, document: &str, floor: Time, rtc: Option<Time>) -> Result<Self, Refused> {
        let read =
            Unverified::read(document.as_bytes(), typ::REVOKED).map_err(|e| refused('e', e.to_string()))?;
        let rank = if let Some(rank) = self.rank_of(&read.signer.key_hash) {
            if self.distrusts(&read.signer.key_hash) {
                return Err(refused('a', "this anchor is distrusted"));
            }
            rank
        } else {
            self.check_signer(&read.signer, floor, rtc).map_err(|error| refused('e', error.detail))?;
            0
        };
        let doc: RevokedDoc = payload(&read)?;
        if rank == 0 && !doc.signers.is_empty() {
            return Err(refused('d', "a signer cannot distrust signers"));
        }
        let is_anchor = |key: &Digest| self.voucher.iter().chain(&self.site).any(|one| one.key_hash == *key);
        if doc.signers.iter().any(is_anchor) {
            return Err(refused(
                'c',
                "an anchor is distrusted by anchor B's set of anchors, and B by a new image",
            ));
        }
        let known = self.revoked.get(&rank).map(|(_, known)| known.seq);
        if known.is_some_and(|known| doc.seq <= known) {
            return Err(refused(
                'b',
                format!("number {} is not above {}", doc.seq, known.unwrap_or_default()),
            ));
        }
        let mut next = self.clone();
        next.revoked.insert(rank, (read.signer.key_hash, doc));
        next.kept.revoked.insert(rank, document.to_owned());
        Ok(next)
    }
}

#[cfg(test)]
pub(crate) mod tests;
