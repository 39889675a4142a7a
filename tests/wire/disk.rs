//! The second way to a machine's disk: who gives the site a key, who gets it, and who is told to erase it.

use std::net::SocketAddr;

use protocol::attest::{self, Binding};
use protocol::bytes::{B64u, Digest, Secret};
use protocol::clock::Time;
use protocol::id::Id;
use protocol::inventory::{Facts, SecureBoot};
use protocol::messages::{Act, DiskKey, Done, Message, StatusAnswer, StatusRequest};
use protocol::refusal::{Refusal, Refused, Wait};
use provisioner::site::admin::{Ask, ask};
use provisioner::site::{Answer, Peer, Site, system_clock};
use serde_json::Value;
use tests::pledge::Pledge;
use tests::stage::SITE;

use crate::forge::{Desk, tpm};
use crate::{Served, is};

const DISK: [u8; 16] = [1; 16];

fn given(disk: [u8; 16], key: u8) -> DiskKey {
    DiskKey { disk: B64u(disk.to_vec()), key: Secret(vec![key; 32].into()) }
}

/// A provisioner that does not serve, spoken to from within: the proofs are those that its registrar has checked.
struct Inside {
    site: Site,
    runtime: tokio::runtime::Runtime,
    served: Served,
}

fn ek(text: &str) -> Id {
    format!("ek:{text}").parse().unwrap()
}

fn peer(key: u8) -> Peer {
    let s = Digest([key; 32]);
    Peer { s, binding: Binding { x: [0; 32], s }, source: SocketAddr::from(([127, 0, 0, 1], 1)) }
}

impl Inside {
    /// With two machines registered by their TPMs: the vectors' one, and another.
    fn new() -> (Self, [Id; 2]) {
        let mut served = Served::with(&[]);
        let other = Digest::of(b"another TPM").to_string();
        let row = |serial, ek: &str| format!("{serial},{ek},{SITE},worker\n");
        let rows = [row("TPM1", &tpm::ek_id()), row("TPM2", &other)].concat();
        served.hq.import(&format!("serial,ek-p256,site,roles\n{rows}")).unwrap();
        served.deliver();
        served.kill();
        (Self::at(served, system_clock), [ek(&tpm::ek_id()), ek(&other)])
    }

    fn at(served: Served, clock: fn() -> Time) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { site: Site::open(&served.path(), clock).unwrap(), runtime, served }
    }

    fn prove(&self, key: u8, ek: &Id) {
        let proven = self.runtime.block_on(self.site.prove(&peer(key), "tpm-ek", ek.clone(), None)).unwrap();
        assert!(proven.machine.is_some());
    }

    fn keep(&self, key: u8, given: DiskKey) -> Result<(), Refused> {
        let bound = self.site.bound(&peer(key).s).unwrap();
        self.runtime.block_on(self.site.keep_disk_key(&bound, given))
    }

    fn disk(&self, key: u8, ek: &Id, disk: [u8; 16]) -> Result<attest::Disk, Refused> {
        match self.disk_with(key, ek, disk, SecureBoot::Unknown)? {
            Answer::Now(disk) => Ok(disk),
            Answer::Wait(wait, _) => panic!("{wait:?}"),
        }
    }

    fn disk_with(
        &self,
        key: u8,
        ek: &Id,
        disk: [u8; 16],
        firmware: SecureBoot,
    ) -> Result<Answer<attest::Disk>, Refused> {
        self.runtime.block_on(self.site.disk(&peer(key), ek, &B64u(disk.to_vec()), firmware))
    }

    /// A machine proves itself, and says this of its firmware.
    fn prove_with(&self, key: u8, ek: &Id, secure_boot: SecureBoot) {
        let hw = Facts { secure_boot, ..Facts::default() };
        self.runtime.block_on(self.site.prove(&peer(key), "tpm-ek", ek.clone(), Some(hw))).unwrap();
    }
}

#[test]
fn the_machine_whose_tpm_gave_a_disks_key_gets_it_back_and_stays_the_same_machine() {
    let (inside, [own, other]) = Inside::new();
    inside.prove(1, &own);
    inside.prove(2, &other);
    inside.keep(1, given(DISK, 7)).unwrap();
    // Another start, with a key that nobody knows: the proof is the TPM's.
    assert_eq!(inside.disk(9, &own, DISK).unwrap().key, Some(given(DISK, 7).key));
    assert!(inside.site.bound(&peer(1).s).is_ok(), "what is in the shut state is still the machine's key");
    assert!(inside.site.bound(&peer(9).s).is_err());
    // The disk in another machine, and another disk in this one.
    assert_eq!(inside.disk(2, &other, DISK).unwrap(), attest::Disk::default());
    assert_eq!(inside.disk(9, &own, [2; 16]).unwrap(), attest::Disk::default());
    assert_eq!(inside.disk(9, &ek(&Digest::of(b"nobody's").to_string()), DISK).unwrap_err().id(), "R21a");
}

#[test]
fn a_machine_whose_secure_boot_was_switched_off_gets_its_disk_by_a_persons_word_alone_and_once() {
    let (mut inside, [own, _]) = Inside::new();
    let wait = Answer::Wait(Wait::PendingHuman, 30);
    let key = Answer::Now(attest::Disk { key: Some(given(DISK, 7).key), wipe: false });
    inside.prove_with(1, &own, SecureBoot::On);
    inside.keep(1, given(DISK, 7)).unwrap();
    let asks = |inside: &Inside, firmware| inside.disk_with(9, &own, DISK, firmware).unwrap();
    assert_eq!(asks(&inside, SecureBoot::On), key, "a firmware update with nobody present");
    for weaker in [SecureBoot::Off, SecureBoot::Setup, SecureBoot::Unknown] {
        assert_eq!(asks(&inside, weaker), wait, "{weaker:?}");
    }
    // Nor does it help to be this machine anew, with another disk and Secure Boot off, before one asks.
    inside.prove_with(8, &own, SecureBoot::Off);
    assert_eq!(asks(&inside, SecureBoot::Off), wait);
    let site = inside.site;
    drop(site);
    inside.served.start();
    let said = inside.served.site(&["explain", &own.to_string()]).unwrap();
    assert!(said.contains("Secure Boot was on") && said.contains("approve --machine"), "{said}");
    inside.served.site(&["approve", "--machine", &own.to_string()]).unwrap();
    inside.served.kill();
    inside.site = Site::open(&inside.served.path(), system_clock).unwrap();
    assert_eq!(asks(&inside, SecureBoot::Off), key);
    assert_eq!(asks(&inside, SecureBoot::Off), wait, "once");
    // With its disk open it says itself how it is from now on: a person wanted it so.
    inside.keep(8, given(DISK, 7)).unwrap();
    assert_eq!(asks(&inside, SecureBoot::Off), key);
}

#[test]
fn a_machine_that_is_to_wait_for_a_person_gets_its_disk_by_his_word_alone_and_within_an_hour_of_it() {
    let mut served = Served::with(&[]);
    let row = format!("TPM1,{},{SITE},worker\n", tpm::ek_id());
    served.hq.import(&format!("serial,ek-p256,site,roles\n{row}")).unwrap();
    Desk::of(&served.hq).amend(|record| record.policy.auto = false);
    served.deliver();
    served.kill();
    let (inside, own) = (Inside::at(served, system_clock), ek(&tpm::ek_id()));
    inside.prove_with(1, &own, SecureBoot::On);
    inside.keep(1, given(DISK, 7)).unwrap();
    let asks = |inside: &Inside| inside.disk_with(9, &own, DISK, SecureBoot::On).unwrap();
    let wait = Answer::Wait(Wait::PendingHuman, 30);
    let says_yes = |inside: Inside, clock: fn() -> Time| {
        let Inside { site, mut served, .. } = inside;
        drop(site);
        served.start();
        served.site(&["approve", "--machine", &own.to_string()]).unwrap();
        served.kill();
        Inside::at(served, clock)
    };
    assert_eq!(asks(&inside), wait, "nobody has said yes");
    let inside = says_yes(inside, system_clock);
    let key = Answer::Now(attest::Disk { key: Some(given(DISK, 7).key), wipe: false });
    assert_eq!((asks(&inside), asks(&inside)), (key, wait.clone()));
    let inside = says_yes(inside, || system_clock().plus(3700));
    assert_eq!(asks(&inside), wait, "that was more than an hour ago");
}

#[test]
fn a_machine_to_which_a_person_has_said_no_does_not_get_its_disk_opened() {
    let (mut inside, [own, _]) = Inside::new();
    inside.prove(1, &own);
    inside.keep(1, given(DISK, 7)).unwrap();
    drop(inside.site);
    inside.served.start();
    inside.served.site(&["refuse", &own.to_string()]).unwrap();
    inside.served.kill();
    inside.site = Site::open(&inside.served.path(), system_clock).unwrap();
    assert_eq!(inside.disk(9, &own, DISK).unwrap_err().refusal, Refusal::SaidNo);
}

#[test]
fn nobody_puts_a_key_in_the_place_of_another_machines_and_a_later_one_of_its_own_counts() {
    let (inside, [own, other]) = Inside::new();
    inside.prove(1, &own);
    inside.prove(2, &other);
    inside.keep(1, given(DISK, 7)).unwrap();
    assert!(inside.keep(2, given(DISK, 8)).is_err());
    inside.keep(1, given(DISK, 9)).unwrap();
    assert_eq!(inside.disk(1, &own, DISK).unwrap().key, Some(given(DISK, 9).key));
    let short = DiskKey { key: Secret(vec![1; 31].into()), ..given(DISK, 0) };
    assert!(inside.keep(1, short).is_err());
    // A machine fills its own places, and nobody else's.
    inside.keep(2, given([200; 16], 5)).unwrap();
    for disk in 10..30 {
        inside.keep(1, given([disk; 16], 1)).unwrap();
    }
    let known = (10..30).filter(|disk| inside.disk(1, &own, [*disk; 16]).unwrap().key.is_some());
    assert_eq!(known.collect::<Vec<_>>(), (22..30).collect::<Vec<_>>(), "the latest");
    assert!(inside.disk(2, &other, [200; 16]).unwrap().key.is_some());
}

#[test]
fn r22_a_machine_that_headquarters_has_locked_out_does_not_get_its_disk_opened() {
    let (mut inside, [own, _]) = Inside::new();
    inside.prove(1, &own);
    inside.keep(1, given(DISK, 7)).unwrap();
    drop(inside.site);
    inside.served.start();
    inside.served.hq.run(&["machines", "revoke", "TPM1", "--lost"]).unwrap();
    inside.served.deliver();
    inside.served.kill();
    inside.site = Site::open(&inside.served.path(), system_clock).unwrap();
    assert_eq!(inside.disk(1, &own, DISK).unwrap_err().refusal, Refusal::Lost);
}

#[test]
fn a_key_for_a_disk_is_taken_from_machines_with_a_tpm_alone() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    is(&session.json(Message::DiskKey, &given(DISK, 7)).unwrap(), Refusal::NotProven);
    session.admission().unwrap();
    assert_eq!(session.json(Message::DiskKey, &given(DISK, 7)).unwrap().status, 400);
}

#[test]
fn a_machine_is_told_to_wipe_itself_until_it_did_and_is_told_nothing_else() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let machine = pledge.id().to_string();
    let orders = |asked: &StatusRequest| {
        let answer = pledge.connect(served.address).unwrap().status(asked).unwrap();
        let answer: StatusAnswer = protocol::json::parse(&answer.body).unwrap_or_default();
        answer.orders
    };
    assert_eq!(orders(&StatusRequest::default()), []);
    served.site(&["wipe", &machine]).unwrap();
    is(&session.send(Message::Time, "", "application/json", b"").unwrap(), Refusal::Retired);
    let [first, again] = [orders(&StatusRequest::default()), orders(&StatusRequest::default())];
    assert_eq!((first.len(), &first[0].act), (1, &Act::Wipe));
    assert_eq!(first, again, "until it has said so");
    let stranger = Pledge::new().unwrap();
    is(
        &stranger.connect(served.address).unwrap().status(&StatusRequest::default()).unwrap(),
        Refusal::NotProven,
    );
    let done =
        |ok| StatusRequest { done: vec![Done { id: first[0].id.clone(), ok }], ..StatusRequest::default() };
    assert_eq!(orders(&done(false)).len(), 1, "it could not");
    assert_eq!(orders(&done(true)), []);
    is(&session.status(&StatusRequest::default()).unwrap(), Refusal::Retired);
    let said = served.site(&["explain", &machine]).unwrap();
    assert!(said.contains("wiped"), "{said}");
}

#[test]
fn a_machine_that_headquarters_gave_up_is_wiped_where_headquarters_says_so_and_a_lost_one_is_not_by_itself() {
    let pledges = [Pledge::new().unwrap(), Pledge::new().unwrap()];
    let served = Served::with(&[&pledges[0], &pledges[1]]);
    for pledge in &pledges {
        pledge.connect(served.address).unwrap().admission().unwrap();
    }
    served.hq.run(&["machines", "revoke", "WIRE000", "--lost"]).unwrap();
    served.hq.run(&["machines", "revoke", "WIRE001", "--rma", "--wipe"]).unwrap();
    served.deliver();
    let status = |pledge: &Pledge, asked: &StatusRequest| {
        pledge.connect(served.address).unwrap().status(asked).unwrap()
    };
    is(&status(&pledges[0], &StatusRequest::default()), Refusal::Lost);
    let answer: StatusAnswer =
        protocol::json::parse(&status(&pledges[1], &StatusRequest::default()).body).unwrap();
    assert_eq!(answer.orders[0].act, Act::Wipe);
    let done = vec![Done { id: answer.orders[0].id.clone(), ok: true }];
    assert_eq!(status(&pledges[1], &StatusRequest { done, ..StatusRequest::default() }).status, 200);
    is(&status(&pledges[1], &StatusRequest::default()), Refusal::Rma);
}

#[test]
fn a_new_installation_is_not_wiped_for_the_one_before() {
    let (mut inside, [own, _]) = Inside::new();
    inside.prove(1, &own);
    drop(inside.site);
    inside.served.start();
    let dir = inside.served.path();
    let _: Value = ask(&dir, &Ask::Wipe { machine: own.to_string() }).unwrap();
    inside.served.kill();
    inside.site = Site::open(&dir, system_clock).unwrap();
    assert!(inside.disk(9, &own, DISK).unwrap().wipe, "one whose disk is shut too");
    let refused = inside.runtime.block_on(inside.site.prove(&peer(9), "tpm-ek", own.clone(), None));
    assert_eq!(refused.unwrap_err().refusal, Refusal::Retired);
    drop(inside.site);
    inside.served.start();
    inside.served.site(&["retire", &own.to_string(), "--undo"]).unwrap();
    inside.served.kill();
    inside.site = Site::open(&dir, system_clock).unwrap();
    inside.prove(9, &own);
    assert!(!inside.disk(9, &own, DISK).unwrap().wipe);
}
