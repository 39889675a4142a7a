//! Every power cut during an installation, an update, a new installation and a wipe: whatever it leaves of the disk, the
//! machine goes on by itself, from the right version, and has lost nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use harness::{Cut, Part, Recorder, Replay};
use layout::{EMPTY_KUBERNETES, EMPTY_OS, UNFINISHED, WIPING, part};
use protocol::bytes::Digest;
use protocol::image::Image;

use super::copy::copy_all;
use super::found::{BANKS, begins_again, found};
use super::header;
use super::start::Parts;
use super::table::{self, Begun, Names};
use super::wipe;
use crate::os::bank::{Source, built, write};

const SIZE: u64 = 8 << 30;
/// How many power cuts there are at least.
const CUTS: u64 = 2000;
/// Replays one of them, as it was printed.
const ONE: &str = "NODEBOOT_CUT";

/// Headquarters, as far as an image is sent by it.
struct Sender(Vec<u8>);

impl Source for Sender {
    fn read(&mut self, _: &Digest, from: u64, length: u64) -> Result<Vec<u8>> {
        let from = usize::try_from(from)?;
        Ok(self.0[from..self.0.len().min(from + usize::try_from(length)?)].to_vec())
    }
}

/// What happens to the disk, and from which flush on what is promised.
#[derive(Debug, Default)]
struct Marks {
    /// The disk has a table.
    table: usize,
    /// Its secret is on it.
    secret: usize,
    /// The state has its name: after each of three installations, and until the next one begins, or the wipe.
    installed: Vec<[usize; 2]>,
    /// Nobody can open the disk any more; next it is forgotten that it was ours.
    wiped: usize,
}

/// A disk whose story is recorded.
struct Story {
    recorder: Recorder,
    /// What partitions of these names hold.
    images: BTreeMap<String, Vec<u8>>,
    named: BTreeMap<String, Image>,
    /// What a partition for the firmware holds.
    firmware: Vec<Vec<u8>>,
    parts: Vec<Range<u64>>,
}

impl Story {
    fn new() -> Self {
        let parts: Vec<_> =
            table::layout(SIZE).unwrap().into_iter().map(|(_, _, at, length)| at..at + length).collect();
        let image = |name: &str, blocks| (name.to_owned(), built(blocks));
        let names = ["os-1", "os-2", "kubernetes-1", "kubernetes-2", "kubernetes-3"];
        let built = names.into_iter().zip([60, 70, 80, 90, 100]).map(|(name, blocks)| image(name, blocks));
        let (named, images) =
            built.map(|(name, (image, bytes))| ((name.clone(), image), (name, bytes))).unzip();
        let firmware =
            [1u8, 2].map(|filled| (0..400_000u32).map(|at| filled ^ at.to_le_bytes()[1] | 1).collect());
        let recorder = Recorder::new(SIZE).unwrap();
        Self { recorder, images, named, firmware: firmware.to_vec(), parts }
    }

    fn now(&self) -> usize {
        self.recorder.log().unwrap().flushes()
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.recorder.folder().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn part(&self, number: u32) -> Part {
        self.recorder.part(self.parts[number as usize - 1].clone()).unwrap()
    }

    fn names(version: u8) -> Names {
        Names { os: format!("os-{version}"), kubernetes: format!("kubernetes-{version}") }
    }

    fn save(&self, number: u64) {
        for place in [part::STATE, part::VOLUMES] {
            header::tests::header(number).write(self.part(place).path()).unwrap();
        }
    }

    /// What an installation copies, as far as this disk lacks it.
    fn copy(&self, version: u8, begun: Begun) {
        let firmware = self.file("firmware", &self.firmware[usize::from(version) - 1]);
        let mut copies = vec![(firmware, self.part(part::FIRMWARE))];
        let Names { os, kubernetes } = Self::names(version);
        for (name, place) in [(os, part::OS), (kubernetes, part::KUBERNETES)] {
            if begun == Begun::Empty {
                copies.push((self.file(&name, &self.images[&name]), self.part(place)));
            }
        }
        let paths: Vec<_> = copies.iter().map(|(from, to)| (from.clone(), to.path().to_owned())).collect();
        copy_all(&paths).unwrap();
    }

    /// Puts an image into a bank, as an update does.
    fn stage(&self, name: &str, (place, empty): (u32, &str)) {
        let disk = self.recorder.disk();
        let (image, bytes) = (&self.named[name], &self.images[name]);
        table::rename(&disk, &[(place, empty)]).unwrap();
        let part = self.part(place);
        let bank = File::options().read(true).write(true).open(part.path()).unwrap();
        write(image, &bank, &mut Sender(bytes.clone()), &mut |_| {}).unwrap();
        table::rename(&disk, &[(place, name)]).unwrap();
    }

    fn happens(&self) -> Marks {
        let (disk, mut marks) = (self.recorder.disk(), Marks::default());
        table::make(&disk).unwrap();
        marks.table = self.now();
        self.save(1);
        marks.secret = self.now();
        self.copy(1, Begun::Empty);
        table::finish(&disk, &Self::names(1)).unwrap();
        let begin = self.now();
        self.stage("os-2", (part::OS_B, EMPTY_OS));
        self.stage("kubernetes-2", (part::KUBERNETES_B, EMPTY_KUBERNETES));
        self.stage("kubernetes-3", (part::KUBERNETES_B, EMPTY_KUBERNETES));
        marks.installed.push([begin, self.now()]);
        // Another version, and the same one again.
        for (number, wanted) in [(2, Begun::Empty), (3, Begun::WithSystem)] {
            assert_eq!(table::again(&disk, &Self::names(2)).unwrap(), Some(wanted));
            self.save(number);
            self.copy(2, wanted);
            table::finish(&disk, &Self::names(2)).unwrap();
            marks.installed.push([self.now(); 2]);
        }
        let parts = [part::STATE, part::VOLUMES].map(|place| self.part(place));
        let [state, volumes] = [&parts[0], &parts[1]].map(|part| part.path().to_owned());
        wipe::begin_on(&Parts { disk: disk.clone(), state, volumes }).unwrap();
        marks.wiped = self.now();
        table::forget(&disk).unwrap();
        marks
    }

    /// Whether a partition begins with these bytes.
    fn has(&self, disk: &File, number: u32, bytes: &[u8]) -> Result<bool> {
        let mut there = vec![0; bytes.len()];
        disk.read_exact_at(&mut there, self.parts[number as usize - 1].start)?;
        Ok(there == bytes)
    }

    /// What the machine finds on the disk that a cut left.
    fn judge(&self, path: &Path, marks: &Marks, cut: Cut) -> Result<()> {
        let Some(found) = found(path)? else {
            let has_none = cut.flush < marks.table || cut.flush >= marks.wiped;
            ensure!(has_none, "its table is lost");
            return Ok(());
        };
        let disk = File::open(path)?;
        for number in BANKS {
            found.check_bank(&disk, number, &self.named)?;
        }
        let starts = self.starts(&disk)?;
        let kept = cut.flush >= marks.secret && found.name(part::STATE) != WIPING;
        ensure!(found.secret || !kept, "the secret of the disk is lost");
        // What is torn after the last flush may belong to what happens next.
        let lasts =
            |[from, to]: &[usize; 2]| cut.flush >= *from && cut.flush + usize::from(cut.seed > 0) <= *to;
        if found.is_installed()? {
            ensure!(cut.flush < marks.wiped, "what was wiped is back");
            ensure!(starts, "it is called installed and does not start");
        } else if found.name(part::STATE) == UNFINISHED {
            ensure!(!marks.installed.iter().any(lasts), "what was installed is gone");
        }
        // That takes a while: with what the flush left, and some of the torn ones.
        if cut.seed.is_multiple_of(16) { begins_again(path, "os-1", "kubernetes-1") } else { Ok(()) }
    }

    /// Whether the firmware can start the disk: it has to be able to read the whole partition, or nothing of it.
    fn starts(&self, disk: &File) -> Result<bool> {
        let whole = self.firmware.iter().map(|bytes| self.has(disk, part::FIRMWARE, bytes));
        let starts = whole.collect::<Result<Vec<_>>>()?.contains(&true);
        let is_none = self.has(disk, part::FIRMWARE, &[0; 512])?;
        ensure!(starts || is_none, "the firmware reads a partition that is not whole");
        Ok(starts)
    }
}

#[test]
fn a_power_cut_anywhere_loses_nothing_and_leaves_a_disk_that_the_machine_goes_on_with() {
    if let Some(missing) = harness::missing_for_recorder() {
        return harness::skip(&missing);
    }
    let story = Story::new();
    let marks = story.happens();
    let log = story.recorder.log().unwrap();
    let path = story.recorder.folder().join("cut");
    let mut replay = Replay::new(&log, &path, SIZE).unwrap();
    let one: Option<Cut> = std::env::var(ONE).ok().map(|cut| cut.parse().unwrap());
    let cuts = one.map_or_else(|| log.cuts(CUTS), |cut| vec![cut]);
    assert!(one.is_some() || cuts.len() as u64 >= CUTS, "{} power cuts", cuts.len());
    for cut in cuts {
        replay.make(cut).unwrap();
        if let Err(wrong) = story.judge(&path, &marks, cut) {
            panic!("{wrong:#}; to see it again: {ONE}={cut} (of {marks:?})");
        }
    }
}

#[test]
fn a_power_cut_while_a_damaged_table_is_mended_leaves_the_one_that_was_read() {
    if let Some(missing) = harness::missing_for_recorder() {
        return harness::skip(&missing);
    }
    let recorder = Recorder::new(SIZE).unwrap();
    table::make(&recorder.disk()).unwrap();
    let disk = File::options().write(true).open(recorder.disk()).unwrap();
    disk.write_all_at(&[0xa5; 16], 512).and_then(|()| disk.sync_all()).unwrap();
    let begin = recorder.log().unwrap().flushes();
    table::rename(&recorder.disk(), &[(part::STATE, WIPING)]).unwrap();
    let (log, path) = (recorder.log().unwrap(), recorder.folder().join("cut"));
    let mut replay = Replay::new(&log, &path, SIZE).unwrap();
    for cut in log.cuts(400).into_iter().filter(|cut| cut.flush >= begin) {
        replay.make(cut).unwrap();
        let names = table::names(&path).unwrap_or_else(|error| panic!("{error:#} after the cut {cut}"));
        assert!(
            [UNFINISHED, WIPING].contains(&names[&part::STATE].as_str()),
            "{names:?} after the cut {cut}"
        );
    }
}
