//! Arguments.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use protocol::crypto::Signer as _;
use protocol::id::Id;
use protocol::tpm::Spec;
use protocol::voucher::VOICE_EPOCH;

use crate::console;
use crate::join::kubelet;
use crate::sequence::{Awake, Machine};
use crate::site::discover;
use crate::site::voice::PATIENCE;
use crate::state::State;

/// Finds the site, proves who the machine is, and joins it to the cluster.
#[derive(clap::Parser)]
#[command(name = "node-boot", version, after_help = VOICE)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const VOICE: &str = "A machine that nobody registered shows a code. Headquarters may approve it by telephone; it then \
goes on without a voucher only if the owner's file allows that, it belongs to no site yet, no provisioner offers a \
voucher for a minute, and a person at the machine confirms the site's name: on its terminal, or with --stick DIR by \
renaming a file. It never becomes a control-plane machine that way.";

/// Where the machine's things are.
#[derive(clap::Args, Clone)]
pub struct Where {
    /// The machine's state.
    #[arg(long, default_value = "/var/lib/node-boot")]
    state: PathBuf,
    /// The owner's file.
    #[arg(long, default_value = "/etc/node-boot/owner.json")]
    owner: PathBuf,
    /// The TPM: /dev/tpmrm0, <unix:/path>, tcp:host:port, or none.
    #[arg(long)]
    tpm: Option<String>,
    /// Where SMBIOS strings are.
    #[arg(long, default_value = "/sys/class/dmi/id")]
    dmi: PathBuf,
    /// Where configuration is written.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// For a machine without screen or keyboard: the folder of a stick. It gets the code as nodeboot/code.txt; a person
    /// who renames that to confirm.txt confirms the site after an approval by telephone.
    #[arg(long)]
    stick: Option<PathBuf>,
    /// Seconds that a voucher is looked for before an approval by telephone can stand in for it.
    #[arg(long, hide = true, default_value_t = PATIENCE.as_secs())]
    patience: u64,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Do everything, and stay.
    Run(Where),
    /// Show who answers on the LAN, and how quickly.
    Discover(Where),
    /// Show who this machine is.
    Identify(Where),
    /// Get vouchered, proven and certified.
    Enroll(Where),
    /// Receive and write the configuration.
    Config(Where),
    /// Get the kubelet's certificate.
    Join(Where),
    /// Show where this machine stands.
    Status(Where),
    /// Print what headquarters needs to register this machine.
    Register {
        #[command(flatten)]
        at: Where,
        /// Only the CSV row, with its header.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// Only JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Where the machine stands, in its own words.
const STANDS: &str = "stands";

static STOPPING: AtomicBool = AtomicBool::new(false);

/// Whether somebody asked the program to end.
pub fn stopping() -> bool {
    STOPPING.load(Ordering::Relaxed)
}

/// Waits; an error, which ends whatever waits, once somebody asks the program to end.
pub fn pause(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        ensure!(!stopping(), "asked to end");
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(200)));
    }
}

extern "C" fn stop(_: libc::c_int) {
    STOPPING.store(true, Ordering::Relaxed);
}

fn end_in_order() {
    let handler = stop as *const () as libc::sighandler_t;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic, which a signal handler may do.
        #[allow(unsafe_code)]
        unsafe {
            libc::signal(signal, handler);
        }
    }
}

impl Where {
    fn machine(&self) -> Result<Machine> {
        let tpm = match self.tpm.as_deref() {
            Some("none") => None,
            Some(text) => Some(text.parse::<Spec>()?),
            None if Path::new("/dev/tpmrm0").exists() => Some("/dev/tpmrm0".parse::<Spec>()?),
            None => None,
        };
        let state = State::open(&self.state)?;
        Ok(Machine {
            state,
            owner: self.owner.clone(),
            tpm,
            dmi: self.dmi.clone(),
            root: self.root.clone(),
            stick: self.stick.clone(),
            patience: Duration::from_secs(self.patience),
        })
    }

    fn wake(&self) -> Result<Awake> {
        console::keep_in(self.state.join(STANDS));
        self.machine()?.wake()
    }
}

/// Runs one command.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(at) => {
            end_in_order();
            at.wake()?.run()
        }
        Command::Discover(_) => show_discovery(),
        Command::Identify(at) => identify(&at),
        Command::Enroll(at) => at.wake()?.enroll().map(drop),
        Command::Config(at) => {
            let mut awake = at.wake()?;
            let mut proved = awake.enroll()?;
            awake.configure(&mut proved).map(drop)
        }
        Command::Join(at) => {
            let mut awake = at.wake()?;
            let mut proved = awake.enroll()?;
            let config = awake.configure(&mut proved)?;
            awake.join(&mut proved, &config)
        }
        Command::Status(at) => status(&at),
        Command::Register { at, csv, json } => register(&at, csv, json),
    }
}

fn show_discovery() -> Result<()> {
    let begin = Instant::now();
    let mut seen = 0;
    discover::ask(Duration::from_secs(1), |candidate| {
        seen += 1;
        let owner = if candidate.own.is_empty() { "unknown" } else { &candidate.own };
        println!("{} after {:.2} ms, owner {owner}", candidate.address, begin.elapsed().as_secs_f64() * 1e3);
        false
    })?;
    if seen == 0 {
        println!("Nobody answered on {} interfaces with a cable.", discover::interfaces().len());
    }
    Ok(())
}

fn identities(at: &Where) -> Result<(Machine, crate::site::identify::Identity, protocol::inventory::Facts)> {
    let machine = at.machine()?;
    let facts = crate::os::inventory::look(&machine.dmi, machine.tpm.is_some());
    let identity = crate::site::identify::identify(&machine.state, machine.tpm.as_ref(), &facts)?;
    Ok((machine, identity, facts))
}

fn identify(at: &Where) -> Result<()> {
    let (_, identity, facts) = identities(at)?;
    println!("{} {} serial {}", facts.dmi.vendor, facts.dmi.product, facts.dmi.serial);
    identity.ids.iter().for_each(|id| println!("{id}"));
    Ok(())
}

fn status(at: &Where) -> Result<()> {
    ensure!(at.state.exists(), "node-boot has never run here: there is no {}", at.state.display());
    let state = State::open(&at.state)?;
    let file = state.path(STANDS);
    if let Ok(sentence) = std::fs::read_to_string(&file) {
        let since = std::fs::metadata(&file)?.modified()?.elapsed().unwrap_or_default();
        println!("{sentence} (since {})", ago(since));
    }
    let belief: Option<crate::state::Belief> = state.load("belief.json")?;
    let config: Option<protocol::messages::Config> = state.load("config.json")?;
    match belief.as_ref().and_then(|belief| belief.voucher.as_ref()) {
        Some(held) if held.epoch == VOICE_EPOCH => {
            println!(
                "belongs to site {}, approved by telephone; headquarters' voucher is still to come",
                held.site
            );
        }
        Some(held) => println!("belongs to site {} (epoch {})", held.site, held.epoch),
        None => println!("belongs to no site yet"),
    }
    if let Some(config) = config {
        println!("slot {}, Node {}, {}", config.slot, config.node, config.role);
        match kubelet::current(&at.root, &config.node) {
            Some(cert) => println!("kubelet's certificate until {}", cert.not_after),
            None => println!("kubelet has no certificate yet"),
        }
    }
    Ok(())
}

/// About how long ago, in the largest unit that fits.
fn ago(time: Duration) -> String {
    let (count, unit) = match time.as_secs() {
        seconds @ 0..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..172_800 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

fn register(at: &Where, csv: bool, json: bool) -> Result<()> {
    let (_, identity, facts) = identities(at)?;
    let hash = |alg: &str| {
        let chip = identity.tpm.as_ref()?;
        let ek = chip.eks.iter().find(|ek| ek.kind().to_string() == alg)?;
        match ek.id() {
            Id::Ek(hash) => Some(hash.to_string()),
            _ => None,
        }
    };
    let device = identity.device.as_ref().map(|key| key.key_hash().to_string());
    let clean = |text: &str| text.replace([',', '"', '\n', '\r'], " ");
    let columns = [
        ("serial", clean(&facts.dmi.serial)),
        ("model", clean(&format!("{} {}", facts.dmi.vendor, facts.dmi.product))),
        ("ek-p256", hash("ecc-p256").unwrap_or_default()),
        ("ek-p384", hash("ecc-p384").unwrap_or_default()),
        ("ek-rsa", hash("rsa-2048").unwrap_or_default()),
        ("dev-key", device.unwrap_or_default()),
    ];
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<_> = columns.iter().map(|(_, value)| value.as_str()).collect();
    let row = format!("{}\n{}", names.join(","), values.join(","));
    if csv {
        println!("{row}");
        return Ok(());
    }
    let object: serde_json::Map<_, _> = columns
        .iter()
        .map(|(name, value)| ((*name).to_owned(), serde_json::Value::from(value.as_str())))
        .collect();
    let text = serde_json::to_string(&object).context("the registration")?;
    println!("{text}");
    if !json {
        println!("\n{row}\n\n{}", console::qr(&text));
    }
    Ok(())
}
