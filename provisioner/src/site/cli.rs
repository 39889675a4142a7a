//! The command line of a site.

use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use protocol::messages::PORT;
use serde_json::Value;

use super::admin::{Ask, ask};
use super::explain::{Explained, Row, SlotRow};
use super::{Site, keys, serve, system_clock};
use crate::cluster::attach::{Attach, Plan};
use crate::cluster::credential::FILE;

/// Where a provisioner keeps its things.
#[derive(clap::Args, Clone)]
pub struct Where {
    /// The provisioner's folder.
    #[arg(long, default_value = "/var/lib/provisioner")]
    dir: PathBuf,
}

/// What a site does.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make this provisioner's keys and the request for HQ; with --reply, finish with HQ's answer.
    Init {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The site.
        #[arg(long, required_unless_present = "reply")]
        site: Option<String>,
        /// The TPM that holds the issuing CA's key: /dev/tpmrm0, unix:/path, tcp:host:port.
        #[arg(long)]
        tpm: Option<String>,
        /// The owner's file: HQ's answer must come from this owner.
        #[arg(long)]
        owner: Option<PathBuf>,
        /// HQ's answer.
        #[arg(long)]
        reply: Option<PathBuf>,
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
        /// How logs are written.
        #[arg(long, default_value = "text", value_parser = ["text", "json"])]
        log: String,
    },
    /// List the machines.
    Machines {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
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
    /// Say where a machine stands, why, since when, and what happens next.
    Explain {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, Node or slot.
        machine: String,
    },
    /// Take a bundle or an approval.
    Apply {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The file.
        file: PathBuf,
    },
    /// Say "I am plugging in a machine": for a while, one that nobody registered may show a code.
    Window {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// For so long.
        #[arg(long, default_value_t = 15)]
        minutes: u32,
    },
    /// List the machines that show a code.
    Claims {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
    },
    /// Type HQ's answer by voice.
    Approve {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The slot.
        #[arg(long)]
        slot: String,
        /// The code that HQ said.
        #[arg(long)]
        code: String,
    },
    /// Show the files that a machine would be sent.
    Render {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// Its id, serial, Node or slot.
        #[arg(long)]
        machine: String,
        /// Only what differs from the files in this folder.
        #[arg(long)]
        diff: Option<PathBuf>,
    },
    /// Write a report for HQ.
    Report {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
    },
    /// Copy everything that cannot be made again into a folder.
    Backup {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The folder.
        folder: PathBuf,
    },
    /// Put a copy back, while the provisioner does not run.
    Restore {
        /// Where its things are.
        #[command(flatten)]
        at: Where,
        /// The folder.
        folder: PathBuf,
    },
}

/// Runs one command.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Init { at, site, tpm, owner, reply } => init(&at.dir, site, tpm.as_deref(), owner, reply),
        Command::Attach { at, kubeconfig, yes } => runtime()?.block_on(attach(&at.dir, &kubeconfig, yes)),
        Command::Serve { at, listen, est, metrics, log } => {
            logs(&log);
            let site = Arc::new(Site::open(&at.dir, system_clock)?);
            runtime()?.block_on(serve::run(site, serve::Options { listen, est, metrics }))
        }
        Command::Machines { at, json } => machines(&ask(&at.dir, &Ask::Machines)?, json),
        Command::Slots { at, json } => slots(&ask(&at.dir, &Ask::Slots)?, json),
        Command::Explain { at, machine } => explain(&ask(&at.dir, &Ask::Explain { machine })?),
        Command::Apply { at, file } => say(&ask(&at.dir, &Ask::Apply { path: file.canonicalize()? })?),
        Command::Window { at, minutes } => {
            let until = ask(&at.dir, &Ask::Window { minutes })?;
            println!(
                "A machine that nobody registered may show a code until {}.",
                until.as_str().unwrap_or_default()
            );
            Ok(())
        }
        Command::Claims { at } => lines(&ask(&at.dir, &Ask::Claims)?, "No machine shows a code."),
        Command::Approve { at, slot, code } => {
            ask(&at.dir, &Ask::Approve { slot: slot.clone(), code })?;
            println!(
                "The code is right: the machine is approved for {slot}. Somebody at the machine must confirm the site."
            );
            Ok(())
        }
        Command::Render { at, machine, diff } => {
            render(&ask(&at.dir, &Ask::Render { machine })?, diff.as_deref())
        }
        Command::Report { at } => say(&ask(&at.dir, &Ask::Report)?),
        Command::Backup { at, folder } => {
            say(&ask(&at.dir, &Ask::Backup { path: std::path::absolute(folder)? })?)
        }
        Command::Restore { at, folder } => restore(&at.dir, &folder),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn logs(form: &str) {
    let builder = tracing_subscriber::fmt().with_target(false).with_max_level(tracing::Level::INFO);
    if form == "json" {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::stdout().is_terminal()).init();
    }
}

fn init(
    dir: &Path,
    site: Option<String>,
    tpm: Option<&str>,
    owner: Option<PathBuf>,
    reply: Option<PathBuf>,
) -> Result<()> {
    if let Some(reply) = reply {
        keys::finish(
            dir,
            &std::fs::read(&reply).with_context(|| format!("reading {}", reply.display()))?,
            owner.as_deref(),
        )?;
        println!(
            "This provisioner is certified. Next: `provisioner attach KUBECONFIG`, then `provisioner serve`."
        );
        return Ok(());
    }
    let site = site.context("--site is missing")?;
    let request = keys::begin(dir, &site, tpm)?;
    println!("Carry {} to HQ.", dir.join(keys::REQUEST).display());
    if request.ek.is_none() {
        println!("There is no TPM here: read this code to HQ: {}", request.code());
    }
    println!("HQ runs: provisioner hq site certify {site} {} -o reply.json", keys::REQUEST);
    println!("Then: provisioner init --dir {} --reply reply.json", dir.display());
    Ok(())
}

async fn attach(dir: &Path, kubeconfig: &Path, yes: bool) -> Result<()> {
    let keys = keys::Keys::load(dir, system_clock())?;
    let attach = Attach::with(kubeconfig).await?;
    let plan = attach.plan(&keys.identity.site, keys.identity.number).await?;
    show(&plan)?;
    if !plan.remedies.is_empty() {
        bail!("the cluster must be changed first:\n- {}", plan.remedies.join("\n- "));
    }
    if !yes {
        ensure!(std::io::stdin().is_terminal(), "nobody to ask: repeat with --yes");
        print!("Apply this? [y/N] ");
        std::io::stdout().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        ensure!(answer.trim().eq_ignore_ascii_case("y"), "nothing was applied");
    }
    let credential = attach.apply(&plan).await?;
    keys::save(&dir.join(FILE), &protocol::json::to_vec(&credential))?;
    println!("Attached as {}. The administrator's kubeconfig was not kept.", credential.user);
    Ok(())
}

fn show(plan: &Plan) -> Result<()> {
    println!("Cluster {} ({})", plan.server, plan.version);
    match plan.foreign.as_slice() {
        [] => println!("It has no Nodes yet."),
        nodes => println!("Nodes that are there already stay as they are: {}", nodes.join(", ")),
    }
    println!("These rights will be given to the provisioner:");
    for object in &plan.objects {
        println!("---\n{}", serde_saphyr::to_string(object)?);
    }
    Ok(())
}

fn say(answer: &Value) -> Result<()> {
    println!("{}", answer.as_str().map_or_else(|| answer.to_string(), str::to_owned));
    Ok(())
}

fn lines(answer: &Value, nothing: &str) -> Result<()> {
    let lines: Vec<String> = serde_json::from_value(answer.clone())?;
    println!("{}", if lines.is_empty() { nothing.to_owned() } else { lines.join("\n") });
    Ok(())
}

/// Columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn machines(answer: &Value, json: bool) -> Result<()> {
    if json {
        println!("{answer}");
        return Ok(());
    }
    let rows: Vec<Row> = serde_json::from_value(answer.clone())?;
    let mut cells =
        vec![["MACHINE", "SERIAL", "LIFE", "REASON", "SLOT", "NODE", "SINCE"].map(str::to_owned).to_vec()];
    for row in rows {
        cells.push(vec![row.machine, row.serial, row.life, row.reason, row.slot, row.node, row.since]);
    }
    println!("{}", table(&cells));
    Ok(())
}

fn slots(answer: &Value, json: bool) -> Result<()> {
    if json {
        println!("{answer}");
        return Ok(());
    }
    let rows: Vec<SlotRow> = serde_json::from_value(answer.clone())?;
    let mut cells = vec![["SLOT", "ROLE", "MACHINE", "NODE"].map(str::to_owned).to_vec()];
    for row in rows {
        let free = if row.machine.is_empty() { "(free)".to_owned() } else { row.machine };
        cells.push(vec![row.slot, row.role, free, row.node]);
    }
    println!("{}", table(&cells));
    Ok(())
}

fn explain(answer: &Value) -> Result<()> {
    let it: Explained = serde_json::from_value(answer.clone())?;
    let facts = [
        ("machine", it.row.machine),
        ("serial", it.row.serial),
        ("stands", format!("{} since {}", it.row.life, it.row.since)),
        ("because", format!("{} ({})", it.person, it.row.reason)),
        ("in detail", it.engineer),
        ("next", it.next),
        ("how long", it.deadline),
        ("slot", it.row.slot),
        ("node", it.row.node),
        ("profile", it.profile),
        ("proven", it.proven.join(" ")),
    ];
    let rows: Vec<_> = facts.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    println!("{}", table(&rows));
    Ok(())
}

fn render(answer: &Value, diff: Option<&Path>) -> Result<()> {
    let files: Vec<(String, String)> = serde_json::from_value(answer.clone())?;
    for (path, text) in files {
        let old = diff.map(|folder| {
            std::fs::read_to_string(folder.join(path.trim_start_matches('/'))).unwrap_or_default()
        });
        match old {
            None => println!("==> {path}\n{text}"),
            Some(old) if old == text => {}
            Some(old) => {
                println!("{}", similar::TextDiff::from_lines(&old, &text).unified_diff().header(&path, &path))
            }
        }
    }
    Ok(())
}

fn restore(dir: &Path, folder: &Path) -> Result<()> {
    ensure!(ask(dir, &Ask::Health).is_err(), "the provisioner runs: stop it first");
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        keys::save(&dir.join(entry.file_name()), &std::fs::read(entry.path())?)?;
    }
    println!("Restored. Keys that were used stay used; start the provisioner with `provisioner serve`.");
    Ok(())
}
