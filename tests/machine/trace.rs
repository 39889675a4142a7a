//! What a machine says of its own start.

use harness::{Board, Bus};
use tests::stage::JOINED;

use crate::install::joined;
use crate::{DEADLINE, site_and_machine};

/// The most memory that PID 1 may have had, MiB: it is there for the life of the machine.
const MOST: f64 = 6.0;
/// The most that a start may need of our own programs, seconds at 10^9 instructions a second.
const OWN: f64 = 1.0;

/// The sentence about a start: its seconds by what they went into, and the memory of PID 1 within its limit.
pub fn check(console: &str) {
    let line = console.lines().find(|line| line.starts_with("Started in "));
    let line = line.unwrap_or_else(|| panic!("no trace: {console}"));
    for part in ["kernel ", "drivers ", "disk ", "site ", "containerd ", "kubelet "] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(number(line, "node-boot ") > 0.0, "{line}");
    assert!(number(line, "PID 1 ") <= MOST, "{line}");
}

/// The number that stands behind these words.
fn number(line: &str, words: &str) -> f64 {
    let rest = line
        .split_once(words)
        .map(|(_, rest)| rest.split([' ', ',', '.']).take(2).collect::<Vec<_>>().join("."));
    rest.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{words}: {line}"))
}

#[test]
#[ignore = "long: cargo xtask test --long runs it; an emulator that counts instructions is slow"]
fn a_start_needs_no_more_instructions_of_our_own_programs_than_a_small_processor_has_time_for() {
    if let Some(missing) = harness::missing_for_machine() {
        return harness::skip(&missing);
    }
    let (_site, mut vm) = site_and_machine("counted", &Board::new("VM0012", Bus::Virtio));
    vm.power_on().unwrap();
    vm.says(JOINED, DEADLINE).unwrap();
    vm.power_off();
    vm.pull_stick();
    vm.count_instructions();
    vm.power_on().unwrap();
    joined(&vm, 2);
    let console = vm.console();
    let line = console.lines().rfind(|line| line.starts_with("Started in ")).unwrap();
    println!("At 10^9 instructions a second: {line}");
    assert!(number(line, "node-boot ") <= OWN, "{line}");
}
