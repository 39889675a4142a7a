//! The agent on the machine: discover, identify, enroll, configure, join.

pub mod cli; // arguments
pub mod console; // what a person at the machine reads
pub mod join; // the kubelet, its way to the API servers, the agent afterwards
pub mod os; // inventory, services
pub mod owner; // what the owner says to the machine
pub mod sequence; // the named steps, one after the other
pub mod site; // towards the provisioner
pub mod state; // what survives a power cut
pub mod stop; // asked to end, and a pause that hears it
pub mod trace; // where the time of a start goes
