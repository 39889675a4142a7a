//! Certificates and configuration for a machine that has proved itself: M5 to M9.

use std::net::{IpAddr, SocketAddr};

use protocol::bytes::Digest;
use protocol::clock::YEAR;
use protocol::csr::Csr;
use protocol::issue;
use protocol::messages::{Config, Outcome};
use protocol::refusal::{Refusal, Refused, Wait};

use super::admit::RETRY;
use super::machine::KubeletState;
use super::rebuild::Stage;
use super::slots::Eyes;
use super::store::{KEYS, KUBELETS, Look, MACHINES, NAMES};
use super::{Answer, Bound, KeyEntry, Peer, Site, broken, slots};
use crate::cluster::ClusterError;
use crate::model::Role;
use crate::plain;
use crate::render::{self, Order};

/// Where an API server listens.
const API_PORT: u16 = 6443;

/// An address that means the same machine everywhere on the site.
pub(crate) fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(four) => !four.is_loopback() && !four.is_link_local() && !four.is_unspecified(),
        IpAddr::V6(six) => !six.is_loopback() && !six.is_unicast_link_local() && !six.is_unspecified(),
    }
}

impl Site {
    /// M5: a node certificate for the machine's own key. R34.
    pub fn certify(&self, bound: &Bound, peer: &Peer, csr: &Csr) -> Result<Vec<Vec<u8>>, Refused> {
        if csr.key_hash != peer.s {
            return Err(Refused::new(
                Refusal::CsrKey,
                'a',
                "the request is for another key than the one that speaks",
            ));
        }
        let role = issue::Role::Node { machine: &bound.machine.id, life: YEAR };
        Ok(vec![self.keys.issue(&role, &csr.spki, self.now()).map_err(broken)?])
    }

    /// What `cacerts` answers: site CA, issuing CA, DER.
    pub fn ca_chain(&self) -> Vec<Vec<u8>> {
        vec![self.keys.site_ca.der.clone(), self.keys.issuing.der.clone()]
    }

    /// M7: everything the machine is to be.
    pub async fn config(&self, bound: Bound, peer: &Peer) -> Result<Answer<Config>, Refused> {
        if self.rebuild() == Some(Stage::Nodes) {
            return Ok(Answer::Wait(Wait::ClusterAway, RETRY));
        }
        let Some((slot, node)) = bound.machine.slot.clone().zip(bound.machine.node()) else {
            if matches!(self.sight().eyes, Eyes::Blind) {
                return Ok(Answer::Wait(Wait::ClusterAway, RETRY));
            }
            return Ok(Answer::Wait(bound.machine.wait_for_slot(&bound.record), RETRY));
        };
        let role = self.role(&bound, &slot)?;
        let owner: Option<Digest> =
            self.store.look().and_then(|look| look.get(NAMES, &node)).map_err(broken)?;
        if owner.is_some() && owner != bound.machine.s {
            return Err(Refusal::NameUsed.into());
        }
        let found = self.founds(&bound, &slot)?;
        let Some((api, cluster_ca)) = self.where_to_join(found, &slot) else {
            return Ok(Answer::Wait(Wait::ClusterAway, RETRY));
        };
        let source = peer.source.ip().to_canonical();
        let addresses = self.addresses(&bound, &slot, source);
        self.note_addresses(&bound, addresses).await?;
        let files =
            self.rendered(&bound, &slot, &node, Some(source).filter(is_global), cluster_ca.as_deref())?;
        Ok(Answer::Now(Config {
            machine: bound.machine.id,
            epoch: bound.record.epoch,
            site: self.name().to_owned(),
            slot,
            node,
            role: role.word().to_owned(),
            files,
            api,
            cluster_ca: cluster_ca.unwrap_or_default(),
            found,
        }))
    }

    /// API servers, and the CA of the cluster; none where the cluster cannot be seen. A cluster that is yet to be founded
    /// has one server, and no CA.
    fn where_to_join(&self, found: bool, slot: &str) -> Option<(Vec<String>, Option<String>)> {
        if found {
            let address = self.word().slots.get(slot)?.address?;
            return Some((vec![SocketAddr::new(address, API_PORT).to_string()], None));
        }
        let ca = self.cluster()?.ca_pem().to_owned();
        let api = self.memory().view.as_ref()?.api.clone();
        Some((api, Some(ca)))
    }

    /// What a machine is to do in its slot. A voice is not enough for some of it: R40d, whatever HQ made of the slot since.
    fn role(&self, bound: &Bound, slot: &str) -> Result<Role, Refused> {
        let role = self.word().slots.get(slot).map(|slot| slot.role).unwrap_or_default();
        if bound.record.by_voice() {
            super::voice::check_role(role)?;
        }
        Ok(role)
    }

    /// The files of a machine as they would be sent now.
    pub fn rendered(
        &self,
        bound: &Bound,
        slot: &str,
        node: &str,
        address: Option<IpAddr>,
        cluster_ca: Option<&str>,
    ) -> Result<Vec<protocol::messages::File>, Refused> {
        let word = self.word();
        let (profile, why) = word.profiles.of(&bound.machine.hw).ok_or_else(|| broken("no profile fits"))?;
        tracing::debug!(machine = bound.machine.id, profile = why, "profile");
        let order = Order {
            site: &word.site,
            slots: &word.slots,
            slot,
            node,
            profile,
            facts: &bound.machine.hw,
            address,
            cluster_ca,
        };
        render::render(&word.templates, &order).map_err(broken)
    }

    fn addresses(&self, bound: &Bound, slot: &str, source: IpAddr) -> Vec<IpAddr> {
        let fixed = self.word().slots.get(slot).and_then(|slot| slot.address);
        let mut addresses: Vec<_> = fixed.into_iter().chain(Some(source).filter(is_global)).collect();
        addresses.extend(bound.machine.addresses.iter().filter(|known| fixed.as_ref() == Some(*known)));
        addresses.dedup();
        addresses
    }

    async fn note_addresses(&self, bound: &Bound, addresses: Vec<IpAddr>) -> Result<(), Refused> {
        if bound.machine.addresses == addresses || addresses.is_empty() {
            return Ok(());
        }
        let id = bound.machine.id.clone();
        let noted = self.store.write(move |tx| {
            let mut machine: super::machine::Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
            machine.addresses = addresses;
            tx.put(MACHINES, &id, &machine)
        });
        noted.await.map_err(broken)
    }

    /// M8: the kubelet's client certificate. R24, R34b, R34c, R35, R36, R39.
    pub async fn kubelet(
        &self,
        bound: Bound,
        peer: &Peer,
        csr: &Csr,
    ) -> Result<Answer<Vec<Vec<u8>>>, Refused> {
        let bound = &bound;
        let Some(node) = bound.machine.node() else {
            return Ok(Answer::Wait(bound.machine.wait_for_slot(&bound.record), RETRY));
        };
        check_request(csr, &node, peer)?;
        self.role(bound, bound.machine.slot.as_deref().unwrap_or_default())?;
        if bound.machine.kubelet != KubeletState::Issued {
            self.check_current()?;
        }
        self.save_kubelet(bound, &node, csr).await?;
        if let Some(remedy) = self.memory().unsafe_why.clone() {
            return Err(Refused::new(Refusal::ClusterUnsafe, 'a', remedy));
        }
        let Some(cluster) = self.cluster() else { return Ok(Answer::Wait(Wait::ClusterAway, RETRY)) };
        if let Some(refused) = self.wrong_version(bound) {
            return Err(refused);
        }
        match cluster.sign_kubelet(&node, &csr.der).await {
            Ok(chain) => {
                self.issued(bound, &chain).await?;
                Ok(Answer::Now(chain))
            }
            Err(ClusterError::Unsafe { remedy }) => Err(Refused::new(Refusal::ClusterUnsafe, 'a', remedy)),
            Err(error) => {
                tracing::warn!(machine = bound.machine.id, node, %error, "no kubelet certificate yet");
                Ok(Answer::Wait(Wait::ClusterAway, RETRY))
            }
        }
    }

    /// Saves that the kubelet's certificate was issued, before the machine gets it.
    async fn issued(&self, bound: &Bound, chain: &[Vec<u8>]) -> Result<(), Refused> {
        let until =
            chain.first().and_then(|der| protocol::cert::Cert::parse(der).ok()).map(|cert| cert.not_after);
        let (id, sight) = (bound.machine.id.clone(), self.sight());
        let saved = self.store.write(move |tx| {
            let mut machine: super::machine::Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
            machine.kubelet = KubeletState::Issued;
            machine.kubelet_until = until.or(Some(sight.now));
            slots::place(tx, &mut machine, &sight)?;
            tx.put(MACHINES, &id, &machine)
        });
        saved.await.map_err(broken)
    }

    /// Saves what is asked for before the cluster is: a name and a key are used from here on, whatever comes after.
    async fn save_kubelet(&self, bound: &Bound, node: &str, csr: &Csr) -> Result<(), Refused> {
        let (id, node, s, key) =
            (bound.machine.id.clone(), node.to_owned(), bound.machine.s, csr.key_hash.to_string());
        let version = bound.machine.hw.kubelet.clone();
        let saved = self.store.write(move |tx| {
            let owner: Option<Digest> = tx.get(NAMES, &node)?;
            if owner.is_some() && owner != s {
                return Ok(Err(Refused::from(Refusal::NameUsed)));
            }
            if tx.get::<String>(KUBELETS, &key)?.is_some_and(|other| other != node)
                || tx.get::<KeyEntry>(KEYS, &key)?.is_some()
            {
                return Ok(Err(Refused::new(Refusal::CsrKey, 'c', "another Node has used this key")));
            }
            tx.put(NAMES, &node, &s)?;
            tx.put(KUBELETS, &key, &node)?;
            let mut machine: super::machine::Machine = tx.get(MACHINES, &id)?.unwrap_or_default();
            if machine.kubelet == KubeletState::None || machine.hw.kubelet != version {
                machine.kubelet = machine.kubelet.max(KubeletState::Asked);
                machine.hw.kubelet = version;
                tx.put(MACHINES, &id, &machine)?;
            }
            Ok(Ok(()))
        });
        saved.await.map_err(broken)?
    }

    /// A kubelet that does not fit the API server is not let in: its bank has to be switched first.
    fn wrong_version(&self, bound: &Bound) -> Option<Refused> {
        let why = match self.sight().skew(&bound.machine)? {
            decide::Skew::Fits => return None,
            decide::Skew::TooNew => "is newer than the API server",
            decide::Skew::TooOld => "is more than three minors older than the API server",
        };
        let remedy = format!("the kubelet on the machine ({}) {why}", bound.machine.hw.kubelet);
        Some(Refused::new(Refusal::ClusterUnsafe, 'c', remedy))
    }

    /// M9: how the join went on the machine. What went wrong there, people hear of here.
    pub async fn enrolled(&self, bound: &Bound, outcome: &Outcome) {
        let reason = plain::word(outcome.reason.as_deref().unwrap_or_default());
        let machine = &bound.machine.id;
        tracing::info!(machine, good = outcome.status, reason, "the machine says how its join went");
        if !outcome.status {
            self.alarm_said(&reason, decide::Alarm::JoinFailed, machine).await;
        }
    }
}

fn check_request(csr: &Csr, node: &str, peer: &Peer) -> Result<(), Refused> {
    if csr.key_hash == peer.s {
        return Err(Refused::new(Refusal::CsrKey, 'c', "the kubelet needs a key of its own"));
    }
    let name = format!("system:node:{node}");
    let organised = csr.organisations == ["system:nodes"];
    if csr.common_names != [name] || !organised || !csr.has_no_names() {
        let detail = format!("it names {:?} of {:?}", csr.common_names, csr.organisations);
        let detail = plain::sentence(&detail);
        return Err(Refused::new(Refusal::CsrName, ' ', detail));
    }
    Ok(())
}
