//! A machine's installation and update, recorded while they happen: thousands of power cuts replayed into what a machine looks at
//! when it starts, and a dozen of them booted from.

mod judge; // what a machine finds on the disk that a cut has left
mod story; // what was recorded

use std::path::{Path, PathBuf};
use std::time::Instant;

use harness::{Cut, Dice, Vm, wait};
use tests::stage::{JOINED, Site};

use self::judge::{Judge, View};
use self::story::{Member, Story, kept};
use crate::DEADLINE;

/// So many power cuts there are at least, and so many of them are booted from.
const CUTS: u64 = 6000;
const BOOTS: usize = 12;
/// Replays one cut of a recording that was kept, as it was printed; and where that is, if not where it was left.
const ONE: &str = "NODEBOOT_CUT";
const KEPT: &str = "NODEBOOT_CUTS";

#[test]
#[ignore = "long: cargo xtask test --long runs it; a machine that starts some twenty times"]
fn wherever_the_power_is_cut_the_machine_comes_back_as_itself_with_the_old_version_or_the_new_one() {
    let folder = std::env::var_os(KEPT).map_or_else(kept, PathBuf::from);
    let one: Option<Cut> = std::env::var(ONE).ok().map(|cut| cut.parse().unwrap());
    if one.is_some() || std::env::var_os(KEPT).is_some() {
        replay(&Story::open(&folder), &folder, one);
        return;
    }
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let begun = Instant::now();
    let (site, mut vm, member) = Story::record(&folder);
    println!("Recorded in {} s; it is kept in {}.", begun.elapsed().as_secs(), folder.display());
    let story = Story::open(&folder);
    let phases = replay(&story, &folder, None);
    boot_all(&story, &phases, Booted { site: &site, vm: &mut vm, member: &member });
}

/// A stretch of the story, in flushes, in which the disk looks the same.
#[derive(Debug)]
struct Phase {
    from: usize,
    to: usize,
    view: View,
}

/// Replays every flush and the torn ones, or one cut and what was promised before it. What happened to the disk.
fn replay(story: &Story, folder: &Path, one: Option<Cut>) -> Vec<Phase> {
    let (begun, log) = (Instant::now(), &story.recording.log);
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("disk");
    let mut judge = Judge::new(story, &path).unwrap();
    // Two for each flush at least: what it left, and a torn one.
    let cuts = log.cuts(CUTS.max(2 * log.flushes() as u64));
    let is_wanted = |cut: &Cut| one.is_none_or(|one| cut.seed == 0 && cut.flush <= one.flush);
    let mut phases: Vec<Phase> = Vec::new();
    let mut count = 0;
    for cut in cuts.into_iter().filter(is_wanted).chain(one.filter(|one| one.seed != 0)) {
        count += 1;
        let view = judge.look(cut).unwrap_or_else(|wrong| {
            let again = "cargo test -p tests --test machine -- --ignored wherever_the_power";
            panic!("{wrong:#}; to see it again: {KEPT}={} {ONE}={cut} {again}", folder.display())
        });
        if cut.seed == 0 {
            match phases.last_mut() {
                Some(last) if last.view == view => last.to = cut.flush + 1,
                _ => phases.push(Phase { from: cut.flush, to: cut.flush + 1, view }),
            }
        }
    }
    println!("{count} power cuts at {} flushes replayed in {} s.", log.flushes(), begun.elapsed().as_secs());
    for Phase { from, to, view } in &phases {
        println!("  flushes {from}..{to}: {view:?}");
    }
    assert!(one.is_some() || count >= CUTS, "{count} power cuts");
    phases
}

/// Cuts to boot from: each phase where it ends and is torn into the next one, and for the rest anywhere.
fn chosen(phases: &[Phase]) -> Vec<Cut> {
    let mut dice = Dice::new(2026);
    let ends = phases.iter().map(|phase| phase.to - 1);
    let mut cuts: Vec<_> = ends.map(|flush| Cut { flush, seed: 1 + dice.below(1000) }).collect();
    while cuts.len() > BOOTS {
        let place = usize::try_from(dice.below(cuts.len() as u64)).unwrap();
        cuts.remove(place);
    }
    let last = phases.last().map_or(0, |phase| phase.to) as u64;
    let others = cuts.len()..BOOTS;
    cuts.extend(others.map(|_| Cut {
        flush: usize::try_from(dice.below(last)).unwrap(),
        seed: dice.below(2) * dice.below(1000),
    }));
    cuts.sort_by_key(|cut| (cut.flush, cut.seed));
    cuts
}

/// The machine, its site, and what it was before any cut.
struct Booted<'a> {
    site: &'a Site,
    vm: &'a mut Vm,
    member: &'a Member,
}

/// Boots the machine from some of these disks, one after the other. Its TPM and its site remember all of it, as real ones do: no
/// cut takes back what they were told. So the last disk comes first: a machine that installs itself is another Node from then
/// on, and what was that before would be told so.
fn boot_all(story: &Story, phases: &[Phase], mut booted: Booted<'_>) {
    let disk = tempfile::tempdir().unwrap();
    let path = disk.path().join("disk");
    let is_new = |phase: &Phase| phase.view.programs.is_some_and(|[.., new]| new.is_some());
    // Torn in the first write of what starts the new system: nothing of that may stand in its way later.
    let on = phases.iter().find(|phase| is_new(phase)).map_or(0, |phase| phase.from - 1);
    let mut failed = Vec::new();
    for cut in chosen(phases).into_iter().rev() {
        let begun = Instant::now();
        let view = Judge::new(story, &path).unwrap().look(cut).unwrap();
        booted.vm.power_off();
        booted.vm.becomes(&path, story.recording.firmware(cut).unwrap()).unwrap();
        let said = booted.boot(&view, cut.flush == on);
        println!("Booted from {cut} in {} s: {said:?}.", begun.elapsed().as_secs());
        failed.extend(said.err().map(|wrong| format!("{ONE}={cut}: {wrong}")));
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

impl Booted<'_> {
    /// Boots from the disk that it has; with which system it is a member then.
    fn boot(&mut self, view: &View, goes_on: bool) -> Result<String, String> {
        let is_installed = view.is_installed();
        // Whoever installs leaves the stick in until the machine says that it starts from its disk.
        if is_installed {
            self.vm.pull_stick();
        } else {
            self.vm.plug_stick(&self.site.hq.path("stick"));
        }
        let before = self.vm.console().len();
        self.vm.power_on().map_err(|error| error.to_string())?;
        self.says(before, JOINED)?;
        let (was, now) = (self.member, Member::of(self.site));
        if is_installed && self.vm.console()[before..].contains("Installing on") {
            return Err("what was installed is installed again".to_owned());
        }
        if is_installed && (&now.node, &now.uid) != (&was.node, &was.uid) {
            return Err(format!("it was {was:?} and is {now:?}"));
        }
        if !["node-boot 0.1.0", "node-boot 0.2.0"].contains(&&*now.system) {
            return Err(format!("it runs {}", now.system));
        }
        if goes_on {
            self.says(before, "All is well with os 0.2.0: it is kept.")?;
        }
        Ok(now.system)
    }

    /// Waits until the console shows this behind what it showed before.
    fn says(&self, before: usize, words: &str) -> Result<(), String> {
        let look = || {
            let console = self.vm.console().split_off(before);
            if console.contains(words) { Ok(()) } else { Err(console) }
        };
        // An installation and a start are in it, and others may be at work on this computer.
        wait::until(words, 2 * DEADLINE, look).map_err(|error| error.to_string())
    }
}
