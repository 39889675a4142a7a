//! What may be typed: the commands of a site and their arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

use protocol::messages::PORT;

/// Where a provisioner keeps its things.
#[derive(clap::Args, Clone)]
pub struct Where {
    /// The provisioner's folder.
    #[arg(long, default_value = "/var/lib/provisioner")]
    pub(super) dir: PathBuf,
}

/// What a site does. Every command takes `--dir`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make this provisioner's keys and the request for HQ; with --reply, finish with HQ's answer.
    Init {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The site that it is a provisioner of, as HQ calls it.
        #[arg(long, required_unless_present_any = ["reply", "certified"])]
        site: Option<String>,
        /// The TPM that holds the issuing CA's key: /dev/tpmrm0, unix:PATH or tcp:HOST:PORT.
        #[arg(long)]
        tpm: Option<String>,
        /// The owner's file, brought by hand: HQ's answer is believed from this owner only.
        #[arg(long, required_unless_present = "reply")]
        owner: Option<PathBuf>,
        /// Drop a request that waits for HQ's answer, and its keys, and begin anew.
        #[arg(long)]
        again: bool,
        /// HQ's answer to the request, the file that `hq site certify` wrote.
        #[arg(long, conflicts_with_all = ["site", "tpm", "owner", "again"])]
        reply: Option<PathBuf>,
        /// Be the provisioner that HQ certified in advance, with the file that a site's stick has for this machine.
        #[arg(long, requires_all = ["tpm", "owner"], conflicts_with_all = ["site", "again", "reply"])]
        certified: Option<PathBuf>,
        /// This machine was that provisioner before, and its disk is lost: what it knew is gathered again.
        #[arg(long, requires = "certified")]
        returns: bool,
    },
    /// Attach to a Kubernetes cluster: shows what it will change, applies it, keeps no administrator's access.
    Attach {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// An administrator's kubeconfig.
        kubeconfig: PathBuf,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Finish a cluster that was just made. node-boot runs this on the machine that founds the cluster; repeating it changes
    /// nothing.
    Found {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// What is done.
        half: Half,
        /// An administrator's kubeconfig.
        kubeconfig: PathBuf,
    },
    /// Admit machines until stopped.
    Serve {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Where machines connect.
        #[arg(long, default_value_t = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, PORT)))]
        listen: SocketAddr,
        /// Where EST clients that are not our machines connect.
        #[arg(long)]
        est: Option<SocketAddr>,
        /// Where /metrics and /healthz are.
        #[arg(long, default_value = "127.0.0.1:9443")]
        metrics: SocketAddr,
        /// Seconds that a slow client is waited for.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
        patience: u16,
        /// How logs are written.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        log: String,
    },
    /// List the machines.
    Machines {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Those too that HQ registered and that never spoke here.
        #[arg(long)]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// List the slots.
    Slots {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say where a machine stands, why, since when, what happens next and by when.
    Explain {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, MAC, Node, slot, ek: or key: id, or the beginning of one.
        machine: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a bundle or an approval.
    Apply {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The file that HQ sent: a bundle (.nbb) or an approval (.jws).
        file: PathBuf,
    },
    /// Say "I am plugging in a machine": for a while, one that nobody registered may show a code.
    Window {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// For so many minutes, at most an hour.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=60))]
        minutes: u32,
    },
    /// List the machines that show a code.
    Claims {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say yes: to a code, with HQ's answer by voice; or to a machine that waits for a person here.
    ///
    /// After an answer by voice the site registers the machine itself, for that slot and never for a control-plane one.
    /// The machine goes on without a voucher only if the owner's anchors allow it, it belongs to no site yet, no
    /// provisioner has a voucher for it, and a person at the machine confirms the site's name. HQ's own registration
    /// takes over with the bundle that answers the next report.
    #[command(group = clap::ArgGroup::new("what").required(true).args(["slot", "machine"]))]
    Approve {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The slot that HQ said, with --code.
        #[arg(long, requires = "code")]
        slot: Option<String>,
        /// The code that HQ said, with --slot: not the one on the machine's screen.
        #[arg(long, requires = "slot")]
        code: Option<String>,
        /// A registered machine whose policy asks for a person's yes, or that cannot open its disk since its Secure Boot is off
        /// (for an hour, and once).
        #[arg(long)]
        machine: Option<String>,
        /// The disk of that machine whose content may be overwritten: the eight digits that its screen and `explain` show.
        #[arg(long, requires = "machine", value_name = "DISK")]
        overwrite: Option<String>,
    },
    /// Say no to a machine.
    Refuse {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, MAC, Node, slot, ek: or key: id, or the beginning of one.
        machine: String,
    },
    /// Take a machine out of service: its Node is removed, its slot is free.
    Retire {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, MAC, Node, slot, ek: or key: id, or the beginning of one.
        machine: String,
        /// Take that back, or an earlier yes or no.
        #[arg(long)]
        undo: bool,
    },
    /// Take a machine out of service and have its disk erased, Pods' volumes too: it is a blank machine again.
    Wipe {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, MAC, Node, slot, ek: or key: id, or the beginning of one.
        machine: String,
    },
    /// Show the files that a machine would be sent.
    Render {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, MAC, Node, slot, ek: or key: id, or the beginning of one.
        #[arg(long)]
        machine: String,
        /// Only what differs from the files below this folder of this computer: a copy of the machine's, or / where the
        /// machine is this computer.
        #[arg(long, value_name = "FOLDER")]
        diff: Option<PathBuf>,
    },
    /// Write a report for HQ, and print where it is.
    Report {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
    },
    /// Copy everything that cannot be made again into one file.
    Backup {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Where to write it; it holds private keys.
        file: PathBuf,
    },
    /// Put a backup back, while the provisioner does not run.
    Restore {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The file that `provisioner backup` wrote.
        file: PathBuf,
    },
    /// The images that machines are sent.
    Images {
        /// What about them.
        #[command(subcommand)]
        what: Images,
    },
    /// Let machines try what was staged, one after the other: for a day, or until all have.
    Activate {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
    },
    /// Let a machine that is not ours ask for a certificate by EST.
    EstClient {
        /// What about them.
        #[command(subcommand)]
        what: EstClient,
    },
}

/// What there is to do about images.
#[derive(clap::Subcommand)]
pub enum Images {
    /// Take the images of a folder: a bundle that names them then has machines stage them.
    Add {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// A folder with images, as `hq image build` makes it.
        folder: PathBuf,
    },
}

/// What there is to do about machines that are not ours.
#[derive(clap::Subcommand)]
pub enum EstClient {
    /// Print a password that is good once, for a week.
    Add {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The name that its certificate will bear.
        name: String,
    },
}

/// The two halves of finishing a cluster.
#[derive(Clone, Copy, clap::ValueEnum)]
pub enum Half {
    /// Give it what HQ wants in it from the beginning: its API server is enough for that.
    Seed,
    /// Attach to it: its controllers must run.
    Attach,
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        /// What about them.
        #[command(subcommand)]
        command: super::Command,
    }

    fn reads(line: &str) -> bool {
        Cli::try_parse_from(std::iter::once("provisioner").chain(line.split(' '))).is_ok()
    }

    #[test]
    fn every_documented_line_is_read_and_half_a_line_is_not() {
        for line in [
            "init --dir D --site ship-7 --tpm /dev/tpmrm0 --owner owner.json",
            "init --dir D --site ship-8 --owner owner.json --again",
            "init --dir D --reply reply.json",
            "init --dir D --certified file --tpm /dev/tpmrm0 --owner owner.json --returns",
            "attach --dir D admin.conf --yes",
            "serve --dir D --listen [::]:7443 --est [::]:8443 --metrics 127.0.0.1:9443 --patience 15 --log json",
            "machines --json --all",
            "slots --json",
            "explain node-1-k3v9q2",
            "apply site.nbb",
            "window --minutes 15",
            "claims",
            "approve --slot node-3 --code WT0T-BSPH-K",
            "approve --machine mc_01",
            "approve --machine mc_01 --overwrite 1a2b3c4d",
            "refuse mc_01",
            "retire mc_01 --undo",
            "render --machine mc_01 --diff /mnt",
            "report",
            "backup file",
            "restore file",
            "est-client add printer",
            "images add --dir D folder",
            "activate",
        ] {
            assert!(reads(line), "{line}");
        }
        for line in [
            "init --dir D",
            "init --dir D --site ship-7",
            "init --dir D --owner owner.json",
            "init --dir D --reply reply.json --owner owner.json",
            "approve --slot node-3",
            "approve --overwrite 1a2b3c4d",
            "approve",
            "window --minutes 0",
            "attach --yes",
            "render --machine mc_01 --diff",
        ] {
            assert!(!reads(line), "{line}");
        }
    }
}
