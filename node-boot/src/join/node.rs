//! What the cluster says of this machine's own Node, asked with the kubelet's certificate.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::clock::Time;
use protocol::messages::BALANCER_PORT;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde::Deserialize;

use super::kubelet;

/// How long the API server is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// No Node is larger, bytes.
const LIMIT: u64 = 4 * 1024 * 1024;
/// The name in the API servers' certificates.
const NAME: &str = "kubernetes";

/// As much of `core/v1` `Node` as is needed.
#[derive(Deserialize)]
struct Node {
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(default)]
    conditions: Vec<Condition>,
    node_info: Info,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_heartbeat_time: Option<Time>,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    #[serde(rename = "bootID")]
    boot_id: String,
    kubelet_version: String,
}

/// What a Node has to show.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of this run of the machine (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// By this kubelet; empty where any will do.
    pub kubelet: String,
    /// Said since then.
    pub since: Time,
}

/// Whether the Node called `node` is Ready; why not.
pub fn ready(root: &Path, node: &str, wanted: &Wanted) -> Result<()> {
    let answer = ask(root, &format!("/api/v1/nodes/{node}"))?;
    judge(&answer, wanted)
}

fn judge(answer: &[u8], wanted: &Wanted) -> Result<()> {
    let node: Node = serde_json::from_slice(answer).context("reading its Node")?;
    let info = &node.status.node_info;
    ensure!(info.boot_id == wanted.boot_id, "its Node is still the one of before this start");
    let kubelet = &wanted.kubelet;
    ensure!(
        kubelet.is_empty() || info.kubelet_version == *kubelet,
        "its Node is of kubelet {}, and not yet of {kubelet}",
        info.kubelet_version
    );
    let ready = node.status.conditions.iter().find(|condition| condition.kind == "Ready");
    let ready = ready.context("its Node says nothing yet")?;
    ensure!(ready.last_heartbeat_time >= Some(wanted.since), "its Node has not said anything since");
    ensure!(ready.status == "True", "its Node is not Ready: {}", ready.message);
    Ok(())
}

/// Asks the API servers, through the balancer on this machine.
fn ask(root: &Path, path: &str) -> Result<Vec<u8>> {
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, BALANCER_PORT)).context("the API server")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let connection = ClientConnection::new(Arc::new(config(root)?), ServerName::try_from(NAME)?)?;
    let mut stream = StreamOwned::new(connection, socket);
    let head = format!("GET {path} HTTP/1.0\r\nHost: {NAME}\r\nAccept: application/json\r\n\r\n");
    stream.write_all(head.as_bytes()).context("asking the API server")?;
    let mut answer = Vec::new();
    // The end of the connection is the end of the answer; a server may forget to say so.
    let read = stream.take(LIMIT).read_to_end(&mut answer);
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.with_context(|| format!("the API server does not answer: {read:?}"))?;
    let status = answer.get(9..12).map(|word| String::from_utf8_lossy(word).into_owned());
    ensure!(status.as_deref() == Some("200"), "the API server answers {}", status.unwrap_or_default());
    Ok(answer.split_off(end + 4))
}

fn config(root: &Path) -> Result<ClientConfig> {
    let ca = root.join("etc/kubernetes/pki/ca.crt");
    let mut roots = RootCertStore::empty();
    for der in CertificateDer::pem_file_iter(&ca).with_context(|| format!("reading {}", ca.display()))? {
        roots.add(der?)?;
    }
    let own = kubelet::file(root);
    let reading = || format!("reading {}", own.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&own).with_context(reading)?.collect();
    let key = PrivateKeyDer::from_pem_file(&own).with_context(reading)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(config.with_root_certificates(roots).with_client_auth_cert(chain?, key)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SINCE: Time = Time(1_800_000_000);

    fn said(boot: &str, kubelet: &str, status: &str, at: Time) -> String {
        let node = serde_json::json!({ "kind": "Node", "status": {
            "nodeInfo": { "bootID": boot, "kubeletVersion": kubelet, "machineID": "x" },
            "conditions": [
                { "type": "MemoryPressure", "status": "False", "lastHeartbeatTime": at },
                { "type": "Ready", "status": status, "lastHeartbeatTime": at, "message": "no network yet" },
            ],
        }});
        let wanted = Wanted { boot_id: "b2".into(), kubelet: "v1.36.3".into(), since: SINCE };
        judge(node.to_string().as_bytes(), &wanted).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_node_is_well_when_this_run_and_this_kubelet_say_so_and_not_by_an_old_word() {
        assert_eq!(said("b2", "v1.36.3", "True", SINCE), "");
        assert_eq!(said("b1", "v1.36.3", "True", SINCE), "its Node is still the one of before this start");
        assert!(said("b2", "v1.35.0", "True", SINCE).contains("v1.35.0, and not yet of v1.36.3"));
        assert_eq!(said("b2", "v1.36.3", "True", SINCE.plus(-1)), "its Node has not said anything since");
        assert_eq!(said("b2", "v1.36.3", "False", SINCE), "its Node is not Ready: no network yet");
        for junk in ["", "{}", "[]", r#"{"status":{"nodeInfo":{}}}"#] {
            let wanted = Wanted { boot_id: String::new(), kubelet: String::new(), since: SINCE };
            assert!(judge(junk.as_bytes(), &wanted).is_err(), "{junk}");
        }
    }
}
