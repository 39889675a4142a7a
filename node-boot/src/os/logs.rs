//! What a machine's programs say, each in a file of a bounded size; the kubelet shows the folder to whoever may see it.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::console::clean;

/// Below the folder that the kubelet shows (`/logs/` of its own API).
pub const FOLDER: &str = "/var/log/node-boot";
/// A file that is larger becomes the one before, and that one is forgotten.
const LARGEST: u64 = 4 << 20;
/// Where the last line is looked for, and how much of it is worth a place on the screen.
const TAIL: u64 = 4096;
const LINE: usize = 200;

/// What a program of this name says.
#[derive(Clone, Debug)]
pub struct Log(PathBuf);

impl Log {
    /// In `folder`.
    pub fn of(folder: &Path, name: &str) -> Self {
        Self(folder.join(format!("{name}.log")))
    }

    /// Where a program is to say it. A machine that cannot keep it runs the program all the same.
    pub fn end(&self) -> Stdio {
        let made = self.0.parent().map_or(Ok(()), fs::create_dir_all);
        let open = || File::options().append(true).create(true).mode(0o600).open(&self.0);
        made.and_then(|()| open()).map_or_else(|_| Stdio::null(), Stdio::from)
    }

    /// Keeps the file bounded. The program goes on writing to the same one: it is copied, and emptied.
    pub fn bound(&self) {
        if fs::metadata(&self.0).is_ok_and(|found| found.len() > LARGEST)
            && fs::copy(&self.0, self.0.with_extension("log.1")).is_ok()
        {
            let _ = File::options().write(true).open(&self.0).and_then(|file| file.set_len(0));
        }
    }

    /// The last thing that it said.
    pub fn last(&self) -> Option<String> {
        let mut file = File::open(&self.0).ok()?;
        let size = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL))).ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let line = text.lines().rfind(|line| !line.trim().is_empty())?;
        Some(clean(line.trim()).chars().take(LINE).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_program_says_is_kept_within_bounds_and_its_last_words_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::of(&folder.path().join("logs"), "kubelet");
        assert_eq!(log.last(), None);
        let mut says = Command::new("sh");
        says.args(["-c", "echo one >&2; printf 'two\\033[2J\\n\\n' >&2"]).stderr(log.end());
        assert!(says.status().unwrap().success());
        assert!(log.last().is_some_and(|line| line.starts_with("two") && !line.contains('\u{1b}')));

        let mut writer = File::options().append(true).open(&log.0).unwrap();
        writer.write_all(&vec![b'x'; usize::try_from(LARGEST).unwrap()]).unwrap();
        log.bound();
        writer.write_all(b"after\n").unwrap();
        assert_eq!(fs::read(&log.0).unwrap(), b"after\n", "the program writes on, to the same file");
        assert!(fs::metadata(log.0.with_extension("log.1")).unwrap().len() > LARGEST);
        log.bound();
        assert_eq!(log.last().as_deref(), Some("after"));
    }
}
