//! A machine's disk that is recorded while the machine runs, and what its firmware remembered meanwhile.

use crate::cuts::{Cut, Log, entries_of};
use crate::error::{Result, io};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The log in the folder of a recording, and how the states of the firmware's memory are called: by how long the log was.
const LOG: &str = "log";
const FIRMWARE: &str = "firmware-";
/// How often the firmware's memory is looked at: no system writes to its disk after a variable in a shorter time.
const OFTEN: Duration = Duration::from_millis(10);

/// What a recorded machine has left, in a folder that outlives the machine.
#[derive(Debug)]
pub struct Recording {
    /// What was written to its disk.
    pub log: Log,
    /// States of the firmware's memory, each with how many entries the log had when it was seen.
    firmware: Vec<(u64, PathBuf)>,
}

impl Recording {
    /// Reads it.
    pub fn open(folder: &Path) -> Result<Self> {
        let log = Log::open(&folder.join(LOG))?;
        let listed = fs::read_dir(folder).map_err(io("read", folder.display()))?;
        let state = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.strip_prefix(FIRMWARE)?;
            Some((name.parse().ok()?, path))
        };
        let mut firmware: Vec<_> = listed.flatten().filter_map(|entry| state(entry.path())).collect();
        firmware.sort();
        Ok(Self { log, firmware })
    }

    /// What the firmware remembered when the power was cut. It has a memory of its own, which no flush of the disk waits for: what
    /// was being written to it may be there or not, and here is not.
    pub fn firmware(&self, cut: Cut) -> Option<&Path> {
        let length = self.log.entries_at(cut.flush);
        let before = self.firmware.iter().rev().find(|(seen, _)| *seen <= length);
        before.or(self.firmware.first()).map(|(_, path)| &**path)
    }
}

/// An empty log for a new recording in a folder; what was there is gone.
pub(crate) fn begin(folder: &Path) -> Result<PathBuf> {
    let making = |error| io("begin a recording in", folder.display())(error);
    fs::create_dir_all(folder).map_err(making)?;
    for entry in fs::read_dir(folder).map_err(making)?.flatten() {
        fs::remove_file(entry.path()).map_err(making)?;
    }
    let log = folder.join(LOG);
    fs::File::create(&log).map_err(making)?;
    Ok(log)
}

/// Keeps every state of the firmware's memory while its machine runs.
#[derive(Debug)]
pub(crate) struct Watcher {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    /// Of the machine whose firmware's memory is this file, and that is recorded in this folder.
    pub(crate) fn start(memory: &Path, folder: &Path) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (memory, folder, ends) = (memory.to_owned(), folder.to_owned(), Arc::clone(&is_over));
        let thread = std::thread::spawn(move || {
            let mut last = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                if let Ok(now) = fs::read(&memory)
                    && now != last
                {
                    let length = entries_of(&folder.join(LOG)).unwrap_or_default();
                    // Without it a boot from a later cut fails, and says so.
                    let _ = fs::write(folder.join(format!("{FIRMWARE}{length}")), &now);
                    last = now;
                }
                std::thread::sleep(OFTEN);
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuts::tests::log;
    use crate::folder::Folder;

    #[test]
    fn a_cut_finds_what_the_firmware_remembered_when_it_came_and_a_new_recording_nothing() {
        /// As in a log: this flag alone.
        const FLUSH: u64 = 1;
        let folder = Folder::new("recording").unwrap();
        let path = folder.path();
        log(&folder, &[(0, 1, 0, 1), (0, 0, FLUSH, 0), (0, 1, 0, 2), (0, 1, 0, 3), (0, 0, FLUSH, 0)]);
        for seen in [0, 3, 5] {
            fs::write(path.join(format!("{FIRMWARE}{seen}")), "x").unwrap();
        }
        let recording = Recording::open(path).unwrap();
        let state = |flush| recording.firmware(Cut { flush, seed: 7 }).unwrap().to_owned();
        assert_eq!(state(0), path.join("firmware-0"));
        assert_eq!(state(1), path.join("firmware-0"), "the one of the third write is too new");
        assert_eq!(state(2), path.join("firmware-5"));
        assert_eq!(begin(path).unwrap(), path.join("log"));
        assert_eq!(fs::read_dir(path).unwrap().count(), 1);
    }
}
