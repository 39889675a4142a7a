//! The kubelet's certificate, its way to the API servers, and the small agent that stays.

pub mod agent; // what goes on after the join
pub mod balancer; // the API servers on our own loopback
pub mod kubelet; // M8
