//! A Node that must not write any more: an admission policy that stands until its certificate has run out.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use protocol::clock::Time;
use serde_json::json;

use super::{Cluster, ClusterError, FIELD_MANAGER, call, has_code};

const SUFFIX: &str = ".revoked.nodeboot.dev";
/// Until when the policy stands: the notAfter of the last certificate the Node got.
const UNTIL: &str = "nodeboot.dev/until";

impl Cluster {
    /// Denies every write by the user `system:node:<node>` until `until`. Repeating it changes nothing.
    pub async fn deny(&self, node: &str, until: Time) -> Result<(), ClusterError> {
        let name = format!("{node}{SUFFIX}");
        let user = format!("system:node:{node}");
        // The name was checked to be a DNS label when the slot was made: it cannot leave the quotes.
        let expression = format!("request.userInfo.username == '{user}'");
        let rule = json!({ "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"],
            "operations": ["CREATE", "UPDATE", "DELETE", "CONNECT"] });
        let policy = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": name, "annotations": { UNTIL: until } },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": { "resourceRules": [rule] },
                "matchConditions": [{ "name": "revoked-node", "expression": expression }],
                "validations": [{ "expression": "false", "message": format!("{node} was revoked by HQ") }],
            }
        });
        let binding = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": name },
            "spec": { "policyName": name, "validationActions": ["Deny"] }
        });
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let doing = format!("denying writes by {user}");
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        call(doing.clone(), policies.patch(&name, &apply, &Patch::Apply(policy))).await?;
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        call(doing, bindings.patch(&name, &apply, &Patch::Apply(binding))).await.map(drop)
    }

    /// The Nodes that are denied.
    pub async fn denied(&self) -> Result<Vec<String>, ClusterError> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let listed = call("listing admission policies", policies.list(&ListParams::default())).await?;
        let names = listed.items.into_iter().filter_map(|policy| policy.metadata.name);
        Ok(names.filter_map(|name| name.strip_suffix(SUFFIX).map(str::to_owned)).collect())
    }

    /// Takes policies away whose certificates have run out.
    pub async fn lift_expired(&self, now: Time) -> Result<(), ClusterError> {
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(self.client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.client.clone());
        let doing = "listing admission policies";
        for policy in call(doing, policies.list(&ListParams::default())).await?.items {
            let Some(name) = policy.metadata.name.filter(|name| name.ends_with(SUFFIX)) else { continue };
            let until =
                policy.metadata.annotations.unwrap_or_default().get(UNTIL).and_then(|t| t.parse().ok());
            if until.is_some_and(|until: Time| until < now) {
                let doing = format!("lifting {name}");
                let exactly = DeleteParams::default();
                let answer = bindings.delete(&name, &exactly).await;
                if !has_code(&answer, 404) {
                    answer.map_err(|error| ClusterError::of(&doing, &error))?;
                }
                call(doing, policies.delete(&name, &exactly)).await?;
            }
        }
        Ok(())
    }
}
