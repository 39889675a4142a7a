//! Changes: the API server says by itself when a Node or a certificate request became another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, WatchEvent, WatchParams};
use tokio::task::JoinSet;

use super::Cluster;

/// Between the end of one watch and the next, and after one that was refused.
const AGAIN: Duration = Duration::from_secs(1);
const REFUSED: Duration = Duration::from_secs(10);
/// One watch: longer than an API server lets it last (`timeoutSeconds`, 290 s unless told otherwise).
const ROUND: Duration = Duration::from_mins(5);

/// What is followed until this is dropped.
pub struct Changes {
    seen: Arc<AtomicBool>,
    _watches: JoinSet<()>,
}

impl Changes {
    /// Whether anything may have changed since this was asked last. What is asked for afterwards shows it.
    pub fn take(&self) -> bool {
        self.seen.swap(false, Ordering::AcqRel)
    }
}

impl Cluster {
    /// Follows Nodes and certificate requests.
    pub fn changes(&self) -> Changes {
        let (seen, mut watches) = (Arc::new(AtomicBool::new(true)), JoinSet::new());
        let client = || self.client.clone();
        watches.spawn(follow(Api::<Node>::all(client()), Arc::clone(&seen)));
        watches.spawn(follow(Api::<CertificateSigningRequest>::all(client()), Arc::clone(&seen)));
        Changes { seen, _watches: watches }
    }
}

/// One kind. A watch ends after some minutes, and when its API server does; what it missed meanwhile may be anything.
async fn follow<K>(api: Api<K>, seen: Arc<AtomicBool>)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + kube::Resource,
{
    let mut is_told = false;
    loop {
        let round = async {
            // Whatever the API server has in memory, and then what changes.
            let mut events = std::pin::pin!(api.watch_metadata(&WatchParams::default(), "0").await?);
            while let Some(event) = events.try_next().await? {
                if !matches!(event, WatchEvent::Bookmark(_)) {
                    seen.store(true, Ordering::Release);
                }
            }
            Ok(())
        };
        // A server whose power was cut says nothing of its end.
        let ended = tokio::time::timeout(ROUND, round).await;
        let refused = matches!(ended, Ok(Err(kube::Error::Api(_))));
        if let Ok(Err(error)) = &ended
            && refused
            && !std::mem::replace(&mut is_told, true)
        {
            tracing::warn!(%error, "the cluster does not say what changes in it; it is looked at now and then");
        }
        // What is refused tells nothing.
        seen.fetch_or(!refused, Ordering::AcqRel);
        tokio::time::sleep(if refused { REFUSED } else { AGAIN }).await;
    }
}
