//! The wire tier: the real provisioner on loopback, spoken to by pledges that misbehave.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::format_collect)] // A test may panic; lints exempt test functions and not what they call.

mod est; // a client that nobody here wrote
mod rebuild; // a store that was lost
mod refusals; // each refusal of the registrar, by its id
mod voice; // a machine that a person approves by telephone

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

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

/// A certified provisioner on loopback, not attached to any cluster.
pub struct Served {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Headquarters.
    pub hq: Hq,
    programs: Programs,
    folder: tempfile::TempDir,
    options: Vec<String>,
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

    fn of(hq: Hq, programs: Programs, pledges: &[&Pledge], options: &[&str]) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("true").spawn().unwrap();
        let options = options.iter().map(|word| (*word).to_owned()).collect();
        let mut served = Self { child, address, hq, programs, folder, options };
        served.certify();
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
        self.folder.path().join("site").display().to_string()
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
        let code = code_in(&self.site(&["init", "--site", SITE, "--owner", &owner]).unwrap()).unwrap();
        let reply = self.hq.path("reply.json").display().to_string();
        let request = format!("{}/ca-request.json", self.dir());
        self.hq.run(&["site", "certify", SITE, &request, "--code", &code, "-o", &reply]).unwrap();
        self.site(&["init", "--reply", &reply]).unwrap();
    }

    /// Starts it.
    pub fn start(&mut self) {
        let mut command = Command::new(&self.programs.provisioner);
        command.args([
            "serve",
            "--dir",
            &self.dir(),
            "--listen",
            &self.address.to_string(),
            "--metrics",
            "127.0.0.1:0",
        ]);
        command.args(&self.options);
        self.child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        harness::wait::until("the admin socket", DEADLINE, || {
            self.site(&["slots"]).map_err(|e| e.to_string())
        })
        .unwrap();
    }

    /// The owner's site anchor A, DER.
    pub fn site_anchor(&self) -> Vec<u8> {
        let owner: serde_json::Value =
            serde_json::from_slice(&std::fs::read(self.hq.owner_file()).unwrap()).unwrap();
        let payload = protocol::bytes::from_b64u(owner["anchors"]["payload"].as_str().unwrap()).unwrap();
        let anchors: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        protocol::bytes::from_b64(anchors["site"][0].as_str().unwrap()).unwrap()
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

    /// Builds a bundle and puts it in force.
    pub fn deliver(&self) {
        let bundle = self.hq.bundle().unwrap().display().to_string();
        self.site(&["apply", &bundle]).unwrap();
    }
}
