//! Clusters that would let nodes approve themselves: found by reading roles and bindings, refused with the remedy.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Subject};
use kube::Client;
use kube::api::{Api, ListParams};

use super::{Cluster, ClusterError, call};

/// Subresources whose `create` makes kube-controller-manager approve a node's request by itself, by all the names that
/// RBAC knows them by but one.
const SELF_APPROVAL: [&str; 4] = [
    "certificatesigningrequests/nodeclient",
    "certificatesigningrequests/selfnodeclient",
    "*/nodeclient",
    "*/selfnodeclient",
];
/// The last one. Administrators have it, and are no danger; that a Node or everybody has it is.
const EVERYTHING: [&str; 1] = ["*"];

fn grants(rule: &PolicyRule, resources: &[&str]) -> bool {
    let has = |list: &Option<Vec<String>>, wanted: &[&str]| {
        list.iter().flatten().any(|entry| wanted.contains(&entry.as_str()))
    };
    has(&rule.resources, resources)
        && has(&rule.api_groups, &["certificates.k8s.io", "*"])
        && rule.verbs.iter().any(|verb| verb == "create" || verb == "*")
}

/// The bindings by which somebody may have a node's request approved without us.
pub fn self_approving(roles: &[ClusterRole], bindings: &[ClusterRoleBinding]) -> Vec<String> {
    let granting = |resources: &[&str]| -> BTreeSet<&str> {
        let grants = |role: &&ClusterRole| role.rules.iter().flatten().any(|rule| grants(rule, resources));
        roles.iter().filter(grants).filter_map(|role| role.metadata.name.as_deref()).collect()
    };
    let (to_nodes, everything) = (granting(&SELF_APPROVAL), granting(&EVERYTHING));
    let endangers = |binding: &&ClusterRoleBinding| {
        let (role, mut subjects) = (binding.role_ref.name.as_str(), binding.subjects.iter().flatten());
        if to_nodes.contains(role) {
            return subjects.next().is_some();
        }
        everything.contains(role) && subjects.any(is_a_node)
    };
    bindings.iter().filter(endangers).filter_map(|binding| binding.metadata.name.clone()).collect()
}

/// Whether Nodes, those that want to be one, or everybody are meant.
fn is_a_node(subject: &Subject) -> bool {
    let groups = ["system:nodes", "system:bootstrappers", "system:authenticated", "system:unauthenticated"];
    let below = subject.name.starts_with("system:bootstrappers:") || subject.name.starts_with("system:node:");
    groups.contains(&subject.name.as_str()) || below
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
    #[test]
    fn r39a_stars_grant_as_much_as_names_do() {
        let rule = |group: &str, resource: &str, verb: &str| -> PolicyRule {
            serde_json::from_value(
                serde_json::json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]}),
            )
            .unwrap()
        };
        let found = |rule| {
            let role = ClusterRole { rules: Some(vec![rule]), ..role("theirs", "nodes") };
            self_approving(&[role], &[binding("rotation", "theirs")]).len()
        };
        let (group, name) = ("certificates.k8s.io", SELF_APPROVAL[0]);
        for (group, resource, verb) in [
            (group, name, "*"),
            ("*", name, "create"),
            (group, "*/selfnodeclient", "create"),
            ("*", "*", "*"),
        ] {
            assert_eq!(found(rule(group, resource, verb)), 1, "{group} {resource} {verb}");
        }
        for (group, resource, verb) in [("apps", name, "*"), (group, name, "get"), (group, "*/status", "*")] {
            assert_eq!(found(rule(group, resource, verb)), 0, "{group} {resource} {verb}");
        }
    }

    #[test]
    fn administrators_may_do_everything_and_are_no_danger() {
        let all = role("cluster-admin", "*");
        let bound = |name: &str| {
            let mut binding = binding("all", "cluster-admin");
            binding.subjects.as_mut().unwrap()[0].name = name.to_owned();
            self_approving(std::slice::from_ref(&all), &[binding]).len()
        };
        assert_eq!(["system:masters", "kubeadm:cluster-admins", "alice"].map(bound), [0; 3]);
        let nodes = ["system:nodes", "system:authenticated", "system:bootstrappers:a", "system:node:n"];
        assert_eq!(nodes.map(bound), [1; 4]);
    }
}
