//! What is rendered is read strictly before it leaves: a kubelet that refuses its configuration is found here, not
//! at sea.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::yaml;

/// A rendered file that its reader would refuse.
#[derive(Debug, thiserror::Error)]
#[error("the rendered {path} would be refused: {why}")]
pub struct CheckError {
    /// Where it would go.
    pub path: String,
    /// Line, column and what is wrong.
    pub why: String,
}

/// Reads `text` as what is expected at `path`.
pub fn check(path: &str, text: &str) -> Result<(), CheckError> {
    let why = match path.rsplit('/').next().unwrap_or_default() {
        "config.yaml" => yaml::read::<KubeletConfiguration>(text).map(drop).map_err(|e| e.to_string()),
        "kubelet.conf" => yaml::read::<Kubeconfig>(text).map(drop).map_err(|e| e.to_string()),
        "disk.json" => serde_json::from_str::<OwnDisk>(text).map(drop).map_err(|e| e.to_string()),
        "network.json" => serde_json::from_str::<OwnNetwork>(text).map(drop).map_err(|e| e.to_string()),
        "services.json" => serde_json::from_str::<Vec<Service>>(text).map(drop).map_err(|e| e.to_string()),
        name if name.ends_with(".conflist") => {
            serde_json::from_str::<Conflist>(text).map(drop).map_err(|e| e.to_string())
        }
        _ => Ok(()),
    };
    why.map_err(|why| CheckError { path: path.to_owned(), why })
}

/// The fields of `kubelet.config.k8s.io/v1beta1` `KubeletConfiguration` that our templates may use; the kubelet
/// refuses to start on an unknown one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code, clippy::struct_excessive_bools)] // Reading is the whole purpose; the shape is Kubernetes'.
struct KubeletConfiguration {
    api_version: String,
    kind: String,
    authentication: IgnoredAny,
    authorization: IgnoredAny,
    #[serde(rename = "cgroupDriver")]
    cgroup_driver: String,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Vec<String>,
    cluster_domain: String,
    container_runtime_endpoint: String,
    eviction_hard: BTreeMap<String, String>,
    #[serde(rename = "failCgroupV1")]
    fail_cgroup_v1: bool,
    kube_reserved: BTreeMap<String, String>,
    #[serde(rename = "makeIPTablesUtilChains")]
    make_ip_tables_util_chains: bool,
    #[serde(default)]
    max_pods: Option<u32>,
    node_status_update_frequency: String,
    #[serde(default)]
    node_status_report_frequency: Option<String>,
    register_with_taints: Vec<BTreeMap<String, String>>,
    resolv_conf: String,
    rotate_certificates: bool,
    #[serde(default)]
    static_pod_path: Option<String>,
    #[serde(rename = "serverTLSBootstrap")]
    server_tls_bootstrap: bool,
    system_reserved: BTreeMap<String, String>,
    volume_plugin_dir: String,
}

/// Which disk node-boot puts the system on where that is its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(dead_code)] // Reading is the whole purpose.
struct OwnDisk {
    transports: Vec<String>,
    min_gib: u64,
}

/// What node-boot makes of the network where the whole system is its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // Reading is the whole purpose.
struct OwnNetwork {
    address: Option<String>,
    gateway: Option<std::net::IpAddr>,
    vlan: Option<u16>,
    bond: Option<crate::model::Bond>,
    mtu: Option<u16>,
    routes: Vec<BTreeMap<String, String>>,
    dns: Vec<std::net::IpAddr>,
    search: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[allow(dead_code)] // Reading is the whole purpose.
struct Kubeconfig {
    api_version: String,
    kind: String,
    clusters: Vec<IgnoredAny>,
    users: Vec<IgnoredAny>,
    contexts: Vec<IgnoredAny>,
    #[serde(rename = "current-context")]
    current_context: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)] // Reading is the whole purpose.
struct Service {
    name: String,
    argv: Vec<String>,
    ready: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code)] // Reading is the whole purpose.
struct Conflist {
    cni_version: String,
    name: String,
    plugins: Vec<IgnoredAny>,
}
