//! What sites have to say: checked, kept, and written into the registrations.

use anyhow::{Context, Result};
use protocol::bytes::from_b64;
use protocol::cert::Cert;
use protocol::claim::Code;
use protocol::clock::Time;
use protocol::id::Id;
use protocol::record::{Auth, Match, Policy, Record, Sites, Status};
use protocol::refusal::{Refusal, Refused};
use protocol::report::{Approved, Burned, Join, Report, Source, check, read_provisioner};
use serde::{Deserialize, Serialize};

use super::{Hq, read, write, write_text};
use crate::plain::count;

/// An approval that HQ gave by file, link or telephone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    /// For which slot.
    pub slot: String,
    /// The code on the machine's screen, `WT0T-BSPH-K`.
    pub code: String,
    /// When.
    pub at: Time,
    /// The registration that came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// The first Node that was reported, below a site's folder: the site has a cluster.
const JOINED: &str = "joined.yaml";

impl Hq {
    /// Takes a report in: what it says, in words. R47, R50.
    pub fn ingest(&self, text: &[u8], now: Time, new_id: &mut dyn FnMut() -> String) -> Result<Vec<String>> {
        let who = read_provisioner(text)?;
        let (site, place, issuing) = self.source(&who)?;
        let mut ca = self.site_ca(&site)?;
        let source = Source { site: &site, issuing: &issuing, last_seq: ca.provisioners[place].last_report };
        let report = match check(text, &source, now) {
            Err(refused) if refused.id() == "R47b" && self.has_report(&site, text) => {
                return Ok(vec![format!("This report of {site} was taken in already; nothing is changed.")]);
            }
            checked => checked?,
        };
        let path = self
            .dir
            .join("reports")
            .join(&site)
            .join(format!("{}-{}.jws", ca.provisioners[place].number, report.seq));
        write_text(&path, &String::from_utf8_lossy(text))?;
        let mut said = vec![summary(&report)];
        said.extend(self.apply(&site, &report, new_id)?);
        ca.provisioners[place].last_report = report.seq;
        self.save_site_ca(&site, &ca)?;
        said.push(format!("Next: `provisioner hq bundle build {site}`; that bundle answers this report."));
        Ok(said)
    }

    /// Whether any machine was reported to have joined this site.
    pub(super) fn has_joined(&self, site: &str) -> bool {
        self.dir.join("sites").join(site).join(JOINED).exists()
    }

    /// Whether this very report lies here.
    fn has_report(&self, site: &str, text: &[u8]) -> bool {
        let entries = std::fs::read_dir(self.dir.join("reports").join(site)).into_iter().flatten().flatten();
        entries.map(|entry| std::fs::read(entry.path())).any(|kept| kept.is_ok_and(|kept| kept == text))
    }

    /// The site of a provisioner, its place in the list, and its issuing CA.
    fn source(&self, who: &protocol::bytes::Digest) -> Result<(String, usize, Cert)> {
        for site in self.site_names()? {
            for (place, provisioner) in self.site_ca(&site)?.provisioners.iter().enumerate() {
                let issuing = Cert::parse(&from_b64(&provisioner.certificate)?)?;
                if issuing.key_hash == *who {
                    return Ok((site, place, issuing));
                }
            }
        }
        Err(Refused::new(Refusal::ReportRefused, 'a', "no provisioner of ours has this key").into())
    }

    fn apply(&self, site: &str, report: &Report, new_id: &mut dyn FnMut() -> String) -> Result<Vec<String>> {
        let mut said = Vec::new();
        for approved in &report.approvals {
            said.push(match self.given(site, approved)? {
                Some(_) if approved.by == "voice" && self.is_control_plane(site, &approved.slot)? => format!(
                    "ALARM not-control-plane: {site} let a machine into {} by voice; nothing was registered",
                    approved.slot
                ),
                Some((mut all, place)) => {
                    let record = self.register(site, approved, new_id)?;
                    all[place].machine = Some(record.id.clone());
                    write(&self.approvals(site), &all)?;
                    format!("registered {} for {} (approved by {})", record.id, approved.slot, approved.by)
                }
                None => format!(
                    "ALARM approval-unknown: {site} claims an approval for {} that was not given here, or twice; \
                     nothing was registered",
                    approved.slot
                ),
            });
        }
        for join in &report.joins {
            said.push(self.joined(site, join)?);
        }
        if let Some(first) = report.joins.first().filter(|_| !self.has_joined(site)) {
            write(&self.dir.join("sites").join(site).join(JOINED), &first.node)?;
        }
        for fill in &report.fills {
            said.push(format!("{} holds {}", fill.machine, fill.slot));
        }
        for proven in &report.proven {
            let ids: Vec<_> = proven.ids.iter().map(ToString::to_string).collect();
            said.push(format!("{} proved {}", proven.machine, ids.join(" ")));
        }
        for burned in &report.bound {
            said.push(self.burned(burned)?);
        }
        said.extend(
            report
                .alarms
                .iter()
                .map(|alarm| format!("ALARM {}: {} at {}", alarm.reason, alarm.about, alarm.at)),
        );
        Ok(said)
    }

    /// Single-use keys that any site has seen used.
    pub(super) fn all_burned(&self) -> Result<Vec<Burned>> {
        let path = self.dir.join("burned.yaml");
        if path.exists() { read(&path) } else { Ok(Vec::new()) }
    }

    /// Every site learns with its next bundle that a key was used: R30 there too.
    fn burned(&self, burned: &Burned) -> Result<String> {
        let mut all = self.all_burned()?;
        match all.iter().find(|known| known.key == burned.key) {
            Some(known) if known.s != burned.s => {
                return Ok(format!("ALARM duplicate: key {} was used by two machines", burned.key));
            }
            Some(_) => {}
            None => {
                all.push(*burned);
                write(&self.dir.join("burned.yaml"), &all)?;
            }
        }
        Ok(format!("key {} was used; it is good for one machine only", burned.key))
    }

    /// A join. The first site of a pool that reports one keeps the machine: the vouchers of the others end by epoch. R50.
    fn joined(&self, site: &str, join: &Join) -> Result<String> {
        let fine = format!("{} joined as {} in {} at {}", join.machine, join.node, join.slot, join.at);
        let found = self.records()?.into_iter().find(|record| record.id == join.machine);
        let Some(mut record) = found else { return Ok(fine) };
        if !record.site.contains(site) {
            let sites: Vec<_> = record.site.iter().collect();
            let detail = format!("it is of {}, and {site} says: {fine}", sites.join(", "));
            return Ok(format!("ALARM {}", Refused::new(Refusal::Moved, ' ', detail)));
        }
        if matches!(record.site, Sites::One(_)) {
            return Ok(fine);
        }
        record.site = Sites::One(site.to_owned());
        record.epoch += 1;
        self.save_record(&record)?;
        Ok(format!("{fine}; the other sites of its pool lose it with their next bundles"))
    }

    /// Where the approvals of a site are kept.
    pub(super) fn approvals(&self, site: &str) -> std::path::PathBuf {
        self.dir.join("sites").join(site).join("approvals.yaml")
    }

    /// Every approval that was given to a site.
    pub(super) fn all_given(&self, site: &str) -> Result<Vec<Given>> {
        let path = self.approvals(site);
        if path.exists() { read(&path) } else { Ok(Vec::new()) }
    }

    /// R40d, at HQ too.
    fn is_control_plane(&self, site: &str, slot: &str) -> Result<bool> {
        Ok(self.slots(site)?.get(slot).is_some_and(|slot| slot.role == crate::model::Role::ControlPlane))
    }

    /// The approval that a site has used: given here for this slot and code, and not used by another machine. A stolen
    /// provisioner registers nobody by itself.
    fn given(&self, site: &str, approved: &Approved) -> Result<Option<(Vec<Given>, usize)>> {
        let all = self.all_given(site)?;
        let fits = |given: &Given| {
            let code = Code::parse(&given.code);
            let same = code.is_ok_and(|code| code.0 == *approved.sas.0);
            given.machine.is_none() && given.slot == approved.slot && same
        };
        let place = all.iter().position(fits);
        Ok(place.map(|place| (all, place)))
    }

    /// A registration for a machine that a person approved: its proven ids, nothing else.
    fn register(
        &self,
        site: &str,
        approved: &Approved,
        new_id: &mut dyn FnMut() -> String,
    ) -> Result<Record> {
        let known = self
            .records()?
            .into_iter()
            .find(|record| record.auth.iter().any(|auth| approved.ids.contains(&auth.id())));
        if let Some(known) = known {
            return Ok(known);
        }
        // The node key proves the connection only: it changes with every installation and registers nobody who has better.
        let strong = approved.ids.iter().any(|id| !matches!(id, Id::Key(_)));
        let auth = approved.ids.iter().filter_map(|id| match id {
            Id::Ek(sha256) => Some(Auth::TpmEk { alg: String::new(), sha256: *sha256 }),
            Id::Idevid(sha256) => Some(Auth::Idevid { sha256: *sha256 }),
            Id::Key(sha256) if !strong => Some(Auth::DevKey { sha256: *sha256 }),
            _ => None,
        });
        let record = Record {
            id: new_id(),
            epoch: 1,
            status: Status::Active,
            site: Sites::One(site.to_owned()),
            slot: Some(approved.slot.clone()),
            roles: vec![],
            hints: Match::default(),
            auth: auth.collect(),
            policy: Policy::default(),
        };
        record.canonical_id().context("the approved machine proved no id")?;
        self.save_record(&record)?;
        Ok(record)
    }
}

/// A report in one line.
fn summary(report: &Report) -> String {
    let parts = [
        (report.approvals.len(), "approval"),
        (report.joins.len(), "join"),
        (report.fills.len(), "filled slot"),
        (report.proven.len(), "proven key"),
        (report.bound.len(), "used key"),
        (report.alarms.len(), "alarm"),
    ];
    let there = parts.iter().filter(|(number, _)| *number > 0);
    let told: Vec<_> = there.map(|(number, one)| count(*number, one)).collect();
    let told = if told.is_empty() { "nothing new".to_owned() } else { told.join(", ") };
    format!("Report {} of {}, made {}: {told}.", report.seq, report.site, report.created_on)
}
