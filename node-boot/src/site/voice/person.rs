//! A person at this machine confirms the site's name: on the terminal, or by renaming a file on a stick.

use std::io::{BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{QueueSelector, tcflush};

use crate::console::say;
use crate::state::write_file;

/// How long an answer is waited for.
pub const DEADLINE: Duration = Duration::from_mins(10);
/// Between two looks at the stick.
const LOOK: Duration = Duration::from_millis(500);

/// What the person at this machine says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Person {
    /// Nobody was asked yet.
    NotAsked,
    /// The question stands.
    Asked,
    /// This is the right site.
    Yes,
    /// It is not.
    No,
    /// No answer came in time.
    Silent,
    /// There is no way to ask.
    Unreachable,
}

/// By what a person is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Screen and keyboard.
    Terminal,
    /// Files in this folder.
    Stick(PathBuf),
    /// By nothing.
    None,
}

impl Way {
    /// The stick where one is named; else the terminal where this is one.
    pub fn of(stick: Option<&Path>) -> Self {
        match stick {
            Some(folder) => Self::Stick(folder.to_owned()),
            None if std::io::stdin().is_terminal() => Self::Terminal,
            None => Self::None,
        }
    }
}

/// One question and its answer.
#[derive(Debug)]
pub struct Question {
    way: Way,
    said: Person,
    text: String,
    until: Option<Instant>,
}

impl Question {
    /// Not asked yet.
    pub fn new(way: Way) -> Self {
        let said = if way == Way::None { Person::Unreachable } else { Person::NotAsked };
        Self { way, said, text: String::new(), until: None }
    }

    /// What came of it so far.
    pub fn said(&self) -> Person {
        self.said
    }

    /// Asks, once, whether `site` is right for the machine that showed `code`.
    pub fn ask(&mut self, site: &str, code: Option<&str>, deadline: Duration) {
        if self.said != Person::NotAsked {
            return;
        }
        self.said = Person::Asked;
        self.until = Some(Instant::now() + deadline);
        match &self.way {
            Way::Terminal => {
                // Whatever was on the screen before: the question is to be seen.
                print!("\x1b[0m");
                forget_early_keys();
                say(&format!(
                    "Headquarters approved this machine by telephone for site {site}. Is it to join site {site}? \
                     Type yes or no, and Enter."
                ));
            }
            Way::Stick(folder) => {
                self.text = stick_text(site, code);
                self.said = renamed(folder, &self.text, Duration::ZERO);
                say(&format!(
                    "Headquarters approved this machine by telephone for site {site}. If that is right, rename \
                     {} to confirm.txt.",
                    code_file(folder).display()
                ));
            }
            Way::None => self.said = Person::Unreachable,
        }
    }

    /// Waits at most so long for the answer.
    pub fn wait(&mut self, patience: Duration) {
        let end = Instant::now() + patience;
        while self.said == Person::Asked {
            let left = end.saturating_duration_since(Instant::now());
            match &self.way {
                Way::Terminal => self.said = typed(left),
                Way::Stick(folder) => self.said = renamed(folder, &self.text, left.min(LOOK)),
                Way::None => self.said = Person::Unreachable,
            }
            if self.said == Person::Asked && self.until.is_some_and(|until| Instant::now() >= until) {
                self.said = Person::Silent;
            }
            if left.is_zero() {
                return;
            }
        }
        // Whoever has answered, or cannot be asked, does not make this loop any faster.
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
    }
}

/// Keys that were pressed before the question was there answer something else.
fn forget_early_keys() {
    // An error means that it is no terminal.
    let _ = tcflush(std::io::stdin(), QueueSelector::IFlush);
}

fn typed(wait: Duration) -> Person {
    let keyboard = std::io::stdin();
    let wait = Timespec::try_from(wait).ok();
    if !poll(&mut [PollFd::new(&keyboard, PollFlags::IN)], wait.as_ref()).is_ok_and(|ready| ready > 0) {
        return Person::Asked;
    }
    let mut line = String::new();
    match keyboard.lock().read_line(&mut line) {
        Ok(0) | Err(_) => Person::Unreachable,
        Ok(_) => match meant(&line) {
            Some(true) => Person::Yes,
            Some(false) => Person::No,
            None => {
                println!("Please type yes or no.");
                Person::Asked
            }
        },
    }
}

/// What a typed line means; nothing else is taken for a yes.
fn meant(line: &str) -> Option<bool> {
    match line.trim().to_ascii_lowercase().as_str() {
        "yes" | "y" => Some(true),
        "no" | "n" => Some(false),
        _ => None,
    }
}

/// The file that the machine writes.
pub fn code_file(folder: &Path) -> PathBuf {
    folder.join("nodeboot").join("code.txt")
}

/// What stands on the stick: the file that comes back has to say the same, so that no older one counts.
fn stick_text(site: &str, code: Option<&str>) -> String {
    let code = code.unwrap_or_default();
    format!(
        "{code}\nsite {site}\n\nIs this machine to join site {site}? Then rename this file to confirm.txt.\n"
    )
}

/// Puts the code on the stick for a machine without a screen.
pub fn show_on_stick(folder: &Path, code: &str) {
    put(folder, &format!("{code}\n\nRead this code to headquarters.\n"));
}

fn put(folder: &Path, text: &str) {
    let path = code_file(folder);
    if !folder.is_dir() {
        say(&format!("There is no stick at {}: plug it in.", folder.display()));
    } else if std::fs::read_to_string(&path).ok().as_deref() != Some(text)
        && let Err(error) = write_file(&path, text.as_bytes(), 0o644)
    {
        say(&format!("The stick cannot be written: {error:#}. Use another one."));
    }
}

fn renamed(folder: &Path, text: &str, wait: Duration) -> Person {
    let came_back = std::fs::read_to_string(folder.join("nodeboot").join("confirm.txt"));
    match came_back {
        // Editors and file systems may change the ends of lines, and nothing else.
        Ok(found) if found.split_whitespace().eq(text.split_whitespace()) => return Person::Yes,
        Ok(_) => say("The file confirm.txt on the stick is not the one this machine wrote: remove it."),
        Err(_) => {}
    }
    put(folder, text);
    std::thread::sleep(wait);
    Person::Asked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(folder: &Path) -> Question {
        let mut question = Question::new(Way::Stick(folder.to_owned()));
        question.ask("ship-7", Some("WT0T-BSPH-K"), DEADLINE);
        question.wait(Duration::ZERO);
        question
    }

    fn rename(folder: &Path) {
        std::fs::rename(code_file(folder), folder.join("nodeboot/confirm.txt")).unwrap();
    }

    #[test]
    fn a_renamed_file_confirms_the_site_that_it_names() {
        let stick = tempfile::tempdir().unwrap();
        let mut asked = question(stick.path());
        assert_eq!(asked.said(), Person::Asked);
        let text = std::fs::read_to_string(code_file(stick.path())).unwrap();
        assert!(text.starts_with("WT0T-BSPH-K\nsite ship-7\n"), "{text}");
        rename(stick.path());
        asked.wait(Duration::ZERO);
        assert_eq!(asked.said(), Person::Yes);
        assert_eq!(question(stick.path()).said(), Person::Yes, "also after a power cut");
    }

    #[test]
    fn r13d_a_file_of_before_the_question_or_of_another_site_confirms_nothing() {
        let stick = tempfile::tempdir().unwrap();
        show_on_stick(stick.path(), "WT0T-BSPH-K");
        rename(stick.path());
        assert_eq!(question(stick.path()).said(), Person::Asked);
        let mut other = Question::new(Way::Stick(stick.path().to_owned()));
        other.ask("ship-8", Some("WT0T-BSPH-K"), DEADLINE);
        other.wait(Duration::ZERO);
        rename(stick.path());
        assert_eq!(question(stick.path()).said(), Person::Asked);
    }

    #[test]
    fn r13d_silence_and_a_missing_stick_are_no_yes() {
        let stick = tempfile::tempdir().unwrap();
        let mut asked = Question::new(Way::Stick(stick.path().join("not-plugged-in")));
        asked.ask("ship-7", None, Duration::ZERO);
        asked.wait(Duration::ZERO);
        assert_eq!(asked.said(), Person::Silent);
        assert_eq!(Question::new(Way::None).said(), Person::Unreachable);
    }

    #[test]
    fn r13d_nothing_but_yes_is_a_yes() {
        assert_eq!([meant("yes\n"), meant(" Y "), meant("No\r\n")], [Some(true), Some(true), Some(false)]);
        for line in ["", "\n", "yes no", "ja", "yess", "ship-7", "\0"] {
            assert_eq!(meant(line), None, "{line:?}");
        }
    }
}
