//! The cryptography that an enrolment cannot avoid, operation by operation, on one core: the limit for goal 1.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::attest::Binding;
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer, SoftKey, verify};
use protocol::csr::Csr;
use protocol::issue::{Role, issue, pledge, request, self_signed};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tests::tls::Anybody;

use crate::table::{Figure, Table};

/// How long each operation is repeated.
const ROUND: Duration = Duration::from_millis(700);

/// Seconds that the provisioner's core spends on each operation.
pub struct Limit {
    parts: Vec<(&'static str, f64)>,
}

impl Limit {
    /// Enrolments per second that one core could do if there were nothing but cryptography.
    pub fn per_second(&self) -> f64 {
        1.0 / self.parts.iter().map(|(_, seconds)| seconds).sum::<f64>()
    }

    /// Adds the anchors to the table.
    pub fn report(&self, table: &mut Table) {
        for (what, seconds) in &self.parts {
            let ours = format!("{:.0} µs", seconds * 1e6);
            table.add(&Figure { goal: "1", what, ours, beside: String::new(), ratio: None, met: None });
        }
        let ours = format!("{:.0}/s per core", self.per_second());
        let what = "limit: all cryptography of an enrolment";
        table.add(&Figure { goal: "1", what, ours, beside: String::new(), ratio: None, met: None });
    }
}

fn each(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let (start, mut count) = (Instant::now(), 0u32);
    while start.elapsed() < ROUND {
        work()?;
        count += 1;
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(count))
}

/// Measures every operation that M1 to M6, which the swarm goes through, demand of the provisioner.
pub fn measure() -> Result<Limit> {
    let now = Time(1_800_000_000);
    let (ca_key, _) = SoftKey::generate(Alg::Es256)?;
    let (node_key, _) = SoftKey::generate(Alg::Es256)?;
    let ca = Cert::parse(&self_signed(&Role::Anchor { name: "CA" }, &ca_key, now)?)?;
    let binding = Binding { x: [1; 32], s: node_key.key_hash() };
    let message = binding.dev_key_message();
    let signature = node_key.sign(&message)?;
    let csr = request("mc_1", None, &node_key)?;
    let check = || verify(node_key.spki(), &message, &signature).then_some(()).context("a signature");
    let parts = vec![
        ("TLS 1.3 handshake, both certificates (M1)", handshake()?),
        ("signature of the voucher request (M2)", each(check)?),
        ("signature of the device key (M4)", each(check)?),
        ("request read and checked (M5)", each(|| Ok(Csr::parse(&csr).map(drop)?))?),
        ("node certificate signed (M5)", each(|| sign(&node_key, &ca, &ca_key, now))?),
    ];
    Ok(Limit { parts })
}

fn sign(node: &SoftKey, ca: &Cert, key: &SoftKey, now: Time) -> Result<()> {
    let role = Role::Node { machine: "mc_1", life: 86_400 };
    Ok(issue(&role, node.spki(), ca, key, now).map(drop)?)
}

/// Time inside the server of a handshake in memory.
fn handshake() -> Result<f64> {
    let (server, client) = configs()?;
    let mut inside = Duration::ZERO;
    let whole = each(|| {
        inside = Duration::ZERO;
        let mut client =
            ClientConnection::new(Arc::clone(&client), ServerName::try_from("provisioner.local")?)?;
        let begin = Instant::now();
        let mut server = ServerConnection::new(Arc::clone(&server))?;
        inside += begin.elapsed();
        while client.is_handshaking() || server.is_handshaking() {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire)?;
            }
            let begin = Instant::now();
            server.read_tls(&mut wire.as_slice())?;
            server.process_new_packets()?;
            let mut back = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut back)?;
            }
            inside += begin.elapsed();
            client.read_tls(&mut back.as_slice())?;
            client.process_new_packets()?;
        }
        client.writer().flush()?;
        let _ = server.reader().read(&mut [0]);
        Ok(())
    })?;
    Ok(inside.as_secs_f64().min(whole))
}

fn configs() -> Result<(Arc<ServerConfig>, Arc<ClientConfig>)> {
    let now = Time(i64::try_from(UnixTime::now().as_secs())?);
    let (ca_key, _) = SoftKey::generate(Alg::Es256)?;
    let (leaf_key, leaf_pkcs8) = SoftKey::generate(Alg::Es256)?;
    let (node_key, node_pkcs8) = SoftKey::generate(Alg::Es256)?;
    let ca = Cert::parse(&self_signed(&Role::Anchor { name: "CA" }, &ca_key, now)?)?;
    let leaf = issue(&Role::Leaf { site: "s", number: 1 }, leaf_key.spki(), &ca, &ca_key, now)?;
    let key = |der: &[u8]| PrivateKeyDer::try_from(der.to_vec()).map_err(anyhow::Error::msg);
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der.clone()))?;
    let mut server = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(vec![leaf.into()], key(&leaf_pkcs8)?)?;
    server.send_tls13_tickets = 0;
    let client = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![pledge(&node_key)?.into()], key(&node_pkcs8)?)?;
    Ok((Arc::new(server), Arc::new(client)))
}
