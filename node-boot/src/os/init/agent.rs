//! The agent, a child of PID 1: whatever becomes of it, the machine goes on.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, wait};

use super::power::{self, Ask, Watchdog};
use super::{OWNER, System};
use crate::console::say;
use crate::os::bank::{self, KUBERNETES};

/// It ran well if it ran that long: the next pause is short again.
const WELL: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_mins(1);
/// Between two looks at who has died and what was asked for.
const GLANCE: Duration = Duration::from_millis(100);

/// A system that is tried has so long to prove itself; the agent gives up sooner, where it can.
const PROOF: Duration = Duration::from_mins(15);

/// Starts the agent, and again whenever it ends; buries whoever else has died; ends the run when it is asked to.
pub fn keep_up(system: System) -> Result<std::convert::Infallible> {
    let mut watchdog = Watchdog::start();
    let mut trial = bank::is_tried().then(|| Instant::now() + PROOF);
    let mut pause = Duration::from_secs(1);
    power::listen();
    loop {
        let started = Instant::now();
        let agent = start(system)?;
        let how = watch(agent, &mut watchdog, &mut trial);
        say(&format!("The agent has ended ({how}); it is started again."));
        pause = if started.elapsed() > WELL { Duration::from_secs(1) } else { (pause * 2).min(LONGEST) };
        let until = Instant::now() + pause;
        while Instant::now() < until {
            look(agent, &mut watchdog, &mut trial);
        }
    }
}

/// Waits until the agent has ended; how it did.
fn watch(agent: Pid, watchdog: &mut Watchdog, trial: &mut Option<Instant>) -> String {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == agent => return format!("{status:?}"),
            Ok(Some(_)) => {}
            Ok(None) => look(agent, watchdog, trial),
            Err(error) => return error.to_string(),
        }
    }
}

fn look(agent: Pid, watchdog: &mut Watchdog, trial: &mut Option<Instant>) {
    watchdog.alive();
    if trial.take_if(|until| Instant::now() > *until).is_some() && bank::is_tried() {
        say("This system has not proved itself. Starting the one before.");
        power::end(Ask::Restart, agent, watchdog);
    }
    if let Some(how) = power::asked() {
        power::end(how, agent, watchdog);
    }
    std::thread::sleep(GLANCE);
}

fn start(system: System) -> Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    let system = match system {
        System::Live => "live",
        System::Installed => "installed",
    };
    command.arg0("node-boot").args(["run", "--system", system, "--owner", OWNER]);
    command.env("PATH", format!("/usr/bin:/usr/sbin:{KUBERNETES}/bin"));
    let child = command.spawn().context("starting the agent")?;
    Pid::from_raw(child.id().cast_signed()).context("the agent has no number")
}
