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

/// Between the end of one watch and the next.
const AGAIN: Duration = Duration::from_secs(1);

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
    loop {
        // Whatever the API server has in memory, and then what changes.
        if let Ok(events) = api.watch_metadata(&WatchParams::default(), "0").await {
            let mut events = std::pin::pin!(events);
            while let Ok(Some(event)) = events.try_next().await {
                if !matches!(event, WatchEvent::Bookmark(_)) {
                    seen.store(true, Ordering::Release);
                }
            }
        }
        seen.store(true, Ordering::Release);
        tokio::time::sleep(AGAIN).await;
    }
}
