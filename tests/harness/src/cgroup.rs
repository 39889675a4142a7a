//! A machine's own branch of the control groups, so that its kubelet believes it has them all.
//!
//! Works on version 1 (a hierarchy per controller) and version 2 (one hierarchy): the branch becomes the root
//! of a cgroup namespace, and `init` in it is the leaf in which the machine's own programs live.

use crate::error::{Result, io};
use crate::folder::orphaned;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

const TREE: &str = "/sys/fs/cgroup";

/// The branch; dropping it removes it, once its processes are gone.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
    mounts: Vec<Mount>,
}

#[derive(Debug, PartialEq)]
struct Mount {
    path: PathBuf,
    kind: String,
    options: String,
}

impl Cgroup {
    /// Makes the branch `name` in every hierarchy of this computer.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let table = fs::read_to_string("/proc/mounts").map_err(io("read", "/proc/mounts"))?;
        let cgroup = Self { name: name.to_owned(), mounts: mounts(&table) };
        for mount in &cgroup.mounts {
            delegate(&mount.path);
            let branch = mount.path.join(name);
            for folder in [branch.clone(), branch.join("init")] {
                fs::create_dir_all(&folder).map_err(io("create", folder.display()))?;
                inherit_cpus(&folder);
            }
        }
        Ok(cgroup)
    }

    /// Shell lines by which a process joins the branch before its namespaces are made.
    pub(crate) fn join(&self) -> String {
        self.move_self("")
    }

    /// Shell lines by which a process enters the leaf of the machine's own programs. It does so before it enters
    /// the namespace: from within, version 2 lets nobody in.
    pub(crate) fn enter_leaf(&self) -> String {
        self.move_self("/init")
    }

    fn move_self(&self, to: &str) -> String {
        let line =
            |mount: &Mount| format!("echo $$ > '{}/{}{to}/cgroup.procs'", mount.path.display(), self.name);
        lines(self.mounts.iter().map(line))
    }

    /// Shell lines that mount the branch as the whole tree, inside of the new namespaces.
    pub(crate) fn mount(&self) -> String {
        let flat = self.mounts.iter().any(|mount| mount.path == Path::new(TREE));
        let tree = if flat { String::new() } else { format!("mount -t tmpfs -o mode=755 tmpfs {TREE}\n") };
        let each = self.mounts.iter().map(|mount| {
            let path = mount.path.display();
            format!("mkdir -p '{path}'; mount -t {} -o '{}' cgroup '{path}'", mount.kind, mount.options)
        });
        tree + &lines(each)
    }

    /// Shell lines by which the first process inside moves from the branch to its leaf.
    pub(crate) fn step_aside(&self) -> String {
        lines(
            self.mounts.iter().map(|mount| format!("echo 0 > '{}/init/cgroup.procs'", mount.path.display())),
        )
    }

    /// Moves a process, seen from outside, to the leaf: version 2 wants the branch itself empty of processes.
    pub(crate) fn adopt(&self, pid: u32) -> Result<()> {
        for mount in &self.mounts {
            let file = mount.path.join(&self.name).join("init/cgroup.procs");
            fs::write(&file, pid.to_string()).map_err(io("write", file.display()))?;
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for mount in &self.mounts {
            remove(&mount.path.join(&self.name));
        }
    }
}

/// Removes the branches whose owners are dead.
pub(crate) fn sweep() {
    let Ok(table) = fs::read_to_string("/proc/mounts") else { return };
    for mount in mounts(&table) {
        let Ok(entries) = fs::read_dir(&mount.path) else { continue };
        for entry in entries.flatten().filter(|entry| orphaned(&entry.file_name().to_string_lossy())) {
            remove(&entry.path());
        }
    }
}

fn lines(all: impl Iterator<Item = String>) -> String {
    all.collect::<Vec<_>>().join("\n") + "\n"
}

fn mounts(table: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let (path, kind, options) = (words.next()?, words.next()?, words.next()?);
        let wanted = matches!(kind, "cgroup" | "cgroup2") && path.starts_with(TREE);
        let options: Vec<_> = options.split(',').filter(|option| names_hierarchy(kind, option)).collect();
        let options = if options.is_empty() { "rw".into() } else { options.join(",") };
        wanted.then(|| Mount { path: path.into(), kind: kind.into(), options })
    };
    table.lines().filter_map(read).collect()
}

/// Mounting an existing version 1 hierarchy again takes its controllers or its name, and nothing else.
fn names_hierarchy(kind: &str, option: &str) -> bool {
    let generic = ["rw", "ro", "relatime", "nosuid", "nodev", "noexec", "xattr", "clone_children"];
    kind == "cgroup" && !generic.contains(&option) && !option.starts_with("release_agent")
}

/// Lets branches of the version 2 root have controllers; a refusal shows later, in what misses them.
fn delegate(root: &Path) {
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

/// A new version 1 cpuset has no processor and no memory, and takes no process until it has.
fn inherit_cpus(folder: &Path) {
    let Some(parent) = folder.parent() else { return };
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let inherited = fs::read_to_string(parent.join(file)).unwrap_or_default();
        if !inherited.trim().is_empty() && folder.join(file).exists() {
            let _ = fs::write(folder.join(file), inherited);
        }
    }
}

/// Removes a branch from its leaves up; the kernel may need a moment to see that its processes are gone.
fn remove(branch: &Path) {
    for child in fs::read_dir(branch).into_iter().flatten().flatten() {
        if child.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&child.path());
        }
    }
    for _ in 0..40 {
        match fs::remove_dir(branch) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                sleep(Duration::from_millis(25));
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(path: &str, kind: &str, options: &str) -> Mount {
        Mount { path: path.into(), kind: kind.into(), options: options.into() }
    }

    #[test]
    fn version_1_mounts_name_their_controllers() {
        let table = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n";
        let expected = [
            mount("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
            mount("/sys/fs/cgroup/systemd", "cgroup", "name=systemd"),
        ];
        assert_eq!(mounts(table), expected);
    }

    #[test]
    fn version_2_is_one_mount() {
        let table = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate,memory_recursiveprot 0 0\n";
        assert_eq!(mounts(table), [mount(TREE, "cgroup2", "rw")]);
    }
}
