//! The hash by which firmware knows a program, and where the signature stands in its file (Microsoft's Authenticode in PE
//! images). The hash leaves the signature out: one program has the same one, whoever has signed it.

use anyhow::{Context, Result, ensure};
use protocol::bytes::Digest;

use crate::uki::{number, short};

/// Offsets in the optional header of a 64-bit image: its kind, the checksum, the entry that says where signatures are.
const MAGIC: usize = 0x20b;
const CHECKSUM: usize = 64;
const ENTRY: usize = 144;
/// `WIN_CERTIFICATE` of version 2 that holds a PKCS#7 signature, and the alignment of one.
const KIND: [u8; 4] = [0x00, 0x02, 0x02, 0x00];
const HEADER: usize = 8;
const ALIGN: usize = 8;

/// SHA-256 of a program as firmware makes it.
pub fn digest(program: &[u8]) -> Result<Digest> {
    let place = Place::of(program)?;
    let end = if place.size == 0 { program.len() } else { place.at };
    let (checksum, entry) = (place.optional + CHECKSUM, place.optional + ENTRY);
    let parts = [0..checksum, checksum + 4..entry, entry + 8..end];
    let parts: Option<Vec<_>> = parts.into_iter().map(|range| program.get(range)).collect();
    Ok(Digest::of(&parts.context("the program is cut off")?.concat()))
}

/// The program with this signature, PKCS#7 in DER, in place of any other.
pub fn sign(program: &[u8], signature: &[u8]) -> Result<Vec<u8>> {
    let place = Place::of(program)?;
    let mut signed = program[..if place.size == 0 { program.len() } else { place.at }].to_vec();
    ensure!(signed.len().is_multiple_of(ALIGN), "a program of an odd length");
    let (at, size) = (u32::try_from(signed.len())?, (HEADER + signature.len()).next_multiple_of(ALIGN));
    let entry = place.optional + ENTRY;
    signed[entry..entry + 4].copy_from_slice(&at.to_le_bytes());
    signed[entry + 4..entry + 8].copy_from_slice(&u32::try_from(size)?.to_le_bytes());
    signed.extend(u32::try_from(HEADER + signature.len())?.to_le_bytes());
    signed.extend(KIND);
    signed.extend(signature);
    signed.resize(at as usize + size, 0);
    Ok(signed)
}

/// Where the optional header is, and the signatures.
struct Place {
    optional: usize,
    at: usize,
    size: usize,
}

impl Place {
    fn of(program: &[u8]) -> Result<Self> {
        let coff = number(program, 0x3c)? + 4;
        ensure!(program.get(coff - 4..coff) == Some(b"PE\0\0"), "this is no PE image");
        let optional = coff + 20;
        ensure!(short(program, optional)? == MAGIC, "this is no 64-bit PE image");
        // Firmware hashes section by section: what stands between two is not in its hash, but in that of the whole.
        let (mut end, table) = (number(program, optional + 60)?, optional + short(program, coff + 16)?);
        for header in (0..short(program, coff + 2)?).map(|section| table + section * 40) {
            let (size, at) = (number(program, header + 16)?, number(program, header + 20)?);
            ensure!(size == 0 || at == end, "there is a gap before a section of the program");
            end += size;
        }
        let (at, size) = (number(program, optional + ENTRY)?, number(program, optional + ENTRY + 4)?);
        ensure!(size == 0 || (at >= end && at + size == program.len()), "its signatures are not at its end");
        ensure!(end <= program.len(), "the program is cut off");
        Ok(Self { optional, at, size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

    #[test]
    fn a_program_has_one_hash_whoever_signed_it_and_another_one_after_any_change() {
        let Ok(stub) = std::fs::read(STUB) else { return harness::skip("systemd-boot-efi is not installed") };
        let program = crate::uki::join(&stub, &[(".cmdline", b"quiet")]).unwrap();
        let hash = digest(&program).unwrap();
        let (one, two) = (sign(&program, &[7; 1234]).unwrap(), sign(&program, &[8; 77]).unwrap());
        assert_eq!([digest(&one).unwrap(), digest(&two).unwrap()], [hash; 2]);
        assert!(sign(&one, &[8; 77]).unwrap() == two, "a signature takes the place of another");
        for at in [0x40, 0x800, program.len() - 1] {
            let mut altered = one.clone();
            altered[at] ^= 1;
            assert_ne!(digest(&altered).ok(), Some(hash), "{at}");
        }
        for cut in [0, 0x40, 0x90, 0x200, program.len() - 1] {
            assert!(digest(&program[..cut]).is_err(), "{cut}");
        }
    }
}
