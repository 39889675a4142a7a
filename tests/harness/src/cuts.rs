//! Power cuts: what was written to a disk, in its order, and every disk that a cut would have left of it.

use crate::error::{Result, io};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Error;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::str::FromStr;

/// What a log begins with, and the flags of its entries (`linux/drivers/md/dm-log-writes.c`, which QEMU's `blklogwrites` follows).
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FORCED: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// What a disk writes whole or not at all; places and lengths in a log are counted in it.
const SECTOR: u64 = BYTES as u64;
const BYTES: usize = 512;
/// How many of them are copied at once.
const PIECE: u64 = 2048;

/// Something that happened to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// Sectors were written; what to, stands in the log from `data` on. With `forced` they were there when that was done.
    Write { at: u64, sectors: u64, data: u64, forced: bool },
    /// Sectors were given up.
    Discard { at: u64, sectors: u64 },
    /// Everything before is there.
    Flush,
}

/// What happened to a disk since it was blank.
#[derive(Debug)]
pub struct Log {
    file: File,
    entries: Vec<Entry>,
    /// Where the entries begin that a flush ended, and those after the last one.
    spans: Vec<Range<usize>>,
    /// How many entries the log had, marks among them, when each flush was in it.
    lengths: Vec<u64>,
}

impl Log {
    /// Reads a log; one that is being written is read up to its last flush.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(io("open", path.display()))?;
        let found = entries(&file).map_err(io("read", path.display()))?;
        let (mut spans, mut lengths) = (vec![], vec![]);
        let mut begin = 0;
        for (place, (entry, length)) in found.iter().enumerate() {
            if *entry == Entry::Flush {
                spans.push(begin..place);
                lengths.push(*length);
                begin = place + 1;
            }
        }
        spans.push(begin..found.len());
        let entries = found.into_iter().map(|(entry, _)| entry).collect();
        Ok(Self { file, entries, spans, lengths })
    }

    /// How many entries the log had when so many flushes were done.
    pub(crate) fn entries_at(&self, flush: usize) -> u64 {
        flush.checked_sub(1).and_then(|last| self.lengths.get(last)).copied().unwrap_or(0)
    }

    /// How often the disk was flushed.
    pub fn flushes(&self) -> usize {
        self.spans.len() - 1
    }

    /// At least `count` cuts, in their order: after every flush, and for each as many torn ones as it takes. Two flushes with
    /// nothing between them are one.
    pub fn cuts(&self, count: u64) -> Vec<Cut> {
        let spans = self.spans.iter().enumerate();
        let flushes: Vec<_> = spans.filter(|(_, span)| !span.is_empty()).map(|(flush, _)| flush).collect();
        let each = count.div_ceil(flushes.len().max(1) as u64);
        let torn = flushes.into_iter().flat_map(|flush| (0..each).map(move |seed| Cut { flush, seed }));
        torn.chain([Cut { flush: self.flushes(), seed: 0 }]).collect()
    }

    /// What a cut left of the entries after its flush, sector by sector: where, and where in the log that stands. None is zeros.
    fn torn(&self, cut: Cut) -> HashMap<u64, Option<u64>> {
        let span = self.spans.get(cut.flush).cloned().unwrap_or_default();
        let mut left = HashMap::new();
        if cut.seed == 0 {
            return left;
        }
        let mut dice = Dice(cut.seed ^ (cut.flush as u64) << 32);
        let begun = dice.below(span.len() as u64 + 1);
        // Whole writes that are there or not, and writes that are torn.
        let by_sector = dice.below(2) == 0;
        for entry in self.entries[span].iter().zip(0..begun).map(|(entry, _)| *entry) {
            let is_there = dice.below(2) == 0;
            let (at, sectors, data, forced) = match entry {
                Entry::Write { at, sectors, data, forced } => (at, sectors, Some(data), forced),
                Entry::Discard { at, sectors } => (at, sectors, None, false),
                Entry::Flush => continue,
            };
            for place in 0..sectors {
                let keeps = if by_sector { dice.below(2) == 0 } else { is_there };
                if keeps || forced {
                    left.insert(at + place, data.map(|data| data + place * SECTOR));
                }
            }
        }
        left
    }
}

/// How many entries a log has by now.
pub(crate) fn entries_of(path: &Path) -> std::io::Result<u64> {
    count(&File::open(path)?)
}

fn word(bytes: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|byte| bytes[place * 8 + byte]))
}

fn count(file: &File) -> std::io::Result<u64> {
    let mut head = [0; 28];
    file.read_exact_at(&mut head, 0)?;
    let sector = u64::from(u32::from_le_bytes(std::array::from_fn(|byte| head[24 + byte])));
    if (word(&head, 0), word(&head, 1), sector) != (MAGIC, 1, SECTOR) {
        return Err(Error::other("it is no log of writes in sectors of 512 bytes"));
    }
    Ok(word(&head, 2))
}

/// What happened, each with how many entries the log had then.
fn entries(file: &File) -> std::io::Result<Vec<(Entry, u64)>> {
    let mut at = SECTOR;
    let mut found = vec![];
    for number in 1..=count(file)? {
        let mut entry = [0; 32];
        file.read_exact_at(&mut entry, at)?;
        let (place, sectors, flags, extra) =
            (word(&entry, 0), word(&entry, 1), word(&entry, 2), word(&entry, 3));
        at += SECTOR;
        match flags {
            flags if flags & MARK != 0 => at += extra.next_multiple_of(SECTOR),
            flags if flags & DISCARD != 0 => found.push((Entry::Discard { at: place, sectors }, number)),
            flags => {
                if flags & FLUSH != 0 {
                    found.push((Entry::Flush, number));
                }
                if sectors > 0 {
                    let forced = flags & FORCED != 0;
                    found.push((Entry::Write { at: place, sectors, data: at, forced }, number));
                    at += sectors * SECTOR;
                }
            }
        }
    }
    Ok(found)
}

/// A power cut: after so many flushes, and what of the writes since then was on the disk by a seed; by 0 nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// So many flushes were done.
    pub flush: usize,
    /// Decides which sectors of what was written since then are there.
    pub seed: u64,
}

impl fmt::Display for Cut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.flush, self.seed)
    }
}

impl FromStr for Cut {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parts =
            text.split_once('.').and_then(|(flush, seed)| Some((flush.parse().ok()?, seed.parse().ok()?)));
        parts
            .map(|(flush, seed)| Self { flush, seed })
            .ok_or_else(|| format!("{text:?} is no cut, such as 12.7"))
    }
}

/// The disk of each cut, one after the other in a file.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a Log,
    disk: File,
    /// Flushes whose writes are on it.
    done: usize,
    /// What stood where the last cut has torn something.
    before: Vec<(u64, [u8; BYTES])>,
    /// Where something else stands than when that was asked for last, bytes.
    changed: Vec<Range<u64>>,
}

impl<'a> Replay<'a> {
    /// Begins with a blank disk of this size (bytes) in a file.
    pub fn new(log: &'a Log, disk: &Path, size: u64) -> Result<Self> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(disk);
        let file = file.and_then(|file| file.set_len(size).map(|()| file));
        Ok(Self {
            log,
            disk: file.map_err(io("create", disk.display()))?,
            done: 0,
            before: vec![],
            changed: vec![],
        })
    }

    /// Makes the disk what this cut left; cuts come in the order of their flushes.
    pub fn make(&mut self, cut: Cut) -> Result<()> {
        let replaying = |error| io("replay the power cut", cut)(error);
        for (at, bytes) in std::mem::take(&mut self.before) {
            self.disk.write_all_at(&bytes, at).map_err(replaying)?;
            self.changed.push(at..at + SECTOR);
        }
        while self.done < cut.flush.min(self.log.flushes()) {
            for entry in &self.log.entries[self.log.spans[self.done].clone()] {
                self.apply(*entry).map_err(replaying)?;
                if let Entry::Write { at, sectors, .. } | Entry::Discard { at, sectors } = *entry {
                    self.changed.push(at * SECTOR..(at + sectors) * SECTOR);
                }
            }
            self.done += 1;
        }
        for (sector, data) in self.log.torn(cut) {
            let (mut old, mut new) = ([0; BYTES], [0; BYTES]);
            let read = data.map_or(Ok(()), |data| self.log.file.read_exact_at(&mut new, data));
            read.and_then(|()| self.disk.read_exact_at(&mut old, sector * SECTOR)).map_err(replaying)?;
            if old != new {
                self.disk.write_all_at(&new, sector * SECTOR).map_err(replaying)?;
                self.before.push((sector * SECTOR, old));
                self.changed.push(sector * SECTOR..(sector + 1) * SECTOR);
            }
        }
        Ok(())
    }

    /// Where the disk was changed since this was asked last, bytes: what stands elsewhere need not be looked at again.
    pub fn changed(&mut self) -> Vec<Range<u64>> {
        std::mem::take(&mut self.changed)
    }

    fn apply(&self, entry: Entry) -> std::io::Result<()> {
        let (at, sectors, data) = match entry {
            Entry::Write { at, sectors, data, .. } => (at, sectors, Some(data)),
            Entry::Discard { at, sectors } => (at, sectors, None),
            Entry::Flush => return Ok(()),
        };
        let Some(data) = data else {
            let how = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
            return Ok(rustix::fs::fallocate(&self.disk, how, at * SECTOR, sectors * SECTOR)?);
        };
        let mut bytes = vec![0; BYTES];
        let mut from = 0;
        while from < sectors {
            let count = PIECE.min(sectors - from);
            bytes.resize(usize::try_from(count).map_err(Error::other)? * BYTES, 0);
            self.log.file.read_exact_at(&mut bytes, data + from * SECTOR)?;
            self.disk.write_all_at(&bytes, (at + from) * SECTOR)?;
            from += count;
        }
        Ok(())
    }
}

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// With this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next one.
    pub fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % count
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::folder::Folder;

    /// A log of these entries: place, sectors, flags, what each byte of them is.
    pub(crate) fn log(folder: &Folder, entries: &[(u64, u64, u64, u8)]) -> Log {
        let count = entries.len() as u64;
        let mut bytes = [MAGIC, 1, count].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        bytes.extend(512u32.to_le_bytes());
        bytes.resize(512, 0);
        for (at, sectors, flags, filled) in entries {
            let begin = bytes.len();
            bytes.extend([*at, *sectors, *flags, 0].iter().flat_map(|word| word.to_le_bytes()));
            bytes.resize(begin + 512, 0);
            if flags & DISCARD == 0 {
                bytes.resize(begin + 512 + usize::try_from(*sectors * SECTOR).unwrap(), *filled);
            }
        }
        let path = folder.path().join("log");
        std::fs::write(&path, bytes).unwrap();
        Log::open(&path).unwrap()
    }

    /// The first byte of each sector of the disk that a cut left.
    fn left(replay: &mut Replay<'_>, cut: Cut) -> Vec<u8> {
        replay.make(cut).unwrap();
        let mut bytes = [0; 8 * 512];
        replay.disk.read_exact_at(&mut bytes, 0).unwrap();
        bytes.iter().step_by(512).copied().collect()
    }

    #[test]
    fn what_was_flushed_is_there_and_of_the_rest_any_sectors_are_the_same_for_the_same_seed() {
        let folder = Folder::new("cuts").unwrap();
        let log = log(
            &folder,
            &[
                (0, 2, 0, 1),
                (0, 0, FLUSH, 0),
                (2, 3, 0, 2),
                (3, 1, 0, 3),
                (0, 1, DISCARD, 0),
                (0, 0, FLUSH, 0),
            ],
        );
        assert_eq!(log.flushes(), 2);
        let cuts = log.cuts(200);
        assert!(cuts.len() >= 200 && cuts.iter().all(|cut| cut.to_string().parse() == Ok(*cut)), "{cuts:?}");
        let mut replay = Replay::new(&log, &folder.path().join("disk"), 4096).unwrap();
        let all: Vec<_> = cuts.iter().map(|cut| (cut.flush, left(&mut replay, *cut))).collect();
        for (flush, disk) in &all {
            let is_among = |place: usize, wanted: &[u8]| assert!(wanted.contains(&disk[place]), "{disk:?}");
            match flush {
                0 => (0..2).for_each(|place| is_among(place, &[0, 1])),
                1 => is_among(3, &[0, 2, 3]),
                _ => assert_eq!(disk[..6], [0, 1, 2, 3, 2, 0]),
            }
            assert!(*flush == 0 || disk[1] == 1, "what was flushed is there");
            assert_eq!(disk[5..], [0, 0, 0], "nothing is where nothing was written");
        }
        for wanted in [[1, 1, 0, 0, 0], [1, 1, 2, 0, 2], [0, 1, 0, 3, 0], [1, 1, 2, 2, 2], [1, 1, 0, 2, 2]] {
            assert!(
                all.iter().any(|(flush, disk)| *flush == 1 && disk[..5] == wanted),
                "{wanted:?} of {all:?}"
            );
        }
        let mut again = Replay::new(&log, &folder.path().join("again"), 4096).unwrap();
        for (cut, (_, disk)) in cuts.iter().zip(&all).step_by(17) {
            assert_eq!(left(&mut again, *cut), *disk, "{cut}");
        }
        again.changed();
        for (cut, places) in
            [(Cut { flush: 2, seed: 0 }, &[0, 2, 3, 4][..]), (Cut { flush: 2, seed: 1 }, &[])]
        {
            again.make(cut).unwrap();
            let changed = again.changed();
            let was = |place: u64| changed.iter().any(|range| range.contains(&(place * SECTOR)));
            assert!((0..8).all(|place| was(place) == places.contains(&place)), "{cut}: {changed:?}");
        }
    }

    #[test]
    fn what_was_forced_is_there_once_anything_came_after_and_what_is_no_log_is_told() {
        let folder = Folder::new("forced").unwrap();
        let log = log(&folder, &[(1, 1, FORCED, 4), (2, 1, 0, 5)]);
        let mut replay = Replay::new(&log, &folder.path().join("disk"), 4096).unwrap();
        let disks: Vec<_> = log.cuts(60).into_iter().map(|cut| left(&mut replay, cut)).collect();
        assert!(disks.iter().all(|disk| disk[2] == 0 || disk[1] == 4), "{disks:?}");
        assert!(disks.iter().any(|disk| disk[2] == 5));
        std::fs::write(folder.path().join("other"), [7; 512]).unwrap();
        assert!(Log::open(&folder.path().join("other")).is_err());
        assert!("7".parse::<Cut>().is_err());
    }
}
