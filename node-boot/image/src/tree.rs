//! Folders, files and links as an image will hold them: in one order, with no owner and no time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What stands at a path.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// A folder, 0755.
    Folder,
    /// A file: whether it is a program (0755, else 0644), and its bytes.
    File(bool, Content),
    /// A symbolic link to this path.
    Link(String),
}

/// Where the bytes of a file are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    Of(PathBuf),
}

impl Content {
    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.clone()),
            Self::Of(path) => fs::read(path).with_context(|| format!("reading {}", path.display())),
        }
    }
}

/// A file tree; paths are relative, as in `usr/bin/node-boot`, and come in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree(BTreeMap<String, Node>);

impl Tree {
    /// Adds a folder, and those above it.
    pub(crate) fn folder(&mut self, path: &str) {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends {
            self.0.entry(path[..end].to_owned()).or_insert(Node::Folder);
        }
    }

    fn put(&mut self, path: &str, node: Node) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Adds a file that is no program.
    pub(crate) fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.put(path, Node::File(false, Content::Bytes(bytes.into())));
    }

    /// Adds a file of this computer.
    pub(crate) fn copy(&mut self, path: &str, from: &Path) {
        self.put(path, Node::File(false, Content::Of(from.to_owned())));
    }

    /// Adds a program of this computer.
    pub(crate) fn program(&mut self, path: &str, from: &Path) -> Result<()> {
        ensure!(from.exists(), "there is no program {}", from.display());
        self.put(path, Node::File(true, Content::Of(from.to_owned())));
        Ok(())
    }

    /// Adds a symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) {
        self.put(path, Node::Link(to.to_owned()));
    }

    /// Everything, folders before what is in them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_stand_before_what_is_in_them_however_they_were_added() {
        let mut tree = Tree::default();
        tree.file("usr/lib/a", b"1");
        tree.link("bin", "usr/bin");
        tree.folder("usr/lib/b/c");
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["bin", "usr", "usr/lib", "usr/lib/a", "usr/lib/b", "usr/lib/b/c"]);
    }
}
