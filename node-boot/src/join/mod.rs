//! The kubelet's certificate, its way to the API servers, a cluster that is yet to be made, and the small agent that stays.

pub mod agent; // what goes on after the join
pub mod balancer; // the API servers on our own loopback
pub mod found; // a cluster that this machine makes
pub mod images; // which ones headquarters lets this machine run
pub mod kubelet; // M8
pub mod node; // what the cluster says of its Node
pub mod update; // images: staged, tried, kept or dropped
