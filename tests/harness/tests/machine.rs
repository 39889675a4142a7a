//! What a test may rely on when it uses a machine of the harness: disk, TPM, cable, and a clean end.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

use harness::{Hardware, Lan, Machine, missing, wait};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn skipped() -> bool {
    missing().inspect(|why| harness::skip(why)).is_some()
}

fn bare(serial: &str) -> Hardware {
    Hardware { tpm: false, ..Hardware::nuc(serial) }
}

#[test]
fn the_disk_survives_a_power_cut_and_run_does_not() {
    if skipped() {
        return;
    }
    let lan = Lan::new("disk").unwrap();
    let mut machine = Machine::new(&lan, "diskful", bare("S1")).unwrap();
    machine
        .run("sh", &["-c", "echo kept > /var/lib/node-boot/a; echo kept > /etc/a; echo lost > /run/a"])
        .unwrap();
    let sleeper = machine.spawn("sleeper", machine.command("sleep").unwrap()).unwrap();
    machine.power_off();
    drop(sleeper);
    assert!(machine.run("true", &[]).unwrap_err().to_string().contains("switched off"));
    machine.power_on().unwrap();
    assert_eq!(machine.run("cat", &["/var/lib/node-boot/a", "/etc/a"]).unwrap(), "kept\nkept\n");
    assert!(machine.run("cat", &["/run/a"]).is_err());
    assert!(!Path::new("/etc/a").exists(), "the computer's own /etc must stay as it is");
    assert_eq!(machine.run("hostname", &[]).unwrap(), "diskful\n");
    assert_eq!(machine.run("ls", &["/sys/class/net"]).unwrap(), "eth0\nlo\n");
}

#[test]
fn a_tpm_answers_every_client_and_keeps_its_seed() {
    if skipped() {
        return;
    }
    let lan = Lan::new("tpm").unwrap();
    let mut machine = Machine::new(&lan, "measured", Hardware::nuc("S2")).unwrap();
    // TPM2_NV_ReadPublic of the index that holds the RSA endorsement certificate.
    let ask = [0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x69, 0x01, 0xc0, 0, 2];
    let read = |machine: &Machine| {
        let mut stream = UnixStream::connect(machine.tpm().unwrap().socket()).unwrap();
        stream.write_all(&ask).unwrap();
        let mut answer = [0; 256];
        let length = stream.read(&mut answer).unwrap();
        answer[..length].to_vec()
    };
    let first = read(&machine);
    assert_eq!(first[6..10], [0; 4], "the certificate must be there: {first:02x?}");
    assert_eq!(read(&machine), first);
    machine.power_off();
    machine.power_on().unwrap();
    assert_eq!(read(&machine), first);
    assert!(machine.tpm().unwrap().authority().exists());
}

#[test]
fn machines_meet_over_link_local_until_the_cable_is_pulled() {
    if skipped() {
        return;
    }
    let lan = Lan::new("cable").unwrap();
    let (left, right) = (Machine::new(&lan, "left", bare("S3")), Machine::new(&lan, "right", bare("S4")));
    let (left, right) = (left.unwrap(), right.unwrap());
    assert_ne!(left.mac().unwrap(), right.mac().unwrap());
    let listener = left.inside(|| TcpListener::bind("[::]:7000").unwrap()).unwrap();
    let address = left.link_local().unwrap();
    let host = format!("{address}%eth0");
    let reach = || right.inside(|| connect(&host)).unwrap();
    wait::until("a call", SOON, || reach().map_err(|error| error.to_string())).unwrap();
    right.unplug().unwrap();
    reach().unwrap_err();
    right.plug().unwrap();
    wait::until("a call", SOON, || reach().map_err(|error| error.to_string())).unwrap();
    drop(listener);
}

fn connect(host: &str) -> std::io::Result<()> {
    use std::net::ToSocketAddrs as _;
    let address = (host, 7000).to_socket_addrs()?.next().unwrap();
    TcpStream::connect_timeout(&address, Duration::from_millis(300)).map(drop)
}

/// Not a test by itself: the process that the next one kills while its machine runs.
#[test]
#[ignore = "started by nothing_outlives_a_killed_test"]
fn victim() {
    let lan = Lan::new("victim").unwrap();
    let machine = Machine::new(&lan, "doomed", Hardware::nuc("S5")).unwrap();
    let _sleeper = machine.spawn("sleeper", {
        let mut sleep = machine.command("sleep").unwrap();
        sleep.arg("54321");
        sleep
    });
    println!("up");
    std::thread::sleep(Duration::from_mins(10));
}

#[test]
fn nothing_outlives_a_killed_test() {
    if skipped() {
        return;
    }
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "victim", "--nocapture"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut test = test.spawn().unwrap();
    let pid = test.id();
    let mut said = String::new();
    let mut out = test.stdout.take().unwrap();
    while !said.contains("up\n") {
        let mut byte = [0];
        assert_eq!(out.read(&mut byte).unwrap(), 1, "the victim ended early: {said}");
        said.push(char::from(byte[0]));
    }
    let mark = format!("nbt-{pid}-");
    assert!(!running(&mark).is_empty());
    test.kill().unwrap();
    test.wait().unwrap();
    wait::until("an empty process table", SOON, || match running(&mark) {
        left if left.is_empty() => Ok(()),
        left => Err(left.join("; ")),
    })
    .unwrap();
}

/// Command lines of the processes whose environment, arguments or control group carry this mark.
fn running(mark: &str) -> Vec<String> {
    let read = |path: &Path, file: &str| {
        let bytes = std::fs::read(path.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let marked = processes
        .filter(|path| ["cmdline", "environ", "cgroup"].iter().any(|file| read(path, file).contains(mark)));
    marked.map(|path| read(&path, "cmdline").replace('\0', " ")).collect()
}
