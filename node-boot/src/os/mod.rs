//! The operating system under the agent: clock, inventory, services.

pub mod bank; // which images are in use
pub mod clock; // set by what the site says
pub mod disk; // which one, what stands on it, how it gets there
pub mod images; // Pod images that the system brings
pub mod init; // PID 1 of a bare machine
pub mod inventory; // what the machine is made of
pub mod logs; // what programs say
pub mod mapper; // devices that the kernel makes of others
pub mod network; // links and addresses
pub mod secure; // whom the firmware believes
pub mod supervise; // programs that are to run
pub mod tool; // programs that are to end
mod variables; // of the firmware
