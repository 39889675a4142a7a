//! What a site is sent: registrations, vouchers, withdrawals, slots, templates, profiles, in one sealed file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use protocol::bundle::{Index, Section, public_of, seal};
use protocol::bytes::{Digest, from_b64};
use protocol::cert::Cert;
use protocol::clock::{Time, YEAR};
use protocol::id::Id;
use protocol::json;
use protocol::jws::{self, typ};
use protocol::record::{Record, Status};
use protocol::report::Burned;
use protocol::voucher::{Grant, make};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::sites::SiteCa;
use super::{Hq, read, write};
use crate::model::{Role, Site, Slots};
use crate::render::profile::{Profile, Profiles};
use crate::render::template::Templates;

/// `bundles/<site>.yaml`: what was sent last, and vouchers to use again.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sent {
    seq: u64,
    vouchers: BTreeMap<String, Cached>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cached {
    epoch: u32,
    voucher: String,
}

/// A bundle, and what is in it.
pub struct Built {
    /// The bytes of the file.
    pub file: Vec<u8>,
    /// Its number.
    pub seq: u64,
    /// How many machines it registers.
    pub machines: usize,
    /// How many slots it names.
    pub slots: usize,
    /// How many vouchers it brings.
    pub vouchers: usize,
    /// What is perhaps not what was meant: a line each.
    pub warnings: Vec<String>,
    site: String,
    sent: Sent,
}

impl Hq {
    fn sent_path(&self, site: &str) -> PathBuf {
        self.dir.join("bundles").join(format!("{site}.yaml"))
    }

    /// Builds the next bundle of a site. Its number is used once [`Hq::send`] has made a file of it.
    pub fn build_bundle(&self, site: &str, now: Time) -> Result<Built> {
        let ca = self.site_ca(site)?;
        let path = self.sent_path(site);
        let mut sent: Sent = if path.exists() { read(&path)? } else { Sent::default() };
        sent.seq += 1;
        let all: Vec<Record> =
            self.records()?.into_iter().filter(|record| record.site.contains(site)).collect();
        let sections = self.sections(site, &all, &mut sent, now)?;
        let index = index(site, sent.seq, &ca, &sections, now)?;
        let signer = self.certificate("signer")?;
        let index = jws::sign(&json::to_vec(&index), typ::BUNDLE, &signer.der, &*self.key("signer")?)?;
        let public = public_of(&self.keys.scalar(&format!("site-{site}-bundle"))?[..])
            .context("the site's bundle key")?;
        let carried: Vec<_> = sections.values().map(Vec::as_slice).collect();
        let file = seal(&index, &carried, site, &public)?;
        let slots = self.slots(site)?;
        let warnings = self.doubts(site, &ca, &slots, &all)?;
        let lines =
            |bytes: &Vec<u8>| bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
        Ok(Built {
            file,
            seq: sent.seq,
            machines: all.len(),
            slots: slots.slots.len(),
            vouchers: sections.get("vouchers").map_or(0, lines),
            warnings,
            site: site.to_owned(),
            sent,
        })
    }

    /// Has `make` write a file with a bundle. A number is used as soon as somebody could carry the file away, and not
    /// where there is none: the file gets its name last.
    pub fn send(&self, bundle: &Built, output: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        // What a link names is written, and the link stays.
        let output = &std::fs::canonicalize(output).unwrap_or_else(|_| output.to_owned());
        ensure!(!output.is_dir(), "{} is a folder: name a file in it", output.display());
        // What is no file, such as a pipe, is written to as it is: a rename would put a file in its place.
        if std::fs::metadata(output).is_ok_and(|found| !found.is_file()) {
            self.remember(bundle)?;
            return make(output);
        }
        let mut beside = output.as_os_str().to_owned();
        beside.push(".part");
        let beside = PathBuf::from(beside);
        let named = || format!("writing {}", output.display());
        let made = make(&beside)
            .and_then(|()| self.remember(bundle))
            .and_then(|()| std::fs::rename(&beside, output).with_context(named));
        if made.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        made
    }

    /// Uses the number of a bundle.
    fn remember(&self, bundle: &Built) -> Result<()> {
        let (path, site) = (self.sent_path(&bundle.site), &bundle.site);
        let last = if path.exists() { read::<Sent>(&path)?.seq } else { 0 };
        ensure!(
            last < bundle.seq,
            "bundle {last} of {site} was built while this one was: build it once more, so that it has a number of its own"
        );
        write(&path, &bundle.sent)
    }

    fn sections(
        &self,
        site: &str,
        all: &[Record],
        sent: &mut Sent,
        now: Time,
    ) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut plan = self.site(site)?;
        let slots = self.slots(site)?;
        // A site that has its cluster is never told to found one, whatever is forgotten in a file here.
        if self.has_joined(site) {
            plan.cluster.found = None;
        }
        let faults = slots.faults();
        if !faults.is_empty() {
            let lines: Vec<_> = faults.iter().map(ToString::to_string).collect();
            bail!("sites/{site}/slots.yaml:\n- {}", lines.join("\n- "));
        }
        let templates = self.texts("templates")?;
        check_plan(site, &plan, &templates)?;
        if let Some(name) = &plan.cluster.found {
            check_founding(site, &slots, name)?;
        }
        let line = |bytes: Vec<u8>| [bytes, b"\n".to_vec()].concat();
        let records = all.iter().flat_map(|record| line(json::to_vec(record))).collect();
        let named = |burned: &Burned| {
            let id = Id::Key(burned.key);
            all.iter().any(|record| record.auth.iter().any(|auth| auth.id() == id))
        };
        let burned: Vec<_> = self.all_burned()?.into_iter().filter(named).collect();
        let revocations = serde_json::json!({
            "burned": burned,
            "revoked": all.iter().filter(|r| r.status != Status::Active).map(|r| r.id.clone()).collect::<Vec<_>>(),
            "doc": RawValue::from_string(self.revoked()?)?,
            "anchors": RawValue::from_string(self.anchors()?)?,
        });
        let mut sections = BTreeMap::from([
            ("records".to_owned(), records),
            ("vouchers".to_owned(), self.vouchers(site, all, sent, now)?),
            ("revocations".to_owned(), json::to_vec(&revocations)),
            ("site".to_owned(), json::to_vec(&plan)),
            ("slots".to_owned(), json::to_vec(&slots)),
            ("templates".to_owned(), json::to_vec(&templates)),
            ("profiles".to_owned(), json::to_vec(&self.profiles()?)),
            ("images".to_owned(), self.images_of(site, &plan.system)?),
        ]);
        let seed = self.seed(site)?;
        if !seed.is_empty() {
            sections.insert("seed".to_owned(), json::to_vec(&seed));
        }
        Ok(sections)
    }

    /// A voucher for each active machine with a proof; one that still fits is not signed anew.
    fn vouchers(&self, site: &str, all: &[Record], sent: &mut Sent, now: Time) -> Result<Vec<u8>> {
        let (signer, key, pin) = (self.certificate("signer")?, self.key("signer")?, self.pin(site)?);
        let life = self.owner()?.voucher_years.clamp(1, 5) * YEAR;
        let mut lines = Vec::new();
        for record in all.iter().filter(|record| record.status == Status::Active) {
            let Some(machine) = record.canonical_id() else { continue };
            let known = sent.vouchers.get(&machine.to_string()).filter(|known| known.epoch == record.epoch);
            let voucher = if let Some(known) = known {
                known.voucher.clone()
            } else {
                let grant = Grant {
                    machine: &machine,
                    epoch: record.epoch,
                    site,
                    pin: &pin,
                    created_on: now,
                    expires_on: now.plus(life),
                };
                make(&grant, &signer, &*key)?
            };
            lines.extend_from_slice(voucher.as_bytes());
            lines.push(b'\n');
            sent.vouchers.insert(machine.to_string(), Cached { epoch: record.epoch, voucher });
        }
        Ok(lines)
    }

    /// HQ's own templates: `templates/<distribution>/<name>`.
    fn texts(&self, folder: &str) -> Result<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        let root = self.dir.join(folder);
        for group in
            std::fs::read_dir(&root).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            for entry in std::fs::read_dir(group.path())?.flatten() {
                let name = format!(
                    "{}/{}",
                    group.file_name().to_string_lossy(),
                    entry.file_name().to_string_lossy()
                );
                texts.insert(name, std::fs::read_to_string(entry.path())?);
            }
        }
        Ok(texts)
    }

    /// What is in a new cluster from the beginning: `seed/*.yaml`, and `sites/<site>/seed/*.yaml`, which count more.
    fn seed(&self, site: &str) -> Result<BTreeMap<String, String>> {
        let mut seed = BTreeMap::new();
        for folder in [self.dir.join("seed"), self.dir.join("sites").join(site).join("seed")] {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for path in entries
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
            {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let text = std::fs::read_to_string(&path)?;
                crate::cluster::found::objects(&path.display().to_string(), &text)?;
                seed.insert(name, text);
            }
        }
        Ok(seed)
    }

    /// HQ's own profiles: `profiles/<name>.yaml`.
    fn profiles(&self) -> Result<Vec<Profile>> {
        let entries = std::fs::read_dir(self.dir.join("profiles")).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        let read = |path: &std::path::PathBuf| {
            let name = path.display().to_string();
            Ok(Profiles::read(&name, &std::fs::read_to_string(path)?)?)
        };
        paths.iter().map(read).collect()
    }
}

/// What a bundle says of itself.
fn index(
    site: &str,
    seq: u64,
    ca: &SiteCa,
    sections: &BTreeMap<String, Vec<u8>>,
    now: Time,
) -> Result<Index> {
    let mut reports = BTreeMap::new();
    for provisioner in &ca.provisioners {
        let issuing = Cert::parse(&from_b64(&provisioner.certificate)?)?;
        reports.insert(issuing.key_hash, provisioner.last_report);
    }
    let named = |(name, bytes): (&String, &Vec<u8>)| Section {
        name: name.clone(),
        sha256: Digest::of(bytes),
        size: bytes.len() as u64,
    };
    let sections = sections.iter().map(named).collect();
    Ok(Index { seq, base: None, site: site.to_owned(), created_on: now, reports, sections })
}

/// What stands in `site.yaml` is of this site, and can be made true.
fn check_plan(site: &str, plan: &Site, texts: &BTreeMap<String, String>) -> Result<()> {
    let file = format!("sites/{site}/site.yaml");
    let fault = plan.network.fault().or_else(|| plan.system.fault()).or_else(|| plan.cluster.fault());
    ensure!(fault.is_none(), "{file}: {}", fault.unwrap_or_default());
    ensure!(plan.name == site, "{file} is of site {}: write `name: {site}` into it", plan.name);
    let mut templates = Templates::built_in();
    for (name, text) in texts {
        templates.set(name, text);
    }
    let distribution = &plan.cluster.distribution;
    ensure!(
        templates.has(distribution),
        "{file}: cluster.distribution {distribution:?} has no templates: write kubeadm, whose are built in, or make \
         templates/{distribution}/"
    );
    Ok(())
}

/// The slot whose machine founds the cluster is one that can.
fn check_founding(site: &str, slots: &Slots, name: &str) -> Result<()> {
    let slot = slots
        .named(site, name)
        .map_err(|what| anyhow::anyhow!("cluster.found in sites/{site}/site.yaml: {what}"))?;
    let file = format!("sites/{site}/slots.yaml");
    ensure!(
        slot.role == Role::ControlPlane,
        "{file}: {name} founds the cluster; give it `role: control-plane`"
    );
    ensure!(
        slot.own_address().is_some(),
        "{file}: {name} founds the cluster; give it the `address` of its API server, and its `cidr`"
    );
    Ok(())
}
