//! Towards Kubernetes: attach, certificates, Nodes.
