//! The wire tier: the real provisioner on loopback, spoken to by pledges that misbehave.

#![allow(clippy::unwrap_used)] // The lint exempts test functions and not what they call.

mod refusals; // each refusal of the registrar, by its id

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use tests::pledge::Pledge;
use tests::stage::{DEADLINE, Hq, Programs, SITE, code_in, run};

/// A certified provisioner on loopback, not attached to any cluster.
pub struct Served {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Headquarters.
    pub hq: Hq,
    programs: Programs,
    folder: tempfile::TempDir,
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
        let _ = rustls::crypto::ring::default_provider().install_default();
        let programs = Programs::build().unwrap();
        let hq = Hq::found(&programs, "Wire").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("true").spawn().unwrap();
        let mut served = Self { child, address, hq, programs, folder };
        served.certify();
        let rows: String = pledges
            .iter()
            .enumerate()
            .map(|(n, pledge)| format!("WIRE{n:03},{},{SITE},worker\n", pledge.id()))
            .collect();
        served.hq.import(&format!("serial,dev-key,site,roles\n{rows}")).unwrap();
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
        self.child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        harness::wait::until("the admin socket", DEADLINE, || {
            self.site(&["slots"]).map_err(|e| e.to_string())
        })
        .unwrap();
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
