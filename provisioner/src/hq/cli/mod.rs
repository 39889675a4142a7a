//! The command line of headquarters.

mod args; // what may be typed
mod images; // the operating system of machines
mod machines; // registrations

use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use protocol::approval::{self, Approval};
use protocol::bytes::B64u;
use protocol::claim::{Code, approve_key, voice_code};
use protocol::clock::Time;

pub use self::args::Args;
use self::args::{BundleCommand, Command, ImageCommand, SiteCommand, VoucherCommand};
use super::keys::Keys;
use super::machines::new_id;
use super::owner::ANCHORS;
use super::reports::Given;
use super::{Hq, firmware, vouchers, write, write_text};
use crate::plain::{self, count};
use crate::site::system_clock;

/// How long an approval may be used, seconds.
const APPROVAL_LIFE: i64 = 7 * 86_400;

/// Runs one command.
pub fn run(args: Args) -> Result<()> {
    let keys = args.keys.unwrap_or_else(|| args.dir.join("node-boot-keys"));
    let hq = Hq { keys: Keys::new(keys, args.passphrase_file.as_deref())?, dir: args.dir };
    if !matches!(
        args.command,
        Command::Init { .. } | Command::Voucher(_) | Command::Image(ImageCommand::Build { .. })
    ) {
        hq.check_founded()?;
    }
    match args.command {
        Command::Init { name, allow_phone } => init(&hq, &name, allow_phone, system_clock()),
        Command::SecureBoot => secure_boot(&hq, system_clock()),
        Command::Site(command) => site(&hq, command),
        Command::Machines(command) => machines::run(&hq, command),
        Command::Approve { site, slot, code, output } => approve(&hq, &site, &slot, &code, &output),
        Command::Bundle(BundleCommand::Build { site, output }) => bundle(&hq, &site, output),
        Command::Ingest { report } => {
            let text =
                std::fs::read(&report).with_context(|| format!("reading the report {}", report.display()))?;
            let said = hq.ingest(&text, system_clock(), &mut next_id)?;
            for line in said {
                println!("{}", plain::shown(&line));
            }
            Ok(())
        }
        Command::Voucher(command) => voucher(command),
        Command::Image(ImageCommand::Add { folder }) => images::add(&hq, &folder),
        Command::Image(ImageCommand::Build { version, node_boot, provisioner, programs, cache, output }) => {
            images::build(&version, [&node_boot, &provisioner], &programs, &cache, &output)
        }
    }
}

/// Makes the owner, and says which of the files go where.
fn init(hq: &Hq, name: &str, allow_phone: bool, now: Time) -> Result<()> {
    let left_out = hq.init(name, allow_phone, now)?;
    let (dir, keys) = (std::fs::canonicalize(&hq.dir)?, hq.keys.folder()?);
    let pem = |key: &str| keys.join(format!("{key}.pem")).display().to_string();
    println!("{name} is founded. Put {} under Git.", dir.display());
    match left_out {
        Some(file) => println!(
            "The private keys are in {}, which Git leaves out: {} says so.",
            keys.display(),
            file.display()
        ),
        None => println!("The private keys are in {}; they never go under Git.", keys.display()),
    }
    println!("\nTake these offline, each A apart from its B:");
    for anchor in ANCHORS {
        println!("  {}", pem(anchor));
    }
    println!("{} comes back whenever a site is added or revoked.", pem("site-anchor-a"));
    println!("These stay, for every day:\n  {}\n  {}", pem("signer"), pem("approve"));
    println!("\nEvery machine carries {}.", dir.join("public/owner.json").display());
    Ok(())
}

/// Makes the keys for machines' firmware, and says which of them go where.
fn secure_boot(hq: &Hq, now: Time) -> Result<()> {
    hq.make_firmware_keys(now)?;
    let keys = hq.keys.folder()?;
    let pem = |key: &str| keys.join(format!("{key}.pem")).display().to_string();
    let [pk, kek, db] = firmware::KEYS.map(pem);
    println!(
        "Take these offline; nothing needs them before machines are to believe another key:\n  {pk}\n  {kek}"
    );
    println!("This one stays, and signs each stick:\n  {db}");
    println!(
        "\nPut secure-boot.yaml and owner.yaml under Git. Machines come to know these keys at the depot:"
    );
    println!("`provisioner hq site kit SITE --images FOLDER --depot -o FILE`");
    Ok(())
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
            let reading = || format!("reading the request {}", request.display());
            let request = std::fs::read(&request).with_context(reading)?;
            let request = serde_json::from_slice(&request).with_context(|| {
                format!("{}; is it the ca-request.json that a provisioner made?", reading())
            })?;
            let reply = hq.certify(&site, &request, code.as_deref(), now)?;
            write_text(&output, &String::from_utf8_lossy(&protocol::json::to_vec(&reply)))?;
            println!(
                "Carry {} back to the provisioner: provisioner init --reply {}",
                output.display(),
                output.display()
            );
        }
        SiteCommand::Kit { site, images, output, depot, flash } => {
            images::stick(hq, &site, &images, &output, depot.then_some(flash))?;
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
    let sas = Code::parse(code).with_context(|| format!("{code:?} cannot be approved"))?;
    check_place(hq, site, slot)?;
    let now = system_clock();
    let expires_on = now.plus(APPROVAL_LIFE);
    let approval =
        Approval { site: site.to_owned(), slot: slot.to_owned(), sas: B64u(sas.0.to_vec()), expires_on };
    let mut given = hq.all_given(site)?;
    given.push(Given { slot: slot.to_owned(), code: sas.to_string(), at: now, machine: None });
    write(&hq.approvals(site), &given)?;
    let signed = approval::make(&approval, &hq.certificate("signer")?, &*hq.key("signer")?)?;
    write_text(output, &signed)?;
    println!("Before you approve: call the site back on its registered number, and see that {slot} is dead.");
    println!(
        "With a link: send {} to the site, then its report comes, then a bundle goes.",
        output.display()
    );
    if hq.trust()?.allow_phone() {
        let site_key = protocol::bundle::public_of(&hq.keys.scalar(&format!("site-{site}-approve"))?[..]);
        let key = approve_key(&hq.keys.scalar("approve")?[..], &site_key.context("the site's approve key")?)?;
        println!("By voice alone: read back {}", voice_code(&key, site, sas, slot));
    }
    Ok(())
}

/// An approval is for a slot that there is, at a site that can take it.
fn check_place(hq: &Hq, site: &str, slot: &str) -> Result<()> {
    let ca = hq.site_ca(site)?;
    if let Err(what) = hq.slots(site)?.named(site, slot) {
        bail!("nothing was approved: {what}");
    }
    ensure!(
        !ca.provisioners.is_empty(),
        "nothing was approved: {site} has no certified provisioner that could take it; first `provisioner hq site \
         certify {site} REQUEST`"
    );
    Ok(())
}

fn bundle(hq: &Hq, site: &str, output: Option<PathBuf>) -> Result<()> {
    let built = hq.build_bundle(site, system_clock())?;
    let output = output.unwrap_or_else(|| PathBuf::from(format!("{site}.nbb")));
    let writing = || format!("writing {}", output.display());
    hq.send(&built, &output, |output| std::fs::write(output, &built.file).with_context(writing))?;
    for warning in &built.warnings {
        eprintln!("warning: {}", plain::shown(warning));
    }
    println!(
        "Bundle {} of {site}: {}, {}, {}.",
        built.seq,
        count(built.machines, "machine"),
        count(built.slots, "slot"),
        count(built.vouchers, "voucher")
    );
    let (size, seconds) = (built.file.len(), built.file.len().div_ceil(2000));
    println!("{} has {size} bytes, about {seconds} s at 2 kB/s.", output.display());
    println!("Next, at the site: `provisioner apply {}`", output.display());
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
