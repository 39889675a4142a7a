//! Who is not believed by a machine, on a real connection of `node-boot`.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use node_boot::site::tls::{Own, connect};
use protocol::anchors::Trust;
use protocol::clock::{Time, YEAR};
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::issue::{self, Role};
use protocol::refusal::{Refusal, Refused};
use provisioner::site::system_clock;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use crate::Served;
use crate::forge::stolen_keys;

/// Shows a chain to one machine, as a provisioner would.
fn pose(chain: Vec<Vec<u8>>, key: Vec<u8>) -> (SocketAddr, std::thread::JoinHandle<()>) {
    let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
    let config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key).unwrap())
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let posing = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        // The machine ends it as soon as it has seen the chain.
        while connection.complete_io(&mut socket).is_ok_and(|(read, _)| read > 0) {}
    });
    (address, posing)
}

/// What a machine of the owner believes.
pub fn trust(owner: &Path) -> Trust {
    let owner: serde_json::Value = serde_json::from_slice(&std::fs::read(owner).unwrap()).unwrap();
    Trust::from_image(&owner["anchors"].to_string()).unwrap()
}

/// What a machine of the owner says to the end that shows this chain; none when it believes it.
fn verdict(owner: &Path, chain: Vec<Vec<u8>>, key: Vec<u8>) -> Option<Refused> {
    verdict_at(&trust(owner), Time(0), chain, key)
}

/// The same for a machine that believes this and has heard that it is so late.
fn verdict_at(trust: &Trust, floor: Time, chain: Vec<Vec<u8>>, key: Vec<u8>) -> Option<Refused> {
    let node: Arc<dyn Signer> = Arc::new(SoftKey::generate(Alg::Es256).unwrap().0);
    let certificate = issue::pledge(&*node).unwrap();
    let own = Own { key: &node, certificate: &certificate };
    let (address, posing) = pose(chain, key);
    let said = connect(address, &own, trust, floor, None).unwrap();
    let refused = said.err();
    posing.join().unwrap();
    refused
}

/// A leaf that the provisioner's own issuing CA signs, with these usages.
pub fn leaf(served: &Served, usages: Vec<ExtendedKeyUsagePurpose>) -> (Vec<Vec<u8>>, Vec<u8>) {
    leaf_for(served, usages, 365)
}

/// The same, good for so many days.
fn leaf_for(served: &Served, usages: Vec<ExtendedKeyUsagePurpose>, days: u64) -> (Vec<Vec<u8>>, Vec<u8>) {
    let keys = stolen_keys(served);
    let issuing = std::fs::read(served.path().join("issuing-ca.key")).unwrap();
    let issuer = KeyPair::try_from(issuing).unwrap();
    let issuer = Issuer::from_ca_cert_der(&keys.issuing.der.as_slice().into(), issuer).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["provisioner.local".to_owned()]).unwrap();
    params.extended_key_usages = usages;
    let now = std::time::SystemTime::now();
    params.not_before = now.into();
    params.not_after = (now + std::time::Duration::from_secs(days * 86_400)).into();
    let leaf = params.signed_by(&key, &issuer).unwrap().der().to_vec();
    (vec![leaf, keys.issuing.der, keys.site_ca.der], key.serialize_der())
}

/// The usages of a provisioner.
pub fn registrar() -> Vec<ExtendedKeyUsagePurpose> {
    vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 28]),
    ]
}

fn is_poser(refused: Option<Refused>, id: &str) {
    let refused = refused.expect("it is not believed");
    assert_eq!((refused.id().as_str(), refused.refusal.code()), (id, "not-a-provisioner"));
    assert!(refused.to_string().starts_with("This machine poses as a provisioner."), "{refused}");
}

#[test]
fn r1_a_provisioner_of_another_owner_is_a_stranger() {
    let (ours, theirs) = (Served::with(&[]), Served::with(&[]));
    let (chain, key) = leaf(&theirs, vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let refused = verdict(&ours.hq.owner_file(), chain, key).unwrap();
    assert_eq!(refused.refusal, Refusal::Stranger);
    assert!(refused.to_string().starts_with("This provisioner does not belong to my owner."), "{refused}");
}

#[test]
fn r2a_a_leaf_without_any_usage_is_no_provisioner() {
    let served = Served::with(&[]);
    let (chain, key) = leaf(&served, vec![]);
    is_poser(verdict(&served.hq.owner_file(), chain, key), "R2a");
}

#[test]
fn r2b_a_web_server_of_the_site_is_no_provisioner() {
    let served = Served::with(&[]);
    let owner = served.hq.owner_file();
    let (chain, key) = leaf(&served, vec![ExtendedKeyUsagePurpose::ServerAuth]);
    is_poser(verdict(&owner, chain, key), "R2b");
    let (chain, key) = leaf(&served, registrar());
    assert_eq!(verdict(&owner, chain, key), None, "with the usage of a registrar it is believed");
}

#[test]
fn r2c_a_machine_of_the_site_is_no_provisioner() {
    let served = Served::with(&[]);
    let keys = stolen_keys(&served);
    let (key, pkcs8) = SoftKey::generate(Alg::Es256).unwrap();
    let role = Role::Node { machine: "mc_01", life: YEAR };
    let node = keys.issue(&role, key.spki(), system_clock()).unwrap();
    let chain = vec![node, keys.issuing.der, keys.site_ca.der];
    is_poser(verdict(&served.hq.owner_file(), chain, pkcs8.to_vec()), "R2c");
}

#[test]
fn r2d_a_leaf_that_lives_longer_than_a_year_is_no_provisioner() {
    let served = Served::with(&[]);
    let (chain, key) = leaf_for(&served, registrar(), 3650);
    is_poser(verdict(&served.hq.owner_file(), chain, key), "R2d");
}

#[test]
fn r3_a_provisioner_whose_certificate_ran_out_is_not_believed() {
    let served = Served::with(&[]);
    let keys = stolen_keys(&served);
    let (certificate, _) = keys.leaf();
    let pkcs8 = std::fs::read(served.path().join("leaf.key")).unwrap();
    let trust = trust(&served.hq.owner_file());
    let at = |floor| verdict_at(&trust, floor, keys.chain(), pkcs8.clone());
    assert_eq!(at(certificate.not_after.plus(-1)), None);
    let refused = at(certificate.not_after.plus(1)).unwrap();
    assert_eq!(refused.refusal, Refusal::SiteExpired);
    let sentence = "The provisioner's certificate has expired; ask HQ.";
    assert!(refused.to_string().starts_with(sentence), "{refused}");
}

#[test]
fn r4a_a_provisioner_of_a_site_that_hq_withdrew_is_not_believed() {
    let served = Served::with(&[]);
    let (chain, key) = leaf(&served, registrar());
    let owner = served.hq.owner_file();
    assert_eq!(verdict(&owner, chain.clone(), key.clone()), None);
    served.hq.run(&["site", "revoke", "ship-7"]).unwrap();
    let revoked = std::fs::read_to_string(served.hq.dir().join("revoked.jws")).unwrap();
    let heard = trust(&owner).accept_revoked(&revoked, Time(0), None).unwrap();
    let refused = verdict_at(&heard, Time(0), chain, key).unwrap();
    assert_eq!(refused.id(), "R4a");
    assert!(refused.to_string().starts_with("HQ has withdrawn this site's certificate."), "{refused}");
}
