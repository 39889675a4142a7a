//! Look, decide, record, act: every tick makes every duty true again, so that a crash at any point loses nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use decide::{Act, Alarm, Life};
use protocol::clock::{DAY, Time, YEAR};
use protocol::report::Join;

use super::machine::{KubeletState, Machine};
use super::rebuild::NOBODY;
use super::slots::Sight;
use super::store::{HOLDERS, Look, MACHINES, NAMES};
use super::{Site, explain, report, slots};
use crate::cluster::changes::Changes;
use crate::cluster::credential::{Credential, FILE};
use crate::cluster::nodes::{MACHINE_LABEL, SLOT_LABEL, View};
use crate::cluster::serving::{Admitted, asking_node};
use crate::cluster::{Cluster, ClusterError, csr};
use crate::model::{Range, Role};

/// Between two ticks.
const TICK: Duration = Duration::from_millis(500);
/// Ticks between two looks at a cluster that says of no change, and between two checks whether it is still one in which only
/// we approve nodes.
const SAFETY_EVERY: u32 = 20;

/// Runs until the program ends.
pub async fn run(site: Arc<Site>) -> Result<()> {
    let mut contact = Contact::default();
    let mut count = 0u32;
    let mut is_unfinished = false;
    loop {
        if let Err(error) = contact.renew(&site) {
            tracing::error!(%error, "the credential for the cluster cannot be read");
        }
        if let Some(cluster) = site.cluster() {
            let done = tick(&site, &cluster, contact.has_news() || is_unfinished, count).await;
            is_unfinished = done.is_err();
            if let Err(error) = done {
                tracing::warn!(%error, "this tick could not be finished; the next one looks again");
            }
        }
        if let Err(error) = site.recall_no_nodes().await {
            tracing::error!(%error, "the store cannot be made again yet");
        }
        if let Err(error) = site.end_turn() {
            tracing::warn!(%error, "who waits for a turn that is over could not be called");
        }
        site.tell_of_more().await;
        if count.is_multiple_of(SAFETY_EVERY)
            && let Err(error) = site.keys.renew_leaf(site.now())
        {
            tracing::error!(%error, "the certificate of this provisioner could not be renewed");
        }
        count = count.wrapping_add(1);
        tokio::time::sleep(TICK).await;
    }
}

/// With the cluster, by the credential that there is.
#[derive(Default)]
struct Contact {
    attached: Option<std::time::SystemTime>,
    changes: Option<Changes>,
}

impl Contact {
    /// Uses a credential that `attach` has written or renewed since.
    fn renew(&mut self, site: &Site) -> Result<()> {
        let modified = std::fs::metadata(site.dir.join(FILE)).and_then(|file| file.modified()).ok();
        if modified == self.attached {
            return Ok(());
        }
        self.attached = modified;
        let credential = Credential::load(&site.dir)?;
        let cluster = credential.as_ref().map(Cluster::connect).transpose()?;
        self.changes = cluster.as_ref().map(Cluster::changes);
        site.set_cluster(cluster);
        Ok(())
    }

    /// Whether the cluster may be another one than at the last tick.
    fn has_news(&self) -> bool {
        self.changes.as_ref().is_some_and(Changes::take)
    }
}

async fn tick(site: &Arc<Site>, cluster: &Cluster, news: bool, count: u32) -> Result<()> {
    let known = site.memory().view.clone();
    let is_blind = !site.memory().blind_why.is_empty();
    let all = count.is_multiple_of(SAFETY_EVERY);
    // The API server of a small site runs on a small machine: one that has nothing to say is asked seldom.
    let is_due = news || all || is_blind || known.is_none();
    let view = if is_due { look(site, cluster, known.filter(|_| !all)).await } else { known };
    if let Some(view) = view.as_ref().filter(|_| is_due) {
        site.recall_nodes(cluster, view).await?;
    }
    if view.is_some() && all {
        check_safety(site, cluster).await;
        renew(site, cluster).await?;
        cluster.lift_expired(site.now()).await?;
    }
    let sight = site.sight();
    for machine in site.machines()? {
        one(site, cluster, machine, &sight, view.as_deref()).await?;
    }
    if let Some(view) = view.filter(|_| is_due) {
        requests(site, cluster, &view).await?;
    }
    Ok(())
}

/// What there is, or why it is not known.
async fn look(site: &Site, cluster: &Cluster, before: Option<Arc<View>>) -> Option<Arc<View>> {
    let looked = cluster.look(before.as_deref()).await;
    let mut memory = site.memory();
    match looked {
        Ok(view) => {
            let view = Arc::new(view);
            memory.view = Some(Arc::clone(&view));
            if !std::mem::take(&mut memory.blind_why).is_empty() {
                tracing::info!("the cluster answers again");
            }
            Some(view)
        }
        Err(error) => {
            if std::mem::replace(&mut memory.blind_why, error.to_string()).is_empty() {
                tracing::warn!(%error, "the cluster does not answer; nothing is judged until it does");
            }
            None
        }
    }
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
    let Some(credential) = Credential::load(&site.dir)? else { return Ok(()) };
    let ends = credential.not_after().unwrap_or(Time(0));
    if ends.since(site.now()) < (45 * DAY).unsigned_abs() {
        let renewed = cluster.renew(&credential).await?;
        super::keys::save(&site.dir.join(FILE), &protocol::json::to_vec(&renewed))?;
    }
    Ok(())
}

/// One machine: its next life and the slot that comes with it are saved before anything is done about them.
async fn one(
    site: &Arc<Site>,
    cluster: &Cluster,
    mut machine: Machine,
    sight: &Sight,
    view: Option<&View>,
) -> Result<()> {
    let (seen, _) = sight.of(&site.store.look()?, &machine)?;
    if decide::settle(machine.life, &seen) != machine.life {
        let (id, generation, sight) = (machine.id.clone(), machine.generation, sight.clone());
        let moved = site.store.write(move |tx| {
            // A request may have moved it on meanwhile: then this look is stale, and the next one counts.
            let found: Option<Machine> = tx.get(MACHINES, &id)?;
            let Some(mut found) = found.filter(|found| found.generation == generation) else {
                return Ok(None);
            };
            slots::place(tx, &mut found, &sight)?;
            tx.put(MACHINES, &id, &found)?;
            Ok(Some(found))
        });
        let Some(moved) = moved.await? else { return Ok(()) };
        let reason = explain::reason(site, &moved)?.code.word();
        tracing::info!(
            machine = machine.id,
            from = machine.life.word(),
            to = moved.life.word(),
            reason,
            "life"
        );
        machine = moved;
    }
    former(site, cluster, &machine, view).await?;
    let (seen, slot) = sight.of(&site.store.look()?, &machine)?;
    for duty in decide::duties(machine.life, &seen) {
        act(site, cluster, &machine, duty.act, slot.clone(), view).await?;
    }
    Ok(())
}

/// Nodes of former installations of a machine: denied, deleted, forgotten.
async fn former(site: &Site, cluster: &Cluster, machine: &Machine, view: Option<&View>) -> Result<()> {
    if view.is_none() {
        return Ok(());
    }
    for node in &machine.former {
        leave(site, cluster, node, machine.kubelet_until).await?;
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

async fn leave(site: &Site, cluster: &Cluster, node: &str, until: Option<Time>) -> Result<()> {
    deny(site, cluster, node, until).await?;
    Ok(cluster.delete_named(node).await?)
}

async fn act(
    site: &Site,
    cluster: &Cluster,
    machine: &Machine,
    act: Act,
    slot: Option<String>,
    view: Option<&View>,
) -> Result<()> {
    match act {
        Act::Alarm(code) => {
            site.alarm(Alarm::Reason(code), &machine.id).await;
            return Ok(());
        }
        Act::ReleaseSlot => {
            // The last look may be older than the Node.
            if let Some(node) = machine.node().filter(|_| machine.kubelet == KubeletState::Issued) {
                cluster.delete_named(&node).await?;
            }
            return release(site, machine).await;
        }
        Act::HoldSlot => return hold(site, machine, slot).await,
        // Keys are refused where machines are admitted (M4); requests are signed where they come in (M8).
        Act::SignKubelet | Act::RefuseKey => return Ok(()),
        Act::DressNode | Act::ReportJoin | Act::DenyNode | Act::DeleteNode => {}
    }
    let Some(node) = machine.node() else { return Ok(()) };
    match act {
        Act::DressNode => dress(site, cluster, machine, &node, view).await,
        Act::ReportJoin if !machine.reported => report_join(site, machine, node).await,
        Act::DenyNode => deny(site, cluster, &node, machine.kubelet_until).await,
        Act::DeleteNode => match view.and_then(|view| view.nodes.get(&node)) {
            Some(seen) => Ok(cluster.delete_node(&node, &seen.uid).await?),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Gives a machine that waits in vain the slot that has been found for it, unless another holds it meanwhile.
async fn hold(site: &Site, machine: &Machine, slot: Option<String>) -> Result<()> {
    let (Some(slot), id, generation) = (slot, machine.id.clone(), machine.generation) else { return Ok(()) };
    site.store
        .write(move |tx| {
            let found: Option<Machine> = tx.get(MACHINES, &id)?;
            let free = tx.bytes(HOLDERS, &slot)?.is_none();
            if let Some(mut found) = found.filter(|found| free && found.generation == generation) {
                slots::hold(tx, &mut found, slot)?;
                tx.put(MACHINES, &id, &found)?;
            }
            Ok(())
        })
        .await?;
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
    let (id, generation) = (machine.id.clone(), machine.generation);
    site.store
        .write(move |tx| {
            let found: Option<Machine> = tx.get(MACHINES, &id)?;
            let Some(mut machine) = found.filter(|found| found.generation == generation) else {
                return Ok(());
            };
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
    let plan = machine.slot.as_ref().and_then(|slot| word.slots.get(slot));
    // An API server's address is taken, but for the control-plane machine that HQ gave it to.
    let own = plan.filter(|plan| plan.role == Role::ControlPlane).and_then(|plan| plan.address);
    let range = plan.and_then(|plan| plan.cidr.as_deref().and_then(Range::parse));
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
        let gateway = network.gateway.as_ref() == Some(address);
        let reserved = gateway || network.reserved.contains(address) || network.dns.contains(address);
        is_api && own != Some(*address)
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
