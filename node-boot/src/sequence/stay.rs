//! After the join: the cluster's programs, the agent, renewals, until the program is ended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::cert::{Cert, MACHINE_URI};
use protocol::messages::Config;

use super::Awake;
use crate::console::{self, say, stands};
use crate::join::agent::{self, Beats};
use crate::join::{balancer, kubelet};
use crate::os::images;
use crate::os::network::Network;
use crate::os::supervise::{Service, Services};
use crate::site::enroll::{Proved, Step};
use crate::site::sign::{Sign, State};

/// What runs containers, as the configuration names it.
const RUNTIME: &str = "containerd";

impl Awake {
    /// Everything, and then the agent, until the program is ended.
    pub fn run(mut self) -> Result<()> {
        if self.at.system.is_some() {
            let dmi = &self.facts.dmi;
            let tpm = if self.identity.tpm.is_some() { "TPM" } else { "no TPM" };
            console::on_screen(&format!("{} {}, serial {}, {tpm}", dmi.vendor, dmi.product, dmi.serial));
            self.network = Some(Network::start(&self.at.root)?);
        }
        let servers = balancer::Servers::default();
        balancer::start(&servers)?;
        let mut services = None;
        // A machine that was a member before does not wait for the provisioner: its cluster may be all that works.
        if let Some(config) = self.at.state.load::<Config>("config.json")?
            && kubelet::current(&self.at.root, &config.node).is_some_and(|cert| cert.not_after > self.now())
        {
            servers.set(&config.api);
            // Without its address the cluster is out of reach, whether or not the provisioner is there.
            if let Some(network) = &self.network
                && let Err(error) = network.take(None)
            {
                say(&format!("The network is not as the site wants it: {error:#}."));
            }
            services = Some(self.start_services(&config)?);
        }
        let state = if services.is_some() { State::Joined } else { State::New };
        self.sign = Sign::up(&self.identity.node.key_hash(), state);
        loop {
            if let Err(error) = self.once(&servers, &mut services)
                && !crate::cli::stopping()
            {
                self.sign.say(State::Error);
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
        // A machine that came back under another name is another Node: what ran for the old one ends.
        if self.runs.as_ref() != Some(&config.node)
            && let Some(mut old) = services.take()
        {
            old.stop();
        }
        if services.is_none() {
            say("Starting the cluster's programs on this machine.");
            *services = Some(self.start_services(&config)?);
        }
        self.belief = agent::status(&mut proved, &self.setup(&self.trust()?))?;
        stands("This machine is part of the cluster. It needs nothing.");
        self.sign.say(State::Joined);
        self.stay(&mut proved, &config, services.as_ref())
    }

    /// The agent: until contact is lost, something is due, or the program is ended.
    fn stay(&mut self, proved: &mut Proved, config: &Config, services: Option<&Services>) -> Result<()> {
        let mut beats = Beats::over(proved)?;
        let since = Instant::now();
        // Headquarters' registration took over from one that the site had made: the certificate is to name it too.
        let mut renamed = self.is_renamed(config);
        loop {
            let well = services.is_none_or(Services::well);
            let due = kubelet::current(&self.at.root, &config.node)
                .is_none_or(|cert| kubelet::is_due(&cert, self.now()));
            let node = Cert::parse(&self.certificate()).ok();
            let half = node.is_some_and(|cert| {
                let life = i64::try_from(cert.not_after.since(cert.not_before)).unwrap_or(0);
                cert.common_name != "pledge" && self.now() >= cert.not_before.plus(life / 2)
            });
            if half || std::mem::take(&mut renamed) {
                self.renew(proved)?;
            }
            if beats.tick(well) || due || since.elapsed() > agent::HOURLY || crate::cli::stopping() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    fn is_renamed(&self, config: &Config) -> bool {
        let Ok(cert) = Cert::parse(&self.certificate()) else { return false };
        let named = cert.uris.iter().find_map(|uri| uri.strip_prefix(MACHINE_URI));
        named.is_some_and(|named| named != config.machine)
    }

    /// A new node certificate on a fresh connection, since the old one has been idle.
    fn renew(&mut self, proved: &mut Proved) -> Result<()> {
        *proved = self.enroll()?;
        let trust = self.trust()?;
        match proved.certificate(&self.setup(&trust), true)? {
            Step::Done(_) => Ok(()),
            Step::No(said) | Step::Wait(said, _) => bail!("{} ({})", said.text, said.reason),
            Step::Refused(refused) => bail!("{refused}"),
        }
    }

    fn start_services(&mut self, config: &Config) -> Result<Services> {
        let path = self.at.root.join("etc/node-boot/services.json");
        let text = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let services: Vec<Service> =
            serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
        self.runs = Some(config.node.clone());
        let is_ours = self.at.system.is_some();
        Services::start(services, |name| {
            if is_ours && name == RUNTIME {
                images::import();
            }
        })
    }
}
