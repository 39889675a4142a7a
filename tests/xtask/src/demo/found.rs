//! How a site is founded, as a story: one stick, two machines with empty disks, and nothing else.

use anyhow::Result;
use tests::stage::found::{Founding, PATIENCE};
use tests::stage::{JOINED, whole_images};

use super::story::{Story, indent};
use crate::need;

/// Runs the story.
pub fn demo() -> Result<()> {
    need::for_machines()?;
    whole_images()?;
    let mut story = Story::begin();
    story.say(
        "A new ship: no cluster, no provisioner. Headquarters plans it, and has two machines at its depot.",
    );
    let mut site =
        story.step("plan written, machines registered, provisioner certified", || Founding::plan("demo"))?;
    let stick = story.step("HQ writes the site's stick", || site.hq.whole_kit())?;
    story.say("On board, both get the stick, network and power. Headquarters is away from here on.");
    for vm in [&mut site.first, &mut site.second] {
        vm.plug_stick(&stick);
        vm.power_on()?;
    }
    for (step, words) in [
        ("it becomes the site's provisioner", "This machine is a provisioner of its site."),
        ("it installs itself", "The system is on the disk."),
        ("it founds the cluster", "This machine founds the cluster of its site."),
        ("the cluster is there", "The cluster is founded."),
        ("it is a member", JOINED),
    ] {
        story.step(&format!("the first machine: {step}"), || Ok(site.first.says(words, PATIENCE)?))?;
        story.say(&format!("The first machine: {step}."));
    }
    story.step("the second machine: it is a member", || Ok(site.second.says(JOINED, PATIENCE)?))?;
    let pods = story.step("a Pod on each", || site.pods())?;
    let ask = format!("http://{}:8080/ask/hello.shop", pods[0].1);
    let heard = story.step("one asks a Service by its name", || {
        site.answered("an answer", &ask, |said| said.contains("heard"))
    })?;
    print!("{}", indent(&heard));
    println!("{}", story.table());
    println!("What the first machine said, from power-on to now:\n");
    print!("{}", indent(&site.first.console()));
    Ok(())
}
