//! Sites and their provisioners: CAs, and the keys that only a site can open its bundles with.

use anyhow::{Context, Result, ensure};
use protocol::anchors::RevokedSite;
use protocol::bytes::{B64, B64u, Digest, b64, from_b64};
use protocol::cert::Cert;
use protocol::certify::{CaReply, CaRequest, Certified, Grant, seal_to_key, seal_with_secret};
use protocol::claim::Code;
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer, SystemRandom, random};
use protocol::csr::Csr;
use protocol::id::{Id, is_slot_name};
use protocol::issue::{Role, issue};
use protocol::json;
use protocol::record::{Record, Status};
use protocol::refusal::{Refusal, Refused};
use protocol::tpm::{Ek, Public, make_credential};
use serde::{Deserialize, Serialize};

use super::{Hq, read, write, write_text};
use crate::model::{Site, Slots};

/// `sites/<site>/ca.yaml`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SiteCa {
    /// Rises when the CA is replaced.
    pub generation: u32,
    /// The CA's certificate, base64.
    pub certificate: String,
    /// Provisioners certified, in order of their number.
    pub provisioners: Vec<Provisioner>,
}

/// A certified provisioner.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Provisioner {
    /// Its number.
    pub number: u32,
    /// Its issuing CA, base64.
    pub certificate: String,
    /// The number of its last report.
    pub last_report: u64,
}

/// What a site's sticks bring to machines that are provisioners.
#[derive(Default)]
pub struct OnSticks {
    /// The hash of the endorsement key of each, and what its machine needs.
    pub brought: Vec<(Digest, Certified)>,
    /// Which others there are, and why they are not brought: a line each.
    pub left_out: Vec<String>,
}

impl Hq {
    fn site_ca_path(&self, site: &str) -> std::path::PathBuf {
        self.dir.join("sites").join(site).join("ca.yaml")
    }

    /// The CA of a site.
    pub fn site_ca(&self, site: &str) -> Result<SiteCa> {
        self.check_site(site)?;
        read(&self.site_ca_path(site))
    }

    /// Whether there is such a site; if not, which ones there are.
    pub fn check_site(&self, site: &str) -> Result<()> {
        let names = self.site_names()?;
        ensure!(names.iter().any(|name| name == site), unknown_site(site, names.iter().map(String::as_str)));
        Ok(())
    }

    /// Every site.
    pub fn site_names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(self.dir.join("sites")).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries
            .filter(|entry| entry.path().join("ca.yaml").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// A site, as `site.yaml` describes it.
    pub fn site(&self, site: &str) -> Result<Site> {
        read(&self.dir.join("sites").join(site).join("site.yaml"))
    }

    /// The slots of a site, as `slots.yaml` names them.
    pub fn slots(&self, site: &str) -> Result<Slots> {
        read(&self.dir.join("sites").join(site).join("slots.yaml"))
    }

    /// Saves it.
    pub fn save_site_ca(&self, site: &str, ca: &SiteCa) -> Result<()> {
        write(&self.site_ca_path(site), ca)
    }

    /// The CA's certificate of a site.
    pub fn pin(&self, site: &str) -> Result<Cert> {
        Ok(Cert::parse(&from_b64(&self.site_ca(site)?.certificate)?)?)
    }

    /// Makes a site: its CA, the keys it shares with headquarters, and files to fill in.
    pub fn add_site(&self, site: &str, now: Time) -> Result<()> {
        ensure!(
            is_slot_name(site),
            "a site's name is at most 50 small letters, digits and hyphens, as in ship-7"
        );
        ensure!(
            !self.site_ca_path(site).exists(),
            "site {site} is there already: edit sites/{site}/site.yaml and slots.yaml"
        );
        let anchor = self.site_anchor()?;
        let left = || {
            format!(
                "site {site} has keys and no sites/{site}/ca.yaml: bring that back from Git, or, where an earlier attempt \
                 to add it was cut off, delete the site-{site}-*.pem that it left"
            )
        };
        self.keys.make_scalar(&format!("site-{site}-bundle")).with_context(left)?;
        self.keys.make_scalar(&format!("site-{site}-approve")).with_context(left)?;
        let ca = self.new_ca(site, 1, &anchor, now)?;
        let folder = self.dir.join("sites").join(site);
        write_text(&folder.join("site.yaml"), &SITE.replace("SITE", site))?;
        write_text(&folder.join("slots.yaml"), SLOTS)?;
        self.save_site_ca(site, &ca)
    }

    /// What certifies the CAs of sites. Its key is offline, and is asked for before anything is made that it has to sign.
    fn site_anchor(&self) -> Result<(Cert, Box<dyn Signer>)> {
        let name = "site-anchor-a";
        Ok((self.certificate(name)?, self.key(name).context("nothing was made or withdrawn")?))
    }

    /// The CA of a generation, which has certified nobody yet.
    fn new_ca(
        &self,
        site: &str,
        generation: u32,
        (anchor, anchor_key): &(Cert, Box<dyn Signer>),
        now: Time,
    ) -> Result<SiteCa> {
        let name = format!("site-{site}-g{generation}");
        let key = self.keys.make(&name, Alg::Es256).with_context(|| {
            format!("where an earlier attempt was cut off, delete the {name}.pem that it left")
        })?;
        let role = Role::SiteCa { site, generation };
        let der = issue(&role, key.spki(), anchor, &**anchor_key, now)?;
        Ok(SiteCa { generation, certificate: b64(&der), provisioners: vec![] })
    }

    /// Certifies a provisioner of `site`: the sealed reply. R48.
    pub fn certify(&self, site: &str, request: &CaRequest, code: Option<&str>, now: Time) -> Result<CaReply> {
        let mut ca = self.site_ca(site)?;
        let unsigned = |error| Refused::new(Refusal::CaRequestRefused, 'c', format!("{error}"));
        let csr = Csr::parse(&request.csr.0).map_err(unsigned)?;
        check_site_of(&csr, site)?;
        if request.ek.is_none() {
            check_code(request, code)?;
        }
        let known = ca.provisioners.iter().position(|known| {
            from_b64(&known.certificate)
                .ok()
                .and_then(|der| Cert::parse(&der).ok())
                .is_some_and(|cert| cert.spki == csr.spki)
        });
        let pin = self.pin(site)?;
        let number = match known {
            Some(place) => ca.provisioners[place].number,
            None => u32::try_from(ca.provisioners.len())? + 1,
        };
        let role = Role::IssuingCa { site, generation: ca.generation, number };
        let key = self.keys.signer(&format!("site-{site}-g{}", ca.generation), None)?;
        let issuing = issue(&role, &csr.spki, &pin, &*key, now)?;
        let grant = self.grant(site, &issuing, &pin)?;
        let reply = self.seal(site, request, &csr, &grant)?;
        let entry = Provisioner { number, certificate: b64(&issuing), last_report: 0 };
        match known {
            Some(place) => ca.provisioners[place].certificate = entry.certificate,
            None => ca.provisioners.push(entry),
        }
        self.save_site_ca(site, &ca)?;
        self.keep_certified(site, request, &reply)?;
        Ok(reply)
    }

    fn certified_folder(&self, site: &str) -> std::path::PathBuf {
        self.dir.join("sites").join(site).join("provisioners")
    }

    /// Keeps what a machine needs to be this provisioner, for the site's sticks: sealed to its TPM.
    fn keep_certified(&self, site: &str, request: &CaRequest, reply: &CaReply) -> Result<()> {
        let (Some(ek), Some(_)) = (&request.ek, &request.private) else { return Ok(()) };
        let Id::Ek(hash) = Ek::parse(&ek.0)?.id() else { return Ok(()) };
        let certified = Certified { request: request.clone(), reply: reply.clone() };
        let text = String::from_utf8(json::to_vec(&certified))?;
        write_text(&self.certified_folder(site).join(format!("{hash}.json")), &text)
    }

    /// The provisioners of a site that were certified in advance: those that its sticks bring to their machines, and why
    /// the others are left out.
    pub fn certified(&self, site: &str) -> Result<OnSticks> {
        let mut believed = Vec::new();
        for provisioner in self.site_ca(site)?.provisioners {
            believed.push(Cert::parse(&from_b64(&provisioner.certificate)?)?.spki);
        }
        let (records, mut found) = (self.records()?, OnSticks::default());
        for entry in std::fs::read_dir(self.certified_folder(site)).into_iter().flatten() {
            let path = entry?.path();
            let reading = || format!("reading {}", path.display());
            let certified: Certified =
                json::parse(&std::fs::read(&path).with_context(reading)?).with_context(reading)?;
            let csr = Csr::parse(&certified.request.csr.0).with_context(reading)?;
            let ek =
                certified.request.ek.as_ref().map(|ek| Ek::parse(&ek.0)).transpose().with_context(reading)?;
            let Some(Id::Ek(hash)) = ek.map(|ek| ek.id()) else { continue };
            let why = if believed.contains(&csr.spki) {
                locked_out(site, &Id::Ek(hash), &records)
            } else {
                Some("its CA was withdrawn; have it certified anew, or delete the file".to_owned())
            };
            match why {
                Some(why) => found.left_out.push(format!("{} is not on the stick: {why}", path.display())),
                None => found.brought.push((hash, certified)),
            }
        }
        found.brought.sort_by_key(|(hash, _)| hash.0);
        found.left_out.sort();
        Ok(found)
    }

    /// Whether a provisioner of this site was certified in the TPM of a machine.
    pub fn is_certified(&self, site: &str, record: &Record) -> bool {
        let file = |hash: &Digest| self.certified_folder(site).join(format!("{hash}.json"));
        record.auth.iter().any(|auth| matches!(auth.id(), Id::Ek(hash) if file(&hash).exists()))
    }

    fn grant(&self, site: &str, issuing: &[u8], pin: &Cert) -> Result<Grant> {
        let approve =
            protocol::bundle::public_of(&self.keys.scalar("approve")?[..]).context("the approve key")?;
        Ok(Grant {
            chain: vec![B64(issuing.to_vec()), B64(pin.der.clone())],
            bundle_key: B64u(self.keys.scalar(&format!("site-{site}-bundle"))?.to_vec()),
            approve_key: B64u(self.keys.scalar(&format!("site-{site}-approve"))?.to_vec()),
            hq_approve: B64u(approve),
            anchors: self.anchors()?,
            revoked: self.revoked()?,
        })
    }

    fn seal(&self, site: &str, request: &CaRequest, csr: &Csr, grant: &Grant) -> Result<CaReply> {
        let (Some(ek), Some(key)) = (&request.ek, &request.key) else {
            return seal_to_key(grant, request).context("the request names no key to seal the reply to");
        };
        let refused = |case, detail: &str| Refused::new(Refusal::CaRequestRefused, case, detail);
        let ek = Ek::parse(&ek.0).map_err(|error| refused('a', &error.to_string()))?;
        let locked_out = locked_out(site, &ek.id(), &self.records()?);
        ensure!(locked_out.is_none(), refused('a', &locked_out.unwrap_or_default()));
        let key = Public::node_key(&key.0).map_err(|_| refused('c', "the key is not held by a TPM"))?;
        ensure!(key.spki() == csr.spki, refused('c', "the request is signed by another key than the TPM's"));
        let k = random::<32>()?;
        let credential = make_credential(&ek, &key.name(), &k, &SystemRandom::new())?;
        let ct = seal_with_secret(grant, &k, request).context("sealing the reply")?;
        Ok(CaReply::Tpm { blob: B64u(credential.blob), secret: B64u(credential.secret), ct })
    }

    /// Withdraws a site's CA, and makes the next one: no machine believes the old one any more once it has heard, no
    /// provisioner of it is heard here, and the next bundles carry vouchers for the new one. The new generation.
    pub fn revoke_site(&self, site: &str, now: Time) -> Result<u32> {
        let (ca, anchor) = (self.site_ca(site)?, self.site_anchor()?);
        // It signs the withdrawal: where it cannot be had, nothing is begun.
        self.key("signer")?;
        let withdrawn =
            RevokedSite { name: format!("{site} g{}", ca.generation), spki: self.pin(site)?.key_hash };
        let next = self.new_ca(site, ca.generation + 1, &anchor, now)?;
        self.publish_revoked(&[withdrawn], now)?;
        self.save_site_ca(site, &next)?;
        for mut record in self.records()? {
            if record.site.contains(site) {
                record.epoch += 1;
                self.save_record(&record)?;
            }
        }
        Ok(next.generation)
    }
}

/// Why a machine with this key is not made a provisioner of the site; none where it may be one. R48a.
fn locked_out(site: &str, ek: &Id, records: &[Record]) -> Option<String> {
    let has_key = |record: &&Record| record.auth.iter().any(|auth| auth.id() == *ek);
    let ours: Vec<_> = records.iter().filter(has_key).filter(|record| record.site.contains(site)).collect();
    match ours.as_slice() {
        [] => Some(format!(
            "no machine of {site} is registered with {ek}: `provisioner hq machines import` its row first"
        )),
        ours => {
            let out = ours.iter().find(|record| record.status != Status::Active)?;
            Some(format!("its machine {} is {}", out.id, out.status.word()))
        }
    }
}

/// A request names the site that its provisioner is for.
fn check_site_of(csr: &Csr, site: &str) -> Result<()> {
    let names = csr.common_names.iter().find_map(|name| name.strip_suffix(" issuing CA"));
    let named = names.context("the request names no site: is it the one that `provisioner init` made?")?;
    ensure!(
        named == site,
        "the request was made for {named}, and not for {site}: certify it for {named}, or run `provisioner init --site \
         {site}` in a new folder"
    );
    Ok(())
}

/// R48b: without a TPM, a person who stands before the provisioner says that the request is its own.
fn check_code(request: &CaRequest, code: Option<&str>) -> Result<()> {
    let word = Refusal::CaRequestRefused.code();
    let typed = code.with_context(|| {
        format!(
            "There is no TPM at the site: give the code that a person reads to you, --code CODE. ({word})"
        )
    })?;
    let right = Code::parse(typed).is_ok_and(|typed| typed == request.code());
    ensure!(right, "The code {typed} is not the one of this request: have it read again. ({word})");
    Ok(())
}

/// What is said of a site that is not there: the ones that are.
pub(super) fn unknown_site<'a>(site: &str, sites: impl Iterator<Item = &'a str>) -> String {
    let there: Vec<_> = sites.collect();
    match there.as_slice() {
        [] => format!("there is no site {site}, nor any other: `provisioner hq site add {site}`"),
        [one] => format!("there is no site {site}; there is {one}"),
        several => format!("there is no site {site}; there are {}", several.join(", ")),
    }
}

const SITE: &str = "# What every machine of the site is told.
name: SITE
network:
  dns: []
  ntp: []
cluster:
  distribution: kubeadm
";

const SLOTS: &str = "# The places in the cluster. Nodes are named after them.
slots: []
# - name: node-1
#   role: worker
#   labels: { rack: bridge }
";
