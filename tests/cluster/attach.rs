//! Attaching to a plain cluster, and the certificates that come out of it.

use harness::{Assets, ControlPlane, Lan, Options};
use protocol::bytes::{b64, pem};
use protocol::clock::Time;
use protocol::crypto::{Alg, SoftKey};
use provisioner::cluster::attach::Attach;
use provisioner::cluster::csr::is_not_ours;
use provisioner::cluster::{Cluster, ClusterError};

fn with_cluster(name: &str, options: Options, work: impl AsyncFnOnce(&ControlPlane) + Send) {
    if let Some(missing) = harness::missing_for_cluster() {
        return harness::skip(&missing);
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let lan = Lan::new(name).unwrap();
    let plane = ControlPlane::start(&lan, lan.address(1), &Assets::find().unwrap(), options).unwrap();
    let done = plane.inside(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(&plane));
    });
    done.unwrap();
}

async fn attached(plane: &ControlPlane) -> Cluster {
    let attach = Attach::with(&plane.file("super-admin.conf")).await.unwrap();
    let plan = attach.plan("ship-7", 1).await.unwrap();
    assert_eq!(plan.remedies, Vec::<String>::new());
    let credential = attach.apply(&plan).await.unwrap();
    assert!(credential.not_after().is_some());
    Cluster::connect(&credential).unwrap()
}

fn kubelet_request(node: &str) -> Vec<u8> {
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    protocol::issue::request(&format!("system:node:{node}"), Some("system:nodes"), &key).unwrap()
}

#[test]
fn a_plain_cluster_signs_a_kubelet_certificate_with_no_more_rights_than_shown() {
    with_cluster("att", Options::default(), async |plane| {
        let cluster = attached(plane).await;
        let request = kubelet_request("node-3-abcdef");
        let chain = cluster.sign_kubelet("node-3-abcdef", &request).await.unwrap();
        let cert = protocol::cert::Cert::parse(&chain[0]).unwrap();
        assert_eq!(cert.common_name, "system:node:node-3-abcdef");
        let again = cluster.sign_kubelet("node-3-abcdef", &request).await.unwrap();
        assert_eq!(chain, again, "asking twice creates once");
        let view = cluster.look(None).await.unwrap();
        assert!(view.nodes.is_empty());
        assert!(view.version.starts_with("v1."), "{}", view.version);
        assert_eq!(
            view.api,
            [format!("{}:6443", plane.url().trim_start_matches("https://").trim_end_matches(":6443"))]
        );
        let rights = ["auth", "can-i", "--as", cluster.user(), "get", "secrets", "-A"];
        assert!(plane.kubectl(&rights).is_err(), "it may not read Secrets");
    });
}

#[test]
fn r39a_a_cluster_that_lets_nodes_approve_themselves_is_refused_with_its_remedy() {
    let options = Options { self_approval: true, ..Options::default() };
    with_cluster("self", options, async |plane| {
        let attach = Attach::with(&plane.file("super-admin.conf")).await.unwrap();
        let plan = attach.plan("ship-7", 1).await.unwrap();
        let remedy = plan.remedies.join(" ");
        assert!(remedy.contains("kubectl delete clusterrolebinding"), "{remedy}");
        assert!(remedy.contains("kubeadm:node-autoapprove-certificate-rotation"), "{remedy}");
        assert!(matches!(attach.apply(&plan).await, Err(ClusterError::Unsafe { .. })));
        assert!(
            plane.kubectl(&["get", "clusterrole", "nodeboot.dev:provisioner"]).is_err(),
            "nothing was applied"
        );
    });
}

#[test]
fn a_cluster_whose_signer_is_off_is_refused_in_words() {
    let options = Options { signer: false, ..Options::default() };
    with_cluster("nosign", options, async |plane| {
        let attach = Attach::with(&plane.file("super-admin.conf")).await.unwrap();
        let plan = attach.plan("ship-7", 1).await.unwrap();
        let said = attach.apply(&plan).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains("signing the certificate request"), "{said}");
        assert!(said.contains("must run its csrsigning controller"), "{said}");
    });
}

#[test]
fn a_cluster_in_which_somebody_else_approves_kubelets_is_refused_with_what_he_said() {
    with_cluster("other", Options::default(), async |plane| {
        let attach = Attach::with(&plane.file("super-admin.conf")).await.unwrap();
        let approver = async {
            loop {
                let asked = plane.kubectl(&["get", "csr", "-o", "name"]).unwrap();
                if let Some(name) = asked.lines().next() {
                    return plane.kubectl(&["certificate", "approve", name]).unwrap();
                }
                tokio::task::yield_now().await;
            }
        };
        let (plan, _) = tokio::join!(attach.plan("ship-7", 1), approver);
        let remedy = plan.unwrap().remedies.join(" ");
        assert!(remedy.contains("another approver answers kubelets"), "{remedy}");
        assert_eq!(plane.kubectl(&["get", "csr", "-o", "name"]).unwrap(), "", "the probe was taken back");
    });
}

#[test]
fn a_revoked_node_cannot_write_while_another_can() {
    with_cluster("deny", Options::default(), async |plane| {
        let cluster = attached(plane).await;
        for node in ["node-1-aaaaaa", "node-2-bbbbbb"] {
            let lease = format!("apiVersion: v1\nkind: Node\nmetadata: {{name: {node}}}\n");
            plane.apply(&lease).unwrap();
        }
        cluster.deny("node-1-aaaaaa", Time(4_000_000_000)).await.unwrap();
        cluster.deny("node-1-aaaaaa", Time(4_000_000_000)).await.unwrap();
        let annotate = |node: &str| {
            let user = format!("system:node:{node}");
            let groups = ["--as-group", "system:nodes", "--as-group", "system:authenticated"];
            let mut words = vec!["annotate", "node", node, "x=y", "--overwrite", "--as", &user];
            words.extend(groups);
            plane.kubectl(&words)
        };
        let denied =
            harness::wait::until(
                "the policy to hold",
                std::time::Duration::from_secs(20),
                || match annotate("node-1-aaaaaa") {
                    Err(error) if error.to_string().contains("was revoked by HQ") => Ok(()),
                    other => Err(format!("{other:?}")),
                },
            );
        denied.unwrap();
        annotate("node-2-bbbbbb").unwrap();
        // What a kubelet may delete, its lease, it may not either.
        let lease = "apiVersion: coordination.k8s.io/v1\nkind: Lease";
        plane
            .apply(&format!("{lease}\nmetadata: {{name: node-1-aaaaaa, namespace: kube-node-lease}}\n"))
            .unwrap();
        let user = ["--as", "system:node:node-1-aaaaaa", "--as-group", "system:nodes"];
        let delete = ["delete", "lease", "-n", "kube-node-lease", "node-1-aaaaaa"];
        let error = plane.kubectl(&[&delete[..], &user].concat()).unwrap_err().to_string();
        assert!(error.contains("was revoked by HQ"), "{error}");
        cluster.lift_expired(Time(4_000_000_000)).await.unwrap();
        let policies = || plane.kubectl(&["get", "validatingadmissionpolicies", "-o", "name"]).unwrap();
        assert!(policies().contains("/node-1-aaaaaa.revoked"), "its certificate is still good");
        cluster.lift_expired(Time(4_000_000_001)).await.unwrap();
        assert_eq!(policies().trim(), "");
    });
}

#[test]
fn r37_a_request_for_a_node_of_ours_that_we_did_not_create_is_denied_in_words() {
    with_cluster("notours", Options::default(), async |plane| {
        let cluster = attached(plane).await;
        let ask = |name: &str, node: &str| {
            let request = pem("CERTIFICATE REQUEST", &kubelet_request(node));
            let spec = format!(
                "request: {}\n  signerName: kubernetes.io/kube-apiserver-client-kubelet\n  usages: [client auth]",
                b64(request.as_bytes())
            );
            let kind = "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest";
            plane.apply(&format!("{kind}\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n")).unwrap();
        };
        ask("by-itself", "node-3-abcdef");
        ask("of-somebody", "node-of-another-tool");
        let ours = |name: &str| name == "node-3-abcdef";
        for object in cluster.pending().await.unwrap() {
            if is_not_ours(&object, cluster.user(), &ours) {
                cluster.deny_foreign(object).await.unwrap();
            }
        }
        let seen = |name: &str| {
            let path = "jsonpath={range .status.conditions[*]}{.type} {.reason}: {.message}{end}";
            plane.kubectl(&["get", "csr", name, "-o", path]).unwrap()
        };
        assert_eq!(seen("by-itself"), "Denied csr-not-ours: A node asked for a certificate by itself.");
        assert_eq!(seen("of-somebody"), "", "what is not of ours is left to others");
    });
}
