//! The cluster tier: our side of Kubernetes against a real API server, etcd, controller manager and kubelet.

mod attach; // rights, certificates, clusters that are unsafe
mod join; // the main job
