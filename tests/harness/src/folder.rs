//! Temporary folders that carry the process id of their owner, so that a later run clears what a killed one left.

use crate::cgroup;
use crate::error::{Result, io};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

const PREFIX: &str = "nbt-";

/// A folder that is removed with its value, unless a test fails: then its logs are wanted.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes a folder for a thing called `name`, after clearing what dead owners left.
    pub(crate) fn new(name: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);
        let path = env::temp_dir().join(unique(name));
        fs::create_dir_all(&path).map_err(io("create", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("logs and disks are kept until the next run: {}", self.0.display());
            return;
        }
        // A last mount may still be going away; the next run's sweep is the second chance.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name that no other thing of any test process has: `nbt-<pid>-<number>-<name>`.
pub(crate) fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}-{name}", process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Whether a name made by [`unique`] belongs to a process that is no more.
pub(crate) fn orphaned(name: &str) -> bool {
    let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}

fn sweep() {
    cgroup::sweep();
    let Ok(entries) = fs::read_dir(env::temp_dir()) else { return };
    for entry in entries.flatten() {
        if orphaned(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_owners_are_orphaned() {
        assert!(!orphaned(&unique("lan")));
        assert!(orphaned("nbt-4194305-0-lan"));
        assert!(!orphaned("nbt-x-0-lan"));
        assert!(!orphaned("somebody-elses"));
    }

    #[test]
    fn a_folder_goes_with_its_value() {
        let folder = Folder::new("short-lived").unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("file"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
    }
}
