//! A site that was off for longer than its certificates live goes on, and nobody proves anything again.

use std::sync::Arc;

use node_boot::site::tls::{Own, connect};
use protocol::cert::{Cert, is_client};
use protocol::clock::{Time, YEAR};
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::messages::{Clock, Message, StatusRequest};
use protocol::{bytes, est, issue, json};
use provisioner::registrar::tls::Acceptors;
use provisioner::site::{Site, system_clock};
use tests::pledge::{Answer, Pledge};

use crate::Served;
use crate::forge::stolen_keys;
use crate::posers::trust;

fn certificate(answer: &Answer) -> Cert {
    assert_eq!(answer.status, 200, "{}", answer.reason());
    Cert::parse(&est::read_certs_only(&answer.body).unwrap()[0]).unwrap()
}

fn is_valid_at(cert: &Cert, now: Time) -> bool {
    (cert.not_before..=cert.not_after).contains(&now)
}

/// Whether a machine of the owner, which heard from the site before it was off, believes it now.
fn is_believed(served: &Served, heard: Time, now: Time) -> bool {
    let key: Arc<dyn Signer> = Arc::new(SoftKey::generate(Alg::Es256).unwrap().0);
    let certificate = issue::pledge(&*key).unwrap();
    let own = Own { key: &key, certificate: &certificate };
    let trust = trust(&served.hq.owner_file());
    connect(served.address, &own, &trust, heard, Some(now)).unwrap().is_ok()
}

#[test]
fn a_site_that_was_off_for_twice_the_life_of_its_certificates_goes_on() {
    let mut pledge = Pledge::new().unwrap();
    let mut served = Served::with(&[&pledge]);
    let (now, then) = (system_clock(), system_clock().plus(2 * YEAR));
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let answer = session.enroll().unwrap();
    let (old_leaf, old) = (Cert::parse(&session.leaf).unwrap(), certificate(&answer));
    drop(session);
    pledge.wear(&answer.body).unwrap();
    served.kill();
    assert!(is_valid_at(&old, now) && !is_valid_at(&old, then) && !is_valid_at(&old_leaf, then));

    served.start_at(then);
    let mut session = pledge.connect(served.address).unwrap();
    let leaf = Cert::parse(&session.leaf).unwrap();
    assert!(leaf.key_hash != old_leaf.key_hash && is_valid_at(&leaf, then), "made anew at the start");
    assert!(is_believed(&served, now, then));
    let answer = session.send(Message::Time, "", "application/json", b"").unwrap();
    let clock: Clock = json::parse(&answer.body).unwrap();
    assert_eq!((answer.status, clock.now, clock.uncertain), (200, then, false));
    let csr = bytes::b64(&issue::request("machine", None, &pledge.node).unwrap());
    let answer = session.send(Message::SimpleReenroll, "", est::REQUEST_TYPE, csr.as_bytes()).unwrap();
    let new = certificate(&answer);
    let issuing = stolen_keys(&served).issuing;
    assert!(is_client(&new.der, &[], &[issuing], then).is_ok() && is_valid_at(&new, then));
    assert_eq!((new.key_hash, &new.common_name), (old.key_hash, &old.common_name), "the same machine");

    pledge.wear(&answer.body).unwrap();
    let mut session = pledge.connect(served.address).unwrap();
    assert_eq!(session.status(&StatusRequest::default()).unwrap().status, 200);
}

#[test]
fn a_site_that_is_never_off_renews_its_leaf_at_half_its_life_and_shows_it_at_once() {
    let mut served = Served::with(&[]);
    served.kill();
    let site = Arc::new(Site::open(&served.path(), system_clock).unwrap());
    let mut machines = Acceptors::strict(Arc::clone(&site)).unwrap();
    let shown = |machines: &mut Acceptors| Arc::clone(machines.current().unwrap().config());
    let (before, leaf) = (shown(&mut machines), site.keys.leaf().0);
    let half = leaf.not_after.plus(-YEAR / 2);
    assert!(!site.keys.renew_leaf(half).unwrap());
    assert!(Arc::ptr_eq(&before, &shown(&mut machines)));
    assert!(site.keys.renew_leaf(half.plus(1)).unwrap());
    assert!(!Arc::ptr_eq(&before, &shown(&mut machines)), "the next connection gets the new one");
    let renewed = site.keys.leaf().0;
    assert!(renewed.not_after > leaf.not_after && renewed.key_hash != leaf.key_hash);
    assert_eq!(stolen_keys(&served).leaf().0, renewed, "it is on disk");
}
