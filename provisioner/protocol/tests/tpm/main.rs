//! The TPM client against a real software TPM, with every command and answer checked by a codec that is not ours.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod chip; // a software TPM, and the wire to it
mod seal; // secrets that are given out only while the machine is as it was

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::bytes::{Digest, hex};
use protocol::crypto::{Signer, SystemRandom, random, verify};
use protocol::tpm::{Ek, EkKind, Error, Key, KeyBlob, Public, Spec, Tpm, make_credential};

use self::chip::{Heard, Machine, Power, Wire};

const VECTORS: &str = include_str!("../vectors/v1.json");

#[test]
fn the_vectors_of_the_specification_hold() {
    let vectors: serde_json::Value = serde_json::from_str(VECTORS).unwrap();
    let at = |name: &str| vectors["tpm"][name].as_str().unwrap().to_owned();
    let ek = Ek::parse(&unhex(&at("ek-public"))).unwrap();
    assert_eq!((ek.kind(), hex(&ek.spki())), (EkKind::P256, at("ek-spki")));
    assert_eq!(ek.id().to_string(), vectors["ids"]["ek"].as_str().unwrap());
    let key = Public::node_key(&unhex(&at("key-public"))).unwrap();
    assert_eq!(hex(&key.name()), at("key-name"));
    assert_eq!(hex(&Digest::of(&key.spki()).0), vectors["tls"]["S"].as_str().unwrap());
    assert!(make_credential(&ek, &key.name(), &[7; 32], &SystemRandom::new()).is_ok());
}

#[test]
fn eks_are_found_and_are_those_of_tpm2_tools() {
    let Some(machine) = Machine::manufacture() else { return };
    let power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let eks = tpm.eks().unwrap();
    let kinds: Vec<_> = eks.iter().map(Ek::kind).collect();
    assert_eq!(kinds, [EkKind::P256, EkKind::P384, EkKind::Rsa2048]);
    for (algorithm, ek) in [("ecc", &eks[0]), ("rsa", &eks[2])] {
        let Some(theirs) = machine.tpm2_createek(algorithm) else { continue };
        assert_eq!(theirs, ek.spki(), "{algorithm}");
    }
    let kept = serde_json::to_string(&eks).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Ek>>(&kept).unwrap(), eks);
    drop(power);
}

#[test]
fn a_key_signs_and_still_does_after_a_power_cut() {
    let Some(machine) = Machine::blank() else { return };
    let power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let blob = tpm.create_key().unwrap();
    drop(power);
    let blob: KeyBlob = serde_json::from_str(&serde_json::to_string(&blob).unwrap()).unwrap();
    let _power = machine.power_on();
    let key = Key::load(Arc::new(Mutex::new(tpm)), blob).unwrap();
    for message in [&b"hello"[..], &[0; 5000]] {
        let signature = key.sign(message).unwrap();
        assert!(verify(key.spki(), message, &signature));
        assert!(!verify(key.spki(), b"other", &signature));
    }
}

#[test]
fn credentials_of_all_kinds_are_activated_for_the_key_they_name_alone() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let (eks, key, other) = (tpm.eks().unwrap(), tpm.create_key().unwrap(), tpm.create_key().unwrap());
    assert_eq!(eks.len(), 3);
    for ek in &eks {
        let secret: [u8; 32] = random().unwrap();
        let made = make_credential(ek, &key.public.name(), &secret, &SystemRandom::new()).unwrap();
        let opened = tpm.activate(ek, &key, &made.blob, &made.secret).unwrap();
        assert_eq!(*opened, secret, "{}", ek.kind());
        let refused = tpm.activate(ek, &other, &made.blob, &made.secret).unwrap_err();
        assert!(refused.foreign(), "{}: {refused}", ek.kind());
        let mut altered = made.blob.clone();
        *altered.last_mut().unwrap() ^= 1;
        assert!(tpm.activate(ek, &key, &altered, &made.secret).is_err());
    }
}

#[test]
fn keys_and_credentials_of_another_tpm_are_foreign() {
    let (Some(one), Some(two)) = (Machine::blank(), Machine::blank()) else { return };
    let (_power, _other) = (one.power_on(), two.power_on());
    let mut first = Tpm::open(&one.spec()).unwrap();
    let mut second = Tpm::open(&two.spec()).unwrap();
    let (blob, own) = (first.create_key().unwrap(), second.create_key().unwrap());
    let refused = second.load(&blob).unwrap_err();
    assert!(refused.foreign() && refused.to_string().contains("another chip"), "{refused}");
    let eks = first.eks().unwrap();
    let made = make_credential(&eks[0], &own.public.name(), &[1; 32], &SystemRandom::new()).unwrap();
    let refused = second.activate(&eks[0], &own, &made.blob, &made.secret).unwrap_err();
    assert!(matches!(refused, Error::OtherEk) && refused.foreign());
    assert!(second.sign(&own, &Digest::of(b"still works")).is_ok());
}

#[test]
fn clearing_the_tpm_ends_its_keys_and_leaves_its_identity() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let (eks, blob) = (tpm.eks().unwrap(), tpm.create_key().unwrap());
    let sealed = tpm.seal(&[7; 32]).unwrap();
    tpm.load(&blob).unwrap();
    tpm.clear().unwrap();
    assert!(tpm.load(&blob).unwrap_err().foreign());
    assert!(tpm.unseal(&sealed).unwrap_err().foreign());
    assert_eq!(tpm.eks().unwrap(), eks);
    assert!(tpm.create_key().is_ok());
    // TPM2_ClearControl: only the firmware's setup clears it from here on.
    Wire::to(&machine).command(0x127, &[0x4000_000a], &[1]);
    assert!(tpm.clear().is_err());
    assert_eq!(tpm.eks().unwrap(), eks);
}

#[test]
fn a_password_on_the_tpm_is_named_with_its_remedy() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    // TPM2_HierarchyChangeAuth of the owner.
    Wire::to(&machine).command(0x129, &[0x4000_0001], &[0, 3, b'a', b'b', b'c']);
    let refused = tpm.create_key().unwrap_err();
    assert!(!refused.foreign() && refused.to_string().contains("password"), "{refused}");
}

#[test]
fn a_tpm_behind_tcp_is_used_alike() {
    let Some(machine) = Machine::blank() else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut swtpm = Command::new("swtpm");
    swtpm.args(["socket", "--tpm2", "--flags", "not-need-init", "--tpmstate"]);
    swtpm.arg(format!("dir={}", machine.folder.path().display()));
    swtpm.args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")]);
    let _power = Power(swtpm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let spec: Spec = format!("tcp:127.0.0.1:{port}").parse().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let mut tpm = loop {
        match Tpm::open(&spec) {
            Ok(tpm) => break tpm,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        sleep(Duration::from_millis(2));
    };
    assert!(tpm.create_key().is_ok());
}

#[test]
fn a_persistent_endorsement_key_is_used_as_it_is() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let made = tpm.eks().unwrap();
    let mut wire = Wire::to(&machine);
    let public = made[2].public().as_bytes();
    // The RSA key, made from its template and kept by TPM2_EvictControl at 0x81010001.
    let template = [&public[..public.len() - 256], &[0; 256]].concat();
    let body = [&[0, 4, 0, 0, 0, 0, 1, 0x3a][..], &template, &[0; 6]].concat();
    let answer = wire.command(0x131, &[0x4000_000b], &body);
    let handle = u32::from_be_bytes(answer[10..14].try_into().unwrap());
    wire.command(0x120, &[0x4000_0001, handle], &0x8101_0001u32.to_be_bytes());
    wire.flush(handle);
    drop(wire);

    let heard: Heard = Arc::default();
    let mut tpm = machine.checked(&heard, false);
    assert_eq!(tpm.eks().unwrap(), made);
    assert_eq!(heard.lock().unwrap()[&0x131], 2, "P-256 and P-384 are made, RSA is there");
    let key = tpm.create_key().unwrap();
    let made = make_credential(&made[2], &key.public.name(), &[9; 32], &SystemRandom::new()).unwrap();
    let rsa = tpm.eks().unwrap().remove(2);
    assert_eq!(*tpm.activate(&rsa, &key, &made.blob, &made.secret).unwrap(), [9; 32]);
}

#[test]
fn what_a_killed_program_left_in_the_tpm_is_cleared_away() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let blob = tpm.create_key().unwrap();
    let mut wire = Wire::to(&machine);
    let storage = unhex("0023000b00030472000000060080004300100003001000000000");
    for _ in 0..3 {
        let body = [&[0, 4, 0, 0, 0, 0, 0, 26][..], &storage, &[0; 6]].concat();
        wire.command(0x131, &[0x4000_0001], &body);
    }
    drop(wire);
    assert!(tpm.sign(&blob, &Digest::of(b"room enough")).is_ok());
}

#[test]
fn a_loaded_key_stays_loaded_and_each_signature_is_one_command() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let heard: Heard = Arc::default();
    let mut tpm = machine.checked(&heard, true);
    let (eks, blob) = (tpm.eks().unwrap(), tpm.create_key().unwrap());
    heard.lock().unwrap().clear();
    let made = make_credential(&eks[0], &blob.public.name(), &[3; 32], &SystemRandom::new()).unwrap();
    tpm.sign(&blob, &Digest::of(b"TLS")).unwrap();
    tpm.sign(&blob, &Digest::of(b"PVR")).unwrap();
    assert_eq!(*tpm.activate(&eks[0], &blob, &made.blob, &made.secret).unwrap(), [3; 32]);
    let heard = heard.lock().unwrap();
    assert_eq!(heard.get(&0x15d), Some(&2), "TPM2_Sign");
    assert_eq!(heard.get(&0x157), None, "TPM2_Load");
    assert_eq!(heard.get(&0x131), Some(&1), "TPM2_CreatePrimary, of the endorsement key");
}

#[test]
fn a_tpm_that_is_not_there_says_what_to_do() {
    let error = Tpm::open(&Spec::Device("/nowhere/tpmrm0".into())).err().unwrap();
    assert!(
        matches!(&error, Error::Absent { .. }) && error.to_string().contains("firmware setup"),
        "{error}"
    );
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|place| u8::from_str_radix(&text[place..place + 2], 16).unwrap()).collect()
}
