//! A program that runs beside the test, with its own log file, and ends with its value.

use crate::error::{Result, io, tail};
use crate::wait::until;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running program; dropping it kills its whole process group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    enters: bool,
}

impl Process {
    /// Starts a command; what it prints goes to the end of `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log).map_err(io("open", log.display()))?;
        let err = out.try_clone().map_err(io("open", log.display()))?;
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let enters = words.take(5).any(|word| word == "nsenter");
        let child = command.spawn().map_err(io("start", name))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), enters })
    }

    /// How it was called when it was started.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything it printed so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The end of its log, for a failure message.
    pub fn last_words(&self) -> String {
        format!("{}: {}", self.name, tail(&self.log(), 1500))
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The program's own process id as this process sees it, behind the `nsenter` that brings it there.
    pub fn pid(&self) -> u32 {
        let outer = self.child.id();
        if !self.enters {
            return outer;
        }
        let inner = until("the program behind nsenter", Duration::from_secs(2), || {
            let children =
                fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap_or_default();
            let inner = children.split_whitespace().next().and_then(|pid| pid.parse().ok());
            let gone = fs::read_to_string(format!("/proc/{outer}/cmdline")).is_ok_and(|line| line.is_empty());
            inner.or(gone.then_some(outer)).ok_or_else(|| "nsenter is on its way".to_owned())
        });
        inner.unwrap_or(outer)
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM);
        self.wait(deadline)
    }

    /// `kill -9` of this one program; what it has started lives on. Returns once it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.wait(Duration::from_secs(5));
    }

    /// Stops (`true`) or continues (`false`) the program, as a machine that hangs does.
    pub fn freeze(&self, frozen: bool) {
        self.signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        until(&format!("the end of {}", self.name), deadline, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("it runs since {:?}", start.elapsed())),
            Err(error) => Err(error.to_string()),
        })
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            // It may be gone already; that is what the caller finds out by waiting.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.running() {
            // The program first: were `nsenter` to die before it, nobody in the room would ever collect it.
            self.kill();
        }
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::Folder;

    #[test]
    fn a_process_ends_with_its_value_and_its_children_too() {
        let folder = Folder::new("process").unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]);
        let process = Process::start("parent", command, &folder.path().join("log")).unwrap();
        let child = until("the child's id", Duration::from_secs(5), || {
            process.log().trim().parse::<u32>().map_err(|error| error.to_string())
        })
        .unwrap();
        drop(process);
        let gone = |path: String| match fs::read_to_string(path) {
            Ok(stat) if !stat.contains(") Z ") => Err(stat),
            _ => Ok(()),
        };
        until("the child's end", Duration::from_secs(5), || gone(format!("/proc/{child}/stat"))).unwrap();
    }
}
