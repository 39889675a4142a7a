//! Which modules of the distribution's kernel an image takes: those that are named, and what they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tree::Tree;

/// The kernel's modules, as `depmod` describes them.
pub(crate) struct Kernel {
    /// Its release, `6.1.0-56-amd64`.
    pub release: String,
    folder: PathBuf,
    needs: BTreeMap<String, Vec<String>>,
}

impl Kernel {
    /// The only kernel below `root`.
    pub(crate) fn below(root: &Path) -> Result<Self> {
        let entry = fs::read_dir(root.join("lib/modules"))?.next().context("there is no kernel")??;
        let release = entry.file_name().to_string_lossy().into_owned();
        let done = Command::new("depmod").arg("-b").arg(root).arg(&release).status();
        ensure!(done.context("running depmod (Debian's kmod)")?.success(), "depmod failed");
        let text = fs::read_to_string(entry.path().join("modules.dep"))?;
        let line = |line: &str| {
            let (path, needs) = line.split_once(':')?;
            Some((path.to_owned(), needs.split_whitespace().map(str::to_owned).collect()))
        };
        Ok(Self { release, folder: entry.path(), needs: text.lines().filter_map(line).collect() })
    }

    /// Paths of the named modules and of all that they need, dependencies first. A path that ends with `/` names all
    /// below it. One that is built in has no file; a name that is neither is an error.
    pub(crate) fn choose(&self, names: &[&str]) -> Result<Vec<String>> {
        let builtin = fs::read_to_string(self.folder.join("modules.builtin"))?;
        let mut chosen = Chosen::default();
        for name in names {
            let before = chosen.order.len();
            for path in self.needs.keys().filter(|path| is_named(path, name)) {
                chosen.add(path, &self.needs);
            }
            let known = chosen.order.len() > before
                || self.needs.keys().any(|path| is_named(path, name))
                || builtin.lines().any(|path| is_named(path, name));
            ensure!(known, "the kernel {} has no module {name}", self.release);
        }
        Ok(chosen.order)
    }

    /// Puts modules into a tree below `folder`, with a list in the order in which they are to be loaded.
    pub(crate) fn put_listed(&self, tree: &mut Tree, folder: &str, paths: &[String]) {
        for path in paths {
            tree.copy(&format!("{folder}/{path}"), &self.folder.join(path));
        }
        tree.file(&format!("{folder}/modules.list"), paths.join("\n") + "\n");
    }

    /// Puts modules into a tree where `modprobe` would look for them, with what is needed to find the one for a device.
    pub(crate) fn put_findable(&self, tree: &mut Tree, paths: &[String]) -> Result<()> {
        let folder = format!("usr/lib/modules/{}", self.release);
        for path in paths {
            tree.copy(&format!("{folder}/{path}"), &self.folder.join(path));
        }
        let names: BTreeSet<_> = paths.iter().map(|path| name_of(path)).collect();
        let aliases = fs::read_to_string(self.folder.join("modules.alias"))?;
        let ours =
            |line: &&str| line.rsplit(' ').next().is_some_and(|name| names.contains(&name.replace('-', "_")));
        let aliases: Vec<_> = aliases.lines().filter(ours).collect();
        tree.file(&format!("{folder}/modules.alias"), aliases.join("\n") + "\n");
        let needs: Vec<_> =
            paths.iter().map(|path| format!("{path}: {}", self.needs[path].join(" "))).collect();
        tree.file(&format!("{folder}/modules.dep"), needs.join("\n") + "\n");
        Ok(())
    }
}

#[derive(Default)]
struct Chosen {
    order: Vec<String>,
    seen: BTreeSet<String>,
}

impl Chosen {
    fn add(&mut self, path: &str, needs: &BTreeMap<String, Vec<String>>) {
        if !self.seen.insert(path.to_owned()) {
            return;
        }
        for need in needs.get(path).into_iter().flatten() {
            self.add(need, needs);
        }
        self.order.push(path.to_owned());
    }
}

fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

fn is_named(path: &str, name: &str) -> bool {
    if name.ends_with('/') { path.starts_with(name) } else { name_of(path) == name }
}
