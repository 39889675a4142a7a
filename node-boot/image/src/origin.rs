//! What a program was made from: Go's own record in it, Cargo's lock, and what a package says of its licences.

use std::collections::{BTreeMap, BTreeSet};

/// Every crate that the workspace's programs are built from, as Cargo has locked them.
const LOCK: &str = include_str!("../../../Cargo.lock");
/// Where Go's linker puts its record (`debug/buildinfo`), and what stands around the list of modules in it.
const GO: &[u8; 14] = b"\xff Go buildinf:";
const ALIGNED: usize = 16;
const HEADER: usize = 32;
const AROUND: usize = 16;

/// A module or crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub name: String,
    pub version: String,
    /// SHA-256 of its archive, hexadecimal, as Cargo writes it; of a Go module its `h1:` digest.
    pub digest: String,
}

/// Go modules in a program, with Go's own library, or in each program of an archive that is not compressed; none where it has no record.
pub(crate) fn go_modules(bytes: &[u8]) -> BTreeSet<Part> {
    let starts = (0..bytes.len()).step_by(ALIGNED).filter(|at| bytes[*at..].starts_with(GO));
    let lists = starts.filter_map(|at| {
        let (go, rest) = counted(bytes.get(at + HEADER..)?)?;
        let (list, _) = counted(rest)?;
        let list = list.get(AROUND..list.len().checked_sub(AROUND)?)?;
        let version = std::str::from_utf8(go).ok()?.trim_start_matches("go").to_owned();
        let library = Part { name: "stdlib".to_owned(), version, digest: String::new() };
        Some(modules(std::str::from_utf8(list).ok()?).into_iter().chain([library]))
    });
    lists.flatten().collect()
}

/// A text behind its length, and what comes after it.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut used) = (0_usize, 0);
    loop {
        let byte = *bytes.get(used)?;
        length |= usize::from(byte & 0x7f).checked_shl(7 * u32::try_from(used).ok()?)?;
        used += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    bytes.get(used..)?.split_at_checked(length)
}

/// Lines `mod` and `dep` of Go's record; `=>` says what stands in the place of the one before.
fn modules(list: &str) -> Vec<Part> {
    let mut found: Vec<Part> = Vec::new();
    for line in list.lines() {
        let words: Vec<_> = line.split('\t').collect();
        let ["mod" | "dep" | "=>", name, version, ..] = words[..] else { continue };
        if words[0] == "=>" {
            found.pop();
        }
        let digest = words.get(3).map_or("", |digest| *digest);
        found.push(Part { name: name.to_owned(), version: version.to_owned(), digest: digest.to_owned() });
    }
    // What is built here has no version of its own.
    found.retain(|part| part.version != "(devel)");
    found
}

/// Crates that a program of this workspace is built from, as far as the lock says, tests' own among them; none for a program
/// of another name.
pub(crate) fn crates(program: &str) -> BTreeSet<Part> {
    let lock = locked(LOCK);
    let (mut todo, mut seen, mut found) = (vec![program], BTreeSet::new(), BTreeSet::new());
    while let Some(name) = todo.pop() {
        let Some(one) = lock.get(name).filter(|_| seen.insert(name)) else { continue };
        if !one.part.digest.is_empty() {
            found.insert(one.part.clone());
        }
        todo.extend(&one.needs);
    }
    found
}

struct Locked<'a> {
    part: Part,
    needs: Vec<&'a str>,
}

/// Packages of a lock by how dependencies call them: the name, and where there are several of it, with the version.
fn locked(lock: &str) -> BTreeMap<&str, Locked<'_>> {
    let mut all = BTreeMap::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let field = |key: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
            line.map(|value| value.trim_matches('"'))
        };
        let (Some(name), Some(version)) = (field("name"), field("version")) else { continue };
        let part = Part {
            name: name.to_owned(),
            version: version.to_owned(),
            digest: field("checksum").unwrap_or_default().to_owned(),
        };
        let needs = package.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
        let needs: Vec<_> = needs.collect();
        let called = lock
            .find(&format!("\"{name} {version}\""))
            .map(|at| &lock[at + 1..at + 2 + name.len() + version.len()]);
        all.insert(called.unwrap_or(name), Locked { part, needs });
    }
    all
}

/// Licences that a package's `copyright` names: by its fields, or, in the older form, by the files that it points to.
pub(crate) fn licences(copyright: &str) -> BTreeSet<String> {
    let fields = copyright.lines().filter_map(|line| line.strip_prefix("License:"));
    let fields: BTreeSet<_> =
        fields.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    if !fields.is_empty() {
        return fields;
    }
    let files = copyright.split("/usr/share/common-licenses/").skip(1);
    let is_name = |symbol: char| symbol.is_ascii_alphanumeric() || matches!(symbol, '-' | '.' | '+');
    let name = |rest: &str| {
        rest[..rest.find(|symbol| !is_name(symbol)).unwrap_or(rest.len())].trim_end_matches('.').to_owned()
    };
    files.map(name).filter(|name| !name.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, version: &str, digest: &str) -> Part {
        Part { name: name.into(), version: version.into(), digest: digest.into() }
    }

    #[test]
    fn a_go_program_names_its_modules_and_what_stands_in_their_place() {
        let list = "path\tx/cmd\nmod\tx\t(devel)\t\ndep\ta.b/c\tv1.0.0\th1:AA=\ndep\td.e/f\tv2.0.0\n=>\tg.h/i\tv3.0.0\th1:BB=\n";
        let list = format!("{0}{list}{0}", "x".repeat(16));
        let mut program = vec![0; 32];
        program.extend(GO);
        program.extend([8, 2]);
        program.resize(64, 0);
        program.extend([4]);
        program.extend(b"go1x");
        let length = u8::try_from(list.len()).unwrap();
        program.extend([length | 0x80, length >> 7]);
        program.extend(list.bytes());
        let library = part("stdlib", "1x", "");
        let wanted = [part("a.b/c", "v1.0.0", "h1:AA="), part("g.h/i", "v3.0.0", "h1:BB="), library];
        assert_eq!(go_modules(&program), wanted.into());
        for cut in 0..program.len() {
            go_modules(&program[..cut]);
        }
    }

    #[test]
    fn our_programs_are_made_of_crates_with_digests() {
        let found = crates("node-boot");
        for name in ["serde", "rustls", "qrcode"] {
            let one = found.iter().find(|part| part.name == name);
            assert!(one.is_some_and(|part| part.digest.len() == 64), "{name}: {one:?}");
        }
        assert!(crates("containerd").is_empty());
        let two = "[[package]]\nname = \"a\"\nversion = \"1\"\nchecksum = \"11\"\n\n[[package]]\nname = \"a\"\nversion = \
                   \"2\"\nchecksum = \"22\"\n\n[[package]]\nname = \"b\"\nversion = \"3\"\ndependencies = [\n \"a 2\",\n]\n";
        let lock = locked(two);
        assert_eq!((lock["b"].needs.as_slice(), lock["a 2"].part.digest.as_str()), (&["a 2"][..], "22"));
    }

    #[test]
    fn licences_are_read_in_both_forms_of_copyright_files() {
        let new = "Files: *\nLicense: GPL-2+\n\nFiles: b\nLicense: BSD-3-clause\n text\n\nLicense: GPL-2+\n";
        assert_eq!(licences(new), ["BSD-3-clause".to_owned(), "GPL-2+".to_owned()].into());
        let old = "see `/usr/share/common-licenses/LGPL-2.1'.\nAnd /usr/share/common-licenses/GPL-2.\n";
        assert_eq!(licences(old), ["GPL-2".to_owned(), "LGPL-2.1".to_owned()].into());
    }
}
