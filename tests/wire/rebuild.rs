//! A store that was lost: nobody enrols again, and what cannot be known any more counts as used.

use protocol::messages::Message;
use protocol::refusal::Refusal;
use tests::pledge::{Answer, Pledge};

use crate::forge::Desk;
use crate::{Served, is};

fn time(pledge: &Pledge, served: &Served) -> Answer {
    pledge.connect(served.address).unwrap().send(Message::Time, "", "application/json", b"").unwrap()
}

#[test]
fn a_store_that_was_lost_is_made_again_and_nobody_enrolls_again() {
    let (mut member, absent) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let mut served = Served::with(&[&member, &absent]);
    member.connect(served.address).unwrap().admission().unwrap();
    member.wear(&member.connect(served.address).unwrap().enroll().unwrap().body).unwrap();
    let told = |served: &Served| {
        let path = served.report();
        served.hq.run(&["ingest", &path]).unwrap()
    };
    assert!(told(&served).contains("was used"));
    served.site(&["report"]).unwrap();

    served.kill();
    served.lose("store.redb");
    served.start();
    assert_eq!(time(&member, &served).status, 200, "its certificate says who it is");
    let machines = served.site(&["machines"]).unwrap();
    assert!(machines.contains("WIRE000"), "{machines}");
    // Where it holds a certificate its device key is bound to it again; where nobody came, nobody can know.
    assert_eq!(member.connect(served.address).unwrap().attest().unwrap().status, 200);
    is(&absent.connect(served.address).unwrap().attest().unwrap(), Refusal::Duplicate);
    let copy = protocol::crypto::SoftKey::from_pkcs8(&member.device_pkcs8).unwrap();
    let copy = Pledge::with_device(copy).unwrap();
    is(&copy.connect(served.address).unwrap().attest().unwrap(), Refusal::Duplicate);
    // The number of the next report is higher than any that may have been sent.
    assert!(told(&served).contains("store-lost"));
}

#[test]
fn r24_without_its_bundle_a_lost_store_forgets_nobody_and_takes_no_older_bundle() {
    let mut member = Pledge::new().unwrap();
    let mut served = Served::with(&[&member]);
    let old = std::fs::read(served.hq.bundle().unwrap()).unwrap();
    member.connect(served.address).unwrap().admission().unwrap();
    member.wear(&member.connect(served.address).unwrap().enroll().unwrap().body).unwrap();
    served.deliver();

    served.kill();
    served.lose("store.redb");
    served.lose("bundles");
    served.start();
    is(&time(&member, &served), Refusal::BundleBehind);
    is(&member.connect(served.address).unwrap().voucher().unwrap(), Refusal::BundleBehind);
    let file = served.hq.path("old.nbb");
    std::fs::write(&file, old).unwrap();
    let refused = served.site(&["apply", &file.display().to_string()]).unwrap_err().to_string();
    assert!(refused.contains("bundle-refused: number 2 is not above 2"), "{refused}");
    let last = served.hq.path("site.nbb").display().to_string();
    served.site(&["apply", &last]).unwrap();
    crate::until("the member to be known again", || time(&member, &served).status == 200);
}

#[test]
fn a_certificate_of_ours_admits_nobody_where_no_store_was_lost_or_hq_ended_it() {
    let mut member = Pledge::new().unwrap();
    let mut served = Served::with(&[&member]);
    member.connect(served.address).unwrap().admission().unwrap();
    let certificate = member.connect(served.address).unwrap().enroll().unwrap().body;
    // Somebody else's certificate says nothing for one's own key: the handshake is not his to make.
    let stranger = Pledge::new().unwrap();
    assert!(Pledge::new().unwrap().wear(&certificate).is_err());
    is(&time(&stranger, &served), Refusal::NotProven);
    member.wear(&certificate).unwrap();
    let id = served.hq.run(&["machines", "list"]).unwrap();
    let id = id.split_whitespace().find(|word| word.starts_with("mc_")).unwrap();
    served.hq.run(&["machines", "revoke", id]).unwrap();
    served.deliver();
    served.kill();
    served.lose("store.redb");
    served.start();
    let answer = time(&member, &served);
    is(&answer, Refusal::NotProven);
}

#[test]
fn a_lost_store_is_made_again_also_where_the_last_bundle_only_told_of_changes() {
    let pledge = Pledge::new().unwrap();
    let mut served = Served::with(&[&pledge]);
    let (desk, mut last) = (Desk::of(&served.hq), vec![]);
    for base in [1, 2] {
        let mut next = desk.next();
        (next.index.seq, next.index.base) = (base + 1, Some(base));
        next.index.sections.retain(|section| section.name == "slots");
        next.sections.retain(|name, _| name == "slots");
        last = next.file(&desk, &desk.signer());
        served.apply("changes.nbb", &last).unwrap();
    }
    served.kill();
    served.lose("store.redb");
    served.start();
    assert_eq!(served.seq(), 3);
    assert!(served.site(&["machines", "--all"]).unwrap().contains("WIRE000"));
    // Without the last of them nobody knows what it changed.
    served.kill();
    served.lose("store.redb");
    served.lose(&format!("bundles/{:020}.nbb", 3));
    served.start();
    is(&pledge.connect(served.address).unwrap().voucher().unwrap(), Refusal::BundleBehind);
    served.apply("changes.nbb", &last).unwrap();
    assert_eq!(pledge.connect(served.address).unwrap().voucher().unwrap().status, 200);
}
