//! The operating system under the agent: clock, inventory, services.

pub mod clock; // what time it is, if anybody knows
pub mod inventory; // what the machine is made of
pub mod supervise; // programs that are to run
