//! What a test may rely on when it uses a control plane of the harness: it dies, returns, and differs on request.

use harness::{Assets, ControlPlane, Lan, Options, missing_for_cluster};
use std::time::Duration;

const CSR: &str = r"apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: { name: spare }
spec:
  signerName: kubernetes.io/kube-apiserver-client-kubelet
  usages: [digital signature, client auth]
  request: ";

#[test]
fn an_api_server_dies_returns_and_remembers() {
    if let Some(why) = missing_for_cluster() {
        return harness::skip(&why);
    }
    let lan = Lan::new("plain").unwrap();
    let assets = Assets::find().unwrap();
    let mut plane = ControlPlane::start(&lan, lan.address(2), &assets, Options::default()).unwrap();
    plane.kubectl(&["create", "namespace", "kept"]).unwrap();
    let bindings = plane.kubectl(&["get", "clusterrolebindings", "-o", "name"]).unwrap();
    assert!(!bindings.contains("autoapprove"), "{bindings}");

    let request = "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null \
                   -subj /O=system:nodes/CN=system:node:spare 2>/dev/null | base64 -w0";
    let request = plane.command("sh").args(["-c", request]).output().unwrap();
    plane.apply(&format!("{CSR}{}\n", String::from_utf8(request.stdout).unwrap())).unwrap();
    plane.kubectl(&["certificate", "approve", "spare"]).unwrap();
    let certificate = ["get", "csr", "spare", "-o", "jsonpath={.status.certificate}"];
    plane
        .kubectl_until("a signed certificate", Duration::from_secs(20), &certificate, |said| !said.is_empty())
        .unwrap();

    plane.kill_api();
    plane.kubectl(&["get", "namespace", "kept"]).unwrap_err();
    plane.start_api().unwrap();
    plane.kubectl(&["get", "namespace", "kept"]).unwrap();
    plane.freeze_api(true);
    plane.kubectl(&["get", "namespace", "kept", "--request-timeout=1s"]).unwrap_err();
    plane.freeze_api(false);
    plane.kubectl(&["get", "namespace", "kept"]).unwrap();
}

#[test]
fn a_cluster_may_let_nodes_approve_themselves() {
    if let Some(why) = missing_for_cluster() {
        return harness::skip(&why);
    }
    let lan = Lan::new("loose").unwrap();
    let options = Options { self_approval: true, signer: false, ..Options::default() };
    let plane = ControlPlane::start(&lan, lan.address(2), &Assets::find().unwrap(), options).unwrap();
    let bindings = plane.kubectl(&["get", "clusterrolebindings", "-o", "name"]).unwrap();
    assert_eq!(bindings.matches("kubeadm:node-autoapprove").count(), 2, "{bindings}");
    // The controller manager gives up at once when it is told to leave out what it does not have.
    let account = ["get", "serviceaccount", "default", "-o", "name"];
    plane.kubectl_until("an account", Duration::from_secs(20), &account, |_| true).unwrap();
}
