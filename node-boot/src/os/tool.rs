//! Programs that are run to their end: each has its time, none outlives whoever waits for it, and one that fails is quoted.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::stop::pause;

/// Between two looks at a program, at first and at most: most are done at once.
const GLANCE: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(100);
/// How much of the end of what a program said is looked through, bytes.
const END: u64 = 4096;

/// Runs a program to its end; an error, with the last line on its standard error, where it fails or takes longer.
pub fn run(command: Command, what: &str, deadline: Duration) -> Result<()> {
    run_noting(command, what, deadline, 0, &note()?)
}

/// The same for one that fails only by a greater code than `worst`; its standard error goes to `said`, whatever is there
/// already.
pub fn run_noting(
    mut command: Command,
    what: &str,
    deadline: Duration,
    worst: i32,
    said: &File,
) -> Result<()> {
    let until = Instant::now() + deadline;
    let child = command.stdin(Stdio::null()).stderr(said.try_clone()?).spawn();
    let mut child = Ends(child.with_context(|| format!("starting {what}"))?);
    let mut glance = GLANCE;
    let status = loop {
        if let Some(status) = child.0.try_wait().with_context(|| format!("waiting for {what}"))? {
            break status;
        }
        let minutes = deadline.as_millis().div_ceil(60_000);
        ensure!(Instant::now() < until, "{what} has not ended within {minutes} min{}", quoted(said));
        pause(glance)?;
        glance = (glance * 2).min(LONGEST);
    };
    if status.code().is_none_or(|code| code > worst) {
        bail!("{what} has failed ({status}){}", quoted(said));
    }
    Ok(())
}

/// A place in memory for what a program says.
pub fn note() -> Result<File> {
    Ok(memfd_create("said", MemfdFlags::CLOEXEC).context("a place for what a program says")?.into())
}

/// The last line of it that says what is wrong, to be put behind an error.
fn quoted(said: &File) -> String {
    let length = said.metadata().map_or(0, |it| it.len());
    let mut end = vec![0; usize::try_from(length.min(END)).unwrap_or_default()];
    let read = said.read_at(&mut end, length - length.min(END)).unwrap_or_default();
    let text = String::from_utf8_lossy(&end[..read]);
    last(&text).map(|line| format!(": {}", line.trim_start_matches("error: "))).unwrap_or_default()
}

/// Some programs give advice after their error.
fn last(text: &str) -> Option<&str> {
    let mut lines = text.lines().map(str::trim).rev().filter(|line| !line.is_empty());
    let is_error = |line: &&str| line.starts_with("error");
    lines.clone().find(is_error).or_else(|| lines.next())
}

/// A program that does not outlive whoever waits for it.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::null());
        command
    }

    fn why(script: &str, deadline: Duration) -> String {
        run(shell(script), "the tool", deadline).unwrap_err().to_string()
    }

    #[test]
    fn a_program_that_fails_is_quoted_by_its_error_and_not_by_the_advice_after_it() {
        let long = Duration::from_mins(1);
        run(shell("cat; echo much >&2"), "the tool", long).unwrap();
        assert_eq!(why("exit 3", long), "the tool has failed (exit status: 3)");
        let script = "echo it warns >&2; echo the disk is full >&2; echo >&2; exit 1";
        assert_eq!(why(script, long), "the tool has failed (exit status: 1): the disk is full");
        let script = "echo error execution phase: no >&2; echo To see more, ask for more >&2; exit 1";
        assert_eq!(why(script, long), "the tool has failed (exit status: 1): error execution phase: no");
        assert!(why("head -c 100000 /dev/zero >&2; echo end >&2; kill -9 $$", long).ends_with("end"));
        let none = run(Command::new("/no/such/tool"), "the tool", long).unwrap_err();
        assert_eq!(none.to_string(), "starting the tool");
        run_noting(shell("exit 2"), "the tool", long, 2, &note().unwrap()).unwrap();
    }

    #[test]
    fn a_program_that_hangs_is_ended_when_its_time_is_over() {
        let begin = Instant::now();
        let said = why("echo waiting for the disk >&2; exec sleep 60", Duration::from_millis(300));
        assert_eq!(said, "the tool has not ended within 1 min: waiting for the disk");
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}
