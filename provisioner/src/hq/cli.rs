//! The command line of headquarters.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use protocol::approval::{self, Approval};
use protocol::bytes::B64u;
use protocol::claim::{Code, approve_key, voice_code};
use protocol::record::{Record, Status};

use super::import::{Known, import};
use super::keys::Keys;
use super::machines::new_id;
use super::reports::Given;
use super::{Hq, vouchers, write, write_text};
use crate::site::system_clock;

/// How long an approval may be used, seconds.
const APPROVAL_LIFE: i64 = 7 * 86_400;

/// What headquarters does.
#[derive(clap::Args)]
pub struct Args {
    /// Headquarters' folder, under Git.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Private keys, apart from that folder.
    #[arg(long, default_value = "node-boot-keys", env = "NODEBOOT_KEYS")]
    keys: PathBuf,
    /// A file that holds the passphrase of the keys.
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make the owner: anchors, signer, approve key. Once, and offline.
    Init {
        /// The owner's name.
        #[arg(long)]
        name: String,
        /// Let machines be admitted by voice alone: for sites that never have a link.
        #[arg(long)]
        allow_phone: bool,
    },
    /// Sites and their provisioners.
    #[command(subcommand)]
    Site(SiteCommand),
    /// Registrations.
    #[command(subcommand)]
    Machines(MachinesCommand),
    /// Say yes to the code on a machine's screen.
    Approve {
        /// The site.
        site: String,
        /// The slot that the machine gets.
        slot: String,
        /// The code that was read to you.
        code: String,
        /// Where to write the approval.
        #[arg(short, long, default_value = "approval.jws")]
        output: PathBuf,
    },
    /// What a site is sent.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Take in what a site has to say.
    Ingest {
        /// The report.
        report: PathBuf,
    },
    /// Vouchers of anybody.
    #[command(subcommand)]
    Voucher(VoucherCommand),
}

#[derive(clap::Subcommand)]
enum SiteCommand {
    /// Make a site.
    Add {
        /// Its name.
        site: String,
    },
    /// Certify a provisioner.
    Certify {
        /// The site.
        site: String,
        /// Its request.
        request: PathBuf,
        /// The code that a person reads to you, where there is no TPM.
        #[arg(long)]
        code: Option<String>,
        /// Where to write the reply.
        #[arg(short, long, default_value = "reply.json")]
        output: PathBuf,
    },
    /// Withdraw the site's CA.
    Revoke {
        /// The site.
        site: String,
    },
}

#[derive(clap::Subcommand)]
enum MachinesCommand {
    /// Register every machine of a table, or none.
    Import {
        /// The table, CSV.
        file: PathBuf,
    },
    /// List registrations.
    List {
        /// Only of this site.
        #[arg(long)]
        site: Option<String>,
    },
    /// End a registration.
    Revoke {
        /// Its id or serial.
        machine: String,
        /// It is missing.
        #[arg(long, conflicts_with = "rma")]
        lost: bool,
        /// It went back to its maker.
        #[arg(long)]
        rma: bool,
    },
}

#[derive(clap::Subcommand)]
enum BundleCommand {
    /// Build the next bundle of a site.
    Build {
        /// The site.
        site: String,
        /// Where to write it.
        #[arg(short, long)]
        output: Option<PathBuf>,
    },
}

#[derive(clap::Subcommand)]
enum VoucherCommand {
    /// Show what a voucher says, and the certificates of who signed it.
    Show {
        /// The file.
        file: PathBuf,
    },
    /// Show it, and fail unless every signature is good.
    Verify {
        /// The file.
        file: PathBuf,
    },
}

/// Runs one command.
pub fn run(args: Args) -> Result<()> {
    let hq = Hq { dir: args.dir, keys: Keys::new(args.keys, args.passphrase_file.as_deref())? };
    let now = system_clock();
    match args.command {
        Command::Init { name, allow_phone } => {
            hq.init(&name, allow_phone, now)?;
            println!(
                "{name} is founded. Put {} under Git; take the keys of the anchors offline.",
                hq.dir.display()
            );
            println!("Every machine carries public/owner.json.");
            Ok(())
        }
        Command::Site(command) => site(&hq, command),
        Command::Machines(command) => machines(&hq, command),
        Command::Approve { site, slot, code, output } => approve(&hq, &site, &slot, &code, &output),
        Command::Bundle(BundleCommand::Build { site, output }) => bundle(&hq, &site, output),
        Command::Ingest { report } => {
            let said = hq.ingest(&std::fs::read(&report)?, now, &mut next_id)?;
            println!("{}", said.join("\n"));
            Ok(())
        }
        Command::Voucher(command) => voucher(command),
    }
}

fn next_id() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let chance = protocol::crypto::random().unwrap_or_default();
    new_id(u64::try_from(since.as_millis()).unwrap_or_default(), chance)
}

fn site(hq: &Hq, command: SiteCommand) -> Result<()> {
    let now = system_clock();
    match command {
        SiteCommand::Add { site } => {
            hq.add_site(&site, now)?;
            println!("Site {site}: fill in sites/{site}/site.yaml and slots.yaml, then build its bundle.");
        }
        SiteCommand::Certify { site, request, code, output } => {
            let request = serde_json::from_slice(&std::fs::read(&request)?).context("reading the request")?;
            let reply = hq.certify(&site, &request, code.as_deref(), now)?;
            write_text(&output, &String::from_utf8_lossy(&protocol::json::to_vec(&reply)))?;
            println!(
                "Carry {} back to the provisioner: provisioner init --reply {}",
                output.display(),
                output.display()
            );
        }
        SiteCommand::Revoke { site } => {
            let generation = hq.revoke_site(&site, now)?;
            println!(
                "The CA of {site} is withdrawn; generation {generation} takes its place. Certify each provisioner of it \
                 anew, in a new folder, and send bundles to every site, so that machines hear of it."
            );
        }
    }
    Ok(())
}

fn machines(hq: &Hq, command: MachinesCommand) -> Result<()> {
    match command {
        MachinesCommand::Import { file } => {
            let text = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let (records, sites) = (hq.records()?, hq.site_names()?);
            let mut known = Known { records: &records, sites: &sites, new_id: &mut next_id };
            let imported = import(&text, &mut known).map_err(|bad| {
                let lines: Vec<_> = bad.iter().map(ToString::to_string).collect();
                anyhow::anyhow!(
                    "nothing was imported; {} to mend in {}:\n- {}",
                    bad.len(),
                    file.display(),
                    lines.join("\n- ")
                )
            })?;
            imported.iter().try_for_each(|record| hq.save_record(record))?;
            println!("{} machines registered.", imported.len());
        }
        MachinesCommand::List { site } => {
            let wanted = |record: &Record| site.as_ref().is_none_or(|site| record.site.contains(site));
            for record in hq.records()?.into_iter().filter(wanted) {
                let serial = record.hints.product_serial.clone().unwrap_or_default();
                let place = record.slot.clone().unwrap_or_else(|| record.roles.join("+"));
                let sites: Vec<_> = record.site.iter().collect();
                let id = record.canonical_id().map_or_else(|| "(label only)".to_owned(), |id| id.to_string());
                println!(
                    "{}  {serial:<16} {:<10} {place:<16} {:?}  {id}",
                    record.id,
                    sites.join(","),
                    record.status
                );
            }
        }
        MachinesCommand::Revoke { machine, lost, rma } => {
            let status = if lost {
                Status::Lost
            } else if rma {
                Status::Rma
            } else {
                Status::Revoked
            };
            let record = hq.revoke(&machine, status)?;
            println!(
                "{} is {status:?}. It is locked out as soon as the next bundle reaches its site.",
                record.id
            );
        }
    }
    Ok(())
}

fn approve(hq: &Hq, site: &str, slot: &str, code: &str, output: &std::path::Path) -> Result<()> {
    let sas = Code::parse(code)?;
    hq.site_ca(site)?;
    let now = system_clock();
    let expires_on = now.plus(APPROVAL_LIFE);
    let approval =
        Approval { site: site.to_owned(), slot: slot.to_owned(), sas: B64u(sas.0.to_vec()), expires_on };
    let mut given = hq.all_given(site)?;
    given.push(Given { slot: slot.to_owned(), code: sas.to_string(), at: now, machine: None });
    write(&hq.approvals(site), &given)?;
    let signed = approval::make(&approval, &hq.certificate("signer")?, &*hq.key("signer")?)?;
    write_text(output, &signed)?;
    let site_key = protocol::bundle::public_of(&hq.keys.scalar(&format!("site-{site}-approve"))?[..]);
    let key = approve_key(&hq.keys.scalar("approve")?[..], &site_key.context("the site's approve key")?)?;
    println!("Before you approve: call the site back on its registered number, and see that {slot} is dead.");
    println!(
        "With a link: send {} to the site, then its report comes, then a bundle goes.",
        output.display()
    );
    println!("By voice alone: read back {}", voice_code(&key, site, sas, slot));
    Ok(())
}

fn bundle(hq: &Hq, site: &str, output: Option<PathBuf>) -> Result<()> {
    let built = hq.build_bundle(site, system_clock())?;
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{site}.nbb")));
    std::fs::write(&output, &built.file).with_context(|| format!("writing {}", output.display()))?;
    let seconds = built.file.len().div_ceil(2000);
    println!(
        "bundle {} of {site}: {} bytes, about {seconds} s at 2 kB/s: {}",
        built.seq,
        built.file.len(),
        output.display()
    );
    for (name, size) in built.sections {
        println!("  {name:<12} {size:>8} bytes");
    }
    Ok(())
}

fn voucher(command: VoucherCommand) -> Result<()> {
    let (file, must) = match command {
        VoucherCommand::Show { file } => (file, false),
        VoucherCommand::Verify { file } => (file, true),
    };
    let document = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    let (content, signed) = vouchers::read(&document)?;
    print!("{}", vouchers::show(&content, &signed));
    let wrong = signed.iter().find_map(|signature| signature.wrong.as_deref()).filter(|_| must);
    wrong.map_or(Ok(()), |why| bail!("not every signature is good: {why}"))
}
