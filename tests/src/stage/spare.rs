//! A machine with `node-boot` on it: plugged in, started, killed.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use harness::{Assets, Hardware, Lan, Machine, Process, wait};

use super::{DEADLINE, Hq, JOINED, Programs, code_in, run};

/// A machine with `node-boot` on it.
pub struct Spare {
    /// The machine.
    pub machine: Machine,
    program: PathBuf,
    process: Option<Process>,
    options: Vec<String>,
}

impl Spare {
    /// Takes a machine from the shelf and gives it the owner's file. It is powered, `node-boot` is not started.
    pub fn new(lan: &Lan, programs: &Programs, name: &str, hardware: Hardware, hq: &Hq) -> Result<Self> {
        let machine = Machine::new(lan, name, hardware)?;
        machine.write("/etc/node-boot/owner.json", fs::read(hq.owner_file())?)?;
        Ok(Self { machine, program: programs.node_boot.clone(), process: None, options: Vec::new() })
    }

    /// More arguments for every step.
    pub fn run_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|word| (*word).to_owned()).collect();
    }

    /// One step by hand.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = self.machine.command(&self.program)?;
        command.arg(words[0]).args(self.where_it_lives()).args(&words[1..]);
        run(&mut command)
    }

    /// The same as a person types it on the machine.
    pub fn by_hand(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(words[0]).args(self.where_it_lives()).args(&words[1..]);
        command
    }

    fn where_it_lives(&self) -> Vec<String> {
        let mut options = vec!["--dmi".to_owned(), self.machine.dmi().display().to_string()];
        let tpm =
            self.machine.tpm().map_or("none".to_owned(), |tpm| format!("unix:{}", tpm.socket().display()));
        options.extend(["--tpm".to_owned(), tpm]);
        options.extend(self.options.iter().cloned());
        options
    }

    /// The row that headquarters imports, with its header.
    pub fn registration(&self) -> Result<String> {
        self.run(&["register", "--csv"])
    }

    /// `node-boot run`, not started yet.
    pub fn command(&self) -> Result<Command> {
        let mut command = self.machine.command(&self.program)?;
        command.arg("run").args(self.where_it_lives());
        Ok(command)
    }

    /// Starts `node-boot run`, as a service of the machine's Linux does.
    pub fn start(&mut self) -> Result<()> {
        let command = self.command()?;
        self.process = Some(self.machine.spawn("node-boot", command)?);
        Ok(())
    }

    /// Starts `node-boot run` so that it is killed when it finishes a file for the n-th time: a power cut between two
    /// steps. Whether it was killed; otherwise it got further and runs.
    pub fn start_until_rename(&mut self, n: u32) -> Result<bool> {
        let mut command = self.machine.command("strace")?;
        command
            .args(["-f", "-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject=rename:signal=SIGKILL:when={n}"));
        command.arg(&self.program).arg("run").args(self.where_it_lives());
        let mut process = self.machine.spawn("node-boot", command)?;
        let joined = |process: &Process| process.log().contains(JOINED);
        let ended = wait::until("node-boot to be killed or to join", DEADLINE, || {
            // What watches it may wait for the programs that it has started; the agent itself is gone all the same.
            let alive = "for p in $(pgrep -x node-boot); do grep -q 'State:.[^ZX]' /proc/$p/status && exit 0; done; exit 1";
            if !process.running()
                || (process.log().contains("Starting the cluster")
                    && self.machine.run("sh", &["-c", alive]).is_err())
            {
                return Ok(true);
            }
            if joined(&process) { Ok(false) } else { Err(process.last_words()) }
        })?;
        process.kill();
        let _ = self.machine.run("pkill", &["-KILL", "-x", "node-boot"]);
        Ok(ended)
    }

    /// Puts the images of the test Pods into its containerd: there is no registry on this LAN.
    pub fn import_images(&self, assets: &Assets) -> Result<()> {
        self.import(assets, &["pause", "hello"])
    }

    /// The same for these images.
    pub fn import(&self, assets: &Assets, images: &[&str]) -> Result<()> {
        for image in images {
            let file = assets.image(image).display().to_string();
            let import = ["-n", "k8s.io", "images", "import", "--local", &file];
            let attempt = || self.machine.run("ctr", &import).map_err(|error| error.to_string());
            wait::until("containerd", DEADLINE, attempt)?;
        }
        Ok(())
    }

    /// `kill -9` of the agent alone.
    pub fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
        self.process = None;
    }

    /// Asks the agent to end, as `systemctl stop` does, and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            let status = process.terminate(DEADLINE)?;
            ensure!(status.success(), "node-boot did not end in order: {status}");
        }
        Ok(())
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Waits for the code on its console.
    pub fn code(&self) -> Result<String> {
        Ok(wait::until("the machine to show a code", DEADLINE, || {
            let log = self.log();
            code_in(&log).ok_or_else(|| log.lines().last().unwrap_or_default().to_owned())
        })?)
    }

    /// Waits for a sentence on its console.
    pub fn says(&self, words: &str) -> Result<()> {
        wait::until(&format!("{} to say {words:?}", self.machine.name()), DEADLINE, || {
            let log = self.log();
            if log.contains(words) { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
        })?;
        Ok(())
    }
}
