//! What is perhaps not what was meant when a bundle is built: each is a line, and the bundle is made all the same.

use std::collections::BTreeMap;

use anyhow::Result;
use protocol::id::Id;
use protocol::record::{Auth, Record, Status};

use super::Hq;
use super::sites::{SiteCa, unknown_site};
use crate::model::Slots;

impl Hq {
    /// What would keep machines out of a site, and can be known here. `all` are its registrations.
    pub(super) fn doubts(
        &self,
        site: &str,
        ca: &SiteCa,
        slots: &Slots,
        all: &[Record],
    ) -> Result<Vec<String>> {
        let mut doubts = of_site(site, ca, slots, all);
        doubts.extend(self.below_floor(site, &self.site(site)?.system)?);
        doubts.extend(self.of_founding(site, all)?);
        doubts.extend(of_machines(site, slots, all));
        doubts.extend(self.of_strays()?);
        Ok(doubts)
    }

    /// Registrations of sites that are not there: no bundle brings them to anybody.
    fn of_strays(&self) -> Result<Vec<String>> {
        let (names, records) = (self.site_names()?, self.records()?);
        let line = |record: &Record| {
            let stray = record.site.iter().find(|site| !names.iter().any(|name| name == site))?;
            let what = unknown_site(stray, names.iter().map(String::as_str));
            Some(format!("{}: {what}; correct machines/{}.yaml", record.id, record.id))
        };
        let active = records.iter().filter(|record| record.status == Status::Active);
        Ok(active.filter_map(line).collect())
    }

    /// What would keep the site from being founded, and can be known here.
    fn of_founding(&self, site: &str, all: &[Record]) -> Result<Vec<String>> {
        let plan = self.site(site)?;
        let Some(slot) = plan.cluster.found else { return Ok(Vec::new()) };
        if self.has_joined(site) {
            let file = format!("sites/{site}/site.yaml");
            return Ok(vec![format!(
                "{site} has its cluster: cluster.found is left out; take it out of {file} too"
            )]);
        }
        let certified = self.certified(site)?;
        let is_certified = |record: &Record| {
            let ids: Vec<_> = record.auth.iter().map(protocol::record::Auth::id).collect();
            certified.brought.iter().any(|(ek, _)| ids.contains(&Id::Ek(*ek)))
        };
        let there = all.iter().filter(|record| record.slot.as_ref() == Some(&slot)).any(is_certified);
        let doubt = format!(
            "nobody can found {site}: no machine that is registered for {slot} has a provisioner certified in its TPM; \
             on that machine `node-boot register --csr {site}`, then `provisioner hq site certify {site} REQUEST`"
        );
        Ok(if there { Vec::new() } else { vec![doubt] })
    }
}

/// What keeps everybody out.
fn of_site(site: &str, ca: &SiteCa, slots: &Slots, all: &[Record]) -> Vec<String> {
    let mut doubts = Vec::new();
    if ca.provisioners.is_empty() {
        doubts.push(format!(
            "{site} has no certified provisioner that could open it: `provisioner hq site certify {site} REQUEST`"
        ));
    }
    if slots.slots.is_empty() {
        doubts.push(format!("{site} has no slots, so no machine gets a place: edit sites/{site}/slots.yaml"));
    }
    if all.is_empty() {
        doubts.push(format!("no machine is registered for {site}: `provisioner hq machines import FILE`"));
    }
    doubts
}

/// What keeps single machines out: registrations that somebody has edited.
fn of_machines(site: &str, slots: &Slots, all: &[Record]) -> Vec<String> {
    let (mut doubts, mut taken) = (Vec::new(), BTreeMap::new());
    for record in all.iter().filter(|record| record.status == Status::Active) {
        let id = &record.id;
        let mut doubt = |what: &str| doubts.push(format!("{id} {what} machines/{id}.yaml"));
        match &record.slot {
            Some(slot) => {
                if let Err(what) = slots.named(site, slot) {
                    doubt(&format!("gets no place: {what}, or correct"));
                }
            }
            None if record.roles.is_empty() => {
                doubt("gets no place, as it has neither slot nor roles: correct");
            }
            None => {}
        }
        if let Some(role) =
            record.roles.iter().find(|role| !["worker", "control-plane"].contains(&role.as_str()))
        {
            doubt(&format!("has the role {role:?}, and there are worker and control-plane: correct"));
        }
        let proofs = record.policy.accept.iter().flatten();
        if let Some(kind) =
            proofs.clone().find(|kind| !["tpm-ek", "idevid", "dev-key"].contains(&kind.as_str()))
        {
            doubt(&format!("accepts {kind:?}, and there are tpm-ek, idevid and dev-key: correct"));
        }
        let names =
            record.slot.iter().cloned().chain(record.auth.iter().map(|auth: &Auth| auth.id().to_string()));
        for name in names {
            if let Some(other) = taken.insert(name.clone(), id) {
                doubt(&format!(
                    "has {name}, which {other} has as well, and only one of them gets in: correct"
                ));
            }
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_wrote_into_a_registration_and_keeps_it_out_is_named() {
        let hash = "A".repeat(43);
        let record = |id: &str, more: &str| {
            let text = format!(r#"{{"id":"{id}","epoch":1,"site":"ship-7",{more}}}"#);
            serde_json::from_str::<Record>(&text).unwrap()
        };
        let key = format!(r#""slot":"node-1","auth":[{{"type":"dev-key","sha256":"{hash}"}}]"#);
        let all = [
            record("mc_1", &key),
            record("mc_2", &key),
            record("mc_3", r#""roles":["wrker"]"#),
            record("mc_4", r#""epoch_":1"#),
            record("mc_5", r#""roles":["worker"],"policy":{"accept":["devkey"]}"#),
            record("mc_6", r#""slot":"node-9""#),
            record("mc_7", r#""status":"lost""#),
        ];
        let slots: Slots = serde_json::from_str(r#"{"slots":[{"name":"node-1"}]}"#).unwrap();
        let said = of_machines("ship-7", &slots, &all);
        for (line, words) in said.iter().zip([
            "mc_2 has node-1, which mc_1 has as well",
            "mc_2 has key:AAAA",
            "mc_3 has the role \"wrker\"",
            "mc_4 gets no place, as it has neither slot nor roles",
            "mc_5 accepts \"devkey\"",
            "mc_6 gets no place: ship-7 has no slot node-9",
        ]) {
            assert!(line.starts_with(words) && line.contains("correct machines/mc_"), "{said:?}");
        }
        assert_eq!(said.len(), 6, "{said:?}");
    }
}
