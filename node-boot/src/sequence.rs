//! The named steps, one after the other: discover, identify, enroll, configure, join. What each has done is on disk
//! before the next begins, so that a power cut costs at most one step.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::anchors::Trust;
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::inventory::Facts;
use protocol::messages::{Config, Message, Outcome};
use protocol::refusal::{Refused, Said};
use protocol::tpm::Spec;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::console::{say, show_code};
use crate::join::agent::{self, Beats};
use crate::join::{balancer, kubelet};
use crate::os::supervise::{Service, Services};
use crate::os::{clock, inventory};
use crate::site::discover::{self, Candidate};
use crate::site::enroll::{self, Proved, Setup, Step, Unproven};
use crate::site::http::Conversation;
use crate::site::identify::{Identity, identify};
use crate::site::{claim, configure, tls};
use crate::state::{Belief, State};

/// How long one round of asking the LAN takes at first, and at most.
const FIRST_ROUND: Duration = Duration::from_millis(250);
const LONGEST_ROUND: Duration = Duration::from_mins(1);
/// How long a provisioner that was refused is not asked again.
const REFUSED_FOR: Duration = Duration::from_mins(10);
/// How long one that said no is not asked again.
const AGAIN_AFTER_NO: Duration = Duration::from_secs(10);

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
}

/// The owner's file: anchors, and addresses to ask first.
#[derive(Deserialize)]
struct Owner {
    anchors: Box<RawValue>,
    #[serde(rename = "image-time")]
    image_time: Time,
    #[serde(default)]
    addresses: Vec<String>,
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
    addresses: Vec<String>,
    refused: HashMap<SocketAddr, Instant>,
}

impl Machine {
    /// Wakes up: reads or makes keys, reads the owner's file.
    pub fn wake(&self) -> Result<Awake> {
        let facts = inventory::look(&self.dmi, self.tpm.is_some());
        let identity = identify(&self.state, self.tpm.as_ref(), &facts)?;
        let owner = std::fs::read(&self.owner).with_context(|| {
            format!(
                "reading {}: a machine without its owner's file cannot know whom to believe",
                self.owner.display()
            )
        })?;
        let owner: Owner =
            serde_json::from_slice(&owner).with_context(|| format!("reading {}", self.owner.display()))?;
        let belief = self.belief(&owner)?;
        let at = self.clone();
        Ok(Awake { at, identity, belief, facts, addresses: owner.addresses, refused: HashMap::new() })
    }

    fn belief(&self, owner: &Owner) -> Result<Belief> {
        let image = Trust::from_image(owner.anchors.get()).map_err(anyhow::Error::new)?;
        let mut belief = match self.state.load::<Belief>("belief.json")? {
            Some(belief) => belief,
            None => {
                Belief { kept: image.kept().clone(), floor: Time(0), voucher: None, index: None, bundle: 0 }
            }
        };
        // A new image's word counts where it is younger than the one in force.
        let stored = Trust::from_kept(&belief.kept).map_err(anyhow::Error::new)?;
        if owner.image_time > stored.created_on() && image.anchors_seq() > stored.anchors_seq() {
            belief.kept = image.kept().clone();
        }
        belief.floor = belief.floor.max(image.created_on()).max(owner.image_time);
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
        protocol::clock::known_rtc(clock::rtc(), self.belief.floor).unwrap_or(self.belief.floor)
    }

    /// Connects to the first provisioner of our owner that answers, asking until there is one.
    pub fn discover(&mut self) -> Result<Conversation> {
        let mut round = FIRST_ROUND;
        loop {
            let last: Option<String> = self.at.state.load("last.json")?;
            let mut known = discover::known(last.as_slice(), "known from before");
            known.extend(discover::known(&self.addresses, "named by the owner"));
            for candidate in known {
                if let Some(talk) = self.try_one(&candidate)? {
                    return Ok(talk);
                }
            }
            if discover::interfaces().is_empty() {
                say("No network: please check the cable.");
            } else {
                say("Looking for this site's provisioner on the network.");
            }
            let mut found = None;
            let mut failed = None;
            discover::ask(round, |candidate| match self.try_one(candidate) {
                Ok(talk) => {
                    found = talk;
                    found.is_some()
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            })?;
            if let Some(talk) = found {
                return Ok(talk);
            }
            if let Some(error) = failed {
                say(&format!("A provisioner answered, but could not be talked to: {error:#}."));
            }
            round = (round * 2).min(LONGEST_ROUND);
        }
    }

    fn try_one(&mut self, candidate: &Candidate) -> Result<Option<Conversation>> {
        if self.refused.get(&candidate.address).is_some_and(|until| Instant::now() < *until) {
            return Ok(None);
        }
        let (trust, certificate) = (self.trust()?, self.certificate());
        let own = tls::Own { key: &self.identity.node, certificate: &certificate };
        match tls::connect(candidate.address, &own, &trust, self.belief.floor, clock::rtc()) {
            Ok(Ok(link)) => {
                self.at.state.save("last.json", &candidate.address.to_string())?;
                say(&format!("Found the provisioner at {} ({}).", candidate.address, candidate.by));
                Ok(Some(Conversation::over(link)))
            }
            Ok(Err(refused)) => {
                self.avoid(candidate.address, REFUSED_FOR);
                say(&format!("{} ({} at {})", refused.refusal.sentence(), refused.id(), candidate.address));
                Ok(None)
            }
            Err(_) => Ok(None),
        }
    }

    /// Enrolls: voucher, proof, time, certificate. Goes on where it stopped; asks again as long as it is told to.
    pub fn enroll(&mut self) -> Result<Proved> {
        let mut claimed = false;
        loop {
            let talk = self.discover()?;
            match self.enroll_over(talk, &mut claimed) {
                Ok(Some(proved)) => return Ok(proved),
                Ok(None) => {}
                Err(error) => {
                    say(&format!("The conversation broke off: {error:#}. Trying again."));
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }

    fn enroll_over(&mut self, talk: Conversation, claimed: &mut bool) -> Result<Option<Proved>> {
        let address = talk.address()?;
        let mut unproven = Unproven::new(talk);
        if self.belief.voucher.is_some() {
            match unproven.by_pin(&self.setup(&self.trust()?)) {
                Ok(mut proved) => {
                    return Ok(self.prove_and_certify(&mut proved, address)?.then_some(proved));
                }
                Err(back) => unproven = back.0,
            }
        }
        let trust = self.trust()?;
        let request = unproven.request(&self.setup(&trust))?;
        loop {
            let (back, step) = unproven.voucher(&self.setup(&trust), &request)?;
            match (back, step) {
                (_, Step::Done((mut proved, belief))) => {
                    self.belief = belief;
                    return Ok(self.prove_and_certify(&mut proved, address)?.then_some(proved));
                }
                (Some(again), Step::Wait(said, after)) => {
                    unproven = again;
                    if said.reason == "unknown" && !*claimed {
                        *claimed = self.claim(&mut unproven, &trust)?;
                    } else {
                        say(&said.text);
                    }
                    std::thread::sleep(Duration::from_secs(after));
                }
                (_, Step::No(said)) => {
                    self.no(address, &said);
                    return Ok(None);
                }
                (_, Step::Refused(refused)) => {
                    self.we_refuse(address, &refused);
                    return Ok(None);
                }
                (None, _) => bail!("the conversation ended"),
            }
        }
    }

    fn setup<'a>(&'a self, trust: &'a Trust) -> Setup<'a> {
        Setup {
            identity: &self.identity,
            belief: &self.belief,
            trust,
            facts: &self.facts,
            rtc: clock::rtc(),
            state: &self.at.state,
        }
    }

    fn claim(&self, unproven: &mut Unproven, trust: &Trust) -> Result<bool> {
        match claim::open(unproven.talk(), &self.setup(trust))? {
            Step::Done(code) => {
                show_code(&code.to_string());
                Ok(true)
            }
            Step::Wait(said, _) | Step::No(said) => {
                say(&said.text);
                Ok(false)
            }
            Step::Refused(refused) => {
                say(refused.refusal.sentence());
                Ok(false)
            }
        }
    }

    /// The provisioner says no. Another one may say otherwise; this one is asked again in a while, since HQ may change
    /// its mind.
    fn no(&mut self, address: SocketAddr, said: &Said) {
        say(&format!("{} ({})", said.text, said.reason));
        self.avoid(address, AGAIN_AFTER_NO);
        std::thread::sleep(Duration::from_secs(1));
    }

    /// We say no.
    fn we_refuse(&mut self, address: SocketAddr, refused: &Refused) {
        say(&format!("{} ({})", refused.refusal.sentence(), refused.id()));
        self.avoid(address, REFUSED_FOR);
    }

    fn avoid(&mut self, address: SocketAddr, pause: Duration) {
        self.refused.insert(address, Instant::now() + pause);
    }

    /// M4, M6, M5 on a connection that has proved itself; whether it is done.
    fn prove_and_certify(&mut self, proved: &mut Proved, address: SocketAddr) -> Result<bool> {
        let trust = self.trust()?;
        let certified = self.certificate() != self.identity.pledge;
        let step = if certified { None } else { Some(enroll::prove(&mut proved.talk, &self.setup(&trust))?) };
        match step {
            None | Some(Step::Done(_)) => {}
            Some(Step::Wait(said, after)) => {
                say(&said.text);
                std::thread::sleep(Duration::from_secs(after));
                return Ok(false);
            }
            Some(Step::No(said)) => {
                self.no(address, &said);
                return Ok(false);
            }
            Some(Step::Refused(refused)) => {
                self.we_refuse(address, &refused);
                return Ok(false);
            }
        }
        match enroll::time(&mut proved.talk)? {
            Step::Done(_) => {}
            // The site has forgotten us, or has locked us out: the proof is given again.
            Step::No(said) if said.reason == "not-proven" => {
                self.at.state.remove("node.der")?;
                return Ok(false);
            }
            Step::No(said) | Step::Wait(said, _) => {
                self.no(address, &said);
                return Ok(false);
            }
            Step::Refused(refused) => {
                self.we_refuse(address, &refused);
                return Ok(false);
            }
        }
        if certified {
            return Ok(true);
        }
        match enroll::certificate(&mut proved.talk, &self.setup(&trust), &self.belief, false)? {
            Step::Done(_) => {
                say("The site has accepted this machine.");
                Ok(true)
            }
            Step::No(said) | Step::Wait(said, _) => {
                self.no(address, &said);
                Ok(false)
            }
            Step::Refused(refused) => {
                self.we_refuse(address, &refused);
                Ok(false)
            }
        }
    }

    /// M7: receives and writes what the machine is to be.
    pub fn configure(&mut self, proved: &mut Proved) -> Result<Config> {
        loop {
            match configure::ask(&mut proved.talk, &self.belief, None)? {
                Step::Done(config) => {
                    configure::write(&self.at.state, &self.at.root, &config)?;
                    say(&format!(
                        "This machine is {} of site {} (Node {}).",
                        config.slot, config.site, config.node
                    ));
                    return Ok(config);
                }
                Step::Wait(said, after) => {
                    say(&said.text);
                    std::thread::sleep(Duration::from_secs(after));
                }
                Step::No(said) => bail!("{} ({})", said.text, said.reason),
                Step::Refused(refused) => bail!("{refused}"),
            }
        }
    }

    /// M8 and M9: the kubelet's certificate.
    pub fn join(&mut self, proved: &mut Proved, config: &Config) -> Result<()> {
        let current = kubelet::current(&self.at.root, &config.node);
        if current.is_some_and(|cert| !kubelet::is_due(&cert, self.now())) {
            return Ok(());
        }
        loop {
            match kubelet::obtain(&mut proved.talk, &self.at.state, &self.at.root, config)? {
                Step::Done(until) => {
                    say(&format!("The cluster has signed this machine's certificate, good until {until}."));
                    let outcome = Outcome { version: 1, status: true, reason: None };
                    proved.talk.json(Message::EnrollStatus, "", &outcome)?;
                    return Ok(());
                }
                Step::Wait(said, after) => {
                    say(&said.text);
                    std::thread::sleep(Duration::from_secs(after));
                }
                Step::No(said) => bail!("{} ({})", said.text, said.reason),
                Step::Refused(refused) => bail!("{refused}"),
            }
        }
    }

    /// Everything, and then the agent, until the program is ended.
    pub fn run(mut self) -> Result<()> {
        let servers = balancer::Servers::default();
        balancer::start(&servers)?;
        let mut services = None;
        // A machine that was a member before does not wait for the provisioner: its cluster may be all that works.
        if let Some(config) = self.at.state.load::<Config>("config.json")?
            && kubelet::current(&self.at.root, &config.node).is_some_and(|cert| cert.not_after > self.now())
        {
            servers.set(&config.api);
            services = Some(start_services(&self.at.root)?);
        }
        loop {
            if let Err(error) = self.once(&servers, &mut services) {
                say(&format!("{error:#}. Trying again."));
                std::thread::sleep(Duration::from_secs(2));
            }
            if crate::cli::stopping() {
                if let Some(mut services) = services {
                    services.stop();
                }
                return Ok(());
            }
        }
    }

    fn once(&mut self, servers: &balancer::Servers, services: &mut Option<Services>) -> Result<()> {
        let mut proved = self.enroll()?;
        let config = self.configure(&mut proved)?;
        self.join(&mut proved, &config)?;
        servers.set(&config.api);
        if services.is_none() {
            say("Starting the cluster's programs on this machine.");
            *services = Some(start_services(&self.at.root)?);
        }
        let last = agent::status(&mut proved.talk, &self.at.state, &self.belief, &self.facts.kubelet)?;
        self.belief = last.unwrap_or_else(|| self.belief.clone());
        say("This machine is part of the cluster. It needs nothing.");
        self.stay(&mut proved, &config, services)
    }

    /// The agent: until contact is lost, something is due, or the program is ended.
    fn stay(&mut self, proved: &mut Proved, config: &Config, services: &mut Option<Services>) -> Result<()> {
        let mut beats = Beats::over(&proved.talk)?;
        let since = Instant::now();
        loop {
            if let Some(services) = services {
                services.watch();
            }
            let well = services.as_ref().is_none_or(Services::well);
            let due = kubelet::current(&self.at.root, &config.node)
                .is_none_or(|cert| kubelet::is_due(&cert, self.now()));
            let node = Cert::parse(&self.certificate()).ok();
            let half = node.is_some_and(|cert| {
                let life = i64::try_from(cert.not_after.since(cert.not_before)).unwrap_or(0);
                cert.common_name != "pledge" && self.now() >= cert.not_before.plus(life / 2)
            });
            if half {
                self.renew(proved)?;
            }
            if beats.tick(well) || due || since.elapsed() > agent::HOURLY || crate::cli::stopping() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A new node certificate on a fresh connection, since the old one has been idle.
    fn renew(&mut self, proved: &mut Proved) -> Result<()> {
        *proved = self.enroll()?;
        let trust = self.trust()?;
        match enroll::certificate(&mut proved.talk, &self.setup(&trust), &self.belief, true)? {
            Step::Done(_) => Ok(()),
            Step::No(said) | Step::Wait(said, _) => bail!("{} ({})", said.text, said.reason),
            Step::Refused(refused) => bail!("{refused}"),
        }
    }
}

fn start_services(root: &Path) -> Result<Services> {
    let path = root.join("etc/node-boot/services.json");
    let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let services: Vec<Service> =
        serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    Services::start(services)
}
