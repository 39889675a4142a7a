//! The operating system under the agent: inventory, services.

pub mod inventory; // what the machine is made of
pub mod supervise; // programs that are to run
