//! What can go wrong while a site is set up, told so that a person knows what to look at.

use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

/// The result of setting something up.
pub type Result<T> = std::result::Result<T, Error>;

/// A failure of the harness itself, never of the product under test.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, folder or process could not be made, read or removed.
    #[error("cannot {doing} {object}: {source}")]
    Io {
        /// The verb, such as `create`.
        doing: &'static str,
        /// The path or program.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A helper program ended with a failure.
    #[error("`{command}` failed ({status}): {output}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// Something did not come true in time.
    #[error("{what}: not within {deadline:?}; last seen: {last}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        deadline: Duration,
        /// The last reason why it was not true yet.
        last: String,
    },
    /// A needed file is not on this machine.
    #[error("{object} is missing: {remedy}")]
    Missing {
        /// The file.
        object: String,
        /// What to run.
        remedy: String,
    },
    /// The machine is switched off.
    #[error("machine {0} is switched off: call power_on first")]
    Off(String),
}

/// Turns an I/O error into one that names the operation and its object.
pub(crate) fn io(doing: &'static str, object: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Error {
    let object = object.to_string();
    move |source| Error::Io { doing, object, source }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let line = line_of(command);
    let output = command.stdin(Stdio::null()).output().map_err(io("run", &line))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let said = format!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    Err(Error::Command { command: line, status: output.status, output: tail(&said, 2000) })
}

/// The last `bytes` of a text, cut at a character.
pub(crate) fn tail(text: &str, bytes: usize) -> String {
    let text = text.trim_end();
    let from = text.len().saturating_sub(bytes);
    let from = (from..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[from..].to_owned()
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
