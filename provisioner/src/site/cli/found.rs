//! What a cluster gets that was just made on this machine.

use std::collections::BTreeMap;
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
    let until = Instant::now() + PATIENCE;
    let seed: BTreeMap<String, String> = ask(dir, &Ask::Seed {})?;
    let mut objects = attach.basics(attach.server())?;
    for (file, text) in &seed {
        objects.extend(found::objects(file, text)?);
    }
    for object in &objects {
        put(&attach, object, until).await?;
    }
    println!("The cluster has what it starts with: {} objects.", objects.len());
    let credential = loop {
        match attached(&attach, &identity).await {
            Ok(credential) => break credential,
            Err(error) => again(error, until).await?,
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

/// A namespace that is on its way, a kind that was defined a moment ago, a server that starts: each is asked again.
async fn put(attach: &Attach, object: &Value, until: Instant) -> Result<()> {
    loop {
        match attach.put(object).await {
            Ok(()) => return Ok(()),
            Err(error) => again(error, until).await?,
        }
    }
}

async fn again(error: ClusterError, until: Instant) -> Result<()> {
    if matches!(error, ClusterError::Unsafe { .. }) {
        bail!("the new cluster is not safe: {error}");
    }
    if Instant::now() >= until {
        return Err(error).context("the new cluster did not come up in time");
    }
    println!("Not yet: {error}.");
    tokio::time::sleep(AGAIN).await;
    Ok(())
}
