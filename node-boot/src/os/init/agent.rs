//! The agent, a child of PID 1: whatever becomes of it, the machine goes on.

use std::fmt::Debug;
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
        let agent = Some(start(system)?);
        let how = loop {
            if let Some(how) = look(agent, &mut watchdog, &mut trial) {
                break how;
            }
        };
        say(&format!("The agent has ended ({how}); it is started again."));
        pause = if started.elapsed() > WELL { Duration::from_secs(1) } else { (pause * 2).min(LONGEST) };
        let until = Instant::now() + pause;
        while Instant::now() < until {
            // Its number may be another program's by now.
            look(None, &mut watchdog, &mut trial);
        }
    }
}

/// Buries the dead, and ends the run where that is asked for; how the agent has ended, once it did.
fn look(agent: Option<Pid>, watchdog: &mut Watchdog, trial: &mut Option<Instant>) -> Option<String> {
    watchdog.alive();
    let ended = bury(agent, || wait(WaitOptions::NOHANG));
    let agent = agent.filter(|_| ended.is_none());
    if is_over(trial, Instant::now(), bank::is_tried) {
        say("This system has not proved itself. Starting the one before.");
        power::end(Ask::Restart, agent, watchdog);
    }
    if let Some(how) = power::asked() {
        power::end(how, agent, watchdog);
    }
    if ended.is_none() {
        std::thread::sleep(GLANCE);
    }
    ended
}

/// Whether the time of a system that is tried is over, once; it may have been kept meanwhile.
fn is_over(trial: &mut Option<Instant>, now: Instant, is_tried: impl FnOnce() -> bool) -> bool {
    trial.take_if(|until| now > *until).is_some() && is_tried()
}

/// Takes everybody who has died, until it is the agent; how it did.
fn bury<S: Debug>(
    agent: Option<Pid>,
    mut next: impl FnMut() -> rustix::io::Result<Option<(Pid, S)>>,
) -> Option<String> {
    loop {
        match next() {
            Ok(Some((pid, status))) if agent == Some(pid) => return Some(format!("{status:?}")),
            Ok(Some(_)) => {}
            Ok(None) => return None,
            // Without the agent there may be nobody left to wait for.
            Err(error) => return agent.map(|_| error.to_string()),
        }
    }
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

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_system_that_has_not_proved_itself_in_its_time_is_left_and_one_that_was_kept_is_not() {
        let now = Instant::now();
        let until = now + PROOF;
        for is_tried in [true, false] {
            let mut trial = Some(until);
            assert!(!is_over(&mut trial, until, || is_tried) && trial.is_some(), "it has time");
            assert_eq!(is_over(&mut trial, until + GLANCE, || is_tried), is_tried);
            assert!(!is_over(&mut trial, until + 2 * GLANCE, || is_tried), "once");
        }
        assert!(!is_over(&mut None, until + GLANCE, || true), "nothing was tried");
    }

    #[test]
    fn everybody_who_died_is_buried_also_between_two_agents_and_the_end_of_the_agent_is_told_once() {
        let pid = |number| Pid::from_raw(number).unwrap();
        let buried = |agent: Option<i32>, died: &[i32], then: rustix::io::Result<()>| {
            let mut died = died.iter();
            let how = bury(agent.map(pid), || match died.next() {
                Some(number) => Ok(Some((pid(*number), "by itself"))),
                None => then.map(|()| None),
            });
            (how, died.len())
        };
        let ended = Some("\"by itself\"".to_owned());
        assert_eq!(buried(Some(7), &[8, 9], Ok(())), (None, 0));
        assert_eq!(buried(Some(7), &[8, 7, 9], Ok(())), (ended, 1), "the others are buried at the next look");
        assert_eq!(buried(None, &[8, 7, 9], Ok(())), (None, 0), "its number is another one's in the pause");
        assert_eq!(buried(None, &[8], Err(Errno::CHILD)), (None, 0));
        assert!(buried(Some(7), &[], Err(Errno::CHILD)).0.is_some(), "there is no agent any more");
    }
}
