//! What a machine finds on the disk that a power cut has left, and what it must find there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Result, bail, ensure};
use harness::{Cut, Replay};
use layout::{PROGRAM, part, program_of};
use node_boot::os::bank::check_program;
use node_boot::os::disk::{BANKS, Found, begins_again, found};

use super::story::{SIZE, Story};

/// Of each file that the firmware can be told to start: which version's program it is, whole.
type Programs = [Option<usize>; 3];

/// What a disk shows without its secret; it changes a few times in a life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// What its partitions are called; none without a table.
    pub names: Option<Vec<String>>,
    /// Whether its secret is there.
    pub secret: bool,
    /// What the firmware can start.
    pub programs: Option<Programs>,
}

impl View {
    /// Whether it is an installed machine's.
    pub fn is_installed(&self) -> bool {
        self.names.iter().flatten().any(|name| name == layout::STATE)
    }
}

/// Judges one cut after the other.
pub struct Judge<'a> {
    story: &'a Story,
    replay: Replay<'a>,
    path: &'a Path,
    /// The banks that were looked at, by what they were called, and the firmware's partition.
    whole: BTreeMap<u32, String>,
    programs: Option<Programs>,
    /// What a flush has promised: it lasts.
    promised: Option<View>,
}

impl<'a> Judge<'a> {
    /// With a disk in this file.
    pub fn new(story: &'a Story, path: &'a Path) -> Result<Self> {
        let replay = Replay::new(&story.recording.log, path, SIZE)?;
        Ok(Self { story, replay, path, whole: BTreeMap::new(), programs: None, promised: None })
    }

    /// Makes the disk what a cut left and looks at it; cuts come in their order. What is wrong is an error.
    pub fn look(&mut self, cut: Cut) -> Result<View> {
        self.replay.make(cut)?;
        let changed = self.replay.changed();
        let Some(found) = found(self.path)? else {
            ensure!(self.promised.is_none(), "its table is lost");
            return Ok(View { names: None, secret: false, programs: None });
        };
        let disk = File::open(self.path)?;
        self.check_banks(&disk, &found, &changed)?;
        let firmware = &found.parts[&part::FIRMWARE];
        if self.promised.is_none() || touches(&changed, firmware) {
            self.programs = self.programs(&disk, firmware)?;
        }
        let is_installed = found.is_installed()?;
        let view = View {
            names: Some(found.names.values().cloned().collect()),
            secret: found.secret,
            programs: self.programs,
        };
        self.check_promises(&found, is_installed, &view)?;
        if !is_installed && cut.seed.is_multiple_of(16) {
            let [os, kubernetes] = &self.story.first;
            begins_again(self.path, os, kubernetes)?;
        }
        if cut.seed == 0 {
            self.promised = Some(view.clone());
        }
        Ok(view)
    }

    /// A bank that has not changed since it was whole still is.
    fn check_banks(&mut self, disk: &File, found: &Found, changed: &[Range<u64>]) -> Result<()> {
        for number in BANKS {
            let name = found.name(number);
            if touches(changed, &found.parts[&number]) {
                self.whole.remove(&number);
            }
            if self.whole.get(&number).is_none_or(|whole| whole != name) {
                found.check_bank(disk, number, &self.story.images)?;
                self.whole.insert(number, name.to_owned());
            }
        }
        Ok(())
    }

    /// What the firmware can start: it has to be able to read the whole partition, or nothing of it.
    fn programs(&self, disk: &File, part: &Range<u64>) -> Result<Option<Programs>> {
        let mut beginning = [0; 512];
        disk.read_exact_at(&mut beginning, part.start)?;
        if beginning == [0; 512] {
            return Ok(None);
        }
        let slice = Slice { file: disk.try_clone()?, part: part.clone(), at: 0 };
        let system = fatfs::FileSystem::new(slice, fatfs::FsOptions::new())?;
        let which = |path: &str| {
            let mut bytes = Vec::new();
            let mut file = system.root_dir().open_file(path).ok()?;
            file.read_to_end(&mut bytes).ok()?;
            self.story.programs.iter().position(|program| check_program(&bytes, program))
        };
        let [old, new] = &self.story.systems;
        Ok(Some([which(PROGRAM), which(&program_of(old)), which(&program_of(new))]))
    }

    fn check_promises(&self, found: &Found, is_installed: bool, view: &View) -> Result<()> {
        let [old, new] = &self.story.systems;
        let has = |name: &String| [part::OS, part::OS_B].iter().any(|number| found.name(*number) == name);
        if let Some([program, ..]) = view.programs {
            ensure!(program.is_some(), "the firmware finds no whole program: {:?}", view.programs);
        }
        ensure!(view.programs.is_some() || !is_installed, "it is called installed and does not start");
        let program_of_new = view.programs.is_some_and(|[.., new]| new == Some(1));
        ensure!(!has(new) || program_of_new, "the new system is there, and what starts it is not");
        let Some(promised) = &self.promised else { return Ok(()) };
        ensure!(view.secret || !promised.secret, "the secret of the disk is lost");
        let was = |name: &String| promised.names.as_ref().is_some_and(|names| names.contains(name));
        let state = layout::STATE.to_owned();
        if was(&state) {
            ensure!(is_installed && has(old), "what was installed is gone");
        }
        if was(new) && !has(new) {
            bail!("the new system was there and is gone");
        }
        Ok(())
    }
}

fn touches(changed: &[Range<u64>], part: &Range<u64>) -> bool {
    changed.iter().any(|range| range.start < part.end && part.start < range.end)
}

/// A part of a disk that is only read, as a file of its own.
struct Slice {
    file: File,
    part: Range<u64>,
    at: u64,
}

impl io::Read for Slice {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(bytes, self.part.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Slice {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => (self.part.end - self.part.start).checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Slice {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
