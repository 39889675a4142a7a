//! One signed-able file that the firmware starts (unified kernel image): systemd's stub with kernel, first archive and
//! arguments as sections behind its own.

use anyhow::{Context, Result, ensure};

/// Alignment of a section in memory, and in the file.
const PAGE: usize = 4096;
const SECTOR: usize = 512;
/// Bytes of a section's header.
const HEADER: usize = 40;
/// Initialised data that is read (PE format, section flags).
const READ_ONLY_DATA: u32 = 0x4000_0040;

/// Builds the file from the stub and the sections, by name, at most 8 bytes each. A stub that is no PE image is an error.
pub fn join(stub: &[u8], sections: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut image = Image::read(stub)?;
    for (name, data) in sections {
        image.add(name, data).with_context(|| format!("adding {name} to the stub"))?;
    }
    Ok(image.bytes)
}

/// What a section of such a file holds; none where the file has no such section.
pub fn section(file: &[u8], name: &str) -> Result<Option<Vec<u8>>> {
    let coff = number(file, 0x3c)?.checked_add(4).context("the file is cut off")?;
    ensure!(file.get(coff - 4..coff) == Some(b"PE\0\0"), "it is no PE image");
    let table = coff + 20 + short(file, coff + 16)?;
    for place in 0..short(file, coff + 2)? {
        let header = table + place * HEADER;
        let called = file.get(header..header + 8).context("the file is cut off")?;
        if called.iter().copied().take_while(|byte| *byte != 0).eq(name.bytes()) {
            let (size, at) = (number(file, header + 8)?, number(file, header + 20)?);
            let held = at.checked_add(size).and_then(|end| file.get(at..end));
            return Ok(Some(held.context("the file is cut off")?.to_vec()));
        }
    }
    Ok(None)
}

/// A PE image without symbols.
struct Image {
    bytes: Vec<u8>,
    /// Offset of the COFF header.
    coff: usize,
}

impl Image {
    fn read(stub: &[u8]) -> Result<Self> {
        let coff = number(stub, 0x3c)? + 4;
        ensure!(stub.get(coff - 4..coff) == Some(b"PE\0\0"), "the stub is no PE image");
        let mut image = Self { bytes: stub.to_vec(), coff };
        // What follows the last section is for debuggers.
        let (table, count) = (image.table()?, image.count()?);
        let ends: Result<Vec<_>> = (0..count)
            .map(|place| {
                let header = table + place * HEADER;
                Ok(number(stub, header + 16)? + number(stub, header + 20)?)
            })
            .collect();
        image.bytes.truncate(ends?.into_iter().max().unwrap_or(stub.len()));
        image.put(coff + 8, 0);
        image.put(coff + 12, 0);
        Ok(image)
    }

    fn count(&self) -> Result<usize> {
        short(&self.bytes, self.coff + 2)
    }

    /// Where the headers of the sections begin.
    fn table(&self) -> Result<usize> {
        Ok(self.optional() + short(&self.bytes, self.coff + 16)?)
    }

    fn optional(&self) -> usize {
        self.coff + 20
    }

    fn put(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn add(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let (count, optional) = (self.count()?, self.optional());
        let header = self.table()? + count * HEADER;
        let room = number(&self.bytes, optional + 60)?;
        ensure!(header + HEADER <= room && name.len() <= 8, "there is no room for another section");
        let memory = number(&self.bytes, optional + 56)?.next_multiple_of(PAGE);
        let file = self.bytes.len().next_multiple_of(SECTOR);
        let stored = data.len().next_multiple_of(SECTOR);
        let mut fields = [0; HEADER];
        fields[..name.len()].copy_from_slice(name.as_bytes());
        self.bytes[header..header + HEADER].copy_from_slice(&fields);
        for (at, value) in [(8, data.len()), (12, memory), (16, stored), (20, file)] {
            self.put(header + at, u32::try_from(value)?);
        }
        self.put(header + 36, READ_ONLY_DATA);
        self.bytes.resize(file, 0);
        self.bytes.extend(data);
        self.bytes.resize(file + stored, 0);
        self.bytes[self.coff + 2..self.coff + 4].copy_from_slice(&u16::try_from(count + 1)?.to_le_bytes());
        self.put(optional + 56, u32::try_from((memory + data.len()).next_multiple_of(PAGE))?);
        // The checksum is for drivers of another system.
        self.put(optional + 64, 0);
        Ok(())
    }
}

pub(crate) fn number(bytes: &[u8], at: usize) -> Result<usize> {
    let field = bytes.get(at..at + 4).context("the stub is cut off")?;
    Ok(usize::try_from(u32::from_le_bytes(field.try_into()?))?)
}

pub(crate) fn short(bytes: &[u8], at: usize) -> Result<usize> {
    let field = bytes.get(at..at + 2).context("the stub is cut off")?;
    Ok(u16::from_le_bytes(field.try_into()?).into())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

    #[test]
    fn objcopy_finds_every_section_as_it_was_put() {
        let Ok(stub) = std::fs::read(STUB) else { return harness::skip("systemd-boot-efi is not installed") };
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let linux = vec![7; 100_000];
        std::fs::write(file("uki"), join(&stub, &[(".cmdline", b"quiet"), (".linux", &linux)]).unwrap())
            .unwrap();
        for (section, wanted) in [(".cmdline", b"quiet".to_vec()), (".linux", linux)] {
            let only = format!("--only-section={section}");
            let mut tool = Command::new("objcopy");
            let Ok(done) = tool.args(["-O", "binary", &only, &file("uki"), &file("out")]).status() else {
                return harness::skip("`objcopy` is not installed");
            };
            assert!(done.success());
            let out = std::fs::read(file("out")).unwrap();
            assert_eq!(&out[..wanted.len()], wanted, "{section}");
            let uki = std::fs::read(file("uki")).unwrap();
            assert_eq!(super::section(&uki, section).unwrap(), Some(wanted), "{section}");
            assert_eq!(super::section(&uki, ".none").unwrap(), None);
            assert!(super::section(&uki[..uki.len() / 2], section).is_err() || section == ".cmdline");
        }
        for cut in [0, 0x40, 0x90, 0x200] {
            assert!(join(&stub[..cut], &[(".cmdline", b"")]).is_err());
        }
        let many: Vec<_> = (0..99).map(|_| (".x", &b""[..])).collect();
        assert!(join(&stub, &many).unwrap_err().to_string().contains(".x"));
    }
}
