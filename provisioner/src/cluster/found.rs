//! A cluster that was just made: what kubeadm's phases leave to others, and what HQ wants in it from the beginning.

use std::collections::HashMap;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{ApiResource, Scope, pinned_kind};
use serde_json::{Value, json};

use super::attach::Attach;
use super::{ClusterError, FIELD_MANAGER, call};

/// The kinds that a server was asked for already.
pub type Kinds = HashMap<GroupVersionKind, (ApiResource, Scope)>;

/// Why a manifest of the seed is not applied, whoever asks again.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct BadManifest {
    /// Its file.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

/// Every object of a manifest, in its order; empty documents are left out.
pub fn objects(file: &str, text: &str) -> Result<Vec<Value>, BadManifest> {
    let bad = |why: String| BadManifest { file: file.to_owned(), why };
    let all: Vec<Value> = crate::yaml::read_all(text).map_err(|error| bad(error.to_string()))?;
    let objects: Vec<Value> = all.into_iter().filter(|object| !object.is_null()).collect();
    for (place, object) in objects.iter().enumerate() {
        let has = |pointer: &str| object.pointer(pointer).is_some_and(Value::is_string);
        if let Some(missing) =
            ["/apiVersion", "/kind", "/metadata/name"].into_iter().find(|pointer| !has(pointer))
        {
            return Err(bad(format!("object {} has no {}", place + 1, missing[1..].replace('/', "."))));
        }
    }
    Ok(objects)
}

/// What `kubeadm init` does beside making files, without bootstrap tokens: its administrators may do everything, and
/// machines that are to become control-plane ones find the cluster's CA.
pub fn basics(server: &str, ca_pem: &str) -> Result<Vec<Value>, serde_json::Error> {
    let cluster = json!({ "name": "", "cluster": {
        "server": server, "certificate-authority-data": protocol::bytes::b64(ca_pem.as_bytes()) } });
    let kubeconfig = json!({ "apiVersion": "v1", "kind": "Config", "clusters": [cluster] });
    Ok(vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "kubeadm:cluster-admins" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "kubeadm:cluster-admins" }]
        }),
        // By this `kubectl logs` and `exec` reach the kubelets: the API servers' certificate for it names no group any more.
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": "kubeadm:apiserver-kubelet-client" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:kubelet-api-admin" },
            "subjects": [{
                "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "kube-apiserver-kubelet-client"
            }]
        }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": "cluster-info", "namespace": "kube-public" },
            "data": { "kubeconfig": serde_json::to_string(&kubeconfig)? }
        }),
    ])
}

/// What is not there yet, out of what `/readyz?verbose` says; anything else as it is.
fn unready(said: &str) -> String {
    let missing = said.lines().filter_map(|line| line.strip_prefix("[-]")?.split(' ').next());
    let missing: Vec<_> = missing.collect();
    if missing.is_empty() { said.to_owned() } else { format!("{} is not done", missing.join(", ")) }
}

impl Attach {
    /// The basics of this cluster.
    pub fn basics(&self, server: &str) -> Result<Vec<Value>, serde_json::Error> {
        basics(server, self.ca_pem())
    }

    /// Whether the API server has made what it makes by itself, such as the roles of its controllers: those that start before
    /// that are refused, end, and start again.
    pub async fn is_ready(&self) -> Result<(), ClusterError> {
        let ask = hyper::Request::get("/readyz?verbose").body(Vec::new()).map_err(|error| {
            ClusterError::Away { doing: "asking the API server".to_owned(), why: error.to_string() }
        })?;
        let doing = "starting the API server";
        match call(doing, self.admin().request_text(ask)).await {
            Err(ClusterError::Away { doing, why }) => Err(ClusterError::Away { doing, why: unready(&why) }),
            done => done.map(drop),
        }
    }

    /// Puts an object into the cluster as it is to be; one that is so already stays.
    pub async fn put(&self, object: &Value, kinds: &mut Kinds) -> Result<(), ClusterError> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        let (group, version) = text("/apiVersion").rsplit_once('/').unwrap_or(("", text("/apiVersion")));
        let doing = format!("applying {kind} {name}");
        let wanted = GroupVersionKind::gvk(group, version, kind);
        let (resource, scope) = self.kind(&doing, wanted, kinds).await?;
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
        let api: Api<DynamicObject> = match scope {
            Scope::Cluster => Api::all_with(self.admin().clone(), &resource),
            Scope::Namespaced => Api::namespaced_with(self.admin().clone(), namespace, &resource),
        };
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        call(doing, api.patch(name, &apply, &Patch::Apply(object))).await.map(drop)
    }

    /// How objects of this kind are asked for; the server is asked once.
    async fn kind(
        &self,
        doing: &str,
        wanted: GroupVersionKind,
        kinds: &mut Kinds,
    ) -> Result<(ApiResource, Scope), ClusterError> {
        if let Some(known) = kinds.get(&wanted) {
            return Ok(known.clone());
        }
        let (resource, can) = call(doing, pinned_kind(self.admin(), &wanted)).await?;
        let found = (resource, can.scope);
        kinds.insert(wanted, found.clone());
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_without_what_names_an_object_is_named_with_its_place() {
        let text = "apiVersion: v1\nkind: Namespace\nmetadata: { name: a }\n---\n---\napiVersion: v1\nkind: Secret\n";
        let error = objects("x.yaml", text).unwrap_err();
        assert_eq!(error.to_string(), "x.yaml: object 2 has no metadata.name");
        assert!(objects("x.yaml", "{ [").is_err());
        assert!(objects("x.yaml", "# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn an_api_server_that_is_not_ready_says_in_one_line_what_it_waits_for() {
        let hook = "poststarthook/rbac/bootstrap-roles";
        let said =
            format!("[+]ping ok\n[-]{hook} failed: reason withheld\n[+]etcd ok\nreadyz check failed\n");
        assert_eq!(unready(&said), format!("{hook} is not done"));
        assert_eq!(unready("connection refused"), "connection refused");
    }

    #[test]
    fn a_new_cluster_gets_no_bootstrap_token_and_nobody_who_may_approve_himself() {
        let basics = basics("https://127.0.0.1:7445", "CA").unwrap();
        let text = serde_json::to_string(&basics).unwrap();
        assert!(!text.contains("bootstrap") && !text.contains("nodeclient"), "{text}");
        assert_eq!(basics.len(), 3);
    }
}
