//! A bare machine as a story: an empty disk, a stick, power; nobody touches a key.

use std::time::Duration;

use anyhow::Result;
use harness::{Board, Bus, Hardware, Options, Vm};
use protocol::bytes::b64;
use tests::stage::{Csv, DEADLINE, JOINED, SITE, SLOTS, Site, Spare, own_images};

use super::story::{Story, indent};
use crate::need;

/// An emulated machine takes its time.
const PATIENCE: Duration = Duration::from_mins(4);
const SERIAL: &str = "GEWS1240007X";

/// Runs the story.
pub fn demo() -> Result<()> {
    need::for_machines()?;
    own_images()?;
    let mut story = Story::begin();
    story.say("A ship has a small Kubernetes cluster and a provisioner. One machine is a member.");
    let mut site = story.step("cluster, headquarters and provisioner set up", || {
        Site::build("demo-vm", Options::default())
    })?;
    let mut member = site.spare("machine-1", 11, Hardware::nuc("GEWS1240001X"))?;
    let mut vm = Vm::new(&site.lan, "machine-2", Board::new(SERIAL, Bus::Nvme))?;
    register(&mut story, &mut site, &member, &vm)?;
    let asker = ask_from(&mut story, &site, &mut member)?;

    let stick = story.step("HQ writes the site's stick", || site.hq.kit())?;
    story.say("Somebody puts the stick into a machine with an empty disk, and gives it power and network.");
    vm.plug_stick(&stick);
    let node = join(&mut story, &site, &mut vm)?;
    let address = story.pod(&site, "the bare machine", &node)?;
    let answer = story.step("a Pod on the other machine asks it", || {
        let ask = format!("{asker} curl -s --max-time 5 http://{address}:8080/");
        Ok(harness::wait::until("an answer", DEADLINE, || {
            member.machine.run("sh", &["-c", &ask]).map_err(|error| error.to_string())
        })?)
    })?;
    print!("{}", indent(&answer));
    println!("{}", story.table());
    println!("{}", site.plane.kubectl(&["get", "nodes", "-o", "wide"])?);
    let picture = std::env::current_dir()?.join("target/screen.png");
    vm.picture(&picture)?;
    println!("What the machine said, from power-on to now (its screen is in {}):\n", picture.display());
    print!("{}", indent(&vm.console()));
    Ok(())
}

/// The member by what it prints, the bare machine by what its TPM's maker certified.
fn register(story: &mut Story, site: &mut Site, member: &Spare, vm: &Vm) -> Result<()> {
    let slots = SLOTS.replace("10.77.0.12", "10.77.0.12\n  cidr: 10.77.0.0/24");
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), &slots)?;
    let mut csv = Csv::default();
    csv.add(&member.registration()?, &[("site", SITE), ("slot", "node-1")]);
    let tpm = vm.tpm().map(harness::Tpm::certificates).transpose()?.unwrap_or_default();
    let tpm: Vec<_> = tpm.iter().map(|der| b64(der)).collect();
    csv.add(&format!("serial,ek-cert\n{SERIAL},{}\n", tpm.join(" ")), &[("site", SITE), ("slot", "node-2")]);
    story.say("HQ registers it by what the machine prints, and another one by the list of its maker.");
    print!("{}", indent(&site.hq.import(&csv.text())?));
    site.provisioner.start()?;
    story.step("bundle built, carried, accepted", || site.deliver())
}

/// A Pod on the member, and how a command runs in its network.
fn ask_from(story: &mut Story, site: &Site, member: &mut Spare) -> Result<String> {
    member.start()?;
    let node = story.step("the first machine: plugged in to Node Ready", || site.ready_node("node-1"))?;
    member.import_images(&site.assets()?)?;
    story.pod(site, "the first machine", &node)?;
    // Its Linux is somebody else's, and so is its network: that somebody says where other machines' Pods are.
    member.machine.run("ip", &["route", "add", "10.244.2.0/24", "via", "10.77.0.12"])?;
    let pid = member.machine.run("pgrep", &["-x", "hello"])?;
    Ok(format!("nsenter --net=/proc/{}/ns/net", pid.trim()))
}

fn join(story: &mut Story, site: &Site, vm: &mut Vm) -> Result<String> {
    vm.power_on()?;
    let mut says = |step: &str, words: &str, times: usize| {
        story.step(&format!("the bare machine: {step}"), || {
            Ok(harness::wait::until(words, PATIENCE, || {
                let console = vm.console();
                if console.matches(words).count() >= times { Ok(()) } else { Err(console) }
            })?)
        })?;
        story.say(&format!("The bare machine: {step}."));
        Ok::<_, anyhow::Error>(())
    };
    for (step, words, times) in [
        ("power-on to node-boot (firmware, stick, kernel)", "Starting.", 1),
        ("it finds the site", "Found the provisioner", 1),
        ("it proves itself", "The site has accepted this machine.", 1),
        ("it installs itself", "The system is on the disk.", 1),
        ("its firmware and its kernel start its disk", "Starting.", 2),
        ("it is certified", "The cluster has signed this machine's certificate", 1),
        ("containerd and kubelet run", JOINED, 1),
    ] {
        says(step, words, times)?;
    }
    // What of the start from its disk went into what, by the machine's own clock.
    let console = vm.console();
    let split = console.lines().find(|line| line.starts_with("Started in "));
    story.say(split.unwrap_or("The bare machine does not say where the time went."));
    story.step("the bare machine: Node Ready", || site.ready_node("node-2"))
}
