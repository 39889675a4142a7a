//! What a cluster gets that was just made on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::attach::Attach;
use crate::cluster::credential::{Credential, FILE};
use crate::cluster::{ClusterError, found};
use crate::site::admin::{Ask, ask};
use crate::site::keys;

/// A control plane that starts for the first time takes a while on a slow machine.
const PATIENCE: Duration = Duration::from_mins(10);
/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// The basics, the seed, and last a credential of our own: while that is not there, everything is done again.
pub(super) async fn found(dir: &Path, kubeconfig: &Path) -> Result<()> {
    let identity = keys::Identity::load(dir)?;
    if Credential::load(dir)?.is_some() {
        println!("The cluster is founded and attached already.");
        return Ok(());
    }
    let attach = Attach::with(kubeconfig).await?;
    let mut wait = Wait { until: Instant::now() + PATIENCE, told: BTreeSet::new() };
    let seed: BTreeMap<String, String> = ask(dir, &Ask::Seed {})?;
    let mut objects = attach.basics(attach.server())?;
    for (file, text) in &seed {
        objects.extend(found::objects(file, text)?);
    }
    for object in &objects {
        wait.put(&attach, object).await?;
    }
    println!("The cluster has what it starts with: {} objects.", objects.len());
    let credential = loop {
        match attached(&attach, &identity).await {
            Ok(credential) => break credential,
            Err(error) => wait.again(error).await?,
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
}

impl Wait {
    /// A namespace that is on its way, a kind that was defined a moment ago, a server that starts: each is asked again.
    async fn put(&mut self, attach: &Attach, object: &Value) -> Result<()> {
        loop {
            match attach.put(object).await {
                Ok(()) => return Ok(()),
                Err(error) => self.again(error).await?,
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
