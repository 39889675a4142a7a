//! Arguments.

mod bank; // which images the machine runs from
mod register; // what headquarters needs of this machine
mod show; // commands that only look

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use protocol::tpm::Spec;

pub(crate) use self::register::columns;
use crate::console;
use crate::os::disk::KIT;
use crate::os::init::System;
use crate::os::network::plan::Plan;
use crate::os::network::{self, Network};
use crate::sequence::{Awake, Machine};
use crate::site::voice::PATIENCE;
use crate::state::{STATE, State};
use crate::stop::{end_in_order, pause};
use crate::trace::{self, Spent};

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
    #[arg(long, default_value = STATE)]
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
    /// PID 1 says so: the machine's whole system is ours, and runs from there.
    #[arg(long, hide = true)]
    system: Option<System>,
    /// Where the files of the site's stick are: this machine runs the provisioner that they make of it.
    #[arg(long, hide = true)]
    kit: Option<PathBuf>,
    /// Seconds that a plan of the network is on trial.
    #[arg(long, hide = true, default_value_t = network::PATIENCE.as_secs())]
    trial: u64,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Do everything, and stay: whatever is said, it goes on asking.
    Run(Where),
    /// Show who answers on the LAN, and how quickly; ends with 1 where nobody does.
    #[command(mut_args = listing(&[]))]
    Discover(Where),
    /// Show who this machine is.
    #[command(mut_args = listing(&["state", "tpm", "dmi"]))]
    Identify(Where),
    /// Get vouchered, proven and certified: waits as long as it is told to, and ends with 1 at a no.
    Enroll(Where),
    /// Receive and write the configuration; waits and ends like `enroll`.
    Config(Where),
    /// Get the kubelet's certificate; waits and ends like `enroll`.
    Join(Where),
    /// Keep the network as `run` does on a machine whose whole system is ours, and nothing else: the configuration's plan is
    /// tried, and taken back.
    #[command(hide = true, mut_args = listing(&["state", "root"]))]
    Network(Where),
    /// Show where this machine stands.
    #[command(mut_args = listing(&["state", "root", "json"]))]
    Status {
        #[command(flatten)]
        at: Where,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show which images this machine runs from, what the other banks hold, and what became of the last try.
    #[command(mut_args = listing(&["state", "json"]))]
    Bank {
        #[command(flatten)]
        at: Where,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what headquarters needs to register this machine.
    #[command(mut_args = listing(&["state", "owner", "tpm", "dmi", "csv", "json", "csr", "provisioner"]))]
    Register {
        #[command(flatten)]
        at: Where,
        /// Only the CSV row, with its header.
        #[arg(long, conflicts_with = "json")]
        csv: bool,
        /// Only JSON.
        #[arg(long)]
        json: bool,
        /// Only the request by which headquarters makes this machine's `provisioner` one of SITE.
        #[arg(long, value_name = "SITE", conflicts_with_all = ["csv", "json"])]
        csr: Option<String>,
        /// With --csr: the folder of that provisioner.
        #[arg(long, value_name = "DIR", default_value = "/var/lib/provisioner")]
        provisioner: PathBuf,
    },
}

/// Every command takes every option, so that one line of a service serves for all; each lists what it uses.
fn listing(used: &'static [&'static str]) -> impl Fn(clap::Arg) -> clap::Arg {
    |arg| {
        let listed = used.contains(&arg.get_id().as_str());
        if listed { arg } else { arg.hide(true) }
    }
}

/// Where the machine stands, in its own words.
const STANDS: &str = "stands";

impl Where {
    /// The TPM that was named, or the one that is there.
    fn tpm(&self) -> Option<&str> {
        const USUAL: &str = "/dev/tpmrm0";
        match self.tpm.as_deref() {
            Some("none") => None,
            None => Path::new(USUAL).exists().then_some(USUAL),
            named => named,
        }
    }

    fn machine(&self) -> Result<Machine> {
        let tpm = self.tpm().map(str::parse::<Spec>).transpose()?;
        let state = State::open(&self.state)?;
        Ok(Machine {
            state,
            owner: self.owner.clone(),
            tpm,
            dmi: self.dmi.clone(),
            root: self.root.clone(),
            stick: self.stick.clone(),
            patience: Duration::from_secs(self.patience),
            system: self.system,
            kit: self.kit.clone().or_else(|| self.system.map(|_| KIT.into())),
            trial: Duration::from_secs(self.trial),
        })
    }

    fn wake(&self) -> Result<Awake> {
        console::keep_in(self.state.join(STANDS));
        self.machine()?.wake()
    }

    /// For a single step.
    fn wake_by_hand(&self) -> Result<Awake> {
        let mut awake = self.wake()?;
        awake.by_hand = true;
        Ok(awake)
    }
}

/// Runs one command.
pub fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Run(at) => {
            end_in_order();
            let is_ours = at.system.is_some();
            if is_ours {
                console::on_screen("This machine");
                trace::begin();
                trace::ended("the agent's program", Spent::Own);
            }
            let ended = at.wake().and_then(Awake::run);
            // Nobody but the screen says to a person why it does not go on.
            if let (true, Err(error)) = (is_ours, &ended) {
                console::fails(&format!("{error:#}."));
            }
            ended
        }
        Command::Discover(_) => show::discovery(),
        Command::Identify(at) => show::identity(&at),
        Command::Enroll(at) => at.wake_by_hand()?.enroll().map(drop),
        Command::Config(at) => {
            let mut awake = at.wake_by_hand()?;
            let mut proved = awake.enroll()?;
            awake.configure(&mut proved).map(drop)
        }
        Command::Join(at) => {
            let mut awake = at.wake_by_hand()?;
            let mut proved = awake.enroll()?;
            let config = awake.configure(&mut proved)?;
            awake.join(&mut proved, &config)
        }
        Command::Network(at) => {
            end_in_order();
            let state = State::open(&at.state)?;
            let trial = Duration::from_secs(at.trial);
            let network = Network::start(&at.root, &state, Plan::default(), trial)?;
            network.offer()?;
            loop {
                pause(Duration::from_hours(1))?;
            }
        }
        Command::Status { at, json } => show::status(&at, json),
        Command::Bank { at, json } => bank::show(&at.state, json),
        Command::Register { at, csr: Some(site), provisioner, .. } => {
            register::request(&at, &site, &provisioner)
        }
        Command::Register { at, csv, json, .. } => register::row(&at, csv, json),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_command_lists_the_options_that_it_uses_and_takes_all() {
        let listed = |name: &str| {
            let mut cli = Cli::command();
            let help = cli.find_subcommand_mut(name).unwrap().render_help().to_string();
            ["--state", "--owner", "--tpm", "--dmi", "--root", "--stick", "--json"]
                .into_iter()
                .filter(|option| help.contains(option))
                .collect::<Vec<_>>()
        };
        assert_eq!(listed("discover"), [""; 0]);
        assert_eq!(listed("identify"), ["--state", "--tpm", "--dmi"]);
        assert_eq!(listed("status"), ["--state", "--root", "--json"]);
        assert_eq!(listed("register"), ["--state", "--owner", "--tpm", "--dmi", "--json"]);
        assert_eq!(listed("enroll"), ["--state", "--owner", "--tpm", "--dmi", "--root", "--stick"]);
        let line = ["node-boot", "status", "--stick", "/s", "--tpm", "none"];
        assert!(<Cli as clap::Parser>::try_parse_from(line).is_ok());
    }
}
