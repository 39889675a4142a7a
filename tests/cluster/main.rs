//! The cluster tier: our side of Kubernetes against a real API server, etcd, controller manager and kubelet.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::format_collect)] // A test may panic; lints exempt test functions and not what they call.

mod attach; // rights, certificates, clusters that are unsafe
mod found; // a site without any cluster before
mod join; // the main job
mod kill; // power cuts at every step
mod network; // of a machine whose whole system is ours
mod rebuild;
mod trouble; // what goes wrong half-way
mod voice; // approved by telephone // a store that was lost
