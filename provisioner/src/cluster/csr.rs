//! Kubelet certificates by the cluster's own API: create the request, approve exactly that one, collect the answer.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};
use protocol::bytes::{Digest, hex, pem};
use protocol::csr::Csr;
use protocol::refusal::Refusal;

use super::credential::pem_certificates;
use super::{Cluster, ClusterError, FIELD_MANAGER, call, deadline, has_code};

/// Signer of kubelet client certificates (`k8s.io/api/certificates/v1` `KubeAPIServerClientKubeletSignerName`).
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signer of kubelet serving certificates (`KubeletServingSignerName`).
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signer of other client certificates (`KubeAPIServerClientSignerName`): the provisioner's own.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// How long a kubelet's client certificate is asked for, seconds. The cluster may give less.
pub const KUBELET_LIFE: i32 = 30 * 86_400;

/// What is asked of the cluster's signer.
pub(crate) struct Wish<'a> {
    /// Name of the object: the same request always has the same name, so that asking twice creates once.
    pub name: String,
    /// The signer.
    pub signer: &'a str,
    /// PKCS#10, DER.
    pub der: &'a [u8],
    /// Seconds.
    pub life: i32,
    /// What the certificate is to be good for, beside signing.
    pub usage: &'a str,
}

impl Wish<'_> {
    fn object(&self) -> CertificateSigningRequest {
        let usages = vec!["digital signature".to_owned(), self.usage.to_owned()];
        CertificateSigningRequest {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: CertificateSigningRequestSpec {
                expiration_seconds: Some(self.life),
                request: ByteString(pem("CERTIFICATE REQUEST", self.der).into_bytes()),
                signer_name: self.signer.to_owned(),
                usages: Some(usages),
                ..CertificateSigningRequestSpec::default()
            },
            status: None,
        }
    }
}

/// The request inside a `CertificateSigningRequest`, DER.
pub(crate) fn request_der(object: &CertificateSigningRequest) -> Option<Vec<u8>> {
    protocol::est::read_base64(&object.spec.request.0).ok()
}

fn condition(object: &CertificateSigningRequest, kind: &str) -> Option<CertificateSigningRequestCondition> {
    let conditions = object.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind).cloned()
}

/// Whether nobody has said yes or no yet.
pub(crate) fn is_pending(object: &CertificateSigningRequest) -> bool {
    ["Approved", "Denied", "Failed"].iter().all(|kind| condition(object, kind).is_none())
}

/// Adds a yes or a no to a request, to exactly the object that was read: UID and version go along.
pub(crate) async fn decide(
    api: &Api<CertificateSigningRequest>,
    mut object: CertificateSigningRequest,
    yes: bool,
    reason: &str,
    message: &str,
) -> Result<CertificateSigningRequest, ClusterError> {
    let name = object.metadata.name.clone().unwrap_or_default();
    let verdict = CertificateSigningRequestCondition {
        type_: if yes { "Approved" } else { "Denied" }.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CertificateSigningRequestCondition::default()
    };
    object.status.get_or_insert_default().conditions.get_or_insert_default().push(verdict);
    let doing = format!("deciding on the certificate request {name}");
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    call(doing, api.replace_subresource("approval", &name, &parameters, &object)).await
}

/// Waits until the signer has put the certificate into the object.
async fn collect(
    api: &Api<CertificateSigningRequest>,
    object: CertificateSigningRequest,
) -> Result<Vec<Vec<u8>>, ClusterError> {
    if let Some(done) = finished(&object) {
        return done;
    }
    let name = object.metadata.name.clone().unwrap_or_default();
    let doing = format!("signing the certificate request {name}");
    let version = object.metadata.resource_version.clone().unwrap_or_default();
    let filter = WatchParams::default().fields(&format!("metadata.name={name}"));
    let wait = async {
        use futures_util::TryStreamExt;
        let mut events = std::pin::pin!(api.watch(&filter, &version).await?);
        while let Some(event) = events.try_next().await? {
            if let WatchEvent::Modified(object) | WatchEvent::Added(object) = event
                && let Some(done) = finished(&object)
            {
                return Ok(Some(done));
            }
        }
        Ok(None)
    };
    let no_signer = || ClusterError::Away {
        doing: doing.clone(),
        why: format!(
            "no signer has answered within {} s; kube-controller-manager must run its csrsigning controller",
            deadline().as_secs()
        ),
    };
    match tokio::time::timeout(deadline(), wait).await {
        Ok(Ok(answer)) => answer.ok_or_else(no_signer)?,
        Ok(Err(error)) => Err(ClusterError::of(doing, &error)),
        Err(_) => Err(no_signer()),
    }
}

fn finished(object: &CertificateSigningRequest) -> Option<Result<Vec<Vec<u8>>, ClusterError>> {
    let refused = |why: String| {
        let name = object.metadata.name.clone().unwrap_or_default();
        Err(ClusterError::Refused { doing: format!("the certificate request {name}"), why })
    };
    for kind in ["Denied", "Failed"] {
        if let Some(condition) = condition(object, kind) {
            let why = condition.message.or(condition.reason).unwrap_or_default();
            return Some(refused(format!("{kind}: {why}")));
        }
    }
    let certificate = object.status.as_ref()?.certificate.as_ref().filter(|bytes| !bytes.0.is_empty())?;
    let chain = pem_certificates(&String::from_utf8_lossy(&certificate.0));
    Some(if chain.is_empty() { refused("it answered without a certificate".into()) } else { Ok(chain) })
}

/// Creates, approves and collects. Repeating it with the same request goes on where the last attempt stopped.
pub(crate) async fn obtain(
    creator: &Api<CertificateSigningRequest>,
    wish: &Wish<'_>,
    message: &str,
) -> Result<Vec<Vec<u8>>, ClusterError> {
    let object = create(creator, wish).await?;
    let approved = if is_pending(&object) {
        decide(creator, object, true, "Registered", message).await?
    } else {
        object
    };
    collect(creator, approved).await
}

/// Creates the object, or finds the one that an earlier attempt created.
pub(crate) async fn create(
    api: &Api<CertificateSigningRequest>,
    wish: &Wish<'_>,
) -> Result<CertificateSigningRequest, ClusterError> {
    let doing = format!("creating the certificate request {}", wish.name);
    let answer = tokio::time::timeout(deadline(), api.create(&PostParams::default(), &wish.object())).await;
    let answer = answer.map_err(|_| ClusterError::late(&doing))?;
    if !has_code(&answer, 409) {
        return answer.map_err(|error| ClusterError::of(doing, &error));
    }
    let found = call(doing.clone(), api.get(&wish.name)).await?;
    if request_der(&found).as_deref() == Some(wish.der) && found.spec.signer_name == wish.signer {
        return Ok(found);
    }
    Err(ClusterError::Refused { doing, why: "another request has its name".to_owned() })
}

impl Cluster {
    pub(crate) fn requests(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client.clone())
    }

    /// A kubelet's client certificate for the Node `node`: DER, its own first. The caller has checked the request.
    pub async fn sign_kubelet(&self, node: &str, der: &[u8]) -> Result<Vec<Vec<u8>>, ClusterError> {
        let name = format!("node-boot-{node}-{}", hex(&Digest::of(der).0[..6]));
        let wish = Wish { name, signer: KUBELET_CLIENT, der, life: KUBELET_LIFE, usage: "client auth" };
        obtain(&self.requests(), &wish, "the machine proved the key that HQ registered for this slot").await
    }

    /// Every request that nobody decided on yet.
    pub async fn pending(&self) -> Result<Vec<CertificateSigningRequest>, ClusterError> {
        // As with Nodes: not what the API server has in memory.
        let listed =
            call("listing certificate requests", self.requests().list(&ListParams::default())).await?;
        Ok(listed.items.into_iter().filter(is_pending).collect())
    }

    /// Denies a client certificate that a Node of ours asked for by itself: R37.
    pub async fn deny_foreign(&self, object: CertificateSigningRequest) -> Result<(), ClusterError> {
        let refusal = Refusal::CsrNotOurs;
        decide(&self.requests(), object, false, refusal.code(), refusal.sentence()).await.map(drop)
    }
}

/// Whether a pending request is one for a Node in `ours` that the provisioner `user` did not create itself: R37.
pub fn is_not_ours(object: &CertificateSigningRequest, user: &str, ours: &dyn Fn(&str) -> bool) -> bool {
    if object.spec.signer_name != KUBELET_CLIENT || object.spec.username.as_deref() == Some(user) {
        return false;
    }
    let named = |name: &str| name.strip_prefix("system:node:").is_some_and(ours);
    let asked = request_der(object).and_then(|der| Csr::parse(&der).ok());
    named(object.spec.username.as_deref().unwrap_or_default())
        || asked.is_some_and(|csr| csr.common_names.iter().any(|name| named(name)))
}

#[cfg(test)]
mod tests {
    use protocol::crypto::{Alg, SoftKey};

    use super::*;

    #[test]
    fn r37_a_request_by_or_for_a_node_of_ours_is_not_ours_unless_we_made_it() {
        let ours = |name: &str| name == "node-3-abcdef";
        let verdict = |signer: &str, user: &str, subject: &str| {
            let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
            let der = protocol::issue::request(subject, Some("system:nodes"), &key).unwrap();
            let wish = Wish { name: "x".into(), signer, der: &der, life: 600, usage: "client auth" };
            let mut object = wish.object();
            object.spec.username = Some(user.to_owned());
            is_not_ours(&object, "provisioner", &ours)
        };
        let (node, other) = ("system:node:node-3-abcdef", "system:node:another");
        assert!(verdict(KUBELET_CLIENT, node, node), "for itself");
        assert!(verdict(KUBELET_CLIENT, node, other), "by it for another");
        assert!(verdict(KUBELET_CLIENT, "alice", node), "by somebody for it");
        assert!(!verdict(KUBELET_CLIENT, "provisioner", node));
        assert!(!verdict(KUBELET_CLIENT, other, other), "of another tool");
        assert!(!verdict(KUBELET_SERVING, node, node), "judged by other rules");
    }
}
