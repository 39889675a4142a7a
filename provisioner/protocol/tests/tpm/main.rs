//! The TPM client against a real software TPM, with every command and answer checked by a codec that is not ours.

// Helpers of tests fail as tests do.
#![allow(clippy::unwrap_used)]

mod seal; // secrets that are given out only while the machine is as it was

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::bytes::{Digest, from_b64, hex};
use protocol::crypto::{Signer, SystemRandom, random, verify};
use protocol::tpm::{Ek, EkKind, Error, Key, KeyBlob, Public, Spec, Tpm, Transport, make_credential};
use tempfile::TempDir;
use tpm2_protocol::data::TpmCc;
use tpm2_protocol::frame::{TpmCommand, TpmResponse};

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

/// How often each command was given.
type Heard = Arc<Mutex<BTreeMap<u32, u32>>>;

/// A software TPM and what it remembers.
struct Machine {
    folder: TempDir,
}

/// A running software TPM; without power when dropped.
struct Power(Child);

impl Drop for Power {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// With seeds of its own, and no certificates; none when there is no swtpm.
    fn blank() -> Option<Self> {
        let there = Command::new("swtpm").arg("--version").stdout(Stdio::null()).status();
        if there.is_err() {
            skip("swtpm is not installed");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    /// As its maker delivers it: with certificates of the RSA and P-384 endorsement keys.
    fn manufacture() -> Option<Self> {
        let machine = Self::blank()?;
        let folder = machine.folder.path();
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text.replace("DIR", folder.to_str().unwrap())).unwrap();
            path
        };
        write("options", "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n");
        write(
            "ca.conf",
            "statedir = DIR\nsigningkey = DIR/ca.key\nissuercert = DIR/ca.pem\ncertserial = DIR/serial\n",
        );
        let config = write(
            "setup.conf",
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = DIR/ca.conf\n\
             create_certs_tool_options = DIR/options\nactive_pcr_banks = sha256\n",
        );
        let mut setup = Command::new("swtpm_setup");
        setup.args(["--tpm2", "--create-ek-cert", "--lock-nvram"]).arg("--tpmstate").arg(folder);
        setup.arg("--config").arg(config).arg("--logfile").arg(folder.join("log"));
        let done = setup.stdout(Stdio::null()).stderr(Stdio::null()).status();
        if done.is_err() {
            skip("swtpm_setup is not installed");
            return None;
        }
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(done.unwrap().success(), "swtpm_setup: {log}");
        Some(machine)
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn spec(&self) -> Spec {
        format!("unix:{}", self.at("sock")).parse().unwrap()
    }

    /// Not started: the client sends `TPM2_Startup` itself.
    fn power_on(&self) -> Power {
        for name in ["sock", "sock.ctrl"] {
            let _ = std::fs::remove_file(self.at(name));
        }
        let mut swtpm = Command::new("swtpm");
        swtpm.args([
            "socket",
            "--tpm2",
            "--flags",
            "not-need-init",
            "--tpmstate",
            &format!("dir={}", self.folder.path().display()),
        ]);
        swtpm.args(["--server", &format!("type=unixio,path={}", self.at("sock"))]);
        swtpm.args(["--ctrl", &format!("type=unixio,path={}", self.at("sock.ctrl"))]);
        let power = Power(swtpm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(10);
        // The file alone is not enough: it is there a moment before swtpm listens.
        while UnixStream::connect(self.at("sock")).is_err() {
            assert!(Instant::now() < until, "swtpm does not listen");
            sleep(Duration::from_millis(2));
        }
        power
    }

    /// A client whose every command and answer is checked and counted; `managed` as with a resource manager.
    fn checked(&self, heard: &Heard, managed: bool) -> Tpm {
        let wire = Wire { managed, heard: Arc::clone(heard), ..Wire::to(self) };
        Tpm::over("checked".into(), Box::new(wire))
    }

    /// The public key that tpm2-tools find, DER; none when they are not installed.
    fn tpm2_createek(&self, algorithm: &str) -> Option<Vec<u8>> {
        let mut tool = Command::new("tpm2_createek");
        tool.env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.at("sock")));
        tool.args(["-G", algorithm, "-c", &self.at("ek.ctx"), "-f", "pem", "-u", &self.at("ek.pem")]);
        let Ok(done) = tool.output() else {
            skip("tpm2-tools are not installed");
            return None;
        };
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let pem = std::fs::read_to_string(self.at("ek.pem")).unwrap();
        let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Some(from_b64(&body).unwrap())
    }
}

/// A connection to a software TPM that lets only well-formed messages pass.
struct Wire {
    stream: UnixStream,
    managed: bool,
    heard: Heard,
}

impl Wire {
    fn to(machine: &Machine) -> Self {
        let stream = UnixStream::connect(machine.at("sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, managed: false, heard: Arc::default() }
    }

    /// A command with one empty password.
    fn command(&mut self, code: u32, handles: &[u32], parameters: &[u8]) -> Vec<u8> {
        let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        let session = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        self.send(0x8002, code, &[&handles, &session[..], parameters].concat())
    }

    fn flush(&mut self, handle: u32) {
        self.send(0x8001, 0x165, &handle.to_be_bytes());
    }

    fn send(&mut self, tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(10 + body.len()).unwrap();
        let head = [&tag.to_be_bytes()[..], &len.to_be_bytes(), &code.to_be_bytes()].concat();
        let answer = self.transact(&[&head, body].concat()).unwrap();
        assert_eq!(answer[6..10], [0; 4], "command {code:x}: {}", hex(&answer));
        answer
    }
}

impl Transport for Wire {
    fn transact(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let checked = TpmCommand::cast(command).and_then(TpmCommand::validate);
        assert!(checked.is_ok(), "{checked:?}: {}", hex(command));
        let code = u32::from_be_bytes(command[6..10].try_into().unwrap());
        *self.heard.lock().unwrap().entry(code).or_default() += 1;
        self.stream.write_all(command)?;
        let mut answer = vec![0; 4096];
        let len = self.stream.read(&mut answer)?;
        answer.truncate(len);
        let response = TpmResponse::cast(&answer).unwrap();
        if answer[6..10] == [0; 4] {
            response.validate(TpmCc::try_from(code).unwrap()).unwrap();
        }
        Ok(answer)
    }

    fn keeps_objects(&self) -> bool {
        self.managed
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|place| u8::from_str_radix(&text[place..place + 2], 16).unwrap()).collect()
}

/// Leaves a test whose needs are missing; where the tier was found fit to run, that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("TIERS_MUST_RUN").is_none(), "this test had to run: {why}");
    eprintln!("skipped: {why}");
}
