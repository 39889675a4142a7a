//! A software TPM 2.0 of one machine: its seeds survive power cuts, its volatile state does not.

use crate::error::{Result, io, run};
use crate::process::Process;
use crate::room::Room;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The TPM on a machine's board.
#[derive(Debug)]
pub struct Tpm {
    folder: PathBuf,
    authority: PathBuf,
    running: Option<Process>,
}

impl Tpm {
    /// Manufactures a TPM with RSA-2048 and ECC P-384 endorsement keys, each with a certificate by the
    /// authority whose files are in the folder `authority`; the first to ask creates it.
    pub(crate) fn manufacture(folder: PathBuf, authority: &Path) -> Result<Self> {
        let state = folder.join("state");
        fs::create_dir_all(&state).map_err(io("create", state.display()))?;
        let config = configure(authority)?;
        let mut setup = Command::new("swtpm_setup");
        setup.args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--not-overwrite", "--runas", "root"]);
        setup.arg("--tpmstate").arg(&state).arg("--config").arg(config);
        setup.arg("--write-ek-cert-files").arg(&folder);
        setup.arg("--logfile").arg(folder.join("setup.log"));
        run(&mut setup)?;
        Ok(Self { folder, authority: authority.to_owned(), running: None })
    }

    /// The socket on which it takes TPM commands as they are, one client at a time; answers come back likewise.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("sock")
    }

    /// The certificate (PEM) of the authority that signed its endorsement certificates; one per LAN.
    pub fn authority(&self) -> PathBuf {
        self.authority.join("issuercert.pem")
    }

    /// The certificates that its maker gave it: RSA, then P-384, DER.
    pub fn certificates(&self) -> Result<Vec<Vec<u8>>> {
        let read = |name| {
            let file = self.folder.join(name);
            fs::read(&file).map_err(io("read", file.display()))
        };
        ["ek-rsa2048.crt", "ek-secp384r1.crt"].into_iter().map(read).collect()
    }

    /// The socket on which an emulator drives it.
    pub(crate) fn control(&self) -> PathBuf {
        self.folder.join("ctrl")
    }

    /// Switches it on for an emulator, which starts it and sends it commands by itself.
    pub(crate) fn power_on_for_emulator(&mut self, room: &Room) -> Result<()> {
        let _ = fs::remove_file(self.control());
        let mut swtpm = room.command("swtpm");
        swtpm
            .args(["socket", "--tpm2", "--tpmstate"])
            .arg(format!("dir={}", self.folder.join("state").display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", self.control().display()));
        let process = Process::start("swtpm", swtpm, &self.folder.join("swtpm.log"))?;
        crate::wait::until("the TPM's socket", Duration::from_secs(10), || {
            self.control().exists().then_some(()).ok_or_else(|| process.last_words())
        })?;
        self.running = Some(process);
        Ok(())
    }

    pub(crate) fn power_on(&mut self, room: &Room) -> Result<()> {
        let _ = fs::remove_file(self.socket());
        let mut swtpm = room.command("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "startup-clear"]);
        swtpm.arg("--tpmstate").arg(format!("dir={}", self.folder.join("state").display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={}", self.socket().display()));
        let _ = fs::remove_file(self.control());
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", self.control().display()));
        let mut process = Process::start("swtpm", swtpm, &self.folder.join("swtpm.log"))?;
        crate::wait::until("the TPM's socket", Duration::from_secs(10), || {
            // The file alone is not enough: it is there a moment before swtpm listens.
            let there = UnixStream::connect(self.socket()).is_ok() && process.running();
            there.then_some(()).ok_or_else(|| process.last_words())
        })?;
        self.running = Some(process);
        Ok(())
    }

    pub(crate) fn power_off(&mut self) {
        self.running = None;
    }
}

/// Writes the configuration of a certificate authority whose files are all in `folder`.
fn configure(folder: &Path) -> Result<PathBuf> {
    let at = |name: &str| folder.join(name).display().to_string();
    let write = |name: &str, text: String| fs::write(folder.join(name), text).map_err(io("write", at(name)));
    let (key, issuer, serial) = (at("signkey.pem"), at("issuercert.pem"), at("certserial"));
    let files = format!("signingkey = {key}\nissuercert = {issuer}\ncertserial = {serial}\n");
    write("localca.conf", format!("statedir = {}\n{files}", folder.display()))?;
    write(
        "localca.options",
        "--platform-manufacturer Harness\n--platform-version 1\n--platform-model Test\n".into(),
    )?;
    let tool = "create_certs_tool = /usr/bin/swtpm_localca\nactive_pcr_banks = sha256\n";
    let (config, options) = (at("localca.conf"), at("localca.options"));
    let own = format!("create_certs_tool_config = {config}\ncreate_certs_tool_options = {options}\n");
    write("setup.conf", format!("{tool}{own}"))?;
    Ok(folder.join("setup.conf"))
}
