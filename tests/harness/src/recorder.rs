//! A disk in a file that remembers what was written to it, and when that was to be there: QEMU's, without a machine.

use crate::cuts::Log;
use crate::error::{Result, io, run};
use crate::folder::Folder;
use crate::process::Process;
use crate::wait::until;
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How long the daemon may take for anything.
const DEADLINE: Duration = Duration::from_secs(20);

/// A blank disk whose writes are recorded.
#[derive(Debug)]
pub struct Recorder {
    process: Process,
    folder: Folder,
}

impl Recorder {
    /// A disk of this size, bytes.
    pub fn new(size: u64) -> Result<Self> {
        let folder = Folder::new("recorder")?;
        let file = |name: &str| folder.path().join(name);
        let made = |name: &str, size: u64| File::create(file(name)).and_then(|file| file.set_len(size));
        for (name, size) in [("content", size), ("log", 0), ("disk", 0)] {
            made(name, size).map_err(io("create", name))?;
        }
        let mut daemon = Command::new("qemu-storage-daemon");
        for name in ["content", "log"] {
            // What is recorded counts, and not whether this computer keeps it.
            let node =
                format!("driver=file,node-name={name},cache.no-flush=on,filename={}", file(name).display());
            daemon.args(["--blockdev", &node]);
        }
        // How much the log holds is known after each entry.
        let options = "file=content,log=log,log-super-update-interval=1";
        daemon.args(["--blockdev", &format!("driver=blklogwrites,node-name=recorder,{options}")]);
        let place = format!("node-name=recorder,mountpoint={},writable=on", file("disk").display());
        daemon.args(["--export", &format!("type=fuse,id=disk,{place}")]);
        let process = Process::start("recorder", daemon, &file("words"))?;
        let recorder = Self { process, folder };
        until("the recorded disk", DEADLINE, || {
            let is_there = fs::metadata(recorder.disk()).is_ok_and(|found| found.len() == size);
            if is_there { Ok(()) } else { Err(recorder.process.log()) }
        })?;
        Ok(recorder)
    }

    /// The disk.
    pub fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// A stretch of it, bytes, as a device of its own.
    pub fn part(&self, stretch: Range<u64>) -> Result<Part> {
        let place = [("--offset", stretch.start), ("--sizelimit", stretch.end - stretch.start)];
        let mut tool = Command::new("losetup");
        tool.args(["--find", "--show"])
            .args(place.iter().flat_map(|(word, bytes)| [(*word).to_owned(), bytes.to_string()]));
        let device = PathBuf::from(run(tool.arg(self.disk()))?.trim());
        let held = File::open(&device).map_err(io("open", device.display()))?;
        // From here on it is gone with whoever has it open.
        run(Command::new("losetup").arg("--detach").arg(&device))?;
        Ok(Part { device, _held: held })
    }

    /// For the tests' own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What was written so far.
    pub fn log(&self) -> Result<Log> {
        Log::open(&self.folder.path().join("log"))
    }
}

/// A part of a recorded disk; it goes with its value.
#[derive(Debug)]
pub struct Part {
    device: PathBuf,
    _held: File,
}

impl Part {
    /// Its device.
    pub fn path(&self) -> &Path {
        &self.device
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        // So that it takes its mounts away.
        let _ = self.process.terminate(DEADLINE);
    }
}
