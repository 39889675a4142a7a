//! The site: store, admission, controller, clock, admin interface.

pub mod admin; // the local socket by which people and programs ask and act
pub mod admit; // M2 to M4: who may come in
pub mod alarm; // what people are told of at once
pub mod alive; // who was heard of late
pub mod certify; // M5 to M9: certificates and configuration
pub mod claims; // M10: the human code
pub mod cli; // the command line
pub mod controller; // look, decide, record, act
pub mod disk; // M14: the second way to a machine's disk, and its end
pub mod explain; // in plain words
pub mod found; // which machine makes the cluster, and what is in it from the beginning
pub mod images; // of systems and of Kubernetes, by digest
pub mod inbox; // the one entrance for HQ's word
pub mod keys; // who the provisioner is
pub mod machine; // what is known of one machine
pub mod metrics; // what is counted
mod overwrite; // a disk with somebody's data, and a person's yes
pub mod posers; // who was refused as somebody else
pub mod rebuild; // a store that was lost
pub mod report; // what HQ is told
pub mod serve; // everything that runs beside each other
pub mod slots; // which machine gets which
pub mod status; // M11 and heartbeats
pub mod store; // what is remembered
pub mod updates; // what machines are to run
pub mod voice; // approvals by telephone
pub mod word; // HQ's word in force

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use anyhow::{Context, Result};
use protocol::anchors::Trust;
use protocol::attest::Binding;
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::messages::Clock;
use protocol::record::Record;
use protocol::refusal::{Refusal, Refused, Wait};

use self::keys::{KeptTrust, Keys};
use self::machine::Machine;
use self::store::{KEYS, Look, MACHINES, RECORDS, Store, StoreError};
use self::word::Word;
use crate::cluster::Cluster;
use crate::cluster::nodes::View;
use crate::plain;

/// Lines that are kept of who did what.
const AUDITED: u64 = 10_000;

/// Who speaks on a connection: verified by the handshake.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Hash of its node key.
    pub s: Digest,
    /// What binds its proofs to this connection.
    pub binding: Binding,
    /// Where it speaks from.
    pub source: SocketAddr,
}

/// An answer, or a reason to ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// The answer.
    Now(T),
    /// Why not yet, and after how many seconds to ask again.
    Wait(Wait, u32),
}

/// A machine whose current key speaks.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What is known of it.
    pub machine: Machine,
    /// Its registration.
    pub record: Record,
}

impl Bound {
    /// The same machine; its kubelet is of `version`, where it says so.
    pub(crate) fn running(mut self, version: &str) -> Self {
        if !version.is_empty() {
            self.machine.hw.kubelet = plain::word(version);
        }
        self
    }
}

/// Whose a node key is.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeyEntry {
    pub machine: String,
    pub current: bool,
}

/// What lasts only as long as the program runs.
#[derive(Default)]
pub(crate) struct Memory {
    pub claims: HashMap<[u8; 16], claims::Claim>,
    pub openings: claims::Openings,
    pub window_until: Time,
    pub wrong_codes: Vec<Time>,
    pub beats: HashMap<[u8; 8], status::Beats>,
    pub alarms: alarm::Alarms,
    pub posers: posers::Posers,
    pub view: Option<Arc<View>>,
    pub blind_why: String,
    pub unsafe_why: Option<String>,
    pub turn: updates::Turn,
}

/// The provisioner of one site.
pub struct Site {
    /// Where its files are.
    pub dir: PathBuf,
    /// What it remembers.
    pub store: Store,
    /// Who it is.
    pub keys: Keys,
    /// What it counts.
    pub metrics: metrics::Metrics,
    trust: RwLock<(Trust, Time)>,
    rebuild: RwLock<Option<rebuild::Stage>>,
    /// The highest bundle that a machine has proved to exist.
    behind: AtomicU64,
    word: RwLock<Arc<Word>>,
    cluster: RwLock<Option<Cluster>>,
    memory: Mutex<Memory>,
    pub(crate) alive: Arc<alive::Alive>,
    clock: fn() -> Time,
}

/// The computer's clock.
pub fn system_clock() -> Time {
    protocol::clock::system().unwrap_or_default()
}

pub(crate) fn broken(error: impl std::fmt::Display) -> Refused {
    tracing::error!(%error, "a request could not be served");
    Refused::new(Refusal::Broken, ' ', error.to_string())
}

impl Site {
    /// Opens a certified provisioner's folder.
    pub fn open(dir: &Path, clock: fn() -> Time) -> Result<Self> {
        let kept: KeptTrust =
            serde_json::from_slice(&std::fs::read(dir.join("trust.json")).context("reading trust.json")?)?;
        let now = clock().max(kept.floor);
        let keys = Keys::load(dir, now)?;
        let store = Store::open_or_make(&dir.join("store.redb"), |tx| rebuild::begin(tx, kept.bundle))?;
        let look = store.look()?;
        let word = Word::load(&look, &keys.identity.site)?;
        let rebuild = look.get(store::META, rebuild::STAGE)?;
        Ok(Self {
            dir: dir.to_owned(),
            store,
            keys,
            metrics: metrics::Metrics::default(),
            trust: RwLock::new((Trust::from_kept(&kept.kept)?, kept.floor)),
            rebuild: RwLock::new(rebuild),
            behind: AtomicU64::new(look.get(store::META, status::BEHIND)?.unwrap_or(0)),
            word: RwLock::new(Arc::new(word)),
            cluster: RwLock::new(None),
            memory: Mutex::new(Memory::default()),
            alive: Arc::default(),
            clock,
        })
    }

    /// The name of the site.
    pub fn name(&self) -> &str {
        &self.keys.identity.site
    }

    /// HQ's word in force.
    pub fn word(&self) -> Arc<Word> {
        Arc::clone(&self.word.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_word(&self, word: Word) {
        *self.word.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(word);
    }

    /// What is believed of HQ, and the latest time that HQ signed.
    pub fn trust(&self) -> (Trust, Time) {
        self.trust.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Saves and believes what bundle number `bundle` says.
    pub(crate) fn set_trust(&self, trust: Trust, floor: Time, bundle: u64) -> Result<()> {
        let kept = KeptTrust { kept: trust.kept().clone(), floor, bundle };
        keys::save(&self.dir.join("trust.json"), &protocol::json::to_vec(&kept))?;
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = (trust, floor);
        Ok(())
    }

    /// Where HQ has withdrawn the CA by which this provisioner is believed: that, and what to do.
    pub fn withdrawn(&self) -> Option<String> {
        let trust = self.trust().0;
        let chain = [&self.keys.issuing, &self.keys.site_ca];
        let cert = chain.into_iter().find(|cert| trust.withdrew_site(&cert.key_hash))?;
        Some(format!(
            "HQ has withdrawn {}, the CA of this provisioner: machines refuse it. Make a new one in a new folder: \
             `provisioner init --dir NEW --site {} --owner FILE`",
            cert.common_name,
            self.name()
        ))
    }

    pub(crate) fn warn_if_withdrawn(&self) {
        if let Some(why) = self.withdrawn() {
            tracing::error!(why, "nobody believes this provisioner");
        }
    }

    pub(crate) fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cluster, once attached.
    pub fn cluster(&self) -> Option<Cluster> {
        self.cluster.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is a cluster that machines may have Nodes in, connected or not yet.
    pub(crate) fn is_attached(&self) -> bool {
        self.cluster().is_some() || self.dir.join(crate::cluster::credential::FILE).exists()
    }

    /// Uses another connection from now on.
    pub fn set_cluster(&self, cluster: Option<Cluster>) {
        *self.cluster.write().unwrap_or_else(PoisonError::into_inner) = cluster;
    }

    /// Now: the clock, or the floor where the clock cannot be right.
    pub fn now(&self) -> Time {
        let floor = self.trust.read().unwrap_or_else(PoisonError::into_inner).1;
        protocol::clock::known_rtc(Some((self.clock)()), floor).unwrap_or(floor)
    }

    /// M6.
    pub fn clock(&self) -> Clock {
        let floor = self.trust.read().unwrap_or_else(PoisonError::into_inner).1;
        let known = protocol::clock::known_rtc(Some((self.clock)()), floor);
        Clock { now: known.unwrap_or(floor), uncertain: known.is_none() }
    }

    /// Every machine that the site knows.
    pub fn machines(&self) -> Result<Vec<Machine>, StoreError> {
        Ok(self.store.look()?.list::<Machine>(MACHINES)?.into_iter().map(|(_, machine)| machine).collect())
    }

    /// The registration called `id`.
    pub fn record(&self, id: &str) -> Result<Option<Record>, StoreError> {
        self.store.look()?.get(RECORDS, id)
    }

    /// The machine whose current key is `s`: R22, R32, R33.
    pub fn bound(&self, s: &Digest) -> Result<Bound, Refused> {
        let look = self.store.look().map_err(broken)?;
        let unproven = || Refused::from(Refusal::NotProven);
        let key: Option<KeyEntry> = look.get(KEYS, &s.to_string()).map_err(broken)?;
        let Some(key) = key else {
            self.check_rebuilt()?;
            return Err(unproven());
        };
        let record: Option<Record> = look.get(RECORDS, &key.machine).map_err(broken)?;
        let record = record.ok_or_else(unproven)?;
        admit::check_standing(&record, self.name(), self.now())?;
        if !key.current {
            return Err(Refusal::Superseded.into());
        }
        let machine: Option<Machine> = look.get(MACHINES, &key.machine).map_err(broken)?;
        let machine = machine.ok_or_else(unproven)?;
        machine.check_said()?;
        Ok(Bound { machine, record })
    }

    /// Notes who did what: the newest are kept.
    pub async fn audit(&self, who: &str, what: &str, outcome: &str) -> Result<(), StoreError> {
        let line = serde_json::json!({ "at": self.now(), "who": who, "what": what, "outcome": outcome });
        tracing::info!(who, what, outcome, "audit");
        let noted = self.store.write(move |tx| {
            let number = tx.append(store::AUDIT, "audit", &line)?;
            tx.remove(store::AUDIT, &store::number(number.saturating_sub(AUDITED)))
        });
        noted.await
    }
}
