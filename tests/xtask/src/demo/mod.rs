//! The main job as a story: three machines are registered, headquarters goes away, machines are plugged in, one dies.

pub mod found; // a site without any cluster before
mod story; // how one is told
pub mod vm; // a bare machine

use anyhow::{Context, Result, ensure};
use harness::{Hardware, Options};
use tests::stage::{Csv, DEADLINE, Programs, SITE, SLOTS, Site, Spare};

use self::story::{Story, indent};
use crate::need;

/// Runs the story; with `keep` the site stays until Enter is pressed.
pub fn demo(keep: bool) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the demo needs root: it makes network namespaces");
    need::need()?;
    ensure!(
        harness::missing_for_cluster().is_none(),
        "{}",
        harness::missing_for_cluster().unwrap_or_default()
    );
    println!("building provisioner and node-boot (a first build takes some minutes)");
    Programs::build_before_your_eyes()?;
    let mut story = Story::begin();
    story.say("A ship has a small Kubernetes cluster and a provisioner. Its machines are namespaces of this computer.");
    let mut site = story
        .step("cluster, headquarters and provisioner set up", || Site::build("demo", Options::default()))?;
    let Shelf { mut first, mut second, mut spare, mut strange, mut thief } = shelf(&site)?;
    register(&mut story, &mut site, &[(&first, "node-1"), (&second, "node-2"), (&spare, "")])?;
    spare.machine.power_off();
    let hq_away = site.hq.dir().with_extension("away");
    std::fs::rename(site.hq.dir(), &hq_away)?;
    story.say("HQ goes away: its folder is gone, nothing below asks for it.");

    story.say("Machine 1 (TPM) is plugged in.");
    join(&mut story, &site, &mut first, "machine 1 (TPM)", "node-1")?;
    story.say("Machine 2 (no TPM, a device key) is plugged in.");
    join(&mut story, &site, &mut second, "machine 2 (device key)", "node-2")?;

    theft(&mut story, &site, &mut thief)?;
    replace(&mut story, &site, &mut second, &mut spare)?;
    std::fs::rename(&hq_away, site.hq.dir())?;
    story.say("HQ can be reached again, by telephone.");
    unknown(&mut story, &site, &mut strange)?;
    println!("{}", story.table());
    println!("{}", site.plane.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("{}", site.provisioner.run(&["machines"])?);
    if keep {
        explore(&site, &first)?;
    } else {
        println!(
            "Where to look next: README.md, docs/states.md, and `cargo xtask demo --keep` to explore the site."
        );
    }
    Ok(())
}

/// The machines of the story.
struct Shelf {
    /// With a TPM.
    first: Spare,
    /// Without.
    second: Spare,
    /// Registered for no place of its own.
    spare: Spare,
    /// Not registered.
    strange: Spare,
    /// With the serial of the first.
    thief: Spare,
}

fn shelf(site: &Site) -> Result<Shelf> {
    let no_tpm = |serial| Hardware { tpm: false, ..Hardware::nuc(serial) };
    Ok(Shelf {
        first: site.spare("machine-1", 11, Hardware::nuc("GEWS1240001X"))?,
        second: site.spare("machine-2", 12, no_tpm("GEWS1240002X"))?,
        // The LAN gives it the address of the place that it takes.
        spare: site.spare("machine-3", 12, Hardware::nuc("GEWS1240003X"))?,
        strange: site.spare("machine-4", 13, Hardware::nuc("GEWS1240004X"))?,
        thief: site.spare("thief", 66, Hardware::nuc("GEWS1240001X"))?,
    })
}

fn register(story: &mut Story, site: &mut Site, machines: &[(&Spare, &str)]) -> Result<()> {
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS)?;
    let mut csv = Csv::default();
    for (machine, slot) in machines {
        let roles = if slot.is_empty() { "worker" } else { "" };
        csv.add(&machine.registration()?, &[("site", SITE), ("slot", slot), ("roles", roles)]);
    }
    story.say("HQ imports a CSV of three machines; the third is a spare, for any worker's place:");
    print!("{}", indent(&csv.text()));
    let said = story.step("HQ imports three machines", || site.hq.import(&csv.text()))?;
    print!("{}", indent(&said));
    story.say("HQ builds a bundle; a stick carries it to the ship.");
    site.provisioner.start()?;
    story.step("bundle built, carried, accepted", || site.deliver())
}

fn join(story: &mut Story, site: &Site, spare: &mut Spare, who: &str, slot: &str) -> Result<()> {
    spare.start()?;
    let node = story.step(&format!("{who}: plugged in to Node Ready"), || {
        let what_it_says = || format!("the machine says:\n{}", spare.log());
        let what_it_is = || site.provisioner.run(&["machines"]).unwrap_or_else(|error| error.to_string());
        site.ready_node(slot).with_context(|| format!("{}\n{}", what_it_says(), what_it_is()))
    })?;
    print!("{}", indent(&spare.log()));
    story.say(&format!("{who} is the Node {node}, Ready."));
    spare.import_images(&site.assets()?)?;
    story.pod(site, who, &node).map(drop)
}

/// One dies, a person says so, the spare is plugged in.
fn replace(story: &mut Story, site: &Site, dead: &mut Spare, spare: &mut Spare) -> Result<()> {
    dead.machine.power_off();
    story.say("Machine 2 dies. Somebody on board says so: `provisioner retire node-2`.");
    story.step("machine 2 is taken out of service, its place is free", || {
        print!("{}", indent(&site.provisioner.run(&["retire", "node-2"])?));
        Ok(harness::wait::until("node-2 to be free", DEADLINE, || {
            let said = site.provisioner.run(&["explain", "node-2"]).unwrap_or_else(|error| error.to_string());
            if said.contains("no machine holds") { Ok(()) } else { Err(said) }
        })?)
    })?;
    story.say("Somebody takes the spare from the shelf and plugs it in. HQ is still away.");
    spare.machine.power_on()?;
    join(story, site, spare, "machine 3 (the spare)", "node-2")
}

fn unknown(story: &mut Story, site: &Site, strange: &mut Spare) -> Result<()> {
    story.say(
        "Machine 4 is plugged in. HQ has never heard of it; a worker says \"I am plugging in a machine\".",
    );
    site.provisioner.run(&["window"])?;
    strange.start()?;
    let code = story.step("machine 4 (unknown): shows a code", || strange.code())?;
    story.say(&format!(
        "It shows the code {code}. The worker reads it to HQ by telephone; HQ approves it for node-3."
    ));
    story.step("HQ approves the code; its word travels both ways", || {
        let said = site.approve("node-3", &code)?;
        print!("{}", indent(&said));
        Ok(())
    })?;
    join(story, site, strange, "machine 4 (approved by its code)", "node-3")
}

fn theft(story: &mut Story, site: &Site, thief: &mut Spare) -> Result<()> {
    story.say("A thief plugs in a machine that carries machine 1's serial.");
    let before = site.ready_node("node-1")?;
    thief.start()?;
    story.step("thief: refused", || thief.says("Right label, wrong hardware. Call HQ."))?;
    print!("{}", indent(&thief.log()));
    ensure!(site.ready_node("node-1")? == before, "machine 1 was touched");
    story.say(&format!(
        "It is refused, HQ will hear of it in the site's report, and machine 1 is still {before}, Ready."
    ));
    Ok(())
}

fn explore(site: &Site, machine: &Spare) -> Result<()> {
    let quoted = |words: std::process::Command| {
        let words = std::iter::once(words.get_program()).chain(words.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    let mut nodes = std::process::Command::new(site.assets()?.program("kubectl"));
    nodes.arg("--kubeconfig").arg(site.plane.file("super-admin.conf")).args([
        "get",
        "nodes,pods",
        "-o",
        "wide",
    ]);
    println!("The site runs. In another terminal, as root:");
    println!("  {} {}", site.plane.by_hand(), quoted(nodes));
    for words in [&["machines"][..], &["slots"], &["explain", "node-1"], &["render", "--machine", "node-1"]] {
        println!("  {} {}", site.provisioner.machine.by_hand()?, quoted(site.provisioner.by_hand(words)));
    }
    println!("  {} {}", machine.machine.by_hand()?, quoted(machine.by_hand(&["status"])));
    println!("  {} curl -s http://127.0.0.1:9443/metrics", site.provisioner.machine.by_hand()?);
    println!("Press Enter to end it.");
    if std::io::stdin().read_line(&mut String::new())? == 0 {
        println!("There is no keyboard here: it goes on until it is interrupted (Ctrl-C, kill).");
        loop {
            std::thread::park();
        }
    }
    println!("Everything is being switched off.");
    Ok(())
}
