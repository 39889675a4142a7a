//! Goal 4: how quickly a machine finds its site, beside the raw round trip, and what that costs the LAN.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use node_boot::site::discover;
use tests::stage::{SITE, SLOTS, Site, run};

use crate::table::{Figure, Table};

const ROUNDS: usize = 400;
/// Between two rounds: the provisioner answers one asker fifty times a second at most.
const PACE: Duration = Duration::from_millis(25);
/// The UDP header, the IPv6 header and the Ethernet header without checksum.
const HEADERS: usize = 8 + 40 + 14;

/// The word that makes this program the asking machine.
pub const ASK: &str = "ask";

/// The asking machine: prints how long each question took, nanoseconds, and at the end the bytes of one.
pub fn ask() -> Result<()> {
    let ask = || -> Result<Duration> {
        let begin = Instant::now();
        let mut took = None;
        discover::ask(Duration::from_secs(1), |_| {
            took = Some(begin.elapsed());
            true
        })?;
        took.context("no provisioner answered")
    };
    let first = || ask().map_err(|error| error.to_string());
    harness::wait::until("the first answer", Duration::from_secs(10), first)?;
    let before = bytes()?;
    for time in times(ask)? {
        println!("{}", time.as_nanos());
    }
    println!("{}", (bytes()? - before) / ROUNDS);
    Ok(())
}

/// Measures question to answer, and the raw round trip, between the same two machines.
pub fn report(table: &mut Table, site: &mut Site) -> Result<()> {
    site.hq.edit(&format!("sites/{SITE}/slots.yaml"), SLOTS)?;
    let spare = site.spare("asker", 90, harness::Hardware::nuc("BENCHASK1"))?;
    let asked = run(spare.machine.command(std::env::current_exe()?)?.arg(ASK))?;
    let mut asked = asked.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>()?;
    let bytes = usize::try_from(asked.pop().context("bytes")?)?;
    let asked: Vec<_> = asked.into_iter().map(Duration::from_nanos).collect();
    let echo = site.provisioner.machine.inside(|| UdpSocket::bind("0.0.0.0:7"))??;
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, source)) = echo.recv_from(&mut buffer) {
            if length == 0 || echo.send_to(&buffer[..length], source).is_err() {
                break;
            }
        }
    });
    let target = SocketAddr::from((site.lan.address(2), 7));
    let raw = spare.machine.inside(|| -> Result<_> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        let times = times(|| {
            let begin = Instant::now();
            socket.send_to(&[1; 64], target)?;
            socket.recv_from(&mut [0; 512])?;
            Ok(begin.elapsed())
        })?;
        socket.send_to(&[], target)?;
        Ok(times)
    })??;
    let _ = answering.join();
    add(table, &asked, bytes, &raw);
    Ok(())
}

fn add(table: &mut Table, asked: &[Duration], bytes: usize, raw: &[Duration]) {
    let micros =
        |times: &[Duration], of_hundred: usize| times[times.len() * of_hundred / 100].as_secs_f64() * 1e6;
    let (p50, p99, beside) = (micros(asked, 50), micros(asked, 99), micros(raw, 50));
    table.add(&Figure {
        goal: "4",
        what: "link up to the registrar's address, p50",
        ours: format!("{p50:.0} µs"),
        beside: format!("raw UDP round trip {beside:.0} µs"),
        ratio: Some(p50 / beside),
        met: Some(p50 <= 10.0 * beside),
    });
    table.add(&Figure {
        goal: "4",
        what: "the same, p99",
        ours: format!("{:.2} ms", p99 / 1e3),
        beside: "limit 5 ms".to_owned(),
        ratio: Some(p99 / 5e3),
        met: Some(p99 <= 5e3),
    });
    #[allow(clippy::cast_precision_loss)] // A few hundred.
    let share = bytes as f64 / 250.0;
    table.add(&Figure {
        goal: "4",
        what: "bytes on the LAN to find the site, both kinds of address",
        ours: format!("{bytes} B ({HEADERS} B of each datagram are headers)"),
        beside: "limit 250 B".to_owned(),
        ratio: Some(share),
        met: Some(bytes <= 250),
    });
}

fn times(mut once: impl FnMut() -> Result<Duration>) -> Result<Vec<Duration>> {
    once()?;
    let mut paced = || {
        std::thread::sleep(PACE);
        once()
    };
    let mut times = (0..ROUNDS).map(|_| paced()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times)
}

/// Bytes that this machine's cable has carried both ways.
fn bytes() -> Result<usize> {
    let read = |path: &Path| -> Result<usize> { Ok(std::fs::read_to_string(path)?.trim().parse()?) };
    let cable = Path::new("/sys/class/net/eth0/statistics");
    Ok(read(&cable.join("tx_bytes"))? + read(&cable.join("rx_bytes"))?)
}
