//! The command line of headquarters.

mod args; // what may be typed
mod machines; // registrations

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use protocol::approval::{self, Approval};
use protocol::bytes::B64u;
use protocol::claim::{Code, approve_key, voice_code};

pub use self::args::Args;
use self::args::{BundleCommand, Command, SiteCommand, VoucherCommand};
use super::keys::Keys;
use super::machines::new_id;
use super::reports::Given;
use super::{Hq, vouchers, write, write_text};
use crate::site::system_clock;

/// How long an approval may be used, seconds.
const APPROVAL_LIFE: i64 = 7 * 86_400;

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
        Command::Machines(command) => machines::run(&hq, command),
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
