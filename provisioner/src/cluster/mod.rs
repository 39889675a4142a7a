//! Towards Kubernetes: attach, certificates, Nodes.

pub mod attach; // from an administrator's kubeconfig to rights and a certificate of our own
pub mod changes; // what the API server says by itself
pub mod credential; // that certificate, kept in one file
pub mod csr; // kubelet certificates: create, approve, collect
pub mod deny; // a Node that must not write any more
pub mod found; // a cluster that was just made
pub mod nodes; // what is there, and what a Node of ours wears
pub mod safety; // clusters that would let nodes approve themselves
pub mod serving; // which serving certificates are granted

use std::time::Duration;

use kube::Client;

use self::credential::Credential;

/// Who writes, for server-side apply and events.
pub const FIELD_MANAGER: &str = "node-boot";
/// No call to the API server takes longer, unless it is made [`patiently`].
const DEADLINE: Duration = Duration::from_secs(10);

tokio::task_local! {
    static PATIENCE: Duration;
}

/// Gives every call that is made in `work` so long. An API server that starts on a small machine answers late; whoever hangs
/// up and asks anew makes it begin anew.
pub async fn patiently<T>(patience: Duration, work: impl Future<Output = T>) -> T {
    PATIENCE.scope(patience, work).await
}

/// How long a call that is made here may take.
fn deadline() -> Duration {
    PATIENCE.try_with(|patience| *patience).unwrap_or(DEADLINE)
}

/// Why the cluster did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Nobody answers, or not in time: asked again later.
    #[error("the cluster does not answer while {doing}: {why}")]
    Away {
        /// The operation.
        doing: String,
        /// The cause.
        why: String,
    },
    /// It answered no.
    #[error("the cluster refuses {doing}: {why}")]
    Refused {
        /// The operation.
        doing: String,
        /// Its words.
        why: String,
    },
    /// It must be changed before machines can be admitted: R39.
    #[error("the cluster must be changed first: {remedy}")]
    Unsafe {
        /// What the administrator has to do.
        remedy: String,
    },
    /// What an administrator gave is no kubeconfig that can be used.
    #[error("{file} is no kubeconfig: {why}")]
    NoKubeconfig {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The credential cannot be used.
    #[error("the credential for the cluster cannot be used: {0}; run `provisioner attach` again")]
    Credential(String),
}

impl ClusterError {
    /// Sorts an error of the client library: no answer, or an answer that is no.
    pub(crate) fn of(doing: impl Into<String>, error: &kube::Error) -> Self {
        let doing = doing.into();
        match error {
            kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
                Self::Refused { doing, why: status.message.clone() }
            }
            kube::Error::Api(status) => Self::Away { doing, why: status.message.clone() },
            // A kind that nobody has defined yet.
            kube::Error::Discovery(unknown) => Self::Refused { doing, why: unknown.to_string() },
            other => Self::Away { doing, why: other.to_string() },
        }
    }

    fn late(doing: impl Into<String>) -> Self {
        Self::Away { doing: doing.into(), why: format!("no answer within {} s", deadline().as_secs()) }
    }
}

/// Runs a call to the API server with the deadline that every call has.
pub(crate) async fn call<T>(
    doing: impl Into<String>,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ClusterError> {
    match tokio::time::timeout(deadline(), call).await {
        Ok(answer) => answer.map_err(|error| ClusterError::of(doing, &error)),
        Err(_) => Err(ClusterError::late(doing)),
    }
}

/// Whether the object was there already, or is gone already.
pub(crate) fn has_code<T>(answer: &kube::Result<T>, wanted: u16) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == wanted)
}

/// A connection to the cluster of this site.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    ca_pem: String,
    user: String,
}

impl Cluster {
    /// Connects with the provisioner's own credential. Nothing is sent yet.
    pub fn connect(credential: &Credential) -> Result<Self, ClusterError> {
        Ok(Self {
            client: credential.client()?,
            ca_pem: credential.ca_pem.clone(),
            user: credential.user.clone(),
        })
    }

    /// The CA of the cluster, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The user name under which the provisioner acts.
    pub fn user(&self) -> &str {
        &self.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_to_a_cluster_that_starts_is_waited_for_longer_than_one_to_a_cluster_that_runs() {
        assert_eq!(deadline(), DEADLINE);
        let minute = Duration::from_mins(1);
        let said = patiently(minute, async { ClusterError::late("asking").to_string() }).await;
        assert_eq!(said, "the cluster does not answer while asking: no answer within 60 s");
    }
}
