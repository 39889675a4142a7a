//! Goal 3: what node-boot adds to a join, beside the raw Kubernetes path, and the memory it takes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use harness::Hardware;
use tests::stage::{Csv, SITE, Site, Spare};

use crate::table::{Figure, Table};

/// Machines that join, one after the other.
const MACHINES: u8 = 7;
/// What node-boot says when its node certificate, its configuration and its kubelet's certificate are on disk.
const STEPS: [&str; 4] = [
    "The site has accepted this machine.",
    "This machine is ",
    "The cluster has signed",
    "Starting the cluster's programs",
];

/// Since node-boot was started.
type Times = [Duration; STEPS.len()];

/// Lets machines join and compares each step with `raw`, the time from creating a request to its certificate.
pub fn report(table: &mut Table, site: &mut Site, raw: Duration) -> Result<()> {
    let slot = |n| format!("- name: node-{n}\n  address: {}\n", site.lan.address(20 + n));
    let slots = (1..=MACHINES).map(slot).collect::<Vec<_>>().concat();
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), &format!("slots:\n{slots}"))?;
    let mut spares = Vec::new();
    for n in 1..=MACHINES {
        let hardware = Hardware { tpm: false, ..Hardware::nuc(&format!("BENCHJOIN{n}")) };
        let spare = site.spare(&format!("join-{n}"), 20 + n, hardware)?;
        let mut rows = Csv::default();
        rows.add(&spare.registration()?, &[("site", SITE), ("slot", &format!("node-{n}"))]);
        site.hq.import(&rows.text())?;
        spares.push(spare);
    }
    site.deliver()?;
    let joins = spares.iter().map(join).collect::<Result<Vec<_>>>()?;
    let median = |of: &dyn Fn(&Times) -> Duration| {
        let mut times: Vec<_> = joins.iter().map(|(times, _)| of(times).as_secs_f64() * 1e3).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let peak = joins.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let raw = raw.as_secs_f64() * 1e3;
    add(
        table,
        median(&|times| times[0]),
        median(&|times| times[2].saturating_sub(times[1])),
        median(&|times| times[3]),
        raw,
    );
    table.add(&Figure {
        goal: "7",
        what: "node-boot, most memory ever resident until it is the agent",
        ours: format!("{peak:.1} MiB"),
        beside: "limit 4 MiB".to_owned(),
        ratio: Some(peak / 4.0),
        met: Some(peak <= 4.0),
    });
    Ok(())
}

fn add(table: &mut Table, certificate: f64, kubelet: f64, whole: f64, raw: f64) {
    let mut row = |what, ours: f64, beside: String, limit: f64| {
        table.add(&Figure {
            goal: "3",
            what,
            ours: format!("{ours:.1} ms"),
            beside,
            ratio: Some(ours / limit),
            met: Some(ours <= limit),
        });
    };
    row("node-boot start to its certificate on disk, p50", certificate, "limit 5 ms".to_owned(), 5.0);
    row(
        "kubelet's certificate by M8, p50",
        kubelet,
        format!("limit 1.1 x {raw:.1} ms, the raw path"),
        1.1 * raw,
    );
    row(
        "node-boot start to kubelet started, p50: what a join has over a bare kubelet",
        whole,
        format!("limit {raw:.1} + 20 ms"),
        raw + 20.0,
    );
}

/// The word that makes this program the one that starts node-boot on the machine: what it takes to get there is not
/// node-boot's.
pub const WATCH: &str = "watch";

/// On the machine: starts `words`, prints the microseconds at which each step was said, and at the end the most memory
/// that was resident, KiB.
pub fn watch(words: &[String]) -> Result<()> {
    let (program, arguments) = words.split_first().context("a program")?;
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
    for words in STEPS {
        await_line(&mut lines, words)?;
        println!("{}", begin.elapsed().as_micros());
    }
    await_line(&mut lines, "This machine is part of the cluster")?;
    println!("{}", peak(child.id())?);
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn await_line(lines: &mut impl Iterator<Item = std::io::Result<String>>, words: &str) -> Result<()> {
    for line in lines {
        if line?.starts_with(words) {
            return Ok(());
        }
    }
    bail!("node-boot ended before it said: {words}")
}

/// One join, and the peak of the agent's memory, MiB.
fn join(spare: &Spare) -> Result<(Times, f64)> {
    let run = spare.by_hand(&["run"]);
    let mut command = spare.machine.command(std::env::current_exe()?)?;
    command.arg(WATCH).arg(run.get_program()).args(run.get_args());
    let said = tests::stage::run(&mut command)?;
    let numbers = said.split_whitespace().map(str::parse::<u32>).collect::<Result<Vec<_>, _>>()?;
    let (peak, steps) = numbers.split_last().context("figures")?;
    let times: Vec<_> = steps.iter().map(|micros| Duration::from_micros(u64::from(*micros))).collect();
    let times = Times::try_from(times).map_err(|times| anyhow!("{} steps", times.len()))?;
    Ok((times, f64::from(*peak) / 1024.0))
}

/// `VmHWM`, KiB.
fn peak(pid: u32) -> Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmHWM")).context("VmHWM")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}
