//! Images: staged beside what runs, tried on order, kept once the machine is well with them, else dropped with the reason.

mod fetch; // from the provisioner, in the background
mod proof; // kept or dropped

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use protocol::bytes::Digest;
use protocol::clock::{self, Time};
use protocol::image::{Failed, Image, Images, Kind, NotAllowed};
use protocol::messages::{Act, Order};

pub use self::fetch::Reach;
use self::fetch::{Means, fetch};
use self::proof::{HEALTHY, Proof, conclude, drop_kubernetes, switch};
use super::kubelet;
use super::node::Wanted;
use crate::console::say;
use crate::os::bank::{self, Banks, Keeper, Started};
use crate::os::images;
use crate::os::init::{self, power};
use crate::os::supervise::Handle;
use crate::stop::pause;

/// Everything that has to do with the banks of an installed machine.
pub struct Updates {
    keeper: Arc<Keeper>,
    root: PathBuf,
    /// Whether the provisioner was reached since what is tried was started.
    reached: Arc<AtomicBool>,
    /// Whether there is something to tell.
    news: Arc<AtomicBool>,
    staging: Option<Staging>,
}

/// An image that is being fetched.
struct Staging {
    image: Image,
    dropped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
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
        let started = self.keeper.change(|banks| banks.start_kubelet(&mounted))?;
        if matches!(started, Started::FellBack | Started::TryAgain) {
            self.say_dropped(Kind::Kubernetes);
        }
        let banks = self.keeper.banks();
        for kind in Kind::ALL.into_iter().filter(|kind| banks.of(*kind).trial.is_some()) {
            self.prove(kind, node, services, None)?;
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
        if self.keeper.change(|banks| note_refused(banks, orders, allowed))? {
            // The provisioner is to know it before it orders anything again.
            self.news.store(true, Ordering::Relaxed);
        }
        for order in orders {
            match due(order, allowed) {
                Some(Due::Stage(image)) => self.stage(image.clone(), reach()?)?,
                Some(Due::Try(image)) => self.activate(image, node, services)?,
                Some(Due::Refuse(why)) => say(&why),
                None => {}
            }
        }
        Ok(())
    }

    /// Writes an image to the bank that is not in use, in the background; asked again it goes on.
    fn stage(&mut self, image: Image, reach: Reach) -> Result<()> {
        if let Some(at) = self.staging.as_ref().filter(|at| !at.thread.is_finished()) {
            // One that is to take the place of what is being fetched is ordered again once that has ended.
            if at.image.kind == image.kind && at.image.root != image.root {
                at.dropped.store(true, Ordering::Relaxed);
            }
            return Ok(());
        }
        let banks = self.keeper.banks();
        if !banks.of(image.kind).lacks(&image) {
            return Ok(());
        }
        self.keeper.change(|banks| banks.of_mut(image.kind).clear())?;
        let (keeper, news) = (Arc::clone(&self.keeper), Arc::clone(&self.news));
        let (wanted, dropped) = (image.clone(), Arc::clone(&reach.dropped));
        let work = move || {
            fetch_into(&wanted, &keeper, reach);
            news.store(true, Ordering::Relaxed);
        };
        let thread = std::thread::Builder::new().name("staging".into()).spawn(work)?;
        self.staging = Some(Staging { image, dropped, thread });
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
        if let Err(error) = services.restart(kubelet::SERVICE, || switch(image)) {
            drop_kubernetes(&self.keeper, &format!("{error:#}"), services)?;
            self.say_dropped(Kind::Kubernetes);
            return Ok(());
        }
        self.prove(Kind::Kubernetes, node, services, Some(since))?;
        // That the provisioner is reached is a part of the proof.
        self.news.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Watches what is tried, in the background, until it is kept or dropped; `since` then, where that was not before this
    /// program was started.
    fn prove(&self, kind: Kind, node: &str, services: &Handle, since: Option<Time>) -> Result<()> {
        let staged = self.keeper.banks().of(kind).staged.clone().context("nothing is tried")?;
        let kubelet = if kind == Kind::Kubernetes { staged.version.clone() } else { String::new() };
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let proof = Proof {
            kind,
            wanted: Wanted { boot_id, kubelet, since: since.unwrap_or_default() },
            node: node.to_owned(),
            root: self.root.clone(),
            reached: Arc::clone(&self.reached),
            services: services.clone(),
        };
        let (keeper, services, news) = (Arc::clone(&self.keeper), services.clone(), Arc::clone(&self.news));
        let work = move || {
            if since.is_some() {
                // It takes a while, and the provisioner is to hear of this machine meanwhile.
                images::import();
            }
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

/// What an order about images comes to.
#[derive(Debug, PartialEq, Eq)]
enum Due<'a> {
    Stage(&'a Image),
    Try(&'a Image),
    Refuse(String),
}

/// What headquarters does not allow is neither taken nor tried, whoever orders it; none where an order is about no image.
fn due<'a>(order: &Order, allowed: &'a Images) -> Option<Due<'a>> {
    let refuse = |verb: &str, why: NotAllowed| Due::Refuse(format!("An image is not {verb}: {why}."));
    let due = match &order.act {
        Act::Stage { root } => allowed.allowed(root).map_or_else(|why| refuse("taken", why), Due::Stage),
        Act::Activate { root } => allowed.allowed(root).map_or_else(|why| refuse("tried", why), Due::Try),
        Act::ShowIndex | Act::Wipe | Act::Overwrite { .. } | Act::Unknown => return None,
    };
    Some(due)
}

/// Notes of each kind what was ordered and is below headquarters' floor, and forgets what is not any more; whether anything
/// changed.
fn note_refused(banks: &mut Banks, orders: &[Order], allowed: &Images) -> bool {
    let before = banks.clone();
    let below = |root: &Digest| match allowed.allowed(root) {
        Err(why @ NotAllowed::BelowFloor { .. }) => Some(why),
        _ => None,
    };
    for kind in Kind::ALL {
        let bank = banks.of_mut(kind);
        bank.refused.take_if(|refused| below(&refused.root).is_none());
    }
    for order in orders {
        let (Act::Stage { root } | Act::Activate { root }) = &order.act else { continue };
        if let Some(why) = below(root)
            && let NotAllowed::BelowFloor { kind, version, .. } = &why
        {
            let why = why.to_string();
            banks.of_mut(*kind).refused = Some(Failed { version: version.clone(), root: *root, why });
        }
    }
    *banks != before
}

fn fetch_into(image: &Image, keeper: &Keeper, mut reach: Reach) {
    let kept = keeper.banks().of(image.kind).kept.clone();
    let dropped = Arc::clone(&reach.dropped);
    let mut means = Means {
        stage: &mut |told| {
            bank::stage(image, &kept, &mut reach, told)?;
            keeper.change(|banks| banks.of_mut(image.kind).has_staged(image.clone()))
        },
        is_dropped: &|| dropped.load(Ordering::Relaxed),
        pause: &mut pause,
        say: &say,
    };
    fetch(image, &mut means);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn image(kind: Kind, root: u8) -> Image {
        let (version, root) = (format!("0.{root}.0"), Digest([root; 32]));
        Image { kind, version, root, blocks: 1, size: 8192, program: None }
    }

    #[test]
    fn what_was_staged_before_the_floor_rose_above_it_is_not_tried_any_more() {
        let staged = image(Kind::Os, 5);
        let order = |act| Order { id: "1".into(), act };
        let stage = order(Act::Stage { root: staged.root });
        let activate = order(Act::Activate { root: staged.root });
        let of = |floor: &str| Images {
            images: vec![staged.clone()],
            floor: BTreeMap::from([(Kind::Os, floor.to_owned())]),
        };
        let (low, high) = (of("0.5.0"), of("0.6.0"));
        assert_eq!(due(&stage, &low), Some(Due::Stage(&staged)));
        assert_eq!(due(&activate, &low), Some(Due::Try(&staged)));
        for (allowed, why) in [(&high, "is older than 0.6.0"), (&Images::default(), "")] {
            for (order, verb) in [(&stage, "taken"), (&activate, "tried")] {
                let Some(Due::Refuse(said)) = due(order, allowed) else { panic!("it is {verb}") };
                assert!(
                    said.starts_with(&format!("An image is not {verb}: ")) && said.contains(why),
                    "{said}"
                );
            }
        }
        assert_eq!(due(&order(Act::Wipe), &low), None);
    }

    #[test]
    fn an_order_below_the_floor_is_told_to_the_site_once_and_no_longer_than_the_floor_stands() {
        let images: Vec<_> = Kind::ALL.into_iter().zip(1..).map(|(kind, root)| image(kind, root)).collect();
        let mut banks = Banks::installed(&images).unwrap();
        let allowed = |floor: &str| Images {
            images: vec![image(Kind::Os, 5)],
            floor: BTreeMap::from([(Kind::Os, floor.to_owned())]),
        };
        let order = |root: u8| Order { id: "1".into(), act: Act::Stage { root: Digest([root; 32]) } };
        let low = allowed("0.4.0");
        assert!(!note_refused(&mut banks, &[order(5), order(9)], &low), "it is taken, and one is unknown");
        let high = allowed("0.6.0");
        assert!(note_refused(&mut banks, &[order(5)], &high));
        let told = banks.report()[&Kind::Os].refused.clone().unwrap();
        assert_eq!((told.version.as_str(), told.root), ("0.5.0", Digest([5; 32])));
        assert_eq!(told.why, "os 0.5.0 is older than 0.6.0, which is the oldest that headquarters allows");
        assert!(!note_refused(&mut banks, &[order(5)], &high), "it is told once");
        assert!(!note_refused(&mut banks, &[], &high));
        assert!(note_refused(&mut banks, &[], &low) && banks.report()[&Kind::Os].refused.is_none());
    }
}
