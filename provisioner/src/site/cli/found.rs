//! What a cluster gets that was just made on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::args::Half;
use crate::cluster::attach::Attach;
use crate::cluster::credential::{Credential, FILE};
use crate::cluster::found::{self, Kinds};
use crate::cluster::{ClusterError, patiently};
use crate::site::admin::{Ask, ask};
use crate::site::keys;

/// A control plane that starts for the first time takes a while on a slow machine.
const PATIENCE: Duration = Duration::from_mins(20);
/// As long as an API server itself works for somebody who asks (`--request-timeout`).
const CALL: Duration = Duration::from_mins(1);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// One half of finishing a cluster. The credential is what is made last: while it is not there, a half may be done again.
pub(super) async fn found(dir: &Path, half: Half, kubeconfig: &Path) -> Result<()> {
    let identity = keys::Identity::load(dir)?;
    if Credential::load(dir)?.is_some() {
        println!("The cluster is founded and attached already.");
        return Ok(());
    }
    let work = async {
        let attach = Attach::with(kubeconfig).await?;
        let wait = Wait { until: Instant::now() + PATIENCE, told: BTreeSet::new(), kinds: Kinds::default() };
        match half {
            Half::Seed => sow(dir, &attach, wait).await,
            Half::Attach => join(dir, &attach, &identity, wait).await,
        }
    };
    patiently(CALL, work).await
}

/// The basics and the seed.
fn seed(dir: &Path, attach: &Attach) -> Result<Vec<Value>> {
    let seed: BTreeMap<String, String> = ask(dir, &Ask::Seed {})?;
    let mut objects = attach.basics(attach.server())?;
    for (file, text) in &seed {
        objects.extend(found::objects(file, text)?);
    }
    Ok(objects)
}

/// Everything that an API server takes alone. It refuses a Pod, say, until a controller has made its service account.
async fn sow(dir: &Path, attach: &Attach, mut wait: Wait) -> Result<()> {
    let objects = seed(dir, attach)?;
    while let Err(error) = attach.is_ready().await {
        wait.again(error).await?;
    }
    let left = wait.put(attach, objects.iter().collect()).await?.len();
    println!(
        "The cluster has {} of the {} objects that it starts with.",
        objects.len() - left,
        objects.len()
    );
    Ok(())
}

/// Everything that is left, and a credential of our own.
async fn join(dir: &Path, attach: &Attach, identity: &keys::Identity, mut wait: Wait) -> Result<()> {
    let objects = seed(dir, attach)?;
    let mut left = objects.iter().collect::<Vec<_>>();
    while !left.is_empty() {
        left = wait.put(attach, left).await?;
    }
    let credential = loop {
        match tokio::time::timeout_at(wait.until.into(), attached(attach, identity)).await {
            Ok(Ok(credential)) => break credential,
            Ok(Err(error)) => wait.again(error).await?,
            Err(_) => bail!("the new cluster's controllers did not come up in time"),
        }
    };
    keys::save(&dir.join(FILE), &protocol::json::to_vec(&credential))?;
    println!("Attached as {}.", credential.user);
    Ok(())
}

async fn attached(attach: &Attach, identity: &keys::Identity) -> Result<Credential, ClusterError> {
    let plan = attach.plan(&identity.site, identity.number).await?;
    attach.apply(&plan).await
}

/// A control plane that is waited for.
struct Wait {
    until: Instant,
    /// What was said of it: a reason is told once, however often it is met.
    told: BTreeSet<String>,
    kinds: Kinds,
}

impl Wait {
    /// Puts objects into the cluster. What is refused may need what comes after it, and has another turn, until a turn helps
    /// nothing; that is returned.
    async fn put<'a>(&mut self, attach: &Attach, mut left: Vec<&'a Value>) -> Result<Vec<&'a Value>> {
        loop {
            let (before, mut refused) = (left.len(), Vec::new());
            for object in left {
                if !self.is_taken(attach, object).await? {
                    refused.push(object);
                }
            }
            if refused.is_empty() || refused.len() == before {
                return Ok(refused);
            }
            left = refused;
        }
    }

    /// Whether the cluster takes an object, once it answers.
    async fn is_taken(&mut self, attach: &Attach, object: &Value) -> Result<bool> {
        loop {
            let Err(error) = attach.put(object, &mut self.kinds).await else { return Ok(true) };
            let refused = matches!(error, ClusterError::Refused { .. });
            self.again(error).await?;
            if refused {
                return Ok(false);
            }
        }
    }

    async fn again(&mut self, error: ClusterError) -> Result<()> {
        if matches!(error, ClusterError::Unsafe { .. }) {
            bail!("the new cluster is not safe: {error}");
        }
        if Instant::now() >= self.until {
            return Err(error).context("the new cluster did not come up in time");
        }
        let reason = error.to_string();
        if self.told.insert(reason.clone()) {
            println!("Not yet: {reason}.");
        }
        tokio::time::sleep(AGAIN).await;
        Ok(())
    }
}
