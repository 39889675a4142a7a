//! A store that was lost is made again: from HQ's bundle, from the Nodes, and from the certificates that machines hold.
//!
//! Nobody enrolls again and no Node changes its name. The bundle says who is registered, each Node says which machine
//! holds which slot, and a machine's own node certificate says that its key was admitted. What none of them can tell,
//! whether a single-use key was used, counts as used.

use std::path::PathBuf;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use protocol::bytes::Digest;
use protocol::cert::{self, Cert, MACHINE_URI};
use protocol::id::{Id, node_name};
use protocol::record::Record;
use protocol::refusal::{Refusal, Refused};
use serde::{Deserialize, Serialize};

use super::machine::{KubeletState, Machine};
use super::slots::Sight;
use super::store::{BURNED, Change, HOLDERS, IDS, KEYS, Look, MACHINES, META, NAMES, RECORDS, StoreError};
use super::{KeyEntry, Site, admit, broken, report, slots};
use crate::cluster::Cluster;
use crate::cluster::nodes::{MACHINE_LABEL, SLOT_LABEL, View};
use crate::plain;

/// Where the stage is kept in [`META`]; absent where nothing was lost.
pub const STAGE: &str = "rebuild";
/// Nobody's node key: a single-use key bound to it is good for no machine, a Node's name for no Node.
pub const NOBODY: Digest = Digest([0; 32]);
/// Reports that may have been made between the last one HQ acknowledged and the loss: their numbers are left out.
const REPORTS: u64 = 1 << 20;

/// What a store that was lost still lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// HQ's bundle, without which nobody is known.
    Bundle,
    /// A look at the Nodes, without which no slot is known to be free.
    Nodes,
    /// Nothing but the machines, each of which is known again when it speaks.
    Machines,
}

/// The first change of a new store: one that should have held a bundle was lost.
pub(super) fn begin(tx: &Change<'_>, bundle: u64) -> Result<(), StoreError> {
    if bundle == 0 {
        return Ok(());
    }
    tracing::warn!(
        bundle,
        "the store was lost: it is made again from HQ's bundle, the Nodes and the machines"
    );
    tx.put(META, STAGE, &Stage::Bundle)
}

/// A bundle is in force again: what it cannot tell counts as used, and goes to HQ.
pub(super) fn has_bundle(
    tx: &Change<'_>,
    acknowledged: Option<u64>,
    at: protocol::clock::Time,
) -> Result<(), StoreError> {
    if tx.get::<Stage>(META, STAGE)? != Some(Stage::Bundle) {
        return Ok(());
    }
    let burned = burn(tx)?;
    skip_reports(tx, acknowledged.unwrap_or(0))?;
    let alarm = protocol::report::Alarm {
        reason: decide::Alarm::StoreLost.word().to_owned(),
        about: plain::count(burned, "device key"),
        at,
    };
    report::note(tx, &report::Event::Alarm(alarm))?;
    tx.put(META, STAGE, &Stage::Nodes)
}

/// Reports that were made after what is known here have numbers of their own, which HQ may have taken.
pub(super) fn skip_reports(tx: &Change<'_>, known: u64) -> Result<(), StoreError> {
    for (key, _) in tx.all(META, "reported/")? {
        tx.remove(META, &key)?;
    }
    tx.put(META, "next/report", &(known + REPORTS))
}

/// A device key is good once. Whether one was used is not known here any more: all that are left count as used.
pub(super) fn burn(tx: &Change<'_>) -> Result<usize, StoreError> {
    let mut burned = 0;
    for (id, _) in tx.all(IDS, "key:")? {
        let Ok(Id::Key(hash)) = id.parse() else { continue };
        if tx.bytes(BURNED, &hash.to_string())?.is_none() {
            tx.put(BURNED, &hash.to_string(), &NOBODY)?;
            burned += 1;
        }
    }
    Ok(burned)
}

impl Site {
    /// What a store that was lost still lacks; nothing where none was lost.
    pub fn rebuild(&self) -> Option<Stage> {
        *self.rebuild.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn look_at_stage(&self) -> Result<(), StoreError> {
        let stage = self.store.look()?.get(META, STAGE)?;
        *self.rebuild.write().unwrap_or_else(PoisonError::into_inner) = stage;
        Ok(())
    }

    /// Whether a machine that is not known may be told so: not while it may have been forgotten.
    pub(crate) fn check_rebuilt(&self) -> Result<(), Refused> {
        match self.rebuild() {
            // A Node vouches for its machine: until the Nodes were seen since the start, nobody is a stranger.
            Some(Stage::Machines) if self.is_attached() && self.memory().view.is_none() => Err(Refused::new(
                Refusal::Broken,
                ' ',
                "the cluster's Nodes have not been seen since the start",
            )),
            None | Some(Stage::Machines) => Ok(()),
            Some(Stage::Bundle) => {
                Err(Refused::new(Refusal::BundleBehind, ' ', "the store was lost, and with it the bundle"))
            }
            Some(Stage::Nodes) => {
                let why = "the store was lost; the cluster's Nodes have to be seen before it is whole";
                Err(Refused::new(Refusal::Broken, ' ', why))
            }
        }
    }

    fn bundles(&self) -> PathBuf {
        self.dir.join("bundles")
    }

    /// Keeps a bundle as HQ sealed it, for the day the store is lost.
    pub(super) fn keep_bundle(&self, seq: u64, file: &[u8]) -> Result<()> {
        std::fs::create_dir_all(self.bundles())?;
        super::keys::save(&self.bundles().join(format!("{seq:020}.nbb")), file).context("keeping the bundle")
    }

    /// Forgets what a full bundle replaces.
    pub(super) fn drop_bundles_before(&self, seq: u64) {
        for path in self.kept_bundles() {
            let older = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            if older.is_some_and(|older| older < seq) {
                // One that stays takes room, and is left out when it is read again.
                let _ = std::fs::remove_file(path);
            }
        }
    }

    fn kept_bundles(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.bundles()).into_iter().flatten().flatten();
        let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    async fn take_kept(&self, file: &[u8]) -> Result<u64, Refused> {
        self.put_in_force(file, self.open_bundle(file)?, 0).await
    }

    /// Puts the bundles that were kept in force again, before anybody is answered.
    pub async fn recall_bundles(&self) -> Result<()> {
        if self.rebuild() != Some(Stage::Bundle) {
            return Ok(());
        }
        for path in self.kept_bundles() {
            let read = std::fs::read(&path).map_err(|error| error.to_string());
            let taken = match read {
                Ok(file) => self.take_kept(&file).await.map_err(|refused| refused.to_string()),
                Err(error) => Err(error),
            };
            if let Err(why) = taken {
                tracing::warn!(file = %path.display(), why, "a kept bundle could not be put in force again");
            }
        }
        self.recall_no_nodes().await
    }

    /// Reads from the Nodes which machine holds which slot, and from the policies whose name is barred.
    pub(super) async fn recall_nodes(&self, cluster: &Cluster, view: &View) -> Result<()> {
        if self.rebuild() != Some(Stage::Nodes) {
            return Ok(());
        }
        let denied = cluster.denied().await?;
        let holders: Vec<(String, String)> = view
            .nodes
            .iter()
            .filter(|(name, _)| !denied.contains(name))
            .filter_map(|(_, node)| {
                Some((node.labels.get(SLOT_LABEL)?.clone(), node.labels.get(MACHINE_LABEL)?.clone()))
            })
            .collect();
        tracing::info!(nodes = holders.len(), denied = denied.len(), "the Nodes say who holds which slot");
        self.store.write(move |tx| recall(tx, &holders, &denied)).await?;
        self.look_at_stage()?;
        self.place_all().await.map_err(anyhow::Error::new)
    }

    /// A provisioner that was never attached has no Nodes to learn from.
    pub(super) async fn recall_no_nodes(&self) -> Result<()> {
        if self.rebuild() == Some(Stage::Nodes) && !self.is_attached() {
            self.store.write(|tx| tx.put(META, STAGE, &Stage::Machines)).await?;
            self.look_at_stage()?;
        }
        Ok(())
    }

    /// Knows a machine again by the certificate that this provisioner gave it, where the store was lost.
    pub(crate) async fn readmit(&self, cert: &Cert) -> Result<(), Refused> {
        if self.rebuild() != Some(Stage::Machines) || self.check_rebuilt().is_err() {
            return Ok(());
        }
        let Some(id) = cert.uris.iter().find_map(|uri| uri.strip_prefix(MACHINE_URI)) else { return Ok(()) };
        let known = self.store.look().and_then(|look| look.bytes(KEYS, &cert.key_hash.to_string()));
        if known.map_err(broken)?.is_some() {
            return Ok(());
        }
        // An expired one was ours too; whether it still counts, its Node says.
        let at = cert.not_before;
        let ours = cert::is_client(&cert.der, &[], std::slice::from_ref(&self.keys.issuing), at).is_ok();
        if !ours {
            return Ok(());
        }
        let nodes = self.memory().view.as_ref().map(|view| view.nodes.keys().cloned().collect());
        let again = Again {
            id: id.to_owned(),
            s: cert.key_hash,
            expired: cert.not_after <= self.now(),
            nodes: nodes.unwrap_or_default(),
            sight: self.sight(),
        };
        let readmitted = self.store.write(move |tx| again.enter(tx)).await.map_err(broken)?;
        if readmitted {
            tracing::info!(machine = id, "known again by its certificate");
        }
        Ok(())
    }
}

fn recall(tx: &Change<'_>, holders: &[(String, String)], denied: &[String]) -> Result<(), StoreError> {
    for (slot, id) in holders {
        let before: Option<String> = tx.get(HOLDERS, slot)?;
        if let Some(before) = before.filter(|before| before != id)
            && let Some(mut machine) = tx.get::<Machine>(MACHINES, &before)?
        {
            machine.slot = None;
            tx.put(MACHINES, &before, &machine)?;
        }
        tx.put(HOLDERS, slot, id)?;
    }
    for name in denied {
        if tx.bytes(NAMES, name)?.is_none() {
            tx.put(NAMES, name, &NOBODY)?;
        }
    }
    tx.put(META, STAGE, &Stage::Machines)
}

/// A machine that shows a certificate of ours to a store that has forgotten it.
struct Again {
    id: String,
    s: Digest,
    expired: bool,
    nodes: std::collections::BTreeSet<String>,
    sight: Sight,
}

impl Again {
    /// Whether it is the machine that its certificate names, as far as anything left can tell.
    fn enter(&self, tx: &Change<'_>) -> Result<bool, StoreError> {
        let Some(record) = tx.get::<Record>(RECORDS, &self.id)? else { return Ok(false) };
        if admit::check_standing(&record, &self.sight.site, self.sight.now).is_err() || self.is_barred(tx)? {
            return Ok(false);
        }
        let mut machine: Machine = tx.get(MACHINES, &self.id)?.unwrap_or_default();
        if machine.s.is_some_and(|s| s != self.s) {
            return Ok(false);
        }
        let slot = self.slot(tx)?;
        let node = slot.as_ref().map(|slot| node_name(slot, &self.s));
        let has_node = node.as_ref().is_some_and(|node| self.nodes.contains(node));
        // Its slot's Node is another installation's, or nothing vouches for it any more: it proves itself again.
        if !has_node && (slot.is_some() || self.expired) {
            return Ok(false);
        }
        machine.id.clone_from(&self.id);
        machine.s = Some(self.s);
        machine.heard = self.sight.now;
        machine.slot = slot;
        if has_node {
            machine.kubelet = KubeletState::Issued;
        }
        tx.put(KEYS, &self.s.to_string(), &KeyEntry { machine: self.id.clone(), current: true })?;
        if let Some(node) = node {
            tx.put(NAMES, &node, &self.s)?;
        }
        if let Some(Id::Key(hash)) = record.canonical_id() {
            tx.put(BURNED, &hash.to_string(), &self.s)?;
        }
        slots::place(tx, &mut machine, &self.sight)?;
        tx.put(MACHINES, &self.id, &machine)?;
        Ok(true)
    }

    /// The slot that its Node says it holds.
    fn slot(&self, tx: &Change<'_>) -> Result<Option<String>, StoreError> {
        let holders = tx.list::<String>(HOLDERS)?;
        Ok(holders.into_iter().find_map(|(slot, holder)| (holder == self.id).then_some(slot)))
    }

    /// Whether the cluster bars a Node that this key would have had: it was superseded, retired or revoked.
    fn is_barred(&self, tx: &Change<'_>) -> Result<bool, StoreError> {
        for slot in &self.sight.word.slots.slots {
            if tx.get::<Digest>(NAMES, &node_name(&slot.name, &self.s))? == Some(NOBODY) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use protocol::clock::Time;

    use super::*;
    use crate::site::slots::Eyes;
    use crate::site::store::Store;
    use crate::site::word::{Word, save_record};

    const S: Digest = Digest([7; 32]);

    fn sight() -> Sight {
        let mut word = Word::none("ship-7");
        word.slots = serde_json::from_str(r#"{"slots":[{"name":"node-1"}]}"#).unwrap();
        let (word, site, alive) = (Arc::new(word), "ship-7".to_owned(), Arc::default());
        Sight { word, site, now: Time(1_800_000_000), eyes: Eyes::NoCluster, alive }
    }

    /// Whether a machine that shows a certificate for `mc_01` is known again after what `before` put into the store.
    async fn enters(
        expired: bool,
        before: impl FnOnce(&Change<'_>) -> Result<(), StoreError> + Send + 'static,
    ) -> bool {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.redb")).unwrap();
        let node = node_name("node-1", &S);
        let again =
            Again { id: "mc_01".into(), s: S, expired, nodes: [node].into_iter().collect(), sight: sight() };
        let entered = store.write(move |tx| {
            let record = r#"{"id":"mc_01","epoch":1,"site":"ship-7","roles":["worker"]}"#;
            save_record(tx, &serde_json::from_str(record).unwrap())?;
            before(tx)?;
            again.enter(tx)
        });
        entered.await.unwrap()
    }

    #[tokio::test]
    async fn a_machine_is_known_again_by_its_certificate_or_by_its_node_where_that_has_expired() {
        assert!(enters(false, |_| Ok(())).await);
        assert!(!enters(true, |_| Ok(())).await, "nothing but its word says that it is still a member");
        assert!(enters(true, |tx| tx.put(HOLDERS, "node-1", &"mc_01")).await);
    }

    #[tokio::test]
    async fn a_key_whose_node_is_barred_or_that_was_replaced_is_not_known_again() {
        let barred = |tx: &Change<'_>| recall(tx, &[], &[node_name("node-1", &S)]);
        assert!(!enters(false, barred).await);
        let replaced = |tx: &Change<'_>| {
            let machine = Machine { s: Some(Digest([8; 32])), ..Machine::default() };
            tx.put(MACHINES, "mc_01", &machine)
        };
        assert!(!enters(false, replaced).await);
    }
}
