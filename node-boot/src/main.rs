//! The agent on the machine.
fn main() {}
