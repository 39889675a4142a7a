//! The provisioner on its own machine: started, stopped, killed.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use harness::{Hardware, Lan, Machine, Process, wait};

use super::{DEADLINE, DIR, Hq, Programs, SITE, code_in, run};

/// The provisioner on its own machine.
pub struct Provisioner {
    /// Its machine.
    pub machine: Machine,
    program: PathBuf,
    process: Option<Process>,
}

impl Provisioner {
    /// A machine with the program, not yet initialised.
    pub fn new(lan: &Lan, programs: &Programs, address: Ipv4Addr, tpm: bool) -> Result<Self> {
        let hardware = Hardware { address: Some(address), tpm, ..Hardware::nuc("PRV0000001") };
        let machine = Machine::new(lan, "provisioner", hardware)?;
        Ok(Self { machine, program: programs.provisioner.clone(), process: None })
    }

    /// A command of the site, not run yet: the first word is the verb.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.machine.command(&self.program)?;
        command.args(words).args(["--dir", DIR]);
        Ok(command)
    }

    /// The same as a person types it on the provisioner's machine.
    pub fn by_hand(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).args(["--dir", DIR]);
        command
    }

    /// A command of the site.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words)?)
    }

    /// Makes the issuing CA on site and lets headquarters certify it: one round trip with a stick.
    pub fn certify(&self, hq: &Hq) -> Result<()> {
        let owner = hq.owner_file().display().to_string();
        let said = self.run(&["init", "--site", SITE, "--owner", &owner])?;
        let request = self.machine.on_disk(&format!("{DIR}/ca-request.json")).display().to_string();
        let reply = hq.path("reply.json").display().to_string();
        let code = code_in(&said).context("`provisioner init` showed no code")?;
        hq.run(&["site", "certify", SITE, &request, "--code", &code, "-o", &reply])?;
        self.run(&["init", "--reply", &reply]).map(drop)
    }

    /// Starts `serve`.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.machine.command(&self.program)?;
        command.args(["serve", "--dir", DIR]);
        self.process = Some(self.machine.spawn("provisioner", command)?);
        wait::until("the provisioner's admin socket", DEADLINE, || {
            self.run(&["slots"]).map(drop).map_err(|error| format!("{error:#}"))
        })?;
        Ok(())
    }

    /// Starts `serve` so that it is killed when it flushes to disk for the n-th time from now.
    pub fn start_until_flush(&mut self, n: u32) -> Result<()> {
        let mut command = self.machine.command("strace")?;
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject=fdatasync,fsync:signal=SIGKILL:when={n}"));
        command.arg(&self.program).args(["serve", "--dir", DIR]);
        self.process = Some(self.machine.spawn("provisioner", command)?);
        Ok(())
    }

    /// Asks it to end, as `systemctl stop` does, and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            let status = process.terminate(DEADLINE)?;
            ensure!(status.success(), "the provisioner did not end in order: {status}");
        }
        Ok(())
    }

    /// Whether it runs.
    pub fn running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Process::running)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
        self.process = None;
        // Whoever watched it may be what was killed above.
        let _ = self.machine.run("pkill", &["-KILL", "-x", "provisioner"]);
    }

    /// What it printed so far.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }
}
