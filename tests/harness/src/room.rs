//! A set of namespaces (network, mounts, processes, names) that lives exactly as long as its value.
//!
//! The first process of the room only waits for its input to close. The other end of that pipe is in this
//! process: when it closes, even by SIGKILL, the kernel ends everything in the room.

use crate::cgroup::Cgroup;
use crate::error::{Error, Result, io, run, tail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsFd as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::{self, sleep};
use std::time::Duration;

/// Shell lines that every room starts with. A link-local address is of use only once duplicate address
/// detection is over, and that takes a second which no test needs.
const BASE: &str = r#"set -e
for c in all default; do echo 0 > /proc/sys/net/ipv6/conf/$c/accept_dad || true; done
hostname "$NAME"
ip link set lo up
"#;

/// Becomes the first process: without interest in its children, which the kernel then reaps by itself.
const HOLD: &str = "echo ready\ntrap '' CHLD\nexec cat\n";

#[derive(Debug)]
pub(crate) struct Room {
    name: String,
    holder: Child,
    pipe: Option<ChildStdin>,
    cgroup: Option<Cgroup>,
    path: OsString,
}

/// What a room is made of beside its namespaces.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    /// The host name inside.
    pub name: &'a str,
    /// Shell lines that prepare it.
    pub setup: &'a str,
    /// Variables for these lines.
    pub env: Vec<(&'a str, &'a OsStr)>,
    /// Control groups of its own.
    pub cgroup: Option<Cgroup>,
    /// `PATH` of its programs.
    pub path: OsString,
}

impl Room {
    pub(crate) fn open(plan: Plan) -> Result<Self> {
        let own = plan.cgroup.as_ref();
        let (join, mount, enter) =
            own.map(|own| (own.join(), own.mount(), own.step_aside())).unwrap_or_default();
        // A fresh sysfs shows the interfaces of this room instead of the computer's.
        let sysfs = if own.is_some() { "mount -t sysfs sysfs /sys\n" } else { "" };
        let inside = format!("{BASE}{sysfs}{mount}{enter}{}\n{HOLD}", plan.setup);
        let flag = if own.is_some() { "--cgroup" } else { "" };
        let outside = format!(
            "set -e\n{join}exec unshare {flag} --net --mount --pid --uts --ipc --fork --kill-child=KILL \
             --propagation private --mount-proc sh -c \"$INSIDE\""
        );
        let mut command = Command::new("sh");
        command.args(["-c", &outside]).env("INSIDE", inside).env("NAME", plan.name).envs(plan.env);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().map_err(io("start", "unshare"))?;
        let pipe = holder.stdin.take();
        let mut room = Self { name: plan.name.into(), holder, pipe, cgroup: plan.cgroup, path: plan.path };
        room.await_ready()?;
        if let Some(cgroup) = &room.cgroup {
            cgroup.adopt(room.pid())?;
        }
        Ok(room)
    }

    fn await_ready(&mut self) -> Result<()> {
        let mut line = String::new();
        if let Some(out) = self.holder.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(io("read", &self.name))?;
        }
        if line == "ready\n" {
            return Ok(());
        }
        self.pipe = None;
        let mut said = String::new();
        if let Some(mut err) = self.holder.stderr.take() {
            err.read_to_string(&mut said).map_err(io("read", &self.name))?;
        }
        let status = self.holder.wait().map_err(io("wait for", &self.name))?;
        let output = tail(&said, 1000);
        Err(Error::Command { command: format!("set-up of room {}", self.name), status, output })
    }

    /// The process that has the room's namespaces, as seen from outside.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A command that runs inside.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let spaces = format!("/proc/{}/ns", self.pid());
        let mut command = match &self.cgroup {
            None => Command::new("nsenter"),
            Some(cgroup) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("set -e\n{}exec nsenter \"$@\"", cgroup.enter_leaf()), "nsenter"]);
                shell.arg(format!("--cgroup={spaces}/cgroup"));
                shell
            }
        };
        for (flag, file) in [("net", "net"), ("mount", "mnt"), ("uts", "uts"), ("ipc", "ipc")] {
            command.arg(format!("--{flag}={spaces}/{file}"));
        }
        command.arg(format!("--pid={spaces}/pid_for_children")).arg(program).env("PATH", &self.path);
        command
    }

    /// What a person types before a command to run it inside.
    pub(crate) fn by_hand(&self) -> String {
        format!("nsenter -t {} -n -m -u -i", self.pid())
    }

    /// Runs `ip` on the room's network, from outside: process ids mean what they mean to us.
    pub(crate) fn ip(&self, arguments: &[&str]) -> Result<String> {
        run(Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .arg("ip")
            .args(arguments))
    }

    /// Runs `work` on a thread of its own that is in the room's network; its other namespaces stay ours.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = format!("/proc/{}/ns/net", self.pid());
        let space = File::open(&path).map_err(io("open", &path))?;
        let enter = || move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network));
        let done = thread::scope(|scope| {
            let there = scope.spawn(|| enter().map(|()| work()));
            there.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        done.map_err(|error| io("enter", &path)(error.into()))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.pipe = None;
        for _ in 0..200 {
            if !matches!(self.holder.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(10));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room() -> Option<Room> {
        if let Some(why) = crate::missing() {
            crate::skip(&why);
            return None;
        }
        let path = std::env::var_os("PATH").unwrap();
        Some(Room::open(Plan { name: "quiet", path, ..Plan::default() }).unwrap())
    }

    #[test]
    fn a_room_has_a_name_and_a_network_of_its_own() {
        let Some(room) = room() else { return };
        assert_eq!(run(&mut room.command("hostname")).unwrap(), "quiet\n");
        assert_eq!(room.ip(&["-o", "link"]).unwrap().lines().count(), 1);
    }

    #[test]
    fn nothing_in_a_room_outlives_it() {
        let Some(room) = room() else { return };
        let mut sleeper = room.command("sh");
        let mut sleeper =
            sleeper.args(["-c", "echo up; exec sleep 1000"]).stdout(Stdio::piped()).spawn().unwrap();
        sleeper.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
        drop(room);
        crate::wait::until("the end of the sleeper", Duration::from_secs(5), || match sleeper.try_wait() {
            Ok(None) => Err("it sleeps".to_owned()),
            other => Ok(other),
        })
        .unwrap()
        .unwrap();
    }

    #[test]
    fn a_room_that_cannot_be_prepared_says_why() {
        let Some(_) = room() else { return };
        let path = std::env::var_os("PATH").unwrap();
        let setup = "ls /no/such/folder";
        let error = Room::open(Plan { name: "broken", setup, path, ..Plan::default() }).unwrap_err();
        assert!(error.to_string().contains("/no/such/folder"), "{error}");
    }
}
