//! Goals 1 and 2: how many machines a provisioner on one core admits, and a thousand that are switched on at once.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::pledge::Pledge;
use tests::stage::{Hq, Programs, SITE, code_in, run};

use crate::limit::Limit;
use crate::size;
use crate::table::{Figure, Table};

const MACHINES: usize = 2000;
const CROWD: usize = 1000;
/// Machines that speak at the same time in goal 1: enough to keep one core busy and commits in groups.
const AT_ONCE: usize = 32;
/// Clock ticks a second, as Linux shows them to programs on every architecture we run on.
const TICKS: f64 = 100.0;

/// A provisioner of its own on loopback, pinned to the first core.
struct Served {
    child: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// Admits all, so many at a time: seconds of the core's time, and seconds by the clock.
    fn admit(&self, pledges: &[Pledge], at_once: usize) -> Result<(f64, f64)> {
        let before = self.core_time()?;
        let wall = admit(self.address, pledges, at_once)?;
        Ok((self.core_time()? - before, wall.as_secs_f64()))
    }

    /// Seconds that the provisioner has computed so far, its share of the kernel's work included: `proc_pid_stat(5)`.
    fn core_time(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("a time");
        Ok((ticks(11)? + ticks(12)?) / TICKS)
    }
}

/// Measures both goals.
pub fn report(table: &mut Table, limit: &Limit) -> Result<()> {
    let programs = size::shipped()?;
    let pledges: Vec<_> = (0..MACHINES + CROWD).map(|_| Pledge::new()).collect::<Result<_>>()?;
    let served = serve(table, &programs, &pledges)?;
    let (steady, crowd) = pledges.split_at(MACHINES);

    let (busy, wall) = served.admit(steady, AT_ONCE)?;
    let count = f64::from(u32::try_from(steady.len())?);
    let (rate, ceiling, goal) = (count / busy, limit.per_second(), 0.7);
    table.add(&Figure {
        goal: "1",
        what: "machines admitted per second of one core's time, durably",
        ours: format!("{rate:.0}/s ({:.0}/s with the clients on the other core)", count / wall),
        beside: format!("limit {ceiling:.0}/s"),
        ratio: Some(rate / ceiling),
        met: Some(rate / ceiling >= goal),
    });

    let (busy, wall) = served.admit(crowd, CROWD)?;
    table.add(&Figure {
        goal: "2",
        what: "1,000 machines at once, none refused: one core's time",
        ours: format!("{busy:.2} s ({wall:.2} s by the clock)"),
        beside: "limit 1.0 s".to_owned(),
        ratio: Some(busy),
        met: Some(busy <= 1.0),
    });
    // A bundle holds fewer than the 100,000 registrations that the limit is for: no verdict.
    memory(table, &served, "provisioner, resident after 3,000 admissions", 32.0, false)
}

fn memory(table: &mut Table, served: &Served, what: &str, limit: f64, judged: bool) -> Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", served.child.id()))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    let now = kib / 1024.0;
    table.add(&Figure {
        goal: "7",
        what,
        ours: format!("{now:.1} MiB"),
        beside: format!("limit {limit} MiB"),
        ratio: Some(now / limit),
        met: judged.then_some(now <= limit),
    });
    Ok(())
}

/// Admits all, so many at a time; how long it took.
fn admit(address: SocketAddr, pledges: &[Pledge], at_once: usize) -> Result<Duration> {
    let next = AtomicUsize::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let worker = || -> Result<()> {
            while let Some(pledge) = pledges.get(next.fetch_add(1, Ordering::Relaxed)) {
                pledge.connect(address)?.admission()?;
            }
            Ok(())
        };
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker ended"))?)
    })?;
    Ok(begin.elapsed())
}

fn serve(table: &mut Table, programs: &Programs, pledges: &[Pledge]) -> Result<Served> {
    let folder = tempfile::tempdir()?;
    let dir = folder.path().join("site");
    let hq = Hq::found(programs, "Bench")?;
    let mut csv = String::from("serial,dev-key,site,roles\n");
    for (number, pledge) in pledges.iter().enumerate() {
        writeln!(csv, "BENCH{number:05},{},{SITE},worker", pledge.id())?;
    }
    hq.import(&csv)?;
    let site = |words: &[&str]| {
        run(Command::new(&programs.provisioner).arg(words[0]).arg("--dir").arg(&dir).args(&words[1..]))
    };
    let owner = hq.owner_file().display().to_string();
    let code = code_in(&site(&["init", "--site", SITE, "--owner", &owner])?).context("a code")?;
    let reply = hq.path("reply.json").display().to_string();
    let request = dir.join("ca-request.json").display().to_string();
    hq.run(&["site", "certify", SITE, &request, "--code", &code, "-o", &reply])?;
    site(&["init", "--reply", &reply])?;
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(&programs.provisioner).arg("serve").arg("--dir").arg(&dir);
    command
        .args(["--listen", &address.to_string(), "--metrics", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let served = Served { child: command.spawn()?, address, _folder: folder };
    harness::wait::until("the admin socket", Duration::from_secs(10), || {
        site(&["slots"]).map(drop).map_err(|error| error.to_string())
    })?;
    memory(table, &served, "provisioner, resident when idle", 10.0, true)?;
    site(&["apply", &hq.bundle()?.display().to_string()])?;
    ensure!(std::net::TcpStream::connect(address).is_ok(), "the provisioner does not listen");
    Ok(served)
}
