//! The chores of the project: assets, tests, demo, bench.
fn main() {}
