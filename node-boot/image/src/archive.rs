//! The archive that the kernel starts from: cpio in its `newc` form (Linux, Documentation/driver-api/early-userspace).

use anyhow::Result;

use crate::tree::{Node, Tree};

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// The tree as an archive: owner 0, time 0, numbers in order.
pub(crate) fn archive(tree: &Tree) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (number, (path, node)) in (1..).zip(tree.iter()) {
        let (mode, data) = match node {
            Node::Folder => (FOLDER, Vec::new()),
            Node::File(false, content) => (FILE, content.read()?),
            Node::File(true, content) => (PROGRAM, content.read()?),
            Node::Link(to) => (LINK, to.clone().into_bytes()),
        };
        entry(&mut out, number, mode, path, &data)?;
    }
    entry(&mut out, 0, 0, "TRAILER!!!", &[])?;
    Ok(out)
}

fn entry(out: &mut Vec<u8>, number: u32, mode: u32, path: &str, data: &[u8]) -> Result<()> {
    let (size, name) = (u32::try_from(data.len())?, u32::try_from(path.len() + 1)?);
    let links = 1;
    // Inode, mode, owner, group, links, time, size, device (4 numbers), length of the name, checksum.
    let fields = [number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name, 0];
    out.extend(b"070701");
    for field in fields {
        out.extend(format!("{field:08x}").bytes());
    }
    out.extend(path.bytes());
    out.push(0);
    pad(out);
    out.extend(data);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_reads_what_was_written() {
        let mut tree = Tree::default();
        tree.file("etc/a", b"hello");
        tree.link("bin", "usr/bin");
        let bytes = archive(&tree).unwrap();
        assert_eq!(bytes, archive(&tree).unwrap());
        assert_eq!(bytes.len() % 4, 0);
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            return harness::skip("`cpio` is not installed");
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let listed = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        assert!(listed.contains("bin -> usr/bin") && listed.contains("5 Jan  1  1970 etc/a"), "{listed}");
    }
}
