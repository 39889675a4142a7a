//! Requests that are not signed.

use protocol::bytes::{Digest, b64};
use protocol::crypto::{Alg, Signer as _, SoftKey};
use protocol::id::node_name;
use protocol::messages::Message;
use protocol::refusal::{Refusal, Wait};
use protocol::{est, issue};
use provisioner::site::store::{NAMES, Store};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use tests::pledge::Pledge;

use crate::{Served, is};

/// A good request of the kubelet of this machine in this slot, DER, and its key.
pub fn kubelet(pledge: &Pledge, slot: &str) -> (Vec<u8>, SoftKey) {
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    (request(pledge, slot, &key), key)
}

fn request(pledge: &Pledge, slot: &str, key: &SoftKey) -> Vec<u8> {
    let name = format!("system:node:{}", node_name(slot, &pledge.node.key_hash()));
    issue::request(&name, Some("system:nodes"), key).unwrap()
}

/// A site with these slots, taken by these machines in this order.
fn placed(pledges: &[&Pledge], slots: &[&str]) -> Served {
    let served = Served::with(pledges);
    served.slots(slots);
    for pledge in pledges {
        pledge.connect(served.address).unwrap().admission().unwrap();
    }
    served
}

#[test]
fn r34b_a_request_whose_signature_is_wrong_is_refused_for_both_certificates() {
    let pledge = Pledge::new().unwrap();
    let served = placed(&[&pledge], &["node-1"]);
    let mut session = pledge.connect(served.address).unwrap();
    let mut own = issue::request("machine", None, &pledge.node).unwrap();
    *own.last_mut().unwrap() ^= 1;
    for bad in [b64(&own), "no base64".to_owned(), b64(b"no request")] {
        for message in [Message::SimpleEnroll, Message::SimpleReenroll] {
            is(&session.send(message, "", est::REQUEST_TYPE, bad.as_bytes()).unwrap(), Refusal::CsrKey);
        }
    }
    let (mut csr, _) = kubelet(&pledge, "node-1");
    *csr.last_mut().unwrap() ^= 1;
    is(&session.kubelet(csr).unwrap(), Refusal::CsrKey);
    assert!(served.noted("R34b"));
}

#[test]
fn r34c_a_kubelet_needs_a_key_that_nobody_else_has() {
    let (one, two) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = placed(&[&one, &two], &["node-1", "node-2"]);
    let mut session = one.connect(served.address).unwrap();
    is(&session.kubelet(request(&one, "node-1", &one.node)).unwrap(), Refusal::CsrKey);
    assert!(served.noted("R34c"));
    let (csr, key) = kubelet(&one, "node-1");
    for _ in 0..2 {
        let answer = session.kubelet(csr.clone()).unwrap();
        assert_eq!((answer.status, answer.reason().as_str()), (202, Wait::ClusterAway.code()));
    }
    // The same key on the other machine, and the first one's node key.
    let mut session = two.connect(served.address).unwrap();
    is(&session.kubelet(request(&two, "node-2", &key)).unwrap(), Refusal::CsrKey);
    is(&session.kubelet(request(&two, "node-2", &one.node)).unwrap(), Refusal::CsrKey);
    assert_eq!(session.kubelet(kubelet(&two, "node-2").0).unwrap().status, 202);
}

#[test]
fn r35_a_kubelet_gets_its_own_name_and_nothing_beside_it() {
    let (one, two) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = placed(&[&one, &two], &["node-1", "node-2"]);
    let mut session = one.connect(served.address).unwrap();
    let node = format!("system:node:{}", node_name("node-1", &one.node.key_hash()));
    let theirs = format!("system:node:{}", node_name("node-2", &two.node.key_hash()));
    let (key, pkcs8) = SoftKey::generate(Alg::Es256).unwrap();
    for (name, organisation) in [
        (theirs.as_str(), Some("system:nodes")),
        ("system:node:node-1", Some("system:nodes")),
        ("system:kube-controller-manager", Some("system:nodes")),
        (&node, Some("system:masters")),
        (&node, None),
    ] {
        let csr = issue::request(name, organisation, &key).unwrap();
        is(&session.kubelet(csr).unwrap(), Refusal::CsrName);
    }
    let key = KeyPair::try_from(pkcs8.to_vec()).unwrap();
    let address = SanType::IpAddress([10, 0, 0, 1].into());
    for name in [SanType::DnsName("kubernetes".try_into().unwrap()), address] {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, node.as_str());
        let mut csr = |names: Vec<SanType>| {
            params.subject_alt_names = names;
            params.serialize_request(&key).unwrap().der().to_vec()
        };
        is(&session.kubelet(csr(vec![name])).unwrap(), Refusal::CsrName);
        assert_eq!(session.kubelet(csr(vec![])).unwrap().status, 202, "without the name it is fine");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r36_the_name_of_a_node_that_another_key_had_is_not_given_again() {
    let pledge = Pledge::new().unwrap();
    let mut served = placed(&[&pledge], &["node-1"]);
    let (csr, _) = kubelet(&pledge, "node-1");
    // Six symbols of a hash may meet once in a thousand million: the name is noted as another key's.
    served.kill();
    let node = node_name("node-1", &pledge.node.key_hash());
    let store = Store::open(&served.path().join("store.redb")).unwrap();
    store.write(move |tx| tx.put(NAMES, &node, &Digest::of(b"another"))).await.unwrap();
    drop(store);
    served.start();
    is(&pledge.connect(served.address).unwrap().kubelet(csr).unwrap(), Refusal::NameUsed);
}
