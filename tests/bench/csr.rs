//! The raw Kubernetes path: create a request, approve it, wait for the certificate.

use std::time::{Duration, Instant};

use anyhow::Result;
use harness::ControlPlane;
use protocol::crypto::{Alg, SoftKey};
use provisioner::cluster::Cluster;
use provisioner::cluster::attach::Attach;

use crate::table::{Figure, Table};

const ROUNDS: usize = 30;

/// Measures create → approve → signed against a real cluster: the median.
pub fn report(table: &mut Table, plane: &ControlPlane) -> Result<Duration> {
    let mut times = plane.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(rounds(plane))
    })??;
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let ours = format!("{:.1} ms (worst {:.1})", median.as_secs_f64() * 1e3, worst.as_secs_f64() * 1e3);
    let what = "raw Kubernetes path: create, approve, signed, p50";
    table.add(&Figure { goal: "3", what, ours, beside: String::new(), ratio: None, met: None });
    Ok(median)
}

async fn rounds(plane: &ControlPlane) -> Result<Vec<Duration>> {
    let attach = Attach::with(&plane.file("super-admin.conf")).await?;
    let plan = attach.plan("ship-7", 1).await?;
    let cluster = Cluster::connect(&attach.apply(&plan).await?)?;
    let mut times = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let node = format!("bench-{round}-aaaaaa");
        let (key, _) = SoftKey::generate(Alg::Es256)?;
        let der = protocol::issue::request(&format!("system:node:{node}"), Some("system:nodes"), &key)?;
        let begin = Instant::now();
        cluster.sign_kubelet(&node, &der).await?;
        times.push(begin.elapsed());
    }
    Ok(times)
}
