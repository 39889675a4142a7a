//! A whole site on real parts: headquarters' folder, a cluster, a provisioner, and machines to plug in.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Assets, ControlPlane, Hardware, Lan, Machine, Options, Process, wait};
use tempfile::TempDir;

/// The site of every story.
pub const SITE: &str = "ship-7";
/// Where the provisioner keeps its things, on its machine.
pub const DIR: &str = "/var/lib/provisioner";
/// No step of a join takes longer on a busy computer.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// The programs under test.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `provisioner`.
    pub provisioner: PathBuf,
    /// `node-boot`.
    pub node_boot: PathBuf,
}

impl Programs {
    /// Builds both, once in the life of this process, and says where they are.
    pub fn build() -> Result<Self> {
        static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
        let built = BUILT.get_or_init(|| Self::build_once().map_err(|error| format!("{error:#}")));
        built.clone().map_err(anyhow::Error::msg)
    }

    /// The same, built for release.
    pub fn release() -> Result<Self> {
        Self::build_as("release")
    }

    fn build_once() -> Result<Self> {
        Self::build_as("debug")
    }

    fn build_as(kind: &str) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "-p", "provisioner", "-p", "node-boot"]).current_dir(&workspace);
        if kind == "release" {
            build.arg("--release");
        }
        // What cargo tells a test of its package would make it build ring, and all on top of it, anew.
        let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for (name, _) in std::env::vars().filter(|(name, _)| own(name)) {
            build.env_remove(name);
        }
        ensure!(build.status()?.success(), "cargo build of provisioner and node-boot failed");
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let bin = target.join(kind).canonicalize().context("the folder of built programs")?;
        Ok(Self { provisioner: bin.join("provisioner"), node_boot: bin.join("node-boot") })
    }
}

/// Runs a command to its end; what it printed, or an error with all of it.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(std::process::Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed: {said}{errors}", words.join(" "));
    Ok(said)
}

/// Headquarters: a folder of YAML, and keys apart from it.
pub struct Hq {
    folder: TempDir,
    program: PathBuf,
}

impl Hq {
    /// A new owner with one site.
    pub fn found(programs: &Programs, owner: &str) -> Result<Self> {
        Self::found_with(programs, owner, &[])
    }

    /// The same, with more arguments for `init`.
    pub fn found_with(programs: &Programs, owner: &str, options: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let hq = Self { folder, program: programs.provisioner.clone() };
        fs::create_dir(hq.dir())?;
        fs::write(hq.path("passphrase"), "a long passphrase for tests\n")?;
        hq.run(&[&["init", "--name", owner], options].concat())?;
        hq.run(&["site", "add", SITE])?;
        Ok(hq)
    }

    /// The folder under Git.
    pub fn dir(&self) -> PathBuf {
        self.path("hq")
    }

    /// A file beside that folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One command of headquarters.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.arg("hq").arg("--dir").arg(self.dir()).arg("--keys").arg(self.path("keys"));
        command.arg("--passphrase-file").arg(self.path("passphrase")).args(words);
        run(&mut command)
    }

    /// Writes a file of the folder under Git, as an engineer does in an editor.
    pub fn edit(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.dir().join(name), text).with_context(|| format!("writing {name}"))
    }

    /// Imports rows of registrations; the first row names the columns.
    pub fn import(&self, csv: &str) -> Result<String> {
        let file = self.path("machines.csv");
        fs::write(&file, csv)?;
        self.run(&["machines", "import", &file.display().to_string()])
    }

    /// A bundle for the site: the path of its file.
    pub fn bundle(&self) -> Result<PathBuf> {
        let file = self.path("site.nbb");
        self.run(&["bundle", "build", SITE, "-o", &file.display().to_string()])?;
        Ok(file)
    }

    /// The code that headquarters reads back over the telephone to one that was read to it.
    pub fn answer(&self, slot: &str, code: &str) -> Result<String> {
        let approval = self.path("approval.jws").display().to_string();
        let said = self.run(&["approve", SITE, slot, code, "-o", &approval])?;
        let voice = said.split("read back").nth(1).and_then(code_in);
        voice.with_context(|| format!("headquarters reads no code back: {said}"))
    }

    /// What a machine of this owner carries: the anchors.
    pub fn owner_file(&self) -> PathBuf {
        self.dir().join("public/owner.json")
    }
}

/// The provisioner on its own machine.
pub struct Provisioner {
    /// Its machine.
    pub machine: Machine,
    program: PathBuf,
    process: Option<Process>,
    options: Vec<String>,
}

impl Provisioner {
    /// A machine with the program, not yet initialised.
    pub fn new(lan: &Lan, programs: &Programs, address: Ipv4Addr, tpm: bool) -> Result<Self> {
        let hardware = Hardware { address: Some(address), tpm, ..Hardware::nuc("PRV0000001") };
        let machine = Machine::new(lan, "provisioner", hardware)?;
        Ok(Self { machine, program: programs.provisioner.clone(), process: None, options: Vec::new() })
    }

    /// More arguments for `serve`.
    pub fn serve_with(&mut self, options: &[&str]) {
        self.options = options.iter().map(|word| (*word).to_owned()).collect();
    }

    /// A command of the site, not run yet: the first word is the verb.
    pub fn command(&self, words: &[&str]) -> Result<Command> {
        let mut command = self.machine.command(&self.program)?;
        command.arg(words[0]).args(["--dir", DIR]).args(&words[1..]);
        Ok(command)
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
        command.args(["serve", "--dir", DIR]).args(&self.options);
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
        command.arg(&self.program).args(["serve", "--dir", DIR]).args(&self.options);
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

/// The first human code in a text.
pub fn code_in(text: &str) -> Option<String> {
    let is_code = |word: &str| {
        let parts: Vec<_> = word.split('-').map(str::len).collect();
        parts == [4, 4, 1] && word.chars().all(|symbol| symbol.is_ascii_alphanumeric() || symbol == '-')
    };
    text.split(|symbol: char| symbol.is_whitespace() || matches!(symbol, '"' | '.' | ',' | '`'))
        .find(|word| is_code(word))
        .map(str::to_owned)
}

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
        let joined = |process: &Process| process.log().contains("This machine is part of the cluster.");
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
        for image in ["pause", "hello"] {
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

/// Rows of registrations from several machines, with the columns that headquarters adds.
#[derive(Default)]
pub struct Csv {
    columns: Vec<String>,
    rows: Vec<Vec<(String, String)>>,
}

impl Csv {
    /// Adds the rows of one CSV text, each with more columns.
    pub fn add(&mut self, csv: &str, more: &[(&str, &str)]) {
        let mut lines = csv.lines().filter(|line| !line.trim().is_empty());
        let names: Vec<_> = lines.next().unwrap_or_default().split(',').collect();
        for line in lines {
            let cells = names.iter().copied().zip(line.split(',')).chain(more.iter().copied());
            let cells: Vec<_> = cells.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            for (name, _) in &cells {
                if !self.columns.contains(name) {
                    self.columns.push(name.clone());
                }
            }
            self.rows.push(cells);
        }
    }

    /// The whole file.
    pub fn text(&self) -> String {
        let cell = |row: &Vec<(String, String)>, name: &String| {
            row.iter()
                .rev()
                .find(|(column, _)| column == name)
                .map(|(_, value)| value.clone())
                .unwrap_or_default()
        };
        let line = |row| self.columns.iter().map(|name| cell(row, name)).collect::<Vec<_>>().join(",");
        let rows: Vec<_> = self.rows.iter().map(line).collect();
        format!("{}\n{}\n", self.columns.join(","), rows.join("\n"))
    }
}

/// Slots of the site, as an engineer writes them.
pub const SLOTS: &str = r"slots:
- name: node-1
  address: 10.77.0.11
- name: node-2
  address: 10.77.0.12
- name: node-3
  address: 10.77.0.13
";

/// A LAN with a plain cluster, attached.
pub struct Site {
    /// Its provisioner.
    pub provisioner: Provisioner,
    /// Its cluster.
    pub plane: ControlPlane,
    /// Headquarters.
    pub hq: Hq,
    /// Its network.
    pub lan: Lan,
    /// The programs under test.
    pub programs: Programs,
}

impl Site {
    /// Cluster, headquarters and a certified provisioner that is attached but does not serve yet.
    pub fn build(name: &str, options: Options) -> Result<Self> {
        Self::build_of(name, options, &[])
    }

    /// The same, of an owner who was made with more arguments.
    pub fn build_of(name: &str, options: Options, owner: &[&str]) -> Result<Self> {
        Self::with(Programs::build()?, name, options, owner)
    }

    /// The same, with other programs.
    pub fn with(programs: Programs, name: &str, options: Options, owner: &[&str]) -> Result<Self> {
        let lan = Lan::new(name)?;
        let plane = ControlPlane::start(&lan, lan.address(1), &Assets::find()?, options)?;
        let hq = Hq::found_with(&programs, "Example Line", owner)?;
        let provisioner = Provisioner::new(&lan, &programs, lan.address(2), false)?;
        provisioner.certify(&hq)?;
        let admin = plane.file("super-admin.conf").display().to_string();
        provisioner.run(&["attach", &admin, "--yes"])?;
        Ok(Self { provisioner, plane, hq, lan, programs })
    }

    /// Gives the site headquarters' word.
    pub fn deliver(&self) -> Result<()> {
        let bundle = self.hq.bundle()?.display().to_string();
        self.provisioner.run(&["apply", &bundle]).map(drop)
    }

    /// Headquarters approves a code that a person read to it. Its approval goes down, the site's report goes up,
    /// and the registration that headquarters makes of it comes down as a bundle. What headquarters said.
    pub fn approve(&self, slot: &str, code: &str) -> Result<String> {
        let approval = self.hq.path("approval.jws").display().to_string();
        let said = self.hq.run(&["approve", SITE, slot, code, "-o", &approval])?;
        self.provisioner.run(&["apply", &approval])?;
        self.report()?;
        Ok(said)
    }

    /// The site's report goes up, and the bundle that answers it comes down.
    pub fn report(&self) -> Result<()> {
        let report = self.provisioner.run(&["report"])?;
        let path =
            report.split_whitespace().find(|word| word.starts_with('/')).context("the report's path")?;
        let report = self.provisioner.machine.on_disk(path).display().to_string();
        self.hq.run(&["ingest", &report])?;
        self.deliver()
    }

    /// A spare machine.
    pub fn spare(&self, name: &str, host: u8, hardware: Hardware) -> Result<Spare> {
        let hardware = Hardware { address: Some(self.lan.address(host)), ..hardware };
        Spare::new(&self.lan, &self.programs, name, hardware, &self.hq)
    }

    /// Where Kubernetes' programs and images are.
    pub fn assets(&self) -> Result<Assets> {
        Ok(Assets::find()?)
    }

    /// Waits until the Node of `slot` is Ready; its name.
    pub fn ready_node(&self, slot: &str) -> Result<String> {
        let label = format!("slot.node-restriction.kubernetes.io/name={slot}");
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}";
        let words = ["get", "nodes", "-l", &label, "-o", path];
        let said =
            self.plane.kubectl_until("a Ready Node", DEADLINE, &words, |said| said.contains(" True"))?;
        let node = said.lines().find(|line| line.ends_with(" True")).and_then(|line| line.split(' ').next());
        node.map(str::to_owned).context("the Node's name")
    }
}
