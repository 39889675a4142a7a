//! A software TPM in a machine, and a wire to it that lets only well-formed messages pass.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use protocol::bytes::{from_b64, hex};
use protocol::tpm::{Spec, Tpm, Transport};
use tempfile::TempDir;
use tpm2_protocol::data::TpmCc;
use tpm2_protocol::frame::{TpmCommand, TpmResponse};

/// How often each command was given.
pub type Heard = Arc<Mutex<BTreeMap<u32, u32>>>;

/// A software TPM and what it remembers.
pub struct Machine {
    pub folder: TempDir,
}

/// A running software TPM; without power when dropped.
pub struct Power(pub Child);

impl Drop for Power {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// With seeds of its own, and no certificates; none when there is no swtpm.
    pub fn blank() -> Option<Self> {
        let there = Command::new("swtpm").arg("--version").stdout(Stdio::null()).status();
        if there.is_err() {
            skip("swtpm is not installed");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    /// As its maker delivers it: with certificates of the RSA and P-384 endorsement keys.
    pub fn manufacture() -> Option<Self> {
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

    pub fn spec(&self) -> Spec {
        format!("unix:{}", self.at("sock")).parse().unwrap()
    }

    /// Not started: the client sends `TPM2_Startup` itself.
    pub fn power_on(&self) -> Power {
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
    pub fn checked(&self, heard: &Heard, managed: bool) -> Tpm {
        let wire = Wire { managed, heard: Arc::clone(heard), ..Wire::to(self) };
        Tpm::over("checked".into(), Box::new(wire))
    }

    /// The public key that tpm2-tools find, DER; none when they are not installed.
    pub fn tpm2_createek(&self, algorithm: &str) -> Option<Vec<u8>> {
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
pub struct Wire {
    stream: UnixStream,
    managed: bool,
    heard: Heard,
}

impl Wire {
    pub fn to(machine: &Machine) -> Self {
        let stream = UnixStream::connect(machine.at("sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, managed: false, heard: Arc::default() }
    }

    /// A command with one empty password.
    pub fn command(&mut self, code: u32, handles: &[u32], parameters: &[u8]) -> Vec<u8> {
        let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
        let session = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        self.send(0x8002, code, &[&handles, &session[..], parameters].concat())
    }

    pub fn flush(&mut self, handle: u32) {
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

/// Leaves a test whose needs are missing; where the tier was found fit to run, that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("TIERS_MUST_RUN").is_none(), "this test had to run: {why}");
    eprintln!("skipped: {why}");
}
