//! Where the time of a start goes: each step as it ends, by the clock that begins with the kernel, and by what it was waited for.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// One step a line, `MILLISECONDS BY NAME`: gone when the machine is switched off.
const FILE: &str = "/run/node-boot/trace";
/// The step that ends the trace.
const LAST: &str = "part of the cluster";
/// A machine that tries for months writes no more of it.
const MOST: usize = 64;

/// What the time went into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spent {
    /// The kernel, until it starts this program.
    Kernel,
    /// This program.
    Own,
    /// Drivers as they look at their devices.
    Drivers,
    /// Disks.
    Disk,
    /// The TPM.
    Tpm,
    /// Cable, DHCP server, provisioner, cluster.
    Site,
    /// The container runtime.
    Containerd,
    /// The kubelet, until it answers.
    Kubelet,
}

impl Spent {
    const ALL: [Self; 8] = [
        Self::Kernel,
        Self::Own,
        Self::Drivers,
        Self::Disk,
        Self::Tpm,
        Self::Site,
        Self::Containerd,
        Self::Kubelet,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Own => "node-boot",
            Self::Drivers => "drivers",
            Self::Disk => "disk",
            Self::Tpm => "TPM",
            Self::Site => "site",
            Self::Containerd => "containerd",
            Self::Kubelet => "kubelet",
        }
    }
}

/// A step that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// What was done, since the step before.
    name: String,
    /// Milliseconds since the kernel began (`CLOCK_BOOTTIME`).
    ms: u64,
    /// What that time went into.
    by: Spent,
}

/// Whether there is a trace: only where the whole system is ours.
static ON: AtomicBool = AtomicBool::new(false);

/// From now on steps are noted.
pub fn begin() {
    ON.store(true, Ordering::Relaxed);
}

/// A step has ended: what was done since the one before, and what its time went into.
pub fn ended(step: &str, by: Spent) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    let before = read(Path::new(FILE));
    if before.len() >= MOST || before.last().is_some_and(|last| last.name == LAST) {
        return ON.store(false, Ordering::Relaxed);
    }
    let _ = note(Path::new(FILE), &Step { name: step.to_owned(), ms: now(), by });
}

/// The machine is part of the cluster; where the time went and how much memory was needed, in one sentence, once a start.
pub fn joined() -> Option<String> {
    ended(LAST, Spent::Own);
    // Whatever ends later is no part of the start.
    let is_on = ON.swap(false, Ordering::Relaxed);
    is_on.then(|| format!("{} {}", sentence(&read(Path::new(FILE))), memory()))
}

fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    u64::try_from(time.tv_sec * 1000 + time.tv_nsec / 1_000_000).unwrap_or_default()
}

fn note(file: &Path, step: &Step) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let line = format!("{} {} {}\n", step.ms, step.by.name(), step.name);
    File::options().append(true).create(true).open(file)?.write_all(line.as_bytes())
}

fn read(file: &Path) -> Vec<Step> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(step).collect()
}

fn step(line: &str) -> Option<Step> {
    let mut words = line.splitn(3, ' ');
    let ms = words.next()?.parse().ok()?;
    let by = words.next()?;
    let by = Spent::ALL.into_iter().find(|one| one.name() == by)?;
    Some(Step { name: words.next()?.to_owned(), ms, by })
}

/// Seconds by what they went into.
fn sentence(steps: &[Step]) -> String {
    let (mut sums, mut before) = (BTreeMap::<Spent, u64>::new(), 0);
    for step in steps {
        *sums.entry(step.by).or_default() += step.ms.saturating_sub(before);
        before = step.ms;
    }
    let parts: Vec<_> = sums.iter().map(|(by, ms)| format!("{} {}", by.name(), seconds(*ms))).collect();
    format!("Started in {} s: {}.", seconds(before), parts.join(", "))
}

fn seconds(ms: u64) -> String {
    format!("{}.{:02}", ms / 1000, ms % 1000 / 10)
}

/// The most memory that PID 1 and this program have had.
fn memory() -> String {
    let most = |process: &str| {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        peak(&status).map_or_else(
            || "unknown".to_owned(),
            |kib| format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024),
        )
    };
    format!("Memory at most: PID 1 {}, agent {}.", most("1"), most("self"))
}

/// `VmHWM` of `/proc/<pid>/status`, KiB.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_moment_of_a_start_is_in_the_sentence_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run/trace");
        let steps = [
            ("the kernel", 4000, Spent::Kernel),
            ("first drivers", 4100, Spent::Drivers),
            ("the disk with the system", 4350, Spent::Disk),
            ("the system's image", 4370, Spent::Own),
            ("keys", 4900, Spent::Tpm),
            ("the site", 5900, Spent::Site),
            ("containerd", 7900, Spent::Containerd),
            (LAST, 7909, Spent::Own),
        ];
        for (step, ms, by) in steps {
            note(&file, &Step { name: step.to_owned(), ms, by }).unwrap();
        }
        // A power cut may have cut a line.
        File::options().append(true).open(&file).unwrap().write_all(b"7950 node-b").unwrap();
        assert_eq!(
            sentence(&read(&file)),
            "Started in 7.90 s: kernel 4.00, node-boot 0.02, drivers 0.10, disk 0.25, TPM 0.53, site 1.00, \
             containerd 2.00."
        );
    }

    #[test]
    fn a_program_on_somebody_elses_system_leaves_no_trace() {
        ended("anything", Spent::Own);
        assert_eq!(joined(), None);
        assert!(!Path::new(FILE).exists());
    }

    #[test]
    fn the_peak_of_memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(peak("Name:\tinit\nVmPeak:\t    9000 kB\nVmHWM:\t    4321 kB\n"), Some(4321));
        assert_eq!(peak("Name:\tinit\n"), None);
    }
}
