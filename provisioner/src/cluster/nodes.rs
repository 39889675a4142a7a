//! Nodes: what is there, and what a Node of ours wears.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use serde_json::json;

use super::{Cluster, ClusterError, call, has_code};

/// The label that binds a Node to its slot. `NodeRestriction` keeps kubelets from setting it.
pub const SLOT_LABEL: &str = "slot.node-restriction.kubernetes.io/name";
/// The label that names the machine behind a Node by its registration: a provisioner that lost its store reads it there.
pub const MACHINE_LABEL: &str = "machine.node-restriction.kubernetes.io/id";

/// A Node as seen in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    /// Its UID.
    pub uid: String,
    /// Whether its Ready condition is True.
    pub ready: bool,
    /// The kubelet's version, `v1.36.3`.
    pub kubelet: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// The cluster in one look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeSeen>,
    /// The API server's version, `v1.36.3`.
    pub version: String,
    /// Where API servers listen, `address:port`.
    pub api: Vec<String>,
}

impl From<Node> for NodeSeen {
    fn from(node: Node) -> Self {
        let status = node.status.unwrap_or_default();
        let conditions = status.conditions.unwrap_or_default();
        Self {
            uid: node.metadata.uid.unwrap_or_default(),
            ready: conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            kubelet: status.node_info.map(|info| info.kubelet_version).unwrap_or_default(),
            addresses: status
                .addresses
                .unwrap_or_default()
                .into_iter()
                .map(|address| address.address)
                .collect(),
            labels: node.metadata.labels.unwrap_or_default(),
        }
    }
}

fn endpoints(slice: EndpointSlice) -> Vec<String> {
    let port = slice.ports.unwrap_or_default().iter().find_map(|port| port.port).unwrap_or(6443);
    let addresses = slice.endpoints.into_iter().flat_map(|endpoint| endpoint.addresses);
    addresses
        .map(
            |address| {
                if address.contains(':') {
                    format!("[{address}]:{port}")
                } else {
                    format!("{address}:{port}")
                }
            },
        )
        .collect()
}

impl Cluster {
    /// Looks at all Nodes. The version and the API servers change once in a long while: they are taken from `before`,
    /// where there is one.
    pub async fn look(&self, before: Option<&View>) -> Result<View, ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        // Not what the API server has in memory: this may be the only look after a change.
        let listed = call("listing Nodes", nodes.list(&ListParams::default())).await?;
        let named = |node: Node| (node.metadata.name.clone().unwrap_or_default(), node.into());
        let nodes = listed.items.into_iter().map(named).collect();
        if let Some(before) = before {
            return Ok(View { nodes, version: before.version.clone(), api: before.api.clone() });
        }
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
        let of_kubernetes = ListParams::default().labels("kubernetes.io/service-name=kubernetes");
        let slices = call("looking for API servers", slices.list(&of_kubernetes)).await?;
        let version = call("asking for the version", self.client.apiserver_version()).await?;
        let mut api: Vec<_> = slices.items.into_iter().flat_map(endpoints).collect();
        api.sort();
        Ok(View { nodes, version: version.git_version, api })
    }

    /// Puts labels on a Node; what others put there stays.
    pub async fn dress(&self, node: &str, labels: &BTreeMap<String, String>) -> Result<(), ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        call(format!("labelling Node {node}"), nodes.patch(node, &PatchParams::default(), &patch))
            .await
            .map(drop)
    }

    /// Deletes the Node of this name, whether or not a look has shown it yet.
    pub async fn delete_named(&self, node: &str) -> Result<(), ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let found = call(format!("looking for Node {node}"), nodes.get_metadata_opt(node)).await?;
        match found.and_then(|found| found.metadata.uid) {
            Some(uid) => self.delete_node(node, &uid).await,
            None => Ok(()),
        }
    }

    /// Deletes exactly the Node that was seen with this UID; one that is gone already is fine.
    pub async fn delete_node(&self, node: &str, uid: &str) -> Result<(), ClusterError> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let exactly = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        call(format!("deleting Node {node}"), async {
            let answer = nodes.delete(node, &exactly).await;
            if has_code(&answer, 404) { Ok(()) } else { answer.map(drop) }
        })
        .await
    }
}
