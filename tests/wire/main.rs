//! The wire tier: the real provisioner on loopback, spoken to by pledges that misbehave.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::format_collect)] // A test may panic; lints exempt test functions and not what they call.

mod admission; // who is not admitted, or not now, or not again
mod browse; // the announcement on the LAN, seen by others' programs
mod bundles; // files that are not put in force
mod certificates; // requests that are not signed
mod claims; // codes that are not given or not believed
mod desk; // the provisioner's own folder
mod disk; // the second way to a machine's disk, and its end
mod est; // a client that nobody here wrote
mod forge; // documents as a mistake or an attacker makes them
mod headquarters; // what headquarters does not believe
mod heartbeat; // datagrams that count for nothing
mod images; // what machines are to run
mod limits; // those who ask too much or too slowly
mod machine; // node-boot itself, between two provisioners
mod metrics; // what the program says of itself
mod neighbours; // others on a machine's LAN, who cannot hold it up
mod network; // of a machine whose whole system is ours
mod off; // a site that was off for years
mod office; // what headquarters tells the person who sits at it
mod overwrite; // a disk with somebody's data
mod posers; // who is not believed by a machine
mod rebuild; // a store that was lost
mod refusals; // what else the registrar refuses
mod register; // what a machine tells headquarters
mod reports; // what headquarters makes of what sites say
mod slots; // who gets which place
mod stick; // what the machine that founds a site is given
mod unicast; // a network that carries no multicast
mod voice; // a machine that a person approves by telephone
mod words; // what a person at the site reads

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use protocol::clock::Time;
use protocol::refusal::{Refusal, Said};
use tests::pledge::{Answer, Pledge};
use tests::stage::{DEADLINE, Hq, Programs, SITE, code_in, run};

/// Asserts which refusal an answer is: its status, its word and its sentence.
pub fn is(answer: &Answer, refusal: Refusal) {
    let said: Said = protocol::json::parse(&answer.body).unwrap();
    assert_eq!((answer.status, said.reason.as_str()), (refusal.status(), refusal.code()), "{said:?}");
    assert!(said.text.starts_with(refusal.sentence()), "{said:?}");
}

/// Waits until something is so.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let look = || if is_so() { Ok(()) } else { Err("not yet".to_owned()) };
    harness::wait::until(what, DEADLINE, look).unwrap();
}

/// The command failed with this refusal: its sentence, its word and, among the details, these words.
pub fn fails(said: anyhow::Result<String>, refusal: Refusal, detail: &str) {
    let said = said.expect_err("it is refused").to_string();
    for words in [refusal.sentence(), refusal.code(), detail] {
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A certified provisioner on loopback, not attached to any cluster.
pub struct Served {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    metrics: SocketAddr,
    /// Headquarters.
    pub hq: Arc<Hq>,
    programs: Programs,
    folder: tempfile::TempDir,
    options: Vec<String>,
    name: &'static str,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Served {
    /// With these pledges registered, each by its device key.
    pub fn with(pledges: &[&Pledge]) -> Self {
        Self::with_options(pledges, &[])
    }

    /// With more arguments for `serve`.
    pub fn with_options(pledges: &[&Pledge], options: &[&str]) -> Self {
        let programs = Programs::build().unwrap();
        let hq = Hq::found(&programs, "Wire").unwrap();
        Self::of(hq, programs, pledges, options)
    }

    /// Of an owner who lets machines be admitted by voice, with these slots and nobody registered.
    pub fn by_phone(slots: &str) -> Self {
        let programs = Programs::build().unwrap();
        let hq = Hq::found_with(&programs, "Wire", &["--allow-phone"]).unwrap();
        hq.edit(&format!("sites/{SITE}/slots.yaml"), slots).unwrap();
        Self::of(hq, programs, &[], &[])
    }

    /// Another provisioner of the same site, certified and without a bundle.
    #[must_use]
    pub fn beside(&self) -> Self {
        let mut served = Self::new(Arc::clone(&self.hq), self.programs.clone(), &[]);
        served.start();
        served
    }

    /// A provisioner of another site of the same owner, with that site's bundle.
    #[must_use]
    pub fn of_site(&self, name: &'static str) -> Self {
        self.hq.run(&["site", "add", name]).unwrap();
        let mut served = Self::at(name, Arc::clone(&self.hq), self.programs.clone(), &[]);
        served.start();
        served.deliver();
        served
    }

    fn new(hq: Arc<Hq>, programs: Programs, options: &[&str]) -> Self {
        Self::at(SITE, hq, programs, options)
    }

    fn at(name: &'static str, hq: Arc<Hq>, programs: Programs, options: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let (address, metrics) = (free_address(), free_address());
        let child = Command::new("true").spawn().unwrap();
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        let served = Self { child, address, metrics, hq, programs, folder, options, name };
        served.certify();
        served
    }

    fn of(hq: Hq, programs: Programs, pledges: &[&Pledge], options: &[&str]) -> Self {
        let mut served = Self::new(Arc::new(hq), programs, options);
        let rows: String = pledges
            .iter()
            .enumerate()
            .map(|(n, pledge)| format!("WIRE{n:03},{},{SITE},worker\n", pledge.id()))
            .collect();
        if !rows.is_empty() {
            served.hq.import(&format!("serial,dev-key,site,roles\n{rows}")).unwrap();
        }
        served.start();
        served.deliver();
        served
    }

    fn dir(&self) -> String {
        self.path().display().to_string()
    }

    /// The provisioner's folder.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    /// A counter of `/metrics`: how often this happened for this reason.
    pub fn count(&self, counter: &str, reason: &str) -> u64 {
        self.gauge(&format!("{counter}{{reason=\"{reason}\"}}"))
    }

    /// What the program says of itself at this path: head and body of its answer.
    pub fn watched(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: p\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn gauge(&self, name: &str) -> u64 {
        let (_, text) = self.watched("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// The number of the bundle in force.
    pub fn seq(&self) -> u64 {
        self.gauge("nodeboot_bundle_seq{site=\"ship-7\"}")
    }

    /// Whether the provisioner noted, since it was started last, that it refused something by this id.
    pub fn noted(&self, id: &str) -> bool {
        self.log().lines().any(|line| line.contains(&format!("id=\"{id}\"")))
    }

    /// What the provisioner has written to its log since it was started last.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// A command of the site.
    pub fn site(&self, words: &[&str]) -> anyhow::Result<String> {
        run(Command::new(&self.programs.provisioner)
            .arg(words[0])
            .args(["--dir", &self.dir()])
            .args(&words[1..]))
    }

    /// A command whose verb has two words.
    pub fn site_two(&self, verb: [&str; 2], words: &[&str]) -> anyhow::Result<String> {
        run(Command::new(&self.programs.provisioner).args(verb).args(["--dir", &self.dir()]).args(words))
    }

    /// The same program for another folder.
    pub fn elsewhere(&self, words: &[&str]) -> anyhow::Result<String> {
        run(Command::new(&self.programs.provisioner).args(words))
    }

    fn certify(&self) {
        let owner = self.hq.owner_file().display().to_string();
        let code = code_in(&self.site(&["init", "--site", self.name, "--owner", &owner]).unwrap()).unwrap();
        let reply = self.hq.path("reply.json").display().to_string();
        let request = format!("{}/ca-request.json", self.dir());
        self.hq.run(&["site", "certify", self.name, &request, "--code", &code, "-o", &reply]).unwrap();
        self.site(&["init", "--reply", &reply]).unwrap();
    }

    /// The programs under test.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Starts it.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it on a computer whose clock says that it is so late, and stands still.
    pub fn start_at(&mut self, now: Time) {
        self.start_with(&[("NODEBOOT_CLOCK", &now.0.to_string())]);
    }

    fn start_with(&mut self, environment: &[(&str, &str)]) {
        let mut command = Command::new(&self.programs.provisioner);
        command.args([
            "serve",
            "--dir",
            &self.dir(),
            "--listen",
            &self.address.to_string(),
            "--metrics",
            &self.metrics.to_string(),
        ]);
        command.args(&self.options).envs(environment.iter().copied());
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.child = command.stdout(log).stderr(Stdio::null()).spawn().unwrap();
        harness::wait::until("the admin socket", DEADLINE, || {
            self.site(&["slots"]).map_err(|e| e.to_string())
        })
        .unwrap();
    }

    /// The owner's site anchor A, DER.
    pub fn site_anchor(&self) -> Vec<u8> {
        site_anchor(&self.hq)
    }

    /// Deletes something of the provisioner's folder, as a bad disk does.
    pub fn lose(&self, name: &str) {
        let path = self.folder.path().join("site").join(name);
        let lost = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        lost.unwrap();
    }

    /// Makes a report for headquarters: the path of its file.
    pub fn report(&self) -> String {
        self.site(&["report"])
            .unwrap()
            .split_whitespace()
            .find(|word| word.starts_with('/'))
            .unwrap()
            .to_owned()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Takes a file to the site, as a person with a stick does.
    pub fn apply(&self, name: &str, bytes: &[u8]) -> anyhow::Result<String> {
        let path = self.hq.path(name);
        std::fs::write(&path, bytes).unwrap();
        self.site(&["apply", &path.display().to_string()])
    }

    /// Makes these slots of the site and puts them in force.
    pub fn slots(&self, names: &[&str]) {
        let lines: String = names.iter().map(|name| format!("- name: {name}\n")).collect();
        self.hq.edit("sites/ship-7/slots.yaml", &format!("slots:\n{lines}")).unwrap();
        self.deliver();
    }

    /// Lets HQ hear what the site has to say: what HQ said to it.
    pub fn ingest(&self) -> String {
        let report = self.site(&["report"]).unwrap();
        self.hq.run(&["ingest", report.trim()]).unwrap()
    }

    /// Builds a bundle and puts it in force.
    pub fn deliver(&self) {
        let bundle = self.hq.path("site.nbb").display().to_string();
        self.hq.run(&["bundle", "build", self.name, "-o", &bundle]).unwrap();
        self.site(&["apply", &bundle]).unwrap();
    }
}

/// The site anchor A of an owner, DER.
pub fn site_anchor(hq: &Hq) -> Vec<u8> {
    let owner: serde_json::Value = serde_json::from_slice(&std::fs::read(hq.owner_file()).unwrap()).unwrap();
    let payload = protocol::bytes::from_b64u(owner["anchors"]["payload"].as_str().unwrap()).unwrap();
    let anchors: serde_json::Value = serde_json::from_slice(&payload).unwrap();
    protocol::bytes::from_b64(anchors["site"][0].as_str().unwrap()).unwrap()
}
