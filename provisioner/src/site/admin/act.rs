//! What each question does.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Ask, Heeded, backup, est};
use crate::site::machine::{KubeletState, Machine, Said};
use crate::site::store::{Look, MACHINES};
use crate::site::{Site, explain, slots};

/// How often a verdict of the inbox is looked for, and how often at most.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 600;
/// For so long, seconds, a yes lets a machine have the key of its disk.
const DISK: i64 = 3600;

/// Does what is asked.
pub(super) async fn act(site: &Site, ask: Ask) -> Result<Value> {
    Ok(match ask {
        Ask::Machines { all } => json!(explain::machines(site, all)?),
        Ask::Slots {} => json!(explain::slots(site)?),
        Ask::Explain { machine } => json!(explain::explain(site, &machine)?),
        Ask::Claims {} => json!(explain::claims(site)),
        Ask::Health {} => json!(explain::health(site)),
        Ask::Render { machine } => json!(explain::render(site, &machine)?),
        Ask::Window { minutes } => json!(site.open_window(minutes.clamp(1, 60))),
        Ask::Approve { slot, code } => json!(site.approve_by_voice(&slot, &code).await?),
        Ask::Say { machine, word } => json!(say(site, &machine, word, false).await?),
        Ask::Overwrite { machine, mark } => json!(site.let_overwrite(&machine, &mark).await?),
        Ask::Wipe { machine } => json!(say(site, &machine, Some(Said::Retire), true).await?),
        Ask::Apply { name } => json!(apply(site, &name).await?),
        Ask::Seed {} => json!(site.seed()?),
        Ask::Report {} => json!(site.report().await?),
        Ask::Activate {} => json!(site.activate().await?),
        Ask::Backup {} => json!(backup::make(site).await?),
        Ask::EstClient { name } => json!(est::add(&site.store, site.now(), &name).await?),
    })
}

/// Notes what a person said of a machine, and whether its disk is to be wiped.
async fn say(site: &Site, wanted: &str, word: Option<Said>, wipe: bool) -> Result<Heeded> {
    let machine = explain::find_machine(site, wanted)?;
    let opens =
        (word == Some(Said::Yes) && machine.waits_for_disk(site.now())).then(|| site.now().plus(DISK));
    if opens.is_none() {
        check_word(&machine, word)?;
    }
    let running = running(site, &machine)?;
    let (id, s) = (machine.id, machine.s);
    let named = id.clone();
    let change = site.store.write(move |tx| {
        if let Some(mut machine) = tx.get::<Machine>(MACHINES, &named)? {
            (machine.opens, machine.overwrite) = (opens, None);
            // A yes to its disk is none to all that may come.
            machine.said = if opens.is_some() { machine.said } else { word };
            // A word of another kind takes it back.
            machine.wipe = wipe || machine.wipe && word == Some(Said::Retire);
            tx.put(MACHINES, &named, &machine)?;
        }
        Ok(())
    });
    change.await?;
    site.call(s);
    Ok(Heeded { machine: id, running })
}

/// By what a machine is seen to run: its Node, or that it was heard within the last minute.
fn running(site: &Site, machine: &Machine) -> Result<Option<String>> {
    let (seen, _) = site.sight().of(&site.store.look()?, machine)?;
    let silent = site.now().since(explain::heard(site, machine));
    Ok(if seen.node == decide::Node::Ready {
        Some("its Node is Ready".to_owned())
    } else {
        (silent < slots::HEARD).then(|| format!("it was heard {} ago", explain::span(silent)))
    })
}

/// A yes and a no are for machines that wait. One whose kubelet has its certificate is in the cluster already.
fn check_word(machine: &Machine, word: Option<Said>) -> Result<()> {
    let inside = machine.kubelet == KubeletState::Issued;
    let name = machine.node().unwrap_or_else(|| machine.id.clone());
    match word {
        Some(Said::No) if inside => {
            bail!("{name} is part of the cluster: `provisioner retire {name}` takes it out of service")
        }
        Some(Said::Yes) if inside && machine.check_said().is_ok() => {
            bail!("{name} is part of the cluster already: there is nothing to say yes to")
        }
        _ => Ok(()),
    }
}

/// Shows a copied file to the watcher of the inbox, and waits for its verdict.
async fn apply(site: &Site, name: &str) -> Result<String> {
    let inbox = site.dir.join("inbox");
    let shown = name.strip_suffix(".part").filter(|name| !name.contains('/') && !name.starts_with('.'));
    let shown = shown.with_context(|| format!("{name} is no name of a file in {}", inbox.display()))?;
    let kind = Path::new(shown).extension().and_then(|kind| kind.to_str());
    ensure!(matches!(kind, Some("nbb" | "jws")), "a bundle ends in .nbb, an approval in .jws");
    let from = inbox.join(name);
    std::fs::rename(&from, inbox.join(shown)).with_context(|| format!("taking {}", from.display()))?;
    for _ in 0..LOOKS {
        for folder in ["done", "refused"] {
            let taken = inbox.join(folder).join(shown).exists();
            let why = std::fs::read_to_string(inbox.join(folder).join(format!("{shown}.why")));
            match why {
                Ok(why) if taken && folder == "done" => return Ok(why.trim().to_owned()),
                Ok(why) if taken => bail!("{}", why.trim()),
                _ => {}
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("no verdict on {shown} within a minute: it stays in {}; see the log of `serve`", inbox.display())
}
