//! What a machine finds on a disk when it starts, and whether it goes on there: asked of a file, for tests that cut the power.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use layout::{EMPTY_KUBERNETES, EMPTY_OS, MIB, STATE, UNFINISHED, WIPING, part};
use protocol::image::Image;

use super::choose::Holds;
use super::header::Header;
use super::holds::holds;
use super::table::{self, Names};
use crate::os::bank;

/// Numbers of the banks.
pub const BANKS: [u32; 4] = [part::OS, part::KUBERNETES, part::OS_B, part::KUBERNETES_B];

/// What is on a disk that has our partitions.
#[derive(Debug)]
pub struct Found {
    /// What its partitions are called, by their numbers.
    pub names: BTreeMap<u32, String>,
    /// Where they are, bytes.
    pub parts: BTreeMap<u32, Range<u64>>,
    /// Whether there is a whole copy of the header that opens it.
    pub secret: bool,
}

/// Looks at a disk; none where an installation would begin with a new table. One that looks like somebody's is an error.
pub fn found(path: &Path) -> Result<Option<Found>> {
    let holds = holds(path)?;
    ensure!(matches!(holds, Holds::Nothing | Holds::Ours), "it looks like somebody's: {holds:?}");
    let (Ok(names), Ok(parts)) = (table::names(path), table::places(path)) else { return Ok(None) };
    let disk = File::open(path)?;
    let has_header =
        |number| parts.get(number).is_some_and(|part| Header::read_at(&disk, part.start).is_some());
    let secret = [part::STATE, part::VOLUMES].iter().any(has_header);
    Ok(Some(Found { names, parts, secret }))
}

impl Found {
    /// What a partition is called.
    pub fn name(&self, number: u32) -> &str {
        self.names.get(&number).map_or("", String::as_str)
    }

    /// Whether it is an installed machine's, as that finds it: then there is a system, and what opens the state.
    pub fn is_installed(&self) -> Result<bool> {
        match self.name(part::STATE) {
            STATE => {
                let banks =
                    self.name(part::OS) != EMPTY_OS && self.name(part::KUBERNETES) != EMPTY_KUBERNETES;
                ensure!(self.secret && banks, "it is called installed and is not");
                Ok(true)
            }
            UNFINISHED | WIPING => Ok(false),
            other => bail!("its state is called {other}"),
        }
    }

    /// A bank with a name holds what it is called, whole; what `images` are called.
    pub fn check_bank(&self, disk: &File, number: u32, images: &BTreeMap<String, Image>) -> Result<()> {
        let name = self.name(number);
        if [EMPTY_OS, EMPTY_KUBERNETES].contains(&name) {
            return Ok(());
        }
        let Some(image) = images.get(name) else { bail!("partition {number} is called {name}") };
        let is_whole = bank::is_whole(image, disk, self.parts[&number].start)?;
        ensure!(is_whole, "partition {number} is called {name} and is not whole");
        Ok(())
    }
}

/// Whether an installation of these images begins again on a disk of ours, which stays as it is.
pub fn begins_again(path: &Path, os: &str, kubernetes: &str) -> Result<()> {
    let disk = File::options().read(true).write(true).open(path)?;
    let size = disk.metadata()?.len();
    let mut ends = [0, size - MIB].map(|at| (at, vec![0; 1024 * 1024]));
    for (at, bytes) in &mut ends {
        disk.read_exact_at(bytes, *at)?;
    }
    let names = Names { os: os.into(), kubernetes: kubernetes.into() };
    ensure!(table::again(path, &names)?.is_some(), "the installation does not begin again");
    ensure!(table::names(path)?[&part::STATE] == UNFINISHED, "the installation began again unnoticed");
    for (at, bytes) in &ends {
        disk.write_all_at(bytes, *at)?;
    }
    Ok(())
}
