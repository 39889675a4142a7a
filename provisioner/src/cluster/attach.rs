//! From an administrator's kubeconfig to rights and a certificate of our own: shown, applied, and forgotten.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::config::Kubeconfig;
use protocol::bytes::{Digest, hex, pem};
use protocol::crypto::{Alg, SoftKey};
use serde_json::{Value, json};

use super::credential::{Credential, client_of};
use super::csr::{CLIENT, KUBELET_SERVING, Wish, create};
use super::{ClusterError, FIELD_MANAGER, call, csr, safety};

const ROLE: &str = "nodeboot.dev:provisioner";
/// How long the provisioner's own certificate is asked for, seconds; it is renewed at half of what it gets.
const OWN_LIFE: i32 = 90 * 86_400;
/// So often the signer of it is waited for.
const SIGNER_TRIES: u32 = 6;
/// How long another approver is given to show itself.
const APPROVER_WAIT: std::time::Duration = std::time::Duration::from_millis(1500);

/// The user under which the provisioner with this issuing CA acts at this site.
pub fn user_name(site: &str, number: u32) -> String {
    format!("nodeboot.dev:provisioner:{site}-{number}")
}

/// The rights that the provisioner needs, nothing more: `rbac.authorization.k8s.io/v1` objects.
pub fn rights(user: &str) -> (Value, Value) {
    let rule = |groups: &[&str], resources: &[&str], verbs: &[&str]| json!({ "apiGroups": groups, "resources": resources, "verbs": verbs });
    let certificates = "certificates.k8s.io";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": { "name": ROLE },
        "rules": [
            rule(&[certificates], &["certificatesigningrequests"], &["create", "get", "list", "watch", "delete"]),
            rule(&[certificates], &["certificatesigningrequests/approval"], &["update"]),
            { "apiGroups": [certificates], "resources": ["signers"], "verbs": ["approve"],
              "resourceNames": [csr::KUBELET_CLIENT, csr::KUBELET_SERVING, csr::CLIENT] },
            rule(&[""], &["nodes"], &["get", "list", "watch", "patch", "delete"]),
            rule(&["coordination.k8s.io"], &["leases"], &["get", "list", "watch"]),
            rule(&["discovery.k8s.io"], &["endpointslices"], &["get", "list"]),
            rule(&["admissionregistration.k8s.io"],
                 &["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
                 &["get", "list", "create", "patch", "delete"]),
            rule(&["rbac.authorization.k8s.io"], &["clusterroles", "clusterrolebindings"], &["get", "list"]),
            rule(&["", "events.k8s.io"], &["events"], &["create", "patch"]),
        ]
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": { "name": user },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": ROLE },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }]
    });
    (role, binding)
}

/// What `attach` found, before it changed anything.
#[derive(Debug)]
pub struct Plan {
    /// The API server.
    pub server: String,
    /// Its version.
    pub version: String,
    /// Nodes that are there already; they stay foreign until a machine is bound to them.
    pub foreign: Vec<String>,
    /// What has to be changed first; nothing is applied while this is not empty.
    pub remedies: Vec<String>,
    /// What will be applied.
    pub objects: Vec<Value>,
    /// The user that they are given to.
    pub user: String,
    /// Whether they were given to that user before: to this provisioner, or to another one of its name.
    pub held: bool,
}

/// An administrator's access, held in memory only.
pub struct Attach {
    admin: Client,
    probe: Client,
    server: String,
    tls_server_name: Option<String>,
    ca_pem: String,
}

fn bad(why: impl std::fmt::Display) -> ClusterError {
    ClusterError::Credential(why.to_string())
}

impl Attach {
    /// Reads an administrator's kubeconfig (its current context).
    pub async fn with(path: &std::path::Path) -> Result<Self, ClusterError> {
        let no = |why: String| {
            // A parser may draw the place on more lines.
            let why = why.lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
            ClusterError::NoKubeconfig { file: path.display().to_string(), why }
        };
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| no(error.to_string()))?;
        let options = kube::config::KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &options).await;
        let config = config.map_err(|error| no(error.to_string()))?;
        let roots = config.root_cert.clone().unwrap_or_default();
        if roots.is_empty() {
            return Err(no("it does not name the cluster's CA (certificate-authority-data)".to_owned()));
        }
        Ok(Self {
            admin: client_of(kubeconfig.clone()).await?,
            probe: client_of(as_probe(kubeconfig)).await?,
            server: config.cluster_url.to_string().trim_end_matches('/').to_owned(),
            tls_server_name: config.tls_server_name,
            ca_pem: roots.iter().map(|der| pem("CERTIFICATE", der)).collect(),
        })
    }

    pub(super) fn admin(&self) -> &Client {
        &self.admin
    }

    /// The API server that is spoken to.
    pub fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Looks, and changes nothing but two certificate requests that it takes back.
    pub async fn plan(&self, site: &str, number: u32) -> Result<Plan, ClusterError> {
        let user = user_name(site, number);
        let version = call("asking for the version", self.admin.apiserver_version()).await?.git_version;
        let nodes: Api<Node> = Api::all(self.admin.clone());
        let listed = call("listing Nodes", nodes.list(&ListParams::default())).await?;
        let mut remedies = safety::remedies(&self.admin).await?;
        if let Some(who) = self.other_approver().await? {
            remedies.push(format!(
                "another approver answers kubelets ({who}); stop it, or it would admit anyone"
            ));
        }
        let bindings: Api<ClusterRoleBinding> = Api::all(self.admin.clone());
        let held = call("looking for the ClusterRoleBinding", bindings.get_opt(&user)).await?.is_some();
        let (role, binding) = rights(&user);
        Ok(Plan {
            server: self.server.clone(),
            version,
            foreign: listed.items.into_iter().filter_map(|node| node.metadata.name).collect(),
            remedies,
            objects: vec![role, binding],
            user,
            held,
        })
    }

    /// Whether a kubelet's request is approved by somebody while we say nothing.
    async fn other_approver(&self) -> Result<Option<String>, ClusterError> {
        let (key, _) = SoftKey::generate(Alg::Es256).map_err(bad)?;
        let der = protocol::issue::request(PROBE_USER, Some("system:nodes"), &key).map_err(bad)?;
        let name = format!("node-boot-probe-{}", hex(&Digest::of(&der).0[..6]));
        let api: Api<CertificateSigningRequest> = Api::all(self.probe.clone());
        let wish =
            Wish { name: name.clone(), signer: KUBELET_SERVING, der: &der, life: 600, usage: "server auth" };
        create(&api, &wish).await?;
        tokio::time::sleep(APPROVER_WAIT).await;
        let admin: Api<CertificateSigningRequest> = Api::all(self.admin.clone());
        let found = call("reading the probe", admin.get(&name)).await?;
        call("taking the probe back", admin.delete(&name, &DeleteParams::default())).await?;
        let conditions = found.status.unwrap_or_default().conditions.unwrap_or_default();
        let decided = conditions
            .into_iter()
            .find(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied"));
        Ok(decided.map(|condition| condition.message.or(condition.reason).unwrap_or_default()))
    }

    /// Applies the plan and returns the provisioner's own credential, to be saved by the caller.
    pub async fn apply(&self, plan: &Plan) -> Result<Credential, ClusterError> {
        if !plan.remedies.is_empty() {
            return Err(ClusterError::Unsafe { remedy: plan.remedies.join("; ") });
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let roles: Api<ClusterRole> = Api::all(self.admin.clone());
        let bindings: Api<ClusterRoleBinding> = Api::all(self.admin.clone());
        let (role, binding) = rights(&plan.user);
        call("applying the ClusterRole", roles.patch(ROLE, &parameters, &Patch::Apply(role))).await?;
        call(
            "applying the ClusterRoleBinding",
            bindings.patch(&plan.user, &parameters, &Patch::Apply(binding)),
        )
        .await?;
        let (key, pkcs8) = SoftKey::generate(Alg::Es256).map_err(bad)?;
        let api: Api<CertificateSigningRequest> = Api::all(self.admin.clone());
        let cert_pem = own_certificate(&api, &plan.user, &key).await?;
        Ok(Credential {
            server: self.server.clone(),
            tls_server_name: self.tls_server_name.clone(),
            ca_pem: self.ca_pem.clone(),
            user: plan.user.clone(),
            cert_pem,
            key_pem: pem("PRIVATE KEY", &pkcs8),
        })
    }
}

const PROBE_USER: &str = "system:node:node-boot-probe";

fn as_probe(mut kubeconfig: Kubeconfig) -> Kubeconfig {
    for auth in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        auth.impersonate = Some(PROBE_USER.to_owned());
        auth.impersonate_groups = Some(vec!["system:nodes".to_owned(), "system:authenticated".to_owned()]);
    }
    kubeconfig
}

/// The provisioner's own client certificate: PEM.
async fn own_certificate(
    api: &Api<CertificateSigningRequest>,
    user: &str,
    key: &SoftKey,
) -> Result<String, ClusterError> {
    let der = protocol::issue::request(user, Some("nodeboot.dev:provisioners"), key).map_err(bad)?;
    let name = format!("node-boot-provisioner-{}", hex(&Digest::of(&der).0[..6]));
    let wish = Wish { name, signer: CLIENT, der: &der, life: OWN_LIFE, usage: "client auth" };
    let obtain = || csr::obtain(api, &wish, "the provisioner's own certificate");
    let mut answer = obtain().await;
    // A signer that has just been started may be slow; whoever asks anew with another key would have to wait as long again.
    for _ in 1..SIGNER_TRIES {
        if !matches!(answer, Err(ClusterError::Away { .. })) {
            break;
        }
        answer = obtain().await;
    }
    let chain = answer?;
    Ok(chain.iter().map(|der| pem("CERTIFICATE", der)).collect())
}

impl super::Cluster {
    /// Renews the provisioner's own certificate; the caller saves what comes back and connects anew.
    pub async fn renew(&self, old: &Credential) -> Result<Credential, ClusterError> {
        let (key, pkcs8) = SoftKey::generate(Alg::Es256).map_err(bad)?;
        let cert_pem = own_certificate(&self.requests(), &old.user, &key).await?;
        Ok(Credential { cert_pem, key_pem: pem("PRIVATE KEY", &pkcs8), ..old.clone() })
    }
}
