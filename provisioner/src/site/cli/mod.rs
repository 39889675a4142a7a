//! The command line of a site.

mod args; // what may be typed
mod files; // bundles, backups, rendered configurations
mod found; // what a new cluster gets
mod setup; // init and attach
mod table; // what a person reads

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

use self::args::Images;
pub use self::args::{Command, EstClient, Where};
use super::admin::{Ask, Heeded, ask};
use super::explain::{ClaimRow, Explained, Listed, SlotRow};
use super::machine::Said;
use super::updates::Activated;
use super::{Site, images, keys, serve, system_clock};
use crate::plain;

/// Runs one command.
pub fn run(command: Command) -> Result<()> {
    // Everything a provisioner writes is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match command {
        Command::Init { at, reply: Some(reply), .. } => setup::finish(&at.dir, &reply),
        Command::Init { at, certified: Some(file), tpm, owner, returns, .. } => {
            let (tpm, owner) = (tpm.context("--tpm is missing")?, owner.context("--owner is missing")?);
            setup::take(&at.dir, &file, &tpm, &owner, returns)
        }
        Command::Init { at, site, tpm, owner, again, .. } => {
            let (site, owner) = (site.context("--site is missing")?, owner.context("--owner is missing")?);
            setup::begin(&at.dir, &site, tpm.as_deref(), &owner, again)
        }
        Command::Attach { at, kubeconfig, yes } => {
            runtime()?.block_on(setup::attach(&at.dir, &kubeconfig, yes))
        }
        Command::Found { at, half, kubeconfig } => {
            runtime()?.block_on(found::found(&at.dir, half, &kubeconfig))
        }
        Command::Serve { at, listen, est, metrics, patience, log } => {
            logs(&log);
            keys::Identity::load(&at.dir)?;
            let site = Arc::new(Site::open(&at.dir, system_clock)?);
            let patience = std::time::Duration::from_secs(patience.into());
            runtime()?.block_on(serve::run(site, serve::Options { listen, est, metrics, patience }))
        }
        Command::Apply { at, file } => files::apply(&at.dir, &file, system_clock()),
        Command::Render { at, machine, diff } => files::render(&at.dir, &machine, diff.as_deref()),
        Command::Backup { at, file } => files::back_up(&at.dir, &file),
        Command::Restore { at, file } => runtime()?.block_on(files::restore(&at.dir, &file)),
        Command::Report { at } => {
            println!("{}", ask::<String>(&at.dir, &Ask::Report {})?);
            Ok(())
        }
        Command::Images { what: Images::Add { at, folder } } => {
            keys::Identity::load(&at.dir)?;
            for image in images::add(&at.dir, &folder)? {
                println!("{} {} is here: {}", image.kind.word(), image.version, image.partition());
            }
            println!("Machines take it as soon as a bundle of HQ wants it (`provisioner apply BUNDLE`).");
            Ok(())
        }
        Command::Activate { at } => {
            let done: Activated = ask(&at.dir, &Ask::Activate {})?;
            println!("Machines try what was staged, one after the other, until {}.", done.until);
            let held = match done.held {
                0 => "No machine has waited for this".to_owned(),
                held => format!("{} waited for this", plain::count(held, "machine")),
            };
            println!("{held}; `provisioner explain MACHINE` says where each stands.");
            Ok(())
        }
        Command::EstClient { what: EstClient::Add { at, name } } => {
            let password: String = ask(&at.dir, &Ask::EstClient { name: name.clone() })?;
            println!("Name {name}, password {password}: good once, for a week. It is not kept here.");
            Ok(())
        }
        look @ (Command::Machines { .. }
        | Command::Slots { .. }
        | Command::Explain { .. }
        | Command::Claims { .. }) => show(look),
        word => say(word),
    }
}

/// Commands that only look.
fn show(command: Command) -> Result<()> {
    match command {
        Command::Machines { at, all, json } => {
            let ask = Ask::Machines { all };
            print::<Listed>(&at.dir, &ask, json, table::machines)
        }
        Command::Slots { at, json } => {
            print::<Vec<SlotRow>>(&at.dir, &Ask::Slots {}, json, |slots| table::slots(slots))
        }
        Command::Claims { at, json } => {
            print::<Vec<ClaimRow>>(&at.dir, &Ask::Claims {}, json, |claims| table::claims(claims))
        }
        Command::Explain { at, machine, json } => {
            print::<Explained>(&at.dir, &Ask::Explain { machine }, json, table::explained)
        }
        _ => Ok(()),
    }
}

/// Commands by which a person says something.
fn say(command: Command) -> Result<()> {
    let word = |dir: &Path, machine: String, word: Option<Said>, done: &str| -> Result<()> {
        let heeded: Heeded = ask(dir, &Ask::Say { machine, word })?;
        println!("{}: {done}", heeded.machine);
        if let (Some(Said::Retire), Some(running)) = (word, &heeded.running) {
            println!(
                "It was seen to run: {running}. If another one was meant: `provisioner retire --undo {}`.",
                heeded.machine
            );
        }
        Ok(())
    };
    match command {
        Command::Window { at, minutes } => {
            let until: String = ask(&at.dir, &Ask::Window { minutes })?;
            println!("Until {until}, a machine that nobody registered may show a code.");
            println!("Read its code to HQ. `provisioner claims` lists the machines that show one.");
            Ok(())
        }
        Command::Approve { at, slot: Some(slot), code: Some(code), .. } => {
            let machine: String = ask(&at.dir, &Ask::Approve { slot: slot.clone(), code })?;
            println!("The code is right: {machine} is approved for {slot}, and holds it from now on.");
            println!("Somebody at the machine must now confirm the site: on its screen, or by a stick.");
            println!("Send HQ a report (`provisioner report`): its next bundle makes the approval lasting.");
            Ok(())
        }
        Command::Approve { at, machine: Some(machine), overwrite: Some(mark), .. } => {
            let heeded: Heeded = ask(&at.dir, &Ask::Overwrite { machine, mark: mark.clone() })?;
            println!("{}: what its disk {mark} holds is overwritten as soon as it asks.", heeded.machine);
            Ok(())
        }
        Command::Approve { at, machine: Some(machine), .. } => {
            word(&at.dir, machine, Some(Said::Yes), "approved; it goes on by itself.")
        }
        Command::Refuse { at, machine } => word(
            &at.dir,
            machine,
            Some(Said::No),
            "refused, until `provisioner retire --undo MACHINE` takes that back.",
        ),
        Command::Retire { at, machine, undo: false } => {
            word(&at.dir, machine, Some(Said::Retire), "out of service; its Node is being removed.")
        }
        Command::Retire { at, machine, undo: true } => {
            word(&at.dir, machine, None, "what was said of it here is taken back.")
        }
        Command::Wipe { at, machine } => {
            let heeded: Heeded = ask(&at.dir, &Ask::Wipe { machine })?;
            println!("{}: out of service; its disk is erased as soon as it speaks.", heeded.machine);
            println!("Until then `provisioner retire --undo {}` takes that back.", heeded.machine);
            Ok(())
        }
        _ => Ok(()),
    }
}

fn print<T: Serialize + DeserializeOwned>(
    dir: &Path,
    question: &Ask,
    json: bool,
    text: impl Fn(&T) -> String,
) -> Result<()> {
    let answer: T = ask(dir, question)?;
    if json {
        println!("{}", serde_json::to_string(&answer)?);
    } else {
        print!("{}", text(&answer));
    }
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn logs(form: &str) {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{Layer as _, filter::filter_fn, fmt, util::SubscriberInitExt as _};
    // The Kubernetes client logs every call that fails as an error; what a failure means, our own lines say.
    let ours =
        filter_fn(|line| *line.level() <= tracing::Level::INFO && line.target().starts_with("provisioner"));
    let layer = fmt::layer().with_target(false);
    let layer = if form == "json" {
        layer.json().with_filter(ours).boxed()
    } else {
        layer.with_ansi(std::io::stdout().is_terminal()).with_filter(ours).boxed()
    };
    tracing_subscriber::registry().with(layer).init();
}
