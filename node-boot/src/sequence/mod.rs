//! The named steps, one after the other: discover, identify, enroll, configure, join. What each has done is on disk
//! before the next begins, so that a power cut costs at most one step.

mod depot; // a machine before it goes to its site
mod enroll; // voucher, proof, time, certificate
mod reach; // where the provisioner is
mod rewire; // the network that headquarters wants
mod shut; // a disk that does not open
mod stay; // after the join
mod voice; // an approval by telephone

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::anchors::Trust;
use protocol::cert::Cert;
use protocol::clock::{self, Time};
use protocol::inventory::Facts;
use protocol::messages::{Act, Config, Health, NoDisk, Outcome};
use protocol::refusal::{Refusal, Said};
use protocol::section::Depot;
use protocol::tpm::Spec;

use self::reach::AGAIN_AFTER_NO;
use crate::console::{say, stands};
use crate::join::update::Updates;
use crate::join::{agent, kubelet};
use crate::os::bank::{self, Banks};
use crate::os::init::System;
use crate::os::network::Network;
use crate::os::supervise::Services;
use crate::os::{disk, inventory};
use crate::owner::{Owner, images_of};
use crate::site::configure;
use crate::site::enroll::{Proved, Setup, Step};
use crate::site::identify::{Identity, begin_anew, identify};
use crate::site::own;
use crate::site::race::Shunned;
use crate::site::sign::Sign;
use crate::state::{Belief, State};
use crate::stop::pause;
use crate::trace::{self, Spent};

/// How long a machine without a disk for its system waits before it looks again.
const DISK_AGAIN: Duration = Duration::from_secs(10);
/// PID 1 ends this program sooner.
const PATIENCE_FOR_END: Duration = Duration::from_mins(5);

/// Where the machine's things are.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its state.
    pub state: State,
    /// The owner's file.
    pub owner: PathBuf,
    /// Its TPM.
    pub tpm: Option<Spec>,
    /// Its SMBIOS strings.
    pub dmi: PathBuf,
    /// Where configuration is written.
    pub root: PathBuf,
    /// A stick by which a person confirms an approval by voice; else the terminal is asked.
    pub stick: Option<PathBuf>,
    /// How long a voucher is looked for before a voice can stand in for it.
    pub patience: Duration,
    /// Where the system runs from, where the whole of it is ours; none on somebody else's.
    pub system: Option<System>,
    /// The files of the stick; none where a provisioner on this machine is somebody else's business.
    pub kit: Option<PathBuf>,
    /// How long a plan of the network is on trial.
    pub trial: Duration,
}

/// A machine that is awake: keys, belief, facts.
pub struct Awake {
    /// Where its things are.
    pub at: Machine,
    /// Its keys and names.
    pub identity: Identity,
    /// What it believes.
    pub belief: Belief,
    /// What it is made of.
    pub facts: Facts,
    kubelet: inventory::Kubelet,
    addresses: Vec<String>,
    depot: Option<Depot>,
    shunned: Shunned,
    /// Whether a person waits for the end of one step: then a no ends it.
    pub by_hand: bool,
    /// The last no, by whomever, since somebody let this machine wait.
    no: Option<String>,
    /// When others were asked last while a site let this machine wait.
    looked: Option<Instant>,
    /// The network, where it is ours.
    network: Option<Network>,
    /// The provisioner on this very machine.
    own: Option<Services>,
    /// The Node that the cluster's programs run for.
    runs: Option<String>,
    /// Images, where the machine was installed by us.
    updates: Option<Updates>,
    voice: voice::Voice,
    sign: Sign,
    /// Why the machine's own state is not in use, where it has one.
    shut: Option<disk::Shut>,
}

impl Machine {
    /// Wakes up: reads or makes keys, reads the owner's file.
    pub fn wake(&self) -> Result<Awake> {
        let kubelet = inventory::Kubelet::ask();
        let mut facts = inventory::look(&self.dmi, self.tpm.is_some());
        let shut = self.system.and_then(|_| disk::Shut::found());
        if self.system.is_some() {
            facts.state = shut.as_ref().map_or_else(|| disk::kept().to_owned(), |shut| shut.why.clone());
        }
        let owner = Owner::read(&self.owner, self.system)?;
        // Addresses come while keys are made.
        let first = owner.network.clone().into();
        let network = |_| Network::start(&self.root, &self.state, first, self.trial);
        let network = self.system.map(network).transpose()?;
        trace::ended("hardware, owner, network", Spent::Own);
        let identity = identify(&self.state, self.tpm.as_ref(), &facts)?;
        trace::ended("keys", Spent::Tpm);
        let belief = self.belief(&owner)?;
        let (at, shunned) = (self.clone(), Shunned::default());
        let voice = voice::Voice::new(self.stick.as_deref());
        let sign = Sign::default();
        Ok(Awake {
            at,
            identity,
            belief,
            facts,
            kubelet,
            addresses: owner.addresses,
            depot: owner.depot,
            shunned,
            by_hand: false,
            no: None,
            looked: None,
            network,
            own: None,
            runs: None,
            updates: None,
            voice,
            sign,
            shut,
        })
    }

    /// What to believe; where an image has changed that, it is on disk before anybody is asked anything.
    fn belief(&self, owner: &Owner) -> Result<Belief> {
        let stored = self.state.load::<Belief>("belief.json")?;
        if let Some(words) = owner.is_old(stored.as_ref()) {
            say(&words);
        }
        let belief = owner.belief(stored.as_ref())?;
        if stored.is_some_and(|stored| protocol::json::to_vec(&stored) != protocol::json::to_vec(&belief)) {
            self.state.save("belief.json", &belief)?;
        }
        Ok(belief)
    }
}

impl Awake {
    fn trust(&self) -> Result<Trust> {
        Trust::from_kept(&self.belief.kept).map_err(anyhow::Error::new)
    }

    fn certificate(&self) -> Vec<u8> {
        let node = self.at.state.bytes("node.der").ok().flatten();
        let own = node
            .filter(|der| Cert::parse(der).is_ok_and(|cert| cert.key_hash == self.identity.node.key_hash()));
        own.unwrap_or_else(|| self.identity.pledge.clone())
    }

    fn now(&self) -> Time {
        clock::known_rtc(clock::system(), self.belief.floor).unwrap_or(self.belief.floor)
    }

    fn setup<'a>(&'a self, trust: &'a Trust) -> Setup<'a> {
        Setup {
            identity: &self.identity,
            belief: &self.belief,
            trust,
            facts: &self.facts,
            rtc: clock::system(),
            state: &self.at.state,
        }
    }

    /// M7: receives and writes what the machine is to be.
    pub fn configure(&mut self, proved: &mut Proved) -> Result<Config> {
        loop {
            match configure::ask(proved, &self.belief)? {
                Step::Done(config) => {
                    configure::write(&self.at.state, &self.at.root, &config)?;
                    if let Some(none) = self.settle(proved, &config)? {
                        self.without_disk(proved, &config, &none)?;
                        continue;
                    }
                    say(&format!(
                        "This machine is {} of site {} (Node {}).",
                        config.slot, config.site, config.node
                    ));
                    return Ok(config);
                }
                Step::Wait(said, after) => {
                    stands(&said.text);
                    pause(Duration::from_secs(after))?;
                }
                Step::No(said) => {
                    if said.reason == Refusal::NotControlPlane.code() {
                        // Another provisioner may know a cluster that this one, of this very machine perhaps, has lost.
                        self.avoid(proved.talk().address()?, AGAIN_AFTER_NO);
                    }
                    return self.turned_away(&said);
                }
                Step::Refused(refused) => bail!("{refused}"),
            }
        }
    }

    /// On a machine that is all ours: its system goes on its disk, and its network is what the site says. Where there is
    /// no disk for it: what was found.
    fn settle(&mut self, proved: &mut Proved, config: &Config) -> Result<Option<NoDisk>> {
        let Some(system) = self.at.system else { return Ok(None) };
        if system == System::Live {
            let none = self.install(proved)?;
            if none.is_some() {
                return Ok(none);
            }
            shut::start_anew("The system is on the disk. Starting from there.")?;
        }
        self.rewire(proved, &config.api)?;
        Ok(None)
    }

    /// Says which disks there are, to the site too, and waits. Where a person has said yes to one of them, it is emptied.
    fn without_disk(&mut self, proved: &mut Proved, config: &Config, none: &NoDisk) -> Result<()> {
        stands(&no_disk(none, &config.node, self.own.is_some()));
        let health = Health { no_disk: Some(none.clone()), ..self.health("install") };
        let told = agent::status(proved, &self.setup(&self.trust()?), health)?;
        self.belief = told.belief;
        let yes = told.orders.into_iter().find_map(|order| match order.act {
            Act::Overwrite { mark } => none.marks.contains(&mark).then_some(mark),
            _ => None,
        });
        if let Some(mark) = yes
            && disk::overwrite(&self.at.root.join(disk::RULE), &mark)?
        {
            say(&format!("Somebody at the site said that disk {mark} may be overwritten: it is empty now."));
            return Ok(());
        }
        // A person may empty a disk meanwhile, or headquarters change its rule.
        pause(DISK_AGAIN)
    }

    fn install(&mut self, proved: &mut Proved) -> Result<Option<NoDisk>> {
        let banks =
            Banks::installed(&images_of(&self.at.owner)?).context("the stick does not say what is on it")?;
        self.at.state.save(bank::FILE, &banks)?;
        let system = disk::System {
            rule: &self.at.root.join(disk::RULE),
            folders: &[self.at.state.folder(), Path::new(own::FOLDER)],
            banks: &banks,
            tpm: self.identity.tpm.as_ref().map(|chip| &*chip.tpm),
        };
        let (trust, state) = (self.trust()?, &self.at.state);
        let setup = Setup {
            identity: &self.identity,
            belief: &self.belief,
            trust: &trust,
            facts: &self.facts,
            rtc: clock::system(),
            state,
        };
        let mut site = shut::Keys { proved, setup };
        let (own, mut held) = (&mut self.own, false);
        // What the provisioner on this machine has written goes along, once it writes no more.
        let hold_still = || {
            let mut own = own.take();
            held = own.is_some();
            own.iter_mut().for_each(Services::stop);
        };
        let done = disk::install(&system, &mut site, hold_still);
        if held && done.is_err() {
            // The machine may have no other one to be installed by.
            self.start_own();
        }
        done
    }

    /// A name that was used before is used for good: this installation is over, and a new one begins with a new key.
    fn turned_away<T>(&mut self, said: &Said) -> Result<T> {
        if said.reason == Refusal::NameUsed.code() {
            begin_anew(&self.at.state)?;
            self.identity = identify(&self.at.state, self.at.tpm.as_ref(), &self.facts)?;
        }
        stands(&format!("{} ({})", said.text, said.reason));
        bail!("{} ({})", said.text, said.reason)
    }

    /// M8 and M9: the kubelet's certificate.
    pub fn join(&mut self, proved: &mut Proved, config: &Config) -> Result<()> {
        self.facts.kubelet = self.kubelet.version();
        let current = kubelet::current(&self.at.root, &config.node);
        if current.is_some_and(|cert| !kubelet::is_due(&cert, self.now())) {
            return Ok(());
        }
        loop {
            match kubelet::obtain(proved, &self.at.state, &self.at.root, config, &self.facts.kubelet)? {
                Step::Done(until) => {
                    say(&format!("The cluster has signed this machine's certificate, good until {until}."));
                    return proved.joined(&Outcome { version: 1, status: true, reason: None });
                }
                Step::Wait(said, after) => {
                    stands(&said.text);
                    // What it waits for may be another kubelet.
                    self.kubelet.ask_again();
                    pause(Duration::from_secs(after))?;
                    self.facts.kubelet = self.kubelet.version();
                }
                Step::No(said) => return self.turned_away(&said),
                Step::Refused(refused) => bail!("{refused}"),
            }
        }
    }
}

/// For whoever stands before a machine that may use none of its disks. Where its own provisioner is the only one, nobody can say
/// anything to that.
fn no_disk(none: &NoDisk, node: &str, is_own: bool) -> String {
    let found = &none.found;
    let mark = match none.marks.as_slice() {
        [] => return found.clone(),
        _ if is_own => return format!("{found} Or empty one of these on another computer."),
        [one] => one.as_str(),
        _ => "DISK",
    };
    format!(
        "{found} Or have somebody at the site say that what it holds may be overwritten: `provisioner approve --machine {node} \
         --overwrite {mark}`."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_before_a_machine_without_a_disk_reads_what_can_be_done() {
        let none = |marks: &[&str], is_own| {
            let marks = marks.iter().map(|mark| (*mark).to_owned()).collect();
            no_disk(&NoDisk { found: "There is no disk.".into(), marks }, "node-1-k3v9q2", is_own)
        };
        assert_eq!(none(&[], false), "There is no disk.");
        assert!(none(&["1a2b3c4d"], true).ends_with("on another computer."), "nobody is there to say it to");
        assert!(
            none(&["1a2b3c4d", "5e6f7a8b"], false).ends_with("--overwrite DISK`."),
            "which one is for a person to say"
        );
        let said = none(&["1a2b3c4d"], false);
        assert!(
            said.ends_with("`provisioner approve --machine node-1-k3v9q2 --overwrite 1a2b3c4d`."),
            "{said}"
        );
    }
}
