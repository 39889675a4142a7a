//! Images from a provisioner: what a machine is told to stage, and the pieces it gets.

use std::collections::BTreeMap;
use std::fs;

use protocol::bytes::Digest;
use protocol::image::{BankReport, Failed, Image, Images, Kind, Program};
use protocol::json;
use protocol::messages::{Act, Health, Message, SNI, StatusAnswer, StatusRequest};
use provisioner::site::machine::{KubeletState, Machine};
use provisioner::site::store::MACHINES;
use provisioner::site::{Site, system_clock};
use tests::pledge::{Pledge, Session};

use crate::Served;

/// A program that firmware starts.
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

/// Two blocks of a word over and over, and the tree over them; the root of that.
fn sealed(word: &str) -> (Vec<u8>, Digest) {
    let mut data = word.repeat(3000).into_bytes();
    data.resize(2 * 4096, 0);
    let mut tree: Vec<u8> = data.chunks(4096).flat_map(|block| Digest::of(block).0).collect();
    tree.resize(4096, 0);
    let root = Digest::of(&tree);
    ([data, tree].concat(), root)
}

/// Version 0.2.0 of everything, as `hq image build` leaves it in a folder; none where there is no program to sign.
fn folder(folder: &std::path::Path) -> Option<[Image; 2]> {
    let Ok(stub) = fs::read(STUB) else {
        harness::skip("systemd-boot-efi is not installed");
        return None;
    };
    let (_, root) = sealed(Kind::Os.word());
    let line = format!("quiet nodeboot.root=2:{}", protocol::bytes::hex(&root.0));
    let uki = image::uki::join(&stub, &[(".cmdline", line.as_bytes())]).unwrap();
    fs::write(folder.join("node-boot.efi"), &uki).unwrap();
    let image = |kind: Kind, program| {
        let (bytes, root) = sealed(kind.word());
        fs::write(folder.join(kind.word()), &bytes).unwrap();
        Image { kind, version: "0.2.0".into(), root, blocks: 2, size: bytes.len() as u64, program }
    };
    let program = Program { sha256: Digest::of(&uki), size: uki.len() as u64 };
    let images = [image(Kind::Os, Some(program)), image(Kind::Kubernetes, None)];
    fs::write(folder.join("images.json"), json::to_vec(&images)).unwrap();
    Some(images)
}

/// A machine whose system is ours says what its banks hold.
fn asks(session: &mut Session<'_>, os: &BankReport) -> StatusAnswer {
    let health = Health { banks: BTreeMap::from([(Kind::Os, os.clone())]), ..Health::default() };
    let answer = session.status(&StatusRequest { health, ..StatusRequest::default() }).unwrap();
    assert_eq!(answer.status, 200);
    json::parse(&answer.body).unwrap()
}

fn piece(session: &mut Session<'_>, digest: &Digest, range: &str) -> (u16, Vec<u8>) {
    let (method, path) = Message::Image.path();
    let head = format!("{method} {path}{digest} HTTP/1.1\r\nHost: {SNI}\r\nRange: {range}\r\n\r\n");
    session.raw(head.as_bytes()).unwrap();
    let answer = session.read().unwrap();
    (answer.status, answer.body)
}

#[test]
fn a_machine_stages_what_headquarters_names_once_the_site_has_it_and_gets_it_piece_by_piece() {
    let (pledge, stranger) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let Some([os, _]) = folder(dir.path()) else { return };
    let path = dir.path().display().to_string();
    let old = BankReport {
        version: "0.1.0".into(),
        root: Digest([1; 32]),
        staged: None,
        trial: false,
        failed: None,
        refused: None,
    };

    served.hq.edit("sites/ship-7/site.yaml", "name: ship-7\nsystem: { os: 0.2.0, activate: now }\n").unwrap();
    let bundle = served.hq.path("site.nbb").display().to_string();
    let build = ["bundle", "build", "ship-7", "-o", &bundle];
    let said = served.hq.run(&build).unwrap_err().to_string();
    assert!(
        said.contains("wants os 0.2.0, which is not in images.yaml: `provisioner hq image add"),
        "{said}"
    );
    served.hq.run(&["secure-boot"]).unwrap();
    served.hq.run(&["image", "add", &path]).unwrap();
    served.deliver();
    let told = asks(&mut session, &old);
    assert_eq!(told.orders, [], "the site does not have it yet");
    let images: Images = json::parse(told.images.as_ref().unwrap().as_bytes()).unwrap();
    let [named] = images.images.as_slice() else { panic!("{images:?}") };
    assert_eq!((named.root, named.blocks), (os.root, os.blocks));
    let program = named.program.unwrap();
    assert_ne!(Some(program), os.program, "it is signed for the owner's machines");

    let explained = || served.site(&["explain", "WIRE000"]).unwrap();
    let waits = explained();
    assert!(
        waits.contains("os wanted") && waits.contains("0.2.0: The site does not have this image."),
        "{waits}"
    );
    assert!(waits.contains("`provisioner images add FOLDER`. (image-not-here)"), "{waits}");

    served.site_two(["images", "add"], &[&path]).unwrap();
    let act = |told: StatusAnswer| told.orders.into_iter().map(|order| order.act).collect::<Vec<_>>();
    assert_eq!(act(asks(&mut session, &old)), [Act::Stage { root: os.root }]);
    assert_eq!(piece(&mut session, &os.root, "bytes=2-5"), (206, b"osos".to_vec()));
    let (start, end) = (format!("bytes=0-{}", program.size), format!("bytes={0}-{0}", program.size));
    let (status, whole) = piece(&mut session, &program.sha256, &start);
    assert_eq!((status, Digest::of(&whole)), (206, program.sha256));
    assert_eq!(piece(&mut session, &program.sha256, &end).0, 404);
    assert_eq!(piece(&mut session, &Digest([9; 32]), "bytes=0-9").0, 404);
    assert_eq!(piece(&mut stranger.connect(served.address).unwrap(), &os.root, "bytes=0-9").0, 403);

    let staged = BankReport { staged: Some(os.root), ..old.clone() };
    assert_eq!(act(asks(&mut session, &staged)), [], "it is no member: nothing is tried on it");
    assert!(explained().contains("(no-member)"), "{}", explained());
    let failed = Failed { version: "0.2.0".into(), root: os.root, why: "it\x1b[2J hangs".into() };
    let refused = BankReport { refused: Some(failed.clone()), ..old.clone() };
    assert_eq!(act(asks(&mut session, &refused)), [], "what a machine does not take is not ordered again");
    let said = explained();
    assert!(
        said.contains("0.2.0: This machine does not take it: it[2J hangs. It takes it once HQ's"),
        "{said}"
    );
    let dropped = BankReport { failed: Some(failed), ..old };
    assert_eq!(act(asks(&mut session, &dropped)), [], "what was dropped is not staged again");
    let said = explained();
    assert!(said.contains("have HQ name another version") && said.contains("(image-dropped)"), "{said}");
    assert!(said.contains("0.1.0; 0.2.0 was tried and dropped: it[2J hangs"), "{said}");
    assert_eq!(served.count("nodeboot_alarms_total", "update-failed"), 1);
}

#[test]
fn a_version_stays_what_it_is_and_a_damaged_folder_is_not_taken() {
    let served = Served::with(&[]);
    let dir = tempfile::tempdir().unwrap();
    let Some(mut images) = folder(dir.path()) else { return };
    let path = dir.path().display().to_string();
    served.hq.run(&["secure-boot"]).unwrap();
    served.hq.run(&["image", "add", &path]).unwrap();
    served.hq.run(&["image", "add", &path]).unwrap();
    let (bytes, root) = sealed("another");
    images[1].root = root;
    fs::write(dir.path().join("kubernetes"), &bytes).unwrap();
    fs::write(dir.path().join("images.json"), json::to_vec(&images)).unwrap();
    let said = served.hq.run(&["image", "add", &path]).unwrap_err().to_string();
    assert!(said.contains("images.yaml has another kubernetes 0.2.0"), "{said}");
    let altered = [&bytes[..9], b"x", &bytes[10..]].concat();
    for wrong in [&bytes[..4096], &bytes[..bytes.len() - 1], &altered, b"cut"] {
        fs::write(dir.path().join("kubernetes"), wrong).unwrap();
        let at_hq = served.hq.run(&["image", "add", &path]).unwrap_err().to_string();
        let on_site = served.site_two(["images", "add"], &[&path]).unwrap_err().to_string();
        for said in [at_hq, on_site] {
            assert!(said.contains("kubernetes is not the kubernetes 0.2.0 that images.json names"), "{said}");
        }
    }
    fs::write(dir.path().join("kubernetes"), &bytes).unwrap();
    fs::write(dir.path().join("node-boot.efi"), "altered").unwrap();
    let said = served.site_two(["images", "add"], &[&path]).unwrap_err().to_string();
    assert!(said.contains("node-boot.efi is not the one that images.json names for os 0.2.0"), "{said}");
}

#[test]
fn headquarters_signs_for_its_machines_only_what_belongs_together_and_was_let_in() {
    let served = Served::with(&[]);
    let dir = tempfile::tempdir().unwrap();
    let Some(images) = folder(dir.path()) else { return };
    let (path, stick) = (dir.path().display().to_string(), dir.path().join("stick").display().to_string());
    served.hq.run(&["secure-boot"]).unwrap();
    let kit = || {
        let done = served.hq.run(&["site", "kit", "ship-7", "--images", &path, "-o", &stick]);
        done.map_err(|error| error.to_string())
    };
    assert!(kit().unwrap_err().contains("images.yaml has no os 0.2.0: `provisioner hq image add"));
    served.hq.run(&["image", "add", &path]).unwrap();
    let nowhere = dir.path().join("nowhere/stick").display().to_string();
    let sent = || fs::read_to_string(served.hq.dir().join("bundles/ship-7.yaml")).unwrap_or_default();
    let before = sent();
    served.hq.run(&["site", "kit", "ship-7", "--images", &path, "-o", &nowhere]).unwrap_err();
    served.hq.run(&["site", "kit", "ship-7", "--images", &path, "-o", "/dev/null"]).unwrap_err();
    assert_eq!(sent(), before, "a stick that was not written uses no number");
    kit().unwrap();
    assert_ne!(sent(), before);

    // Somebody who can write to the folder puts a program of his own there, and has the list name it.
    let stub = fs::read(STUB).unwrap();
    let of = |root: Digest| format!("evil nodeboot.root=2:{}", protocol::bytes::hex(&root.0));
    for (line, wrong) in [
        (of(images[0].root), "images.yaml has another os 0.2.0"),
        (of(Digest([7; 32])), "node-boot.efi starts another system than os 0.2.0"),
    ] {
        let evil = image::uki::join(&stub, &[(".cmdline", line.as_bytes())]).unwrap();
        fs::write(dir.path().join("node-boot.efi"), &evil).unwrap();
        let mut list = images.clone();
        list[0].program = Some(Program { sha256: Digest::of(&evil), size: evil.len() as u64 });
        fs::write(dir.path().join("images.json"), json::to_vec(&list)).unwrap();
        let before = fs::read(dir.path().join("node-boot.signed.efi")).unwrap();
        for said in [kit().unwrap_err(), served.hq.run(&["image", "add", &path]).unwrap_err().to_string()] {
            assert!(said.contains(wrong), "{said}");
        }
        assert_eq!(fs::read(dir.path().join("node-boot.signed.efi")).unwrap(), before, "nothing is signed");
    }
}

#[test]
fn a_folder_that_holds_no_provisioner_gets_no_images() {
    let served = Served::with(&[]);
    let dir = tempfile::tempdir().unwrap();
    if folder(dir.path()).is_none() {
        return;
    }
    let (path, none) = (dir.path().display().to_string(), dir.path().join("none"));
    let said = served.elsewhere(&["images", "add", "--dir", &none.display().to_string(), &path]).unwrap_err();
    assert!(said.to_string().contains("provisioner init"), "{said}");
    assert!(!none.exists());
}

#[test]
fn another_distributions_build_of_kubernetes_is_not_let_in() {
    let served = Served::with(&[]);
    let dir = tempfile::tempdir().unwrap();
    let Some(mut images) = folder(dir.path()) else { return };
    images[1].version = "v1.36.2+k3s1".into();
    fs::write(dir.path().join("images.json"), json::to_vec(&images)).unwrap();
    served.hq.run(&["secure-boot"]).unwrap();
    let said = served.hq.run(&["image", "add", &dir.path().display().to_string()]).unwrap_err().to_string();
    assert!(said.contains("nothing was let in") && said.contains("as v1.36.2"), "{said}");
    assert!(!served.hq.dir().join("images.yaml").exists());
}

/// Every machine that the provisioner knows has joined its cluster.
fn are_members(served: &mut Served) {
    served.kill();
    let site = Site::open(&served.path(), system_clock).unwrap();
    let machines = site.machines().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let joined = site.store.write(move |tx| {
        machines.into_iter().try_for_each(|machine| {
            let life = serde_json::from_str("\"member\"").unwrap();
            let machine = Machine { life, kubelet: KubeletState::Issued, ..machine };
            tx.put(MACHINES, &machine.id, &machine)
        })
    });
    runtime.block_on(joined).unwrap();
    drop(site);
    served.start();
}

#[test]
fn one_member_after_the_other_tries_an_image_and_what_one_has_dropped_no_other_one_tries() {
    let pledges = [Pledge::new().unwrap(), Pledge::new().unwrap()];
    let mut served = Served::with(&[&pledges[0], &pledges[1]]);
    let dir = tempfile::tempdir().unwrap();
    let Some([os, _]) = folder(dir.path()) else { return };
    let path = dir.path().display().to_string();
    served.hq.run(&["secure-boot"]).unwrap();
    served.hq.run(&["image", "add", &path]).unwrap();
    served
        .hq
        .edit("sites/ship-7/site.yaml", "name: ship-7\nsystem: { os: 0.2.0, activate: hold }\n")
        .unwrap();
    served.slots(&["node-1", "node-2"]);
    served.site_two(["images", "add"], &[&path]).unwrap();
    for pledge in &pledges {
        pledge.connect(served.address).unwrap().admission().unwrap();
    }
    are_members(&mut served);
    let mut sessions = pledges.each_ref().map(|pledge| pledge.connect(served.address).unwrap());
    let mut acts = |machine: usize, report: &BankReport| {
        asks(&mut sessions[machine], report).orders.into_iter().map(|order| order.act).collect::<Vec<_>>()
    };
    let waits = |machine: usize, word: &str| {
        let said = served.site(&["explain", &format!("WIRE{machine:03}")]).unwrap();
        assert!(said.contains(&format!("({word})")), "{word}: {said}");
    };
    let (old, activate) = (Digest([1; 32]), vec![Act::Activate { root: os.root }]);
    let (failed, refused, trial) = (None, None, false);
    let staged =
        BankReport { version: "0.1.0".into(), root: old, staged: Some(os.root), trial, failed, refused };
    for machine in [0, 1] {
        assert_eq!(acts(machine, &staged), []);
        waits(machine, "held");
    }
    let said = served.site(&["activate"]).unwrap();
    assert!(said.contains("\n2 machines waited for this"), "{said}");
    let said = served.site(&["activate"]).unwrap();
    assert!(said.contains("\nNo machine has waited for this"), "{said}");
    assert_eq!((acts(0, &staged), acts(1, &staged)), (activate, vec![]));
    waits(1, "not-its-turn");
    assert_eq!(acts(0, &BankReport { trial: true, ..staged.clone() }), []);
    assert_eq!(acts(1, &staged), []);
    waits(1, "tried-elsewhere");
    let why = Failed { version: "0.2.0".into(), root: os.root, why: "it hangs".into() };
    assert_eq!(acts(0, &BankReport { failed: Some(why), ..staged.clone() }), []);
    assert_eq!(acts(1, &staged), []);
    waits(1, "image-spoilt");
}
