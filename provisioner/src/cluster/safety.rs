//! Clusters that would let nodes approve themselves: found by reading roles and bindings, refused with the remedy.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule};
use kube::Client;
use kube::api::{Api, ListParams};

use super::{Cluster, ClusterError, call};

/// Subresources whose `create` makes kube-controller-manager approve a node's request by itself.
const SELF_APPROVAL: [&str; 2] =
    ["certificatesigningrequests/nodeclient", "certificatesigningrequests/selfnodeclient"];

fn grants(rule: &PolicyRule) -> bool {
    let has = |list: &Option<Vec<String>>, wanted: &[&str]| {
        list.iter().flatten().any(|entry| wanted.contains(&entry.as_str()))
    };
    has(&rule.resources, &SELF_APPROVAL)
        && has(&rule.api_groups, &["certificates.k8s.io", "*"])
        && rule.verbs.iter().any(|verb| verb == "create" || verb == "*")
}

/// The bindings by which somebody may have a node's request approved without us.
pub fn self_approving(roles: &[ClusterRole], bindings: &[ClusterRoleBinding]) -> Vec<String> {
    let granting: BTreeSet<_> = roles
        .iter()
        .filter(|role| role.rules.iter().flatten().any(grants))
        .filter_map(|role| role.metadata.name.as_deref())
        .collect();
    bindings
        .iter()
        .filter(|binding| granting.contains(binding.role_ref.name.as_str()))
        .filter(|binding| binding.subjects.as_ref().is_some_and(|subjects| !subjects.is_empty()))
        .filter_map(|binding| binding.metadata.name.clone())
        .collect()
}

/// What an administrator has to do before machines can be admitted: R39.
pub(crate) async fn remedies(client: &Client) -> Result<Vec<String>, ClusterError> {
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let bindings: Api<ClusterRoleBinding> = Api::all(client.clone());
    let roles = call("reading ClusterRoles", roles.list(&ListParams::default())).await?.items;
    let bindings = call("reading ClusterRoleBindings", bindings.list(&ListParams::default())).await?.items;
    let mut remedies = Vec::new();
    let found = self_approving(&roles, &bindings);
    if !found.is_empty() {
        remedies.push(format!(
            "nodes may approve their own certificates; run `kubectl delete clusterrolebinding {}`",
            found.join(" ")
        ));
    }
    let group = "admissionregistration.k8s.io/v1";
    let resources = call("reading the API", client.list_api_group_resources(group)).await?.resources;
    if !resources.iter().any(|resource| resource.name == "validatingadmissionpolicies") {
        remedies
            .push("upgrade Kubernetes to 1.30 or newer, which has ValidatingAdmissionPolicy v1".to_owned());
    }
    Ok(remedies)
}

impl Cluster {
    /// Whether the cluster is still one in which only we say yes to nodes.
    pub async fn check_safety(&self) -> Result<(), ClusterError> {
        let remedies = remedies(&self.client).await?;
        if remedies.is_empty() { Ok(()) } else { Err(ClusterError::Unsafe { remedy: remedies.join("; ") }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, resource: &str) -> ClusterRole {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name},
            "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": [resource], "verbs": ["create"]}]}))
        .unwrap()
    }

    fn binding(name: &str, role: &str) -> ClusterRoleBinding {
        serde_json::from_value(serde_json::json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "Group", "name": "system:nodes"}]}))
        .unwrap()
    }

    #[test]
    fn r39a_nodes_that_may_approve_themselves_are_found_under_any_name() {
        let roles = [role("theirs", SELF_APPROVAL[1]), role("harmless", "certificatesigningrequests")];
        let bindings = [binding("rotation", "theirs"), binding("other", "harmless")];
        assert_eq!(self_approving(&roles, &bindings), ["rotation"]);
    }

    #[test]
    fn a_role_that_nobody_is_bound_to_is_no_danger() {
        let mut unbound = binding("rotation", "theirs");
        unbound.subjects = None;
        assert!(self_approving(&[role("theirs", SELF_APPROVAL[0])], &[unbound]).is_empty());
    }
}
