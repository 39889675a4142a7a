//! Which machine makes the site's cluster, and what is in that from the beginning.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use decide::{Founder, Founding};
use protocol::bytes::Digest;
use protocol::certify::CaRequest;
use protocol::clock::Time;
use protocol::id::Id;
use protocol::json;
use protocol::refusal::{Refusal, Refused};
use protocol::tpm::Ek;
use serde::{Deserialize, Serialize};

use super::store::{Look, SECTIONS};
use super::{Bound, Site, broken, keys};
use crate::model::Role;
use crate::render;

/// Who was told to found the cluster; beside the store, so that it outlives that.
const FOUNDER: &str = "founder.json";

#[derive(Serialize, Deserialize)]
struct Told {
    machine: String,
    s: Digest,
    at: Time,
}

impl Site {
    /// Whether this machine is to found the cluster: R40. What it is told is on disk before it is.
    pub(super) fn founds(&self, bound: &Bound, slot: &str) -> Result<bool, Refused> {
        let told = self.founder().map_err(broken)?;
        let founding = self.founding(bound, slot, told.as_ref()).map_err(broken)?;
        let refused =
            |why| Refused::new(Refusal::NotControlPlane, if founding.same_tpm { 'a' } else { 'b' }, why);
        let founds = decide::founds(&founding).map_err(refused)?;
        if let (true, None, Some(s)) = (founds, told, bound.machine.s) {
            let told = Told { machine: bound.machine.id.clone(), s, at: self.now() };
            keys::save(&self.dir.join(FOUNDER), &json::to_vec(&told)).map_err(broken)?;
            tracing::info!(machine = told.machine, slot, "this machine founds the cluster, as HQ says");
        }
        Ok(founds)
    }

    fn founding(&self, bound: &Bound, slot: &str, told: Option<&Told>) -> Result<Founding> {
        let word = self.word();
        let plan = word.slots.get(slot);
        let named = word.site.cluster.found.as_deref() == Some(slot);
        let own = if named { self.own_ek()? } else { None };
        let (record, machine) = (&bound.record, &bound.machine);
        let by_tpm = machine.proven.iter().any(|id| matches!(id, Id::Ek(_)));
        Ok(Founding {
            attached: self.is_attached(),
            named,
            control_plane: plan.is_some_and(|plan| plan.role == Role::ControlPlane),
            address: plan.is_some_and(|plan| plan.address.is_some()),
            registered_for_it: record.slot.as_deref() == Some(slot),
            vouched: !record.by_voice(),
            same_tpm: by_tpm && own.is_some_and(|own| record.auth.iter().any(|auth| auth.id() == own)),
            founder: match told {
                None => Founder::Nobody,
                Some(told) if Some(told.s) == machine.s => Founder::It,
                Some(_) => Founder::Another,
            },
            forgetful: self.rebuild().is_some(),
            alone: word.slots.slots.iter().filter(|slot| slot.role == Role::ControlPlane).count() == 1,
        })
    }

    /// The endorsement key of the TPM that holds this provisioner's own key.
    fn own_ek(&self) -> Result<Option<Id>> {
        let file = self.dir.join(keys::REQUEST);
        let request: CaRequest =
            json::parse(&std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?)?;
        Ok(request.ek.map(|ek| Ek::parse(&ek.0)).transpose()?.map(|ek| ek.id()))
    }

    fn founder(&self) -> Result<Option<Told>> {
        match std::fs::read(self.dir.join(FOUNDER)) {
            Ok(bytes) => Ok(Some(json::parse(&bytes).context("reading founder.json")?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("reading founder.json"),
        }
    }

    /// What is in the cluster from the beginning, manifests by name: the add-ons of its distribution, then HQ's own.
    pub(super) fn seed(&self) -> Result<BTreeMap<String, String>> {
        let word = self.word();
        let hq = self.store.look()?.bytes(SECTIONS, "seed")?;
        let mut seed: BTreeMap<String, String> =
            hq.map(|bytes| json::parse(&bytes)).transpose()?.unwrap_or_default();
        seed.insert("0-add-ons.yaml".to_owned(), render::add_ons(&word.templates, &word.site)?);
        Ok(seed)
    }
}
