//! Images: staged beside what runs, tried on order, kept once the machine is well with them, else dropped with the reason.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use protocol::anchors::Trust;
use protocol::bytes::Digest;
use protocol::clock::{self, Time};
use protocol::crypto::Signer;
use protocol::image::{Image, Images, Kind};
use protocol::messages::{Act, Order};

use super::node::{self, Wanted};
use crate::console::say;
use crate::os::bank::{self, Keeper, Source, Started};
use crate::os::init::{self, power};
use crate::os::supervise::Handle;
use crate::site::http::{Conversation, Meaning};
use crate::site::tls;

/// Within this time an image has to prove itself.
const HEALTHY: Duration = Duration::from_mins(10);
/// A kubelet that ends so often by itself does not run.
const ENDS: u32 = 3;
const LOOK: Duration = Duration::from_secs(1);
/// After a cut link, at first and at most.
const AGAIN: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_mins(1);
/// So often an image is tried to be fetched; then the provisioner is asked anew, which may want another one by now.
const ROUNDS: u32 = 8;
/// How much is asked for at once.
const PIECE: u64 = 2 * 1024 * 1024;
/// Between two words on how far it is.
const TOLD: u64 = 64 * 1024 * 1024;
/// The service that runs from Kubernetes' image.
const KUBELET: &str = "kubelet";

/// How a provisioner is reached for images: whatever it sends is checked against what headquarters signed.
pub struct Reach {
    /// Where it is.
    pub address: SocketAddr,
    /// The node key, and the certificate to show.
    pub own: (Arc<dyn Signer>, Vec<u8>),
    /// Whom to believe, and the time that is known.
    pub trust: (Trust, Time),
    talk: Option<Conversation>,
}

impl Reach {
    /// Not connected yet.
    pub fn new(address: SocketAddr, own: (Arc<dyn Signer>, Vec<u8>), trust: (Trust, Time)) -> Self {
        Self { address, own, trust, talk: None }
    }

    fn connected(&mut self) -> Result<&mut Conversation> {
        if self.talk.is_none() {
            let own = tls::Own { key: &self.own.0, certificate: &self.own.1 };
            let link = tls::connect(self.address, &own, &self.trust.0, self.trust.1, clock::system())?;
            self.talk = Some(Conversation::over(link.map_err(|refused| anyhow::anyhow!("{refused}"))?));
        }
        self.talk.as_mut().context("no connection")
    }
}

impl Source for Reach {
    fn read(&mut self, object: &Digest, from: u64, length: u64) -> Result<Vec<u8>> {
        loop {
            let answer = self.connected()?.piece(object, from, length.min(PIECE));
            let answer = answer.inspect_err(|_| self.talk = None)?;
            if answer.status == 206 {
                return Ok(answer.body);
            }
            match answer.meaning() {
                Meaning::Wait(_, after) => std::thread::sleep(Duration::from_secs(after)),
                Meaning::No(said) => bail!("{} ({})", said.text, said.reason),
                Meaning::Good(_) => bail!("the provisioner sends no pieces"),
            }
        }
    }
}

/// Everything that has to do with the banks of an installed machine.
pub struct Updates {
    keeper: Arc<Keeper>,
    root: PathBuf,
    /// Whether the provisioner was reached since what is tried was started.
    reached: Arc<AtomicBool>,
    /// Whether there is something to tell.
    news: Arc<AtomicBool>,
    staging: Option<std::thread::JoinHandle<()>>,
}

impl Updates {
    /// Of an installed machine, at its start: goes on with what was being tried, and says what became of it.
    pub fn start(keeper: Keeper, root: PathBuf) -> Result<Self> {
        let updates = Self {
            keeper: Arc::new(keeper),
            root,
            reached: Arc::default(),
            news: Arc::default(),
            staging: None,
        };
        updates.start_os()?;
        Ok(updates)
    }

    /// The banks as the provisioner is told of them.
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// The provisioner was reached.
    pub fn reached(&self) {
        self.reached.store(true, Ordering::Relaxed);
    }

    /// Whether there is something to tell the provisioner now.
    pub fn has_news(&self) -> bool {
        self.news.swap(false, Ordering::Relaxed)
    }

    fn start_os(&self) -> Result<()> {
        let running = init::running()?.hash()?;
        let started = self.keeper.change(|banks| banks.os.start(&running))?;
        match started {
            Started::Kept => {}
            Started::TryAgain => return self.try_os(),
            Started::OnTrial => say("This system is tried: it is kept once all is well."),
            Started::FellBack => self.say_dropped(Kind::Os),
        }
        Ok(())
    }

    fn say_dropped(&self, kind: Kind) {
        let banks = self.keeper.banks();
        if let Some(failed) = &banks.of(kind).failed {
            let (word, kept) = (kind.word(), &banks.of(kind).kept.version);
            say(&format!(
                "{word} {} was dropped: {}. This machine goes on with {kept}.",
                failed.version, failed.why
            ));
        }
        self.news.store(true, Ordering::Relaxed);
    }

    /// Once the kubelet runs for the Node called `node`: whatever is being tried is watched.
    pub fn watch(&self, node: &str, services: &Handle) -> Result<()> {
        let mounted = bank::mounted().unwrap_or_default();
        let started = self.keeper.change(|banks| {
            let bank = &mut banks.kubernetes;
            let staged = bank.staged.as_ref().filter(|staged| staged.partition() == mounted);
            let running = staged.unwrap_or(&bank.kept).root;
            let started = bank.start(&running);
            if started == Started::TryAgain {
                bank.fail("its image cannot be mounted");
            }
            bank.count_try();
            started
        })?;
        if matches!(started, Started::FellBack | Started::TryAgain) {
            self.say_dropped(Kind::Kubernetes);
        }
        let banks = self.keeper.banks();
        for kind in Kind::ALL.into_iter().filter(|kind| banks.of(*kind).trial.is_some()) {
            self.prove(kind, node, services, Time(0))?;
        }
        Ok(())
    }

    /// What a provisioner orders, as far as headquarters allows it.
    pub fn heed(
        &mut self,
        orders: &[Order],
        allowed: &Images,
        reach: impl Fn() -> Result<Reach>,
        node: &str,
        services: &Handle,
    ) -> Result<()> {
        for order in orders {
            match &order.act {
                Act::Stage { root } => match allowed.allowed(root) {
                    Ok(image) => self.stage(image.clone(), reach()?)?,
                    Err(why) => say(&format!("An image is not taken: {why}.")),
                },
                Act::Activate { root } => match allowed.allowed(root) {
                    Ok(image) => self.activate(&image.clone(), node, services)?,
                    Err(why) => say(&format!("An image is not tried: {why}.")),
                },
                Act::ShowIndex | Act::Wipe | Act::Unknown => {}
            }
        }
        Ok(())
    }

    /// Writes an image to the bank that is not in use, in the background; asked again it goes on.
    fn stage(&mut self, image: Image, reach: Reach) -> Result<()> {
        let at_it = self.staging.as_ref().is_some_and(|staging| !staging.is_finished());
        let banks = self.keeper.banks();
        let bank = banks.of(image.kind);
        // Neither what is tried nor what is there already is written over.
        if at_it || bank.trial.is_some() || bank.staged.as_ref() == Some(&image) {
            return Ok(());
        }
        self.keeper.change(|banks| banks.of_mut(image.kind).clear())?;
        let (keeper, news) = (Arc::clone(&self.keeper), Arc::clone(&self.news));
        let work = move || {
            fetch(&image, &keeper, reach);
            news.store(true, Ordering::Relaxed);
        };
        self.staging = Some(std::thread::Builder::new().name("staging".into()).spawn(work)?);
        Ok(())
    }

    fn activate(&self, image: &Image, node: &str, services: &Handle) -> Result<()> {
        if !self.keeper.change(|banks| banks.of_mut(image.kind).begin_trial(&image.root))? {
            return Ok(());
        }
        match image.kind {
            Kind::Os => self.try_os(),
            Kind::Kubernetes => self.try_kubernetes(image, node, services),
        }
    }

    fn try_os(&self) -> Result<()> {
        let banks = self.keeper.change(|banks| {
            banks.os.count_try();
            banks.clone()
        })?;
        let staged = banks.os.staged.as_ref().context("nothing is staged")?;
        if let Err(error) = bank::start_once(staged) {
            self.keeper.change(|banks| banks.os.fail(&format!("{error:#}")))?;
            self.say_dropped(Kind::Os);
            return Ok(());
        }
        say(&format!("Starting anew, with system {} for a try.", staged.version));
        power::ask_for_restart().context("asking for a new start")
    }

    fn try_kubernetes(&self, image: &Image, node: &str, services: &Handle) -> Result<()> {
        self.keeper.change(|banks| banks.kubernetes.count_try())?;
        self.reached.store(false, Ordering::Relaxed);
        say(&format!("Trying Kubernetes {}.", image.version));
        let since = clock::system().unwrap_or_default();
        if let Err(error) = services.restart(KUBELET, || switch(image)) {
            drop_kubernetes(&self.keeper, &format!("{error:#}"), services)?;
            self.say_dropped(Kind::Kubernetes);
            return Ok(());
        }
        crate::os::images::import();
        self.prove(Kind::Kubernetes, node, services, since)?;
        // That the provisioner is reached is a part of the proof.
        self.news.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Watches what is tried, in the background, until it is kept or dropped.
    fn prove(&self, kind: Kind, node: &str, services: &Handle, since: Time) -> Result<()> {
        let staged = self.keeper.banks().of(kind).staged.clone().context("nothing is tried")?;
        let kubelet = if kind == Kind::Kubernetes { staged.version.clone() } else { String::new() };
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let proof = Proof {
            kind,
            wanted: Wanted { boot_id, kubelet, since },
            node: node.to_owned(),
            root: self.root.clone(),
            reached: Arc::clone(&self.reached),
            services: services.clone(),
        };
        let (keeper, services, news) = (Arc::clone(&self.keeper), services.clone(), Arc::clone(&self.news));
        let work = move || {
            let outcome = proof.within(HEALTHY);
            if let Err(error) = conclude(kind, &staged, outcome, &keeper, &services) {
                say(&format!("What was tried can be neither kept nor dropped: {error:#}."));
            }
            news.store(true, Ordering::Relaxed);
        };
        std::thread::Builder::new().name("proof".into()).spawn(work)?;
        Ok(())
    }
}

/// What an image has to show.
struct Proof {
    kind: Kind,
    wanted: Wanted,
    node: String,
    root: PathBuf,
    reached: Arc<AtomicBool>,
    services: Handle,
}

impl Proof {
    /// Waits until all is well; else why not.
    fn within(&self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        loop {
            let why = match node::ready(&self.root, &self.node, &self.wanted) {
                Ok(()) if self.reached.load(Ordering::Relaxed) => return Ok(()),
                Ok(()) => "the provisioner was not reached".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if self.services.ends(KUBELET) >= ENDS {
                return Err(format!("the kubelet has ended {ENDS} times; {why}"));
            }
            if Instant::now() >= until {
                return Err(format!("{} within {} minutes: {why}", self.kind.word(), time.as_secs() / 60));
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn conclude(
    kind: Kind,
    staged: &Image,
    outcome: Result<(), String>,
    keeper: &Keeper,
    services: &Handle,
) -> Result<()> {
    let word = kind.word();
    match (kind, outcome) {
        (_, Ok(())) => {
            if kind == Kind::Os {
                bank::start_always(staged)?;
            }
            keeper.change(|banks| banks.of_mut(kind).keep())?;
            say(&format!("All is well with {word} {}: it is kept.", staged.version));
            Ok(())
        }
        (Kind::Os, Err(why)) => {
            keeper.change(|banks| banks.os.give_up(&why))?;
            say(&format!("{word} {} is dropped: {why}. Starting the one before.", staged.version));
            power::ask_for_restart().context("asking for a new start")
        }
        (Kind::Kubernetes, Err(why)) => {
            drop_kubernetes(keeper, &why, services)?;
            say(&format!(
                "{word} {} was dropped: {why}. This machine goes on with the one before.",
                staged.version
            ));
            Ok(())
        }
    }
}

/// Takes the image of Kubernetes that is tried away, and puts the kept one back.
fn drop_kubernetes(keeper: &Keeper, why: &str, services: &Handle) -> Result<()> {
    let kept = keeper.change(|banks| {
        banks.kubernetes.fail(why);
        banks.kubernetes.kept.clone()
    })?;
    services.restart(KUBELET, || switch(&kept))
}

fn switch(image: &Image) -> Result<()> {
    bank::unmount_kubernetes()?;
    bank::mount_kubernetes(image)
}

/// Fetches an image into the bank that is not in use, as long as it is worth to go on with the same order.
fn fetch(image: &Image, keeper: &Keeper, mut reach: Reach) {
    let name = format!("{} {}", image.kind.word(), image.version);
    say(&format!("Fetching {name}, beside what runs."));
    let kept = keeper.banks().of(image.kind).kept.clone();
    let mut pause = AGAIN;
    let mut told = 0;
    for _ in 0..ROUNDS {
        let mut tell = |bytes: u64| {
            if bytes >= told + TOLD {
                told = bytes;
                say(&format!("{name}: {} of {} MB are here.", bytes / 1_000_000, image.size / 1_000_000));
            }
        };
        let done = bank::stage(image, &kept, &mut reach, &mut tell);
        let done =
            done.and_then(|()| keeper.change(|banks| banks.of_mut(image.kind).has_staged(image.clone())));
        match done {
            Ok(()) => return say(&format!("{name} is here. It is tried when the site says so.")),
            Err(error) => say(&format!("{name} is not here yet: {error:#}. Trying again.")),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST);
    }
}
