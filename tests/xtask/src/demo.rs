//! The main job as a story: three machines are registered, headquarters goes away, machines are plugged in.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Hardware, Options};
use tests::stage::{Csv, SITE, SLOTS, Site, Spare};

use crate::need;

/// What is told, with the time each step took.
struct Story {
    start: Instant,
    steps: Vec<(String, Duration)>,
}

impl Story {
    fn say(&self, text: &str) {
        let colour = std::io::stdout().is_terminal();
        let at = self.start.elapsed().as_secs_f64();
        if colour {
            println!("\x1b[2m{at:6.1} s\x1b[0m  {text}");
        } else {
            println!("{at:6.1} s  {text}");
        }
    }

    fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let done = work().with_context(|| name.to_owned())?;
        self.steps.push((name.to_owned(), begin.elapsed()));
        Ok(done)
    }

    fn table(&self) -> String {
        let mut table = String::from("\nstep                                                      seconds\n");
        for (name, took) in &self.steps {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{name:<56} {:>8.2}", took.as_secs_f64());
        }
        table
    }
}

const POD: &str = r"apiVersion: v1
kind: Pod
metadata: { name: NAME }
spec:
  terminationGracePeriodSeconds: 1
  nodeName: NODE
  containers:
  - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
";

/// Runs the story; with `keep` the site stays until Enter is pressed.
pub fn demo(keep: bool) -> Result<()> {
    need::need()?;
    ensure!(
        harness::missing_for_cluster().is_none(),
        "{}",
        harness::missing_for_cluster().unwrap_or_default()
    );
    println!("building provisioner and node-boot (a first build takes some minutes)");
    tests::stage::Programs::build()?;
    let mut story = Story { start: Instant::now(), steps: Vec::new() };
    story.say("A ship has a small Kubernetes cluster and a provisioner. Its machines are namespaces of this computer.");
    let mut site = story
        .step("cluster, headquarters and provisioner set up", || Site::build("demo", Options::default()))?;
    let (mut first, mut second, mut third, mut thief) = shelf(&site)?;
    register(&mut story, &mut site, &first, &second)?;
    let hq_away = site.hq.dir().with_extension("away");
    std::fs::rename(site.hq.dir(), &hq_away)?;
    story.say("HQ goes away: its folder is gone, nothing below asks for it.");

    story.say("Machine 1 (TPM) is plugged in.");
    join(&mut story, &site, &mut first, "machine 1 (TPM)", "node-1")?;
    story.say("Machine 2 (no TPM, a device key) is plugged in.");
    join(&mut story, &site, &mut second, "machine 2 (device key)", "node-2")?;

    std::fs::rename(&hq_away, site.hq.dir())?;
    strange(&mut story, &site, &mut third)?;
    theft(&mut story, &site, &mut thief)?;
    println!("{}", story.table());
    println!("{}", site.plane.kubectl(&["get", "nodes", "-o", "wide"])?);
    println!("{}", site.provisioner.run(&["machines"])?);
    if keep {
        explore(&site)?;
    } else {
        println!(
            "Where to look next: README.md, docs/states.md, and `cargo xtask demo --keep` to explore the site."
        );
    }
    Ok(())
}

/// Machine 1 with a TPM, machine 2 without, machine 3 that HQ does not know, and a thief's with machine 1's serial.
fn shelf(site: &Site) -> Result<(Spare, Spare, Spare, Spare)> {
    let no_tpm = |serial| Hardware { tpm: false, ..Hardware::nuc(serial) };
    Ok((
        site.spare("machine-1", 11, Hardware::nuc("GEWS1240001X"))?,
        site.spare("machine-2", 12, no_tpm("GEWS1240002X"))?,
        site.spare("machine-3", 13, Hardware::nuc("GEWS1240003X"))?,
        site.spare("thief", 66, Hardware::nuc("GEWS1240001X"))?,
    ))
}

fn register(story: &mut Story, site: &mut Site, first: &Spare, second: &Spare) -> Result<()> {
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS)?;
    let mut csv = Csv::default();
    csv.add(&first.registration()?, &[("site", SITE), ("slot", "node-1")]);
    csv.add(&second.registration()?, &[("site", SITE), ("slot", "node-2")]);
    csv.add(
        "serial,dev-key\nGEWS1240009X,qV9znyK5k8JvC7yJCf8_IcGH-KPSVvxSTlevZx_zjkc\n",
        &[("site", SITE), ("roles", "worker")],
    );
    story.say("HQ imports a CSV of three machines:");
    print!("{}", indent(&csv.text()));
    let said = story.step("HQ imports three machines", || site.hq.import(&csv.text()))?;
    print!("{}", indent(&said));
    story.say("HQ builds a bundle; a stick carries it to the ship.");
    site.provisioner.start()?;
    story.step("bundle built, carried, accepted", || site.deliver())
}

fn join(story: &mut Story, site: &Site, spare: &mut Spare, who: &str, slot: &str) -> Result<()> {
    spare.start()?;
    let node = story.step(&format!("{who}: plugged in to Node Ready"), || site.ready_node(slot))?;
    print!("{}", indent(&spare.log()));
    story.say(&format!("{who} is the Node {node}, Ready."));
    spare.import_images(&site.assets()?)?;
    let account = ["get", "sa", "default"];
    site.plane.kubectl_until("the default account", tests::stage::DEADLINE, &account, |_| true)?;
    story.step(&format!("{who}: a Pod on it runs"), || {
        let pod = format!("hello-{slot}");
        site.plane.apply(&POD.replace("NAME", &pod).replace("NODE", &node))?;
        let words = ["get", "pod", &pod, "-o", "jsonpath={.status.phase}"];
        Ok(site.plane.kubectl_until("the Pod", tests::stage::DEADLINE, &words, |said| said == "Running")?)
    })?;
    story.say(&format!("A Pod runs on {node}."));
    Ok(())
}

fn strange(story: &mut Story, site: &Site, third: &mut Spare) -> Result<()> {
    story.say(
        "Machine 3 is plugged in. HQ has never heard of it; a worker says \"I am plugging in a machine\".",
    );
    site.provisioner.run(&["window"])?;
    third.start()?;
    let code = story.step("machine 3 (unknown): shows a code", || third.code())?;
    story.say(&format!(
        "It shows the code {code}. The worker reads it to HQ by telephone; HQ approves it for node-3."
    ));
    story.step("HQ approves the code; its word travels both ways", || {
        let said = site.approve("node-3", &code)?;
        print!("{}", indent(&said));
        Ok(())
    })?;
    join(story, site, third, "machine 3 (approved by its code)", "node-3")
}

fn theft(story: &mut Story, site: &Site, thief: &mut Spare) -> Result<()> {
    story.say("A thief plugs in a machine that carries machine 1's serial.");
    let before = site.ready_node("node-1")?;
    thief.start()?;
    story.step("thief: refused", || thief.says("Right label, wrong hardware. Call HQ."))?;
    print!("{}", indent(&thief.log()));
    ensure!(site.ready_node("node-1")? == before, "machine 1 was touched");
    story.say(&format!("It is refused, and machine 1 is still {before}, Ready."));
    Ok(())
}

fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "          | {line}");
        all
    })
}

fn explore(site: &Site) -> Result<()> {
    let admin = site.plane.file("super-admin.conf");
    println!("The site runs. In another terminal:");
    let inside = |command: std::process::Command| {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
    };
    let mut nodes = site.plane.command("kubectl");
    nodes.arg("--kubeconfig").arg(admin).args(["get", "nodes", "-o", "wide"]);
    println!("  {}", inside(nodes));
    for words in [&["machines"][..], &["slots"], &["explain", "node-1"]] {
        println!("  {}", inside(site.provisioner.command(words)?));
    }
    println!("Press Enter to end it.");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
