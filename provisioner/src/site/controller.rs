//! Look, decide, record, act: every tick makes every duty true again, so that a crash at any point loses nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use decide::{Act, Life};
use protocol::clock::{DAY, Time, YEAR};
use protocol::record::Record;
use protocol::report::Join;

use super::machine::{Around, KubeletState, Machine, NodeView};
use super::rebuild::NOBODY;
use super::store::{HOLDERS, Look, MACHINES, NAMES, RECORDS};
use super::{Site, admit, report};
use crate::cluster::credential::{Credential, FILE};
use crate::cluster::nodes::{MACHINE_LABEL, SLOT_LABEL, View};
use crate::cluster::serving::{Admitted, asking_node};
use crate::cluster::{Cluster, ClusterError, csr};
use crate::model::Range;

/// Between two looks at the cluster.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between two checks whether the cluster is still one in which only we approve nodes.
const SAFETY_EVERY: u32 = 20;

/// Runs until the program ends.
pub async fn run(site: Arc<Site>) -> Result<()> {
    let mut attached = None;
    let mut count = 0u32;
    loop {
        if let Err(error) = connect(&site, &mut attached) {
            tracing::error!(%error, "the credential for the cluster cannot be read");
        }
        if let Some(cluster) = site.cluster()
            && let Err(error) = tick(&site, &cluster, count).await
        {
            tracing::warn!(%error, "this tick could not be finished; the next one looks again");
        }
        site.recall_no_nodes().await?;
        count = count.wrapping_add(1);
        tokio::time::sleep(TICK).await;
    }
}

/// Uses a credential that `attach` has written or renewed since.
fn connect(site: &Site, attached: &mut Option<std::time::SystemTime>) -> Result<()> {
    let modified = std::fs::metadata(site.dir.join(FILE)).and_then(|file| file.modified()).ok();
    if modified == *attached {
        return Ok(());
    }
    *attached = modified;
    let credential = Credential::load(&site.dir)?;
    site.set_cluster(credential.as_ref().map(Cluster::connect).transpose()?);
    Ok(())
}

async fn tick(site: &Arc<Site>, cluster: &Cluster, count: u32) -> Result<()> {
    let view = match cluster.look().await {
        Ok(view) => Some(view),
        Err(error) => {
            site.memory().blind_why = error.to_string();
            None
        }
    };
    let blind = view.is_none();
    if let Some(view) = &view {
        let mut memory = site.memory();
        memory.view = Some(view.clone());
        memory.blind_why.clear();
    }
    if let Some(view) = &view {
        site.recall_nodes(cluster, view).await?;
    }
    if count.is_multiple_of(SAFETY_EVERY) && !blind {
        check_safety(site, cluster).await;
        renew(site, cluster).await?;
        cluster.lift_expired(site.now()).await?;
    }
    let alive = site.alive_keys();
    for machine in site.machines()? {
        let seen_alive = machine.s.is_some_and(|s| alive(&s)) || site.now().since(machine.heard) < 60;
        one(site, cluster, machine, view.as_ref(), seen_alive).await?;
    }
    if let Some(view) = view {
        requests(site, cluster, &view).await?;
    }
    Ok(())
}

async fn check_safety(site: &Site, cluster: &Cluster) {
    let why = match cluster.check_safety().await {
        Err(ClusterError::Unsafe { remedy }) => Some(remedy),
        Ok(()) => None,
        Err(_) => return,
    };
    site.memory().unsafe_why = why;
}

/// The provisioner's own certificate, at half its life.
async fn renew(site: &Site, cluster: &Cluster) -> Result<()> {
    site.keys.renew_leaf(site.now())?;
    let Some(credential) = Credential::load(&site.dir)? else { return Ok(()) };
    let ends = credential.not_after().unwrap_or(Time(0));
    if ends.since(site.now()) < (45 * DAY).unsigned_abs() {
        let renewed = cluster.renew(&credential).await?;
        super::keys::save(&site.dir.join(FILE), &protocol::json::to_vec(&renewed))?;
    }
    Ok(())
}

fn node_view(machine: &Machine, view: Option<&View>) -> NodeView {
    let Some(view) = view else { return NodeView::Blind };
    let node = machine.node().and_then(|name| view.nodes.get(&name));
    node.map_or(NodeView::Absent, |node| NodeView::There { ready: node.ready })
}

/// One machine: its next life is saved before anything is done about it.
async fn one(
    site: &Arc<Site>,
    cluster: &Cluster,
    machine: Machine,
    view: Option<&View>,
    alive: bool,
) -> Result<()> {
    let (id, name, now) = (machine.id.clone(), site.name().to_owned(), site.now());
    let (word, node) = (site.word(), node_view(&machine, view));
    let look = site.store.look()?;
    let record: Option<Record> = look.get(RECORDS, &id)?;
    let nowhere = (decide::Offer::Full, None);
    let offer = record.as_ref().map(|record| admit::offer(&look, &machine, record, &word)).transpose()?;
    let (offer, _) = offer.unwrap_or(nowhere);
    let around = Around { record: record.as_ref(), site: &name, now, node, offer, alive, skew: None };
    let seen = machine.seen(&around);
    let mut next = machine.clone();
    if next.settle(&seen, now) {
        tracing::info!(machine = id, from = machine.life.word(), to = next.life.word(), "life");
        let saved = next.clone();
        let same = machine.generation;
        let moved = site.store.write(move |tx| {
            let found: Option<Machine> = tx.get(MACHINES, &saved.id)?;
            // A request may have moved it on meanwhile: then this look is stale, and the next one counts.
            let fresh = found.as_ref().is_some_and(|found| found.generation == same);
            if let Some(mut found) = found.filter(|_| fresh) {
                found.life = saved.life;
                found.since = saved.since;
                found.generation = saved.generation;
                tx.put(MACHINES, &saved.id, &found)?;
            }
            Ok(fresh)
        });
        if !moved.await? {
            return Ok(());
        }
    }
    former(site, cluster, &next, view).await?;
    for duty in decide::duties(next.life, &next.seen(&around)) {
        act(site, cluster, &next, duty.act, view).await?;
    }
    Ok(())
}

/// Nodes of former installations of a machine: denied, deleted, forgotten.
async fn former(site: &Site, cluster: &Cluster, machine: &Machine, view: Option<&View>) -> Result<()> {
    let Some(view) = view else { return Ok(()) };
    for node in &machine.former {
        leave(site, cluster, node, machine.kubelet_until, view).await?;
        let (id, node) = (machine.id.clone(), node.clone());
        site.store
            .write(move |tx| {
                let mut machine: Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
                machine.former.retain(|known| *known != node);
                tx.put(MACHINES, &id, &machine)
            })
            .await?;
    }
    Ok(())
}

/// A Node that is denied never comes back: its name is used for good, and a machine that returns makes a new key.
async fn deny(site: &Site, cluster: &Cluster, node: &str, until: Option<Time>) -> Result<()> {
    if site.store.look()?.get(NAMES, node)? != Some(NOBODY) {
        let name = node.to_owned();
        site.store.write(move |tx| tx.put(NAMES, &name, &NOBODY)).await?;
    }
    Ok(cluster.deny(node, until.unwrap_or(site.now().plus(YEAR))).await?)
}

async fn leave(site: &Site, cluster: &Cluster, node: &str, until: Option<Time>, view: &View) -> Result<()> {
    deny(site, cluster, node, until).await?;
    if let Some(seen) = view.nodes.get(node) {
        cluster.delete_node(node, &seen.uid).await?;
    }
    Ok(())
}

async fn act(site: &Site, cluster: &Cluster, machine: &Machine, act: Act, view: Option<&View>) -> Result<()> {
    let Some(node) = machine.node() else { return Ok(()) };
    match act {
        Act::DressNode => dress(site, cluster, machine, &node, view).await?,
        Act::ReportJoin if !machine.reported => report_join(site, machine, node).await?,
        Act::DenyNode => deny(site, cluster, &node, machine.kubelet_until).await?,
        Act::DeleteNode => {
            if let Some(seen) = view.and_then(|view| view.nodes.get(&node)) {
                cluster.delete_node(&node, &seen.uid).await?;
            }
        }
        Act::ReleaseSlot => release(site, machine).await?,
        Act::Alarm(code) => site.alarm(code.word(), &machine.id).await,
        // Slots are taken and keys refused where machines are admitted (M4); requests are signed where they come in (M8).
        Act::HoldSlot | Act::SignKubelet | Act::RefuseKey | Act::ReportJoin => {}
    }
    Ok(())
}

async fn dress(
    site: &Site,
    cluster: &Cluster,
    machine: &Machine,
    node: &str,
    view: Option<&View>,
) -> Result<()> {
    let (Some(slot), Some(seen)) = (&machine.slot, view.and_then(|view| view.nodes.get(node))) else {
        return Ok(());
    };
    let word = site.word();
    let Some(plan) = word.slots.get(slot) else { return Ok(()) };
    let mut labels = plan.labels.clone();
    labels.insert(format!("node-role.kubernetes.io/{}", plan.role.word()), String::new());
    labels.insert(SLOT_LABEL.to_owned(), slot.clone());
    labels.insert(MACHINE_LABEL.to_owned(), machine.id.clone());
    if labels.iter().any(|(name, value)| seen.labels.get(name) != Some(value)) {
        cluster.dress(node, &labels).await?;
    }
    Ok(())
}

async fn report_join(site: &Site, machine: &Machine, node: String) -> Result<()> {
    let (Some(s), Some(slot), id, at) = (machine.s, machine.slot.clone(), machine.id.clone(), site.now())
    else {
        return Ok(());
    };
    site.store
        .write(move |tx| {
            let mut machine: Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
            if !machine.reported {
                machine.reported = true;
                tx.put(MACHINES, &id, &machine)?;
                report::note(tx, &report::Event::Joined(Join { machine: id, s, slot, node, at }))?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

async fn release(site: &Site, machine: &Machine) -> Result<()> {
    let id = machine.id.clone();
    site.store
        .write(move |tx| {
            let mut machine: Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
            if let Some(slot) = machine.slot.take() {
                if tx.get::<String>(HOLDERS, &slot)?.as_ref() == Some(&id) {
                    tx.remove(HOLDERS, &slot)?;
                }
                machine.kubelet = KubeletState::None;
                tx.put(MACHINES, &id, &machine)?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}

/// Pending certificate requests: serving ones of our Nodes are judged, client ones that we did not create are denied.
async fn requests(site: &Site, cluster: &Cluster, view: &View) -> Result<()> {
    let machines: Vec<_> =
        site.machines()?.into_iter().filter(|machine| machine.kubelet == KubeletState::Issued).collect();
    let named = |name: &str| machines.iter().find(|machine| machine.node().as_deref() == Some(name));
    for object in cluster.pending().await? {
        if csr::is_not_ours(&object, cluster.user(), &|name| named(name).is_some()) {
            site.metrics.refusal(protocol::refusal::Refusal::CsrNotOurs.code());
            cluster.deny_foreign(object).await?;
            continue;
        }
        let Some(machine) = asking_node(&object).and_then(named) else { continue };
        if matches!(machine.life, Life::Retired(_) | Life::Replaced) {
            continue;
        }
        serving(site, cluster, object, machine, view).await?;
    }
    Ok(())
}

async fn serving(
    site: &Site,
    cluster: &Cluster,
    object: k8s_openapi::api::certificates::v1::CertificateSigningRequest,
    machine: &Machine,
    view: &View,
) -> Result<()> {
    let word = site.word();
    let node = machine.node().unwrap_or_default();
    let range =
        machine.slot.as_ref().and_then(|slot| word.slots.get(slot)?.cidr.as_deref().and_then(Range::parse));
    let slot_allows = |address: &IpAddr| range.is_none_or(|range| range.contains(address));
    let service = Range::parse(&word.site.cluster.service_cidr);
    let others: Vec<&str> = view
        .nodes
        .iter()
        .filter(|(name, _)| **name != node)
        .flat_map(|(_, node)| node.addresses.iter().map(String::as_str))
        .collect();
    let taken = |address: &IpAddr| {
        let text = address.to_string();
        let is_api = view.api.iter().any(|api| api.rsplit_once(':').is_some_and(|(host, _)| host == text));
        let network = &word.site.network;
        let reserved = network.reserved.contains(address) || network.dns.contains(address);
        is_api
            || reserved
            || others.contains(&text.as_str())
            || service.is_some_and(|range| range.contains(address))
    };
    let admitted =
        Admitted { node: &node, addresses: &machine.addresses, slot_allows: &slot_allows, taken: &taken };
    if let Err(refused) = cluster.decide_serving(object, &admitted).await? {
        tracing::warn!(machine = machine.id, id = refused.id(), %refused, "serving certificate denied");
        site.metrics.refusal(refused.refusal.code());
    }
    Ok(())
}
