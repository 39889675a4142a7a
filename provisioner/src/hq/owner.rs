//! The owner: two anchors of each kind, the signer, and the documents that say whom to believe.

use anyhow::{Context, Result, ensure};
use protocol::anchors::{AnchorsDoc, RevokedDoc, RevokedSite, Trust};
use protocol::bytes::B64;
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer};
use protocol::issue::{Role, issue, self_signed};
use protocol::json;
use protocol::jws::{self, typ};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::keys::Hook;
use super::{Hq, read, write, write_text};
use std::collections::BTreeMap;

/// `owner.yaml`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Owner {
    /// The owner's name.
    pub name: String,
    /// Certificates in base64 by name: `voucher-anchor-a`, …, `signer`.
    pub certificates: BTreeMap<String, String>,
    /// Keys that are behind a program: by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hooks: BTreeMap<String, Hook>,
    /// Years that a voucher is good for, at most five.
    pub voucher_years: i64,
}

/// Keys of the anchors.
pub(super) const ANCHORS: [&str; 4] =
    ["voucher-anchor-a", "voucher-anchor-b", "site-anchor-a", "site-anchor-b"];

impl Hq {
    /// The owner.
    pub fn owner(&self) -> Result<Owner> {
        self.check_founded()?;
        read(&self.dir.join("owner.yaml"))
    }

    /// Whether there is an owner in this folder.
    pub fn check_founded(&self) -> Result<()> {
        let dir = self.dir.display();
        ensure!(
            self.dir.join("owner.yaml").exists(),
            "there is no headquarters in {dir}: run `provisioner hq init` there, or name its folder by --dir"
        );
        Ok(())
    }

    /// A certificate by name.
    pub fn certificate(&self, name: &str) -> Result<Cert> {
        let owner = self.owner()?;
        let text =
            owner.certificates.get(name).with_context(|| format!("owner.yaml has no certificate {name}"))?;
        Ok(Cert::parse(&protocol::bytes::from_b64(text)?)?)
    }

    /// A signing key by name, wherever it is.
    pub fn key(&self, name: &str) -> Result<Box<dyn Signer>> {
        self.keys.signer(name, self.owner()?.hooks.get(name))
    }

    /// Makes the owner: anchors A and B of both kinds, signer, key for answers by voice. The file that keeps the keys
    /// from Git, where they are inside of its folder.
    pub fn init(&self, name: &str, allow_phone: bool, now: Time) -> Result<Option<std::path::PathBuf>> {
        check_name(name)?;
        let path = self.dir.join("owner.yaml");
        ensure!(
            !path.exists(),
            "there is an owner in {} already, and one is made once; name another folder by --dir for another owner",
            self.dir.display()
        );
        let left_out = self.keys.keep_from_git(&self.dir)?;
        let mut certificates = BTreeMap::new();
        for anchor in ANCHORS {
            let key = self.keys.make(anchor, Alg::Es384).context(
                "this folder has an owner's keys: name another one by --keys, or, where an earlier attempt was cut off, \
                 delete the *.pem that it left",
            )?;
            let words = anchor.replace('-', " ");
            let der = self_signed(&Role::Anchor { name: &format!("{name} {words}") }, &key, now)?;
            certificates.insert(anchor.to_owned(), protocol::bytes::b64(&der));
        }
        let signer = self.keys.make("signer", Alg::Es256)?;
        let anchor = Cert::parse(&protocol::bytes::from_b64(&certificates["voucher-anchor-a"])?)?;
        let anchor_key = self.keys.signer("voucher-anchor-a", None)?;
        let role = Role::Signer { name: &format!("{name} signer 1") };
        let der = issue(&role, signer.spki(), &anchor, &*anchor_key, now)?;
        certificates.insert("signer".to_owned(), protocol::bytes::b64(&der));
        self.keys.make_scalar("approve")?;
        let owner = Owner { name: name.to_owned(), certificates, hooks: BTreeMap::new(), voucher_years: 5 };
        write(&path, &owner)?;
        self.publish_anchors(allow_phone, now)?;
        self.publish_revoked(&[], now)?;
        Ok(left_out)
    }

    fn publish_anchors(&self, allow_phone: bool, now: Time) -> Result<()> {
        let der = |name| Ok::<_, anyhow::Error>(B64(self.certificate(name)?.der));
        let doc = AnchorsDoc {
            seq: 1,
            created_on: now,
            voucher: [der(ANCHORS[0])?, der(ANCHORS[1])?],
            site: [der(ANCHORS[2])?, der(ANCHORS[3])?],
            distrust: vec![],
            allow_phone,
        };
        let signed =
            jws::sign(&json::to_vec(&doc), typ::ANCHORS, &doc.voucher[0].0, &*self.key(ANCHORS[0])?)?;
        write_text(&self.dir.join("anchors.jws"), &signed)?;
        let anchors = RawValue::from_string(signed)?;
        let public = serde_json::json!({ "anchors": anchors, "image-time": now, "addresses": [] });
        write_text(&self.dir.join("public/owner.json"), &public.to_string())
    }

    /// Signs the withdrawn CAs anew, with these added.
    pub fn publish_revoked(&self, more: &[RevokedSite], _now: Time) -> Result<()> {
        let path = self.dir.join("revoked.yaml");
        let mut doc =
            if path.exists() { read(&path)? } else { RevokedDoc { seq: 0, sites: vec![], signers: vec![] } };
        doc.seq += 1;
        doc.sites.extend_from_slice(more);
        let signer = self.certificate("signer")?;
        let signed = jws::sign(&json::to_vec(&doc), typ::REVOKED, &signer.der, &*self.key("signer")?)?;
        write_text(&self.dir.join("revoked.jws"), &signed)?;
        write(&path, &doc)
    }

    /// The anchors document in force: JWS text.
    pub fn anchors(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("anchors.jws"))?)
    }

    /// The revoked document in force: JWS text.
    pub fn revoked(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join("revoked.jws"))?)
    }

    /// What a machine of this owner believes.
    pub fn trust(&self) -> Result<Trust> {
        Ok(Trust::from_image(&self.anchors()?)?)
    }
}

/// The name stands in every certificate of the owner, which has 64 symbols for it and more words (RFC 5280, appendix A.1).
fn check_name(name: &str) -> Result<()> {
    let is_good =
        !name.trim().is_empty() && name.chars().count() <= 40 && !name.chars().any(char::is_control);
    ensure!(
        is_good,
        "nothing was made: the owner's name {name:?} stands in every certificate; give --name 1 to 40 symbols in one line, \
         as in \"Example Line\""
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_has_a_name_that_can_be_read_in_a_certificate() {
        for name in ["Example Line", "Reederei Größe & Söhne", "x"] {
            check_name(name).unwrap();
        }
        for name in ["", "  ", "two\nlines", "\x1b[2J", &"x".repeat(41)] {
            assert!(check_name(name).unwrap_err().to_string().contains("--name"), "{name:?}");
        }
    }
}
