//! The two tables of a disk (UEFI 2.10 section 5.3): one of them is whole at any time, and one is enough.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::partition::Partition;
use layout::MIB;
use uuid::Uuid;

use super::device::block_of;

/// What a disk's table says.
pub(super) struct Table {
    /// Of the disk.
    pub id: Uuid,
    /// By number.
    pub parts: BTreeMap<u32, Partition>,
}

/// Reads the first table, or the second one where a power cut has damaged the first. Of a stick's bits on a larger disk there is
/// only the first.
pub(super) fn read(file: &File) -> Result<Table> {
    let (ends, block) = (Ends::of(file)?, block_of(file)?);
    let first = ends.table(Which::First, block);
    first.or_else(|error| ends.table(Which::Second, block).map_err(|_| error))
}

/// Writes both tables, one after the other. The one that is read is the last to be touched.
pub(super) fn write(file: &File, table: Table) -> Result<()> {
    let (ends, block) = (Ends::of(file)?, block_of(file)?);
    let is_whole = ends.table(Which::First, block).is_ok();
    let config = GptConfig::new().writable(true).logical_block_size(block);
    let mut disk = config.create_from_device(ends, Some(table.id))?;
    disk.update_partitions(table.parts)?;
    let ends = disk.write()?;
    let order = if is_whole { [Which::Second, Which::First] } else { [Which::First, Which::Second] };
    for which in order {
        ends.put(which, file, block).and_then(|()| file.sync_all()).context("writing the disk's table")?;
    }
    Ok(())
}

/// One of the two.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    First,
    Second,
}

/// The beginning and the end of a disk: in memory, a disk of which nothing else is used.
#[derive(Clone, Debug)]
struct Ends {
    begin: Vec<u8>,
    end: Vec<u8>,
    size: u64,
    at: u64,
}

impl Ends {
    fn of(mut file: &File) -> Result<Self> {
        let size = file.seek(SeekFrom::End(0))?;
        ensure!(size >= 2 * MIB, "the disk is too small for a table");
        let [mut begin, mut end] = [(); 2].map(|()| vec![0; BYTES]);
        file.read_exact_at(&mut begin, 0).context("reading the disk's first table")?;
        file.read_exact_at(&mut end, size - ROOM).context("reading the disk's second table")?;
        Ok(Self { begin, end, size, at: 0 })
    }

    /// What one of the tables says, as if it were the only one.
    fn table(&self, which: Which, block: LogicalBlockSize) -> Result<Table> {
        let mut only = self.clone();
        match which {
            Which::First => only.end.fill(0),
            Which::Second => only.begin.fill(0),
        }
        // The library takes an entry of another size for a fault of the program's.
        ensure!(self.entry_size(which, block) == Some(ENTRY), "a table whose entries have an unknown size");
        let disk = GptConfig::new().logical_block_size(block).open_from_device(only)?;
        Ok(Table { id: *disk.guid(), parts: disk.partitions().clone() })
    }

    /// Bytes of an entry, as the header of a table says.
    fn entry_size(&self, which: Which, block: LogicalBlockSize) -> Option<u32> {
        const AT: usize = 84;
        let header = match which {
            Which::First => self.begin.get(block.as_usize()..),
            Which::Second => self.end.get(BYTES - block.as_usize()..),
        };
        Some(u32::from_le_bytes(header?.get(AT..AT + 4)?.try_into().ok()?))
    }

    /// The sector that says whose the disk is stays as it is.
    fn put(&self, which: Which, file: &File, block: LogicalBlockSize) -> io::Result<()> {
        match which {
            Which::First => file.write_all_at(&self.begin[block.as_usize()..], block.as_u64()),
            Which::Second => file.write_all_at(&self.end, self.size - ROOM),
        }
    }

    /// What is in memory from here on.
    fn here(&mut self) -> io::Result<&mut [u8]> {
        let end = self.size - ROOM;
        let (part, at) =
            if self.at >= end { (&mut self.end, self.at - end) } else { (&mut self.begin, self.at) };
        usize::try_from(at)
            .ok()
            .and_then(|at| part.get_mut(at..))
            .ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }
}

/// Bytes of an entry (UEFI 2.10 table 5-5).
const ENTRY: u32 = 128;
/// Room for a table at either end of a disk: with sectors of 4096 bytes it takes 24 KiB.
const BYTES: usize = 64 * 1024;
/// The same.
const ROOM: u64 = 64 * 1024;

impl Read for Ends {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = (&*self.here()?).read(bytes)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.here()?.write(bytes)?;
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table {
        let part = Partition {
            part_type_guid: gpt::partition_types::LINUX_FS,
            part_guid: Uuid::from_u128(2),
            first_lba: 2048,
            last_lba: 4095,
            flags: 0,
            name: name.to_owned(),
        };
        Table { id: Uuid::from_u128(1), parts: BTreeMap::from([(1, part)]) }
    }

    #[test]
    fn one_table_is_enough_whichever_it_is_and_the_next_write_mends_the_other() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * MIB).unwrap();
        assert!(read(&file).is_err());
        write(&file, table("a")).unwrap();
        let second = 4 * MIB - 512;
        // Headers, and what they describe.
        for damaged in [512, 1024, second, second - 32 * 512] {
            file.write_all_at(&[0xa5; 16], damaged).unwrap();
            assert_eq!(read(&file).unwrap().parts[&1].name, "a", "at {damaged}");
            write(&file, table("a")).unwrap();
            for table in [512, second] {
                let mut header = [0; 8];
                file.read_exact_at(&mut header, table).unwrap();
                assert_eq!(&header, b"EFI PART");
            }
        }
        for damaged in [1024, second] {
            file.write_all_at(&[0xa5; 16], damaged).unwrap();
        }
        assert!(read(&file).is_err());
    }

    /// CRC-32 as a table's header has it (UEFI 2.10 section 5.3.2).
    fn crc(bytes: &[u8]) -> u32 {
        let bit = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc)))
    }

    #[test]
    fn a_table_with_entries_of_an_unknown_size_is_none_and_stops_nothing() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * MIB).unwrap();
        write(&file, table("a")).unwrap();
        for at in [512, 4 * MIB - 512] {
            let mut header = [0; 92];
            file.read_exact_at(&mut header, at).unwrap();
            header[84..88].copy_from_slice(&256u32.to_le_bytes());
            header[16..20].fill(0);
            let crc = crc(&header);
            header[16..20].copy_from_slice(&crc.to_le_bytes());
            file.write_all_at(&header, at).unwrap();
        }
        assert!(read(&file).is_err());
        write(&file, table("b")).unwrap();
        assert_eq!(read(&file).unwrap().parts[&1].name, "b");
    }
}
