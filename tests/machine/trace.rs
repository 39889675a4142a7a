//! What a machine says of its own start.

/// The most memory that PID 1 may have had, MiB: it is there for the life of the machine.
const MOST: f64 = 6.0;

/// The sentence about a start: its seconds by what they went into, and the memory of PID 1 within its limit.
pub fn check(console: &str) {
    let line = console.lines().find(|line| line.starts_with("Started in "));
    let line = line.unwrap_or_else(|| panic!("no trace: {console}"));
    for part in ["kernel ", "node-boot ", "drivers ", "disk ", "site ", "containerd ", "kubelet "] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let memory = line.split("PID 1 ").nth(1).and_then(|rest| rest.split(' ').next());
    let memory: f64 = memory.and_then(|memory| memory.parse().ok()).unwrap_or_else(|| panic!("{line}"));
    assert!(memory <= MOST, "{line}");
}
