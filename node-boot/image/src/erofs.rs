//! The system as one read-only file system: EROFS, by its own tool, with nothing of the day it was made in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tree::{Node, Tree};

/// Every image has the same one: it is told apart by its digest.
const UUID: &str = "6e6f6465-2d62-6f6f-7400-000000000000";

/// Writes the tree into the file `image`.
pub(crate) fn write(tree: &Tree, image: &Path) -> Result<()> {
    let staged = tempfile::tempdir()?;
    let root = staged.path().join("root");
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    for (path, node) in tree.iter() {
        let at = root.join(path);
        match node {
            Node::Folder => fs::create_dir(&at)?,
            Node::File(_, content) => fs::write(&at, content.read()?)?,
            Node::Link(to) => symlink(to, &at)?,
        }
        let mode = match node {
            Node::Folder | Node::File(true, _) => 0o755,
            Node::File(false, _) => 0o644,
            Node::Link(_) => continue,
        };
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    let mut tool = Command::new("mkfs.erofs");
    tool.args(["-x-1", "-T0", "--all-root", "-U", UUID]).arg(image).arg(&root);
    let done = tool.output().context("running mkfs.erofs (Debian's erofs-utils)")?;
    ensure!(done.status.success(), "mkfs.erofs failed: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}
