//! The provisioner's own certificate for the cluster, kept in one file; no administrator's kubeconfig is kept.

use std::path::Path;

use kube::config::{
    AuthInfo, Cluster as ClusterEntry, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster,
    NamedContext,
};
use kube::{Client, Config};
use protocol::bytes::b64;
use protocol::clock::Time;
use serde::{Deserialize, Serialize};

use super::ClusterError;

/// Name of the file in the provisioner's directory; mode 0600.
pub const FILE: &str = "cluster.json";

/// How the provisioner reaches its cluster.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credential {
    /// URL of the API server.
    pub server: String,
    /// Name to expect in its certificate, where it is not the one in the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// CA of the cluster, PEM.
    pub ca_pem: String,
    /// The user in the certificate.
    pub user: String,
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.user, self.server)
    }
}

/// An HTTP client that never retries by itself: a repeated POST may create twice, and every caller here has its own
/// deadline and its own way of asking again.
pub(crate) async fn client_of(kubeconfig: Kubeconfig) -> Result<Client, ClusterError> {
    let broken = |error: &dyn std::fmt::Display| ClusterError::Credential(error.to_string());
    let options = KubeConfigOptions::default();
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(|error| broken(&error))?;
    config.default_retry = false;
    config.connect_timeout = Some(super::deadline());
    Client::try_from(config).map_err(|error| broken(&error))
}

impl Credential {
    /// Reads the file; none when the provisioner is not attached to a cluster.
    pub fn load(dir: &Path) -> anyhow::Result<Option<Self>> {
        match std::fs::read(dir.join(FILE)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Until when the certificate is good.
    pub fn not_after(&self) -> Option<Time> {
        let der = pem_certificate(&self.cert_pem)?;
        protocol::cert::Cert::parse(&der).ok().map(|cert| cert.not_after)
    }

    /// The same in the form every Kubernetes program reads.
    pub fn kubeconfig(&self) -> Kubeconfig {
        let cluster = ClusterEntry {
            server: Some(self.server.clone()),
            certificate_authority_data: Some(b64(self.ca_pem.as_bytes())),
            tls_server_name: self.tls_server_name.clone(),
            ..ClusterEntry::default()
        };
        let auth = AuthInfo {
            client_certificate_data: Some(b64(self.cert_pem.as_bytes())),
            client_key_data: Some(b64(self.key_pem.as_bytes()).into()),
            ..AuthInfo::default()
        };
        let context =
            Context { cluster: "site".into(), user: Some("provisioner".into()), ..Context::default() };
        Kubeconfig {
            clusters: vec![NamedCluster {
                name: "site".into(),
                cluster: Some(cluster),
                ..NamedCluster::default()
            }],
            auth_infos: vec![NamedAuthInfo {
                name: "provisioner".into(),
                auth_info: Some(auth),
                ..NamedAuthInfo::default()
            }],
            contexts: vec![NamedContext {
                name: "site".into(),
                context: Some(context),
                ..NamedContext::default()
            }],
            current_context: Some("site".into()),
            ..Kubeconfig::default()
        }
    }

    /// A client that acts as this user.
    pub(crate) fn client(&self) -> Result<Client, ClusterError> {
        // Reading inline data needs no reactor; the future is ready at once.
        futures_now(client_of(self.kubeconfig()))
    }
}

fn futures_now<T>(future: impl Future<Output = Result<T, ClusterError>>) -> Result<T, ClusterError> {
    let mut future = std::pin::pin!(future);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.as_mut().poll(&mut context) {
        std::task::Poll::Ready(done) => done,
        std::task::Poll::Pending => {
            Err(ClusterError::Credential("it refers to something outside itself".into()))
        }
    }
}

/// The first certificate of a PEM text, DER.
pub(crate) fn pem_certificate(pem: &str) -> Option<Vec<u8>> {
    pem_certificates(pem).into_iter().next()
}

/// Every certificate of a PEM text, DER.
pub(crate) fn pem_certificates(pem: &str) -> Vec<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .filter_map(Result::ok)
        .map(|der| der.as_ref().to_vec())
        .collect()
}
