//! A whole site on real parts: headquarters' folder, a cluster, a provisioner, and machines to plug in.

mod csv; // the table that headquarters imports
pub mod found; // a site that is not there yet
mod hq; // headquarters
mod images; // programs and systems as they are shipped
mod provisioner; // the provisioner on its machine
mod spare; // a machine with node-boot on it

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Assets, ControlPlane, Hardware, Lan, Options};

pub use self::csv::Csv;
pub use self::hq::Hq;
pub use self::images::{images, images_with, on_stick, own_images, static_program, whole_images};
pub use self::provisioner::Provisioner;
pub use self::spare::Spare;

/// The site of every story.
pub const SITE: &str = "ship-7";
/// Where the provisioner keeps its things, on its machine.
pub const DIR: &str = "/var/lib/provisioner";
/// What a machine says once it is a member.
pub const JOINED: &str = "This machine is part of the cluster. It needs nothing.";
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
        let built =
            BUILT.get_or_init(|| Self::build_with(&["--quiet"]).map_err(|error| format!("{error:#}")));
        built.clone().map_err(anyhow::Error::msg)
    }

    /// The same, with cargo showing what it does: a first build takes minutes.
    pub fn build_before_your_eyes() -> Result<Self> {
        Self::build_with(&[])
    }

    fn build_with(words: &[&str]) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut build = Command::new(cargo);
        build.args(["build", "-p", "provisioner", "-p", "node-boot"]).args(words).current_dir(&workspace);
        ensure!(
            without_own(&mut build).status()?.success(),
            "cargo build of provisioner and node-boot failed"
        );
        let target =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let bin = target.join("debug").canonicalize().context("the folder of built programs")?;
        Ok(Self { provisioner: bin.join("provisioner"), node_boot: bin.join("node-boot") })
    }
}

/// What cargo tells a test of its package would make it build ring, and all on top of it, anew.
fn without_own(cargo: &mut Command) -> &mut Command {
    let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars().filter(|(name, _)| own(name)) {
        cargo.env_remove(name);
    }
    cargo
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
