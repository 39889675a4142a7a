//! After the join: the cluster's programs, the agent, renewals, until the program is ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use protocol::cert::{Cert, MACHINE_URI};
use protocol::inventory::SecureBoot;
use protocol::messages::{Act, Config, Health, Order};

use super::{Awake, shut};
use crate::console::{self, rests, say, stands};
use crate::join::agent::{self, Beats};
use crate::join::update::{Reach, Updates};
use crate::join::{balancer, found, kubelet};
use crate::os::bank::{self, Keeper};
use crate::os::init::System;
use crate::os::network::Network;
use crate::os::supervise::{Handle, Service, Services};
use crate::os::{disk, images, secure};
use crate::site::enroll::{Proved, Step};
use crate::site::own::{self, Setting};
use crate::site::sign::{Sign, State};
use crate::stop::{pause, stopping};
use crate::trace::{self, Spent};

/// The service that runs containers, as the configuration names it.
const RUNTIME: &str = "containerd";
/// After something went wrong.
const AGAIN: Duration = Duration::from_secs(2);
/// After so long without a word the provisioner may have ended the conversation.
const SILENT: Duration = Duration::from_secs(10);
/// Between two looks at what is due.
const GLANCE: Duration = Duration::from_millis(200);

impl Awake {
    /// Everything, and then the agent, until the program is ended.
    pub fn run(mut self) -> Result<()> {
        if self.at.system.is_some() {
            self.introduce();
            if let Some(depot) = self.at_depot()? {
                return self.make_ready(&depot);
            }
        }
        if self.at.system == Some(System::Installed)
            && let Some(keeper) = Keeper::load(&self.at.state)?
        {
            self.updates = Some(Updates::start(keeper, self.at.root.clone())?);
        }
        let servers = balancer::Servers::default();
        balancer::start(&servers)?;
        self.start_own();
        let mut services = None;
        // A machine that was a member before does not wait for the provisioner: its cluster may be all that works.
        if let Some(config) = self.at.state.load::<Config>("config.json")?
            && self.may_start(&config)?
        {
            servers.set(&config.api);
            services = Some(self.start_services(&config)?);
        }
        let state = if services.is_some() { State::Joined } else { State::New };
        self.sign = Sign::up(&self.identity.node.key_hash(), state);
        loop {
            if let Err(error) = self.once(&servers, &mut services)
                && !stopping()
            {
                self.sign.say(State::Error);
                say(&format!("{error:#}. Trying again."));
                // Whether it is to end is looked at next.
                let _ = pause(AGAIN);
            }
            if stopping() {
                services.iter_mut().for_each(Services::stop);
                self.own.iter_mut().for_each(Services::stop);
                return Ok(());
            }
        }
    }

    /// The screen says who this machine is, and what is not well with it.
    fn introduce(&self) {
        let dmi = &self.facts.dmi;
        let tpm = if self.identity.tpm.is_some() { "TPM" } else { "no TPM" };
        let (serial, state) = (&dmi.serial, disk::kept());
        let secure = secure::words(self.facts.secure_boot);
        console::on_screen(&format!(
            "{} {}, serial {serial}, {tpm}, {state}, {secure}",
            dmi.vendor, dmi.product
        ));
        if self.facts.secure_boot != SecureBoot::On {
            say(&format!("{secure}: this machine starts whatever is given to it."));
        }
        if let Some(shut) = &self.shut {
            stands(&format!("This machine's own state is not in use: {}.", shut.why));
        }
    }

    /// The provisioner on this machine, where it is one. A machine that cannot become one may still be a member of a site
    /// that has another.
    pub(super) fn start_own(&mut self) {
        let Some(kit) = self.at.kit.clone() else { return };
        // One with its memory may be on the disk that is shut: without that it would be another one of the same name.
        if self.shut.as_ref().is_some_and(|shut| shut.locked) {
            return;
        }
        let eks = self.identity.tpm.as_ref().map(|chip| chip.eks.as_slice()).unwrap_or_default();
        let tell = |done: Result<()>| done.unwrap_or_else(|error| say(&format!("{error:#}.")));
        if self.at.system.is_some() {
            tell(disk::read_kit(&own::files(eks)).context("The stick cannot be read"));
        }
        if self.at.system == Some(System::Installed) {
            tell(disk::forget_provisioners());
        }
        let returns = self.at.system == Some(System::Live) && disk::was_installed();
        let setting = Setting { kit: &kit, tpm: self.at.tpm.as_ref(), eks, owner: &self.at.owner, returns };
        match own::start(&setting) {
            Ok(own) => self.own = own,
            Err(error) => say(&format!("{error:#}.")),
        }
    }

    /// Whether the cluster's programs may start before the provisioner was asked: with a certificate that is good, or with
    /// any where the API server that signs the next one is this machine's own.
    fn may_start(&self, config: &Config) -> Result<bool> {
        if found::has_control_plane(&self.at.state)? {
            kubelet::stand_in(&self.at.state, &self.at.root, &config.node)?;
            return Ok(true);
        }
        let current = kubelet::current(&self.at.root, &config.node);
        Ok(current.is_some_and(|cert| cert.not_after > self.now()))
    }

    /// Makes the cluster of the site.
    fn make_cluster(
        &mut self,
        config: &Config,
        servers: &balancer::Servers,
        services: &mut Option<Services>,
    ) -> Result<()> {
        ensure!(!self.facts.kubelet.is_empty(), no_kubelet(self.at.system, bank::mounted().is_some()));
        stands("This machine founds the cluster of its site.");
        found::prepare(&self.at.state, &config.node)?;
        kubelet::stand_in(&self.at.state, &self.at.root, &config.node)?;
        servers.set(&config.api);
        if services.is_none() {
            say("Starting the control plane on this machine.");
            *services = Some(self.start_services(config)?);
        }
        found::finish(&self.at.state)?;
        say("The cluster is founded.");
        Ok(())
    }

    fn once(&mut self, servers: &balancer::Servers, services: &mut Option<Services>) -> Result<()> {
        if self.own.is_some() && self.facts.kubelet.is_empty() {
            // A new cluster is made of this version: the site is told it first.
            self.facts.kubelet = self.kubelet.version();
        }
        let mut proved = self.enroll()?;
        trace::ended("the site and the machine have proved themselves", Spent::Site);
        let config = self.configure(&mut proved)?;
        trace::ended("configuration", Spent::Site);
        if config.found || found::is_unfinished(&self.at.state, &config.node)? {
            return self.make_cluster(&config, servers, services);
        }
        let stood_in = kubelet::current(&self.at.root, &config.node).is_none();
        self.join(&mut proved, &config)?;
        trace::ended("the kubelet's certificate", Spent::Site);
        servers.set(&config.api);
        if let Some(services) = services.as_ref().filter(|_| stood_in) {
            services.handle().restart(kubelet::SERVICE, || ());
        }
        // A machine that came back under another name is another Node: what ran for the old one ends.
        if self.runs.as_ref() != Some(&config.node)
            && let Some(mut old) = services.take()
        {
            old.stop();
        }
        if services.is_none() {
            say("Starting the cluster's programs on this machine.");
            let begun = Instant::now();
            *services = Some(self.start_services(&config)?);
            if begun.elapsed() > SILENT {
                proved = self.enroll()?;
            }
        }
        self.offer_disk_key(&mut proved)?;
        let told = agent::status(&mut proved, &self.setup(&self.trust()?), self.health("joined"))?;
        self.belief = told.belief;
        if let Some(order) = told.orders.iter().find(|order| order.act == Act::Wipe) {
            return shut::wipe(&mut proved, Some(order));
        }
        if let Some(services) = services.as_ref() {
            self.update(&mut proved, &config, &told.orders, &services.handle())?;
        }
        if let Some(times) = trace::joined() {
            say(&times);
        }
        rests("This machine is part of the cluster. It needs nothing.");
        self.sign.say(State::Joined);
        self.stay(&mut proved, &config, services.as_ref())
    }

    /// How this machine is, at this step.
    pub(super) fn health(&self, step: &str) -> Health {
        Health {
            step: step.to_owned(),
            kubelet: self.facts.kubelet.clone(),
            network: self.network.as_ref().and_then(Network::trouble),
            banks: self.updates.as_ref().map(|updates| updates.keeper().banks().report()).unwrap_or_default(),
            ..Health::default()
        }
    }

    /// Images: what the provisioner orders, as far as headquarters allows it.
    fn update(
        &mut self,
        proved: &mut Proved,
        config: &Config,
        orders: &[Order],
        services: &Handle,
    ) -> Result<()> {
        let allowed = crate::join::images::allowed(&self.at.state, &self.belief)?;
        let address = proved.talk().address()?;
        let (key, certificate) = (Arc::clone(&self.identity.node), self.certificate());
        let (trust, floor) = (self.trust()?, self.belief.floor);
        let reach =
            || Ok(Reach::new(address, (Arc::clone(&key), certificate.clone()), (trust.clone(), floor)));
        let Some(updates) = &mut self.updates else { return Ok(()) };
        updates.reached();
        updates.heed(orders, &allowed, reach, &config.node, services)
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
            let news = self.updates.as_ref().is_some_and(Updates::has_news);
            if beats.tick(well) || due || news || since.elapsed() > agent::HOURLY || stopping() {
                return Ok(());
            }
            std::thread::sleep(GLANCE);
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
        trace::ended("what the cluster's programs need", Spent::Own);
        let services = Services::start(services, |name| {
            trace::ended(name, if name == kubelet::SERVICE { Spent::Kubelet } else { Spent::Containerd });
            if is_ours && name == RUNTIME {
                images::import();
                trace::ended("images of Pods", Spent::Containerd);
            }
        })?;
        if let Some(updates) = &self.updates {
            updates.watch(&config.node, &services.handle())?;
        }
        Ok(services)
    }
}

/// Why no kubelet says its version, and what to do: without it no cluster can be made.
fn no_kubelet(system: Option<System>, is_mounted: bool) -> &'static str {
    match (system, is_mounted) {
        (Some(_), false) => {
            "No kubelet is here, since no image of Kubernetes can be used: plug the site's stick in and switch the machine \
             off and on"
        }
        (Some(_), true) => "The kubelet has not said its version yet",
        (None, _) => "No kubelet says its version: install it, and see what `kubelet --version` says",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_kubelet_that_cannot_come_is_told_what_to_do() {
        for (system, is_mounted, words) in [
            (Some(System::Installed), false, "plug the site's stick in"),
            (Some(System::Live), false, "plug the site's stick in"),
            (Some(System::Installed), true, "has not said its version yet"),
            (None, false, "`kubelet --version`"),
        ] {
            assert!(no_kubelet(system, is_mounted).contains(words), "{system:?}");
        }
    }
}
