//! The agent, a child of PID 1: whatever becomes of it, the machine goes on.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, wait};

use super::System;
use crate::console::say;

/// It ran well if it ran that long: the next pause is short again.
const WELL: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_mins(1);

/// Starts the agent, and again whenever it ends; buries whoever else has died.
pub fn keep_up(system: System) -> Result<std::convert::Infallible> {
    let mut pause = Duration::from_secs(1);
    loop {
        let started = Instant::now();
        let agent = start(system)?;
        let how = loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) if pid == agent => break format!("{status:?}"),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => break error.to_string(),
            }
        };
        say(&format!("The agent has ended ({how}); it is started again."));
        pause = if started.elapsed() > WELL { Duration::from_secs(1) } else { (pause * 2).min(LONGEST) };
        std::thread::sleep(pause);
    }
}

fn start(system: System) -> Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    let system = match system {
        System::Live => "live",
        System::Installed => "installed",
    };
    command.arg0("node-boot").args(["run", "--system", system, "--owner", "/run/owner.json"]);
    command.env("PATH", "/usr/bin:/usr/sbin");
    let child = command.spawn().context("starting the agent")?;
    Pid::from_raw(child.id().cast_signed()).context("the agent has no number")
}
