//! `node-boot` itself against real provisioners on loopback: what it does with an approval by telephone.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use harness::wait;
use protocol::refusal::{Refusal, Wait};
use tests::stage::{Csv, DEADLINE, SITE, code_in, run};

use crate::Served;

const SLOTS: &str = "slots:\n- name: node-1\n- name: node-2\n";

/// A machine without TPM and without screen.
pub struct NodeBoot {
    program: PathBuf,
    folder: tempfile::TempDir,
    child: Option<Child>,
    tpm: Option<Child>,
    /// What its clock shows, in seconds since 1970; `host` where that is the time of this computer.
    pub clock: &'static str,
}

impl Drop for NodeBoot {
    fn drop(&mut self) {
        for mut child in self.child.take().into_iter().chain(self.tpm.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl NodeBoot {
    /// Its owner's file names these provisioners.
    pub fn new(served: &Served, addresses: &[SocketAddr]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut owner: serde_json::Value =
            serde_json::from_slice(&fs::read(served.hq.owner_file()).unwrap()).unwrap();
        owner["addresses"] = addresses.iter().map(ToString::to_string).collect();
        fs::write(folder.path().join("owner.json"), owner.to_string()).unwrap();
        fs::create_dir(folder.path().join("stick")).unwrap();
        Self { program: served.programs.node_boot.clone(), folder, child: None, tpm: None, clock: "host" }
    }

    /// A file or folder of its.
    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Gives it a TPM.
    pub fn plug_tpm(&mut self) {
        let state = self.path("tpm");
        fs::create_dir_all(&state).unwrap();
        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "not-need-init", "--tpmstate", &format!("dir={state}")]);
        swtpm.args(["--server", &format!("type=unixio,path={}", self.path("tpm.sock"))]);
        swtpm.args(["--ctrl", &format!("type=unixio,path={}", self.path("tpm.ctrl"))]);
        self.tpm = Some(swtpm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let listens = || UnixStream::connect(self.path("tpm.sock")).map_err(|error| error.to_string());
        wait::until("the TPM", DEADLINE, listens).unwrap();
    }

    /// The program with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        let tpm = if self.tpm.is_some() { format!("unix:{}", self.path("tpm.sock")) } else { "none".into() };
        command.env("NODEBOOT_CLOCK", self.clock).arg(words[0]).args(["--tpm", &tpm]);
        for (option, name) in
            [("--state", "state"), ("--owner", "owner.json"), ("--dmi", "dmi"), ("--root", "root")]
        {
            command.args([option, &self.path(name)]);
        }
        command.args(&words[1..]);
        command
    }

    /// Enrolls in the background.
    pub fn enroll(&mut self, options: &[&str]) {
        let log = File::create(self.path("log")).unwrap();
        let mut command = self.command(&[&["enroll"], options].concat());
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// The same on a terminal; what is typed goes to the other end of the pipe.
    fn enroll_on_terminal(&mut self, options: &[&str]) -> ChildStdin {
        let enroll = self.command(&[&["enroll"], options].concat());
        let words: Vec<_> = std::iter::once(enroll.get_program())
            .chain(enroll.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-f", "-c", &words.join(" "), &self.path("log")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let keyboard = child.stdin.take().unwrap();
        self.child = Some(child);
        keyboard
    }

    /// All that it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until it has said this.
    pub fn says(&self, words: &str) {
        let said = || if self.log().contains(words) { Ok(()) } else { Err(self.log()) };
        wait::until(&format!("the machine to say {words:?}"), DEADLINE, said).unwrap();
    }

    /// Waits for the code that it shows.
    pub fn code(&self) -> String {
        wait::until("a code", DEADLINE, || code_in(&self.log()).ok_or_else(|| self.log())).unwrap()
    }

    /// Waits until it is enrolled; where it stands then.
    pub fn ends(&mut self) -> String {
        let mut child = self.child.take().unwrap();
        let ended = wait::until("node-boot to be done", DEADLINE, || {
            child.try_wait().map_err(|error| error.to_string())?.ok_or_else(|| self.log())
        });
        if ended.is_err() {
            let _ = child.kill();
        }
        assert!(ended.unwrap().success(), "{}", self.log());
        self.status()
    }

    /// Where it stands.
    pub fn status(&self) -> String {
        run(&mut self.command(&["status"])).unwrap()
    }
}

/// Headquarters registers the machine by its device key; no site has heard of it yet.
pub fn register(served: &Served, machine: &NodeBoot) {
    register_with(served, machine, &[]);
}

/// The same with other columns than the machine itself proposes.
pub fn register_with(served: &Served, machine: &NodeBoot, columns: &[(&str, &str)]) {
    let mut rows = Csv::default();
    let row = run(&mut machine.command(&["register", "--csv"])).unwrap();
    rows.add(&row, &[&[("site", SITE), ("roles", "worker")], columns].concat());
    served.hq.import(&rows.text()).unwrap();
}

fn approve(served: &Served, code: &str) {
    let answer = served.hq.answer("node-1", code).unwrap();
    served.site(&["approve", "--slot", "node-1", "--code", &answer]).unwrap();
}

#[test]
fn r13c_a_voucher_at_another_provisioner_counts_for_more_than_a_voice() {
    let first = Served::by_phone(SLOTS);
    let second = first.beside();
    let mut machine = NodeBoot::new(&first, &[first.address, second.address]);
    first.site(&["window"]).unwrap();
    let stick = machine.path("stick");
    machine.enroll(&["--stick", &stick, "--patience", "3600"]);
    approve(&first, &machine.code());
    machine.says("looks for its voucher");
    // Headquarters registers the machine after all, and its bundle reaches only the other provisioner.
    register(&first, &machine);
    second.deliver();
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
    assert!(machine.log().contains("(R13c)"), "{}", machine.log());
}

#[test]
fn r13d_a_machine_by_which_nobody_can_be_asked_says_so_and_waits_for_its_voucher() {
    let served = Served::by_phone(SLOTS);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    served.site(&["window"]).unwrap();
    machine.enroll(&["--patience", "0"]);
    let code = machine.code();
    let asked = || served.gauge("nodeboot_requests_total{path=\"/.well-known/brski/requestvoucher\"}");
    let before = asked();
    crate::until("it has asked twice", || asked() >= before + 2);
    let stands = machine.status();
    assert!(stands.contains(&format!("Waiting for headquarters to approve the code {code}.")), "{stands}");
    assert!(!machine.log().contains(Wait::PendingHq.sentence()), "the code stays: {}", machine.log());
    approve(&served, &code);
    machine.says("(R13d)");
    assert!(machine.status().contains("belongs to no site yet"));
    let told_hq = || served.hq.run(&["ingest", served.site(&["report"]).unwrap().trim()]).unwrap();
    wait::until("HQ to hear of it", DEADLINE, || {
        let said = told_hq();
        if said.contains("ALARM voice-refused") { Ok(()) } else { Err(said) }
    })
    .unwrap();
    served.deliver();
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
}

#[test]
fn r13d_nothing_but_a_yes_on_the_terminal_after_the_question_admits_the_machine() {
    if !harness::assets::on_path("script") {
        return harness::skip("`script`, which makes a terminal, is not installed: it is in util-linux");
    }
    let served = Served::by_phone(SLOTS);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    served.site(&["window"]).unwrap();
    let mut keyboard = machine.enroll_on_terminal(&["--patience", "0"]);
    let code = machine.code();
    // Typed before there is a question: it answers nothing.
    keyboard.write_all(b"yes\n").unwrap();
    approve(&served, &code);
    machine.says("Is it to join site ship-7?");
    keyboard.write_all(b"what?\n").unwrap();
    machine.says("Please type yes or no.");
    assert!(machine.status().contains("belongs to no site yet"));
    keyboard.write_all(b"yes\n").unwrap();
    let stands = machine.ends();
    assert!(stands.contains("site ship-7, approved by telephone"), "{stands}");
}

#[test]
fn a_yes_on_the_stick_admits_the_machine_with_epoch_0_and_a_later_bundle_gives_it_a_voucher() {
    let served = Served::by_phone(SLOTS);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    served.site(&["window"]).unwrap();
    let stick = machine.path("stick");
    machine.enroll(&["--stick", &stick, "--patience", "0"]);
    approve(&served, &machine.code());
    machine.says("rename");
    let file = |name: &str| machine.folder.path().join("stick/nodeboot").join(name);
    fs::rename(file("code.txt"), file("confirm.txt")).unwrap();
    let stands = machine.ends();
    assert!(stands.contains("site ship-7, approved by telephone"), "{stands}");
    served.hq.run(&["ingest", served.site(&["report"]).unwrap().trim()]).unwrap();
    served.deliver();
    machine.enroll(&[]);
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
}

#[test]
fn a_step_by_hand_ends_at_a_no_and_status_says_which() {
    let served = Served::with(&[]);
    let machine = NodeBoot::new(&served, &[served.address]);
    let said = run(&mut machine.command(&["enroll"])).unwrap_err().to_string();
    for words in
        [Refusal::Unknown.sentence(), "(unknown); nobody else answers", "`node-boot run` goes on asking"]
    {
        assert!(said.contains(words), "{said}");
    }
    let status = run(&mut machine.command(&["status", "--json"])).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["stands"], format!("{} (unknown)", Refusal::Unknown.sentence()));
    // A provisioner of somebody else is all that there is.
    let other = Served::with(&[]);
    let machine = NodeBoot::new(&served, &[other.address]);
    let said = run(&mut machine.command(&["enroll"])).unwrap_err().to_string();
    assert!(said.contains(Refusal::Stranger.sentence()), "{said}");
}

#[test]
fn a_machine_proves_the_endorsement_key_that_its_voucher_names() {
    if !harness::assets::on_path("swtpm") {
        return harness::skip("swtpm is not installed");
    }
    let served = Served::with(&[]);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    machine.plug_tpm();
    // Headquarters has been told of one key, and not of the one that comes first.
    register_with(&served, &machine, &[("ek-p256", ""), ("ek-rsa", "")]);
    served.deliver();
    machine.enroll(&[]);
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
    assert!(!machine.log().contains(Refusal::AuthMismatch.code()), "{}", machine.log());
}

#[test]
fn a_machine_of_1970_takes_its_sites_time_and_one_whose_clock_is_right_keeps_it() {
    let served = Served::with(&[]);
    for (clock, wrong) in [("60", true), ("host", false)] {
        let mut machine = NodeBoot::new(&served, &[served.address]);
        machine.clock = clock;
        register(&served, &machine);
        served.deliver();
        machine.enroll(&[]);
        machine.ends();
        let log = machine.log();
        assert_eq!(log.contains("The clock of this machine would be set to 20"), wrong, "{log}");
    }
}

#[test]
fn a_machine_whose_registration_was_made_anew_proves_itself_again_by_itself() {
    let served = Served::with(&[]);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    register(&served, &machine);
    served.deliver();
    machine.enroll(&[]);
    machine.ends();
    let registered = fs::read_dir(served.hq.dir().join("machines")).unwrap();
    registered.flatten().for_each(|entry| fs::remove_file(entry.path()).unwrap());
    register(&served, &machine);
    served.deliver();
    machine.enroll(&[]);
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
    let id = served.hq.run(&["machines", "list"]).unwrap();
    let id = id.split_whitespace().find(|word| word.starts_with("mc_")).unwrap();
    assert!(served.site(&["machines"]).unwrap().contains(id), "under its new name");
}

#[test]
fn a_machine_of_a_site_shows_no_code_to_another_site_that_plugs_machines_in() {
    let mut home = Served::with(&[]);
    let other = home.of_site("ship-8");
    let mut machine = NodeBoot::new(&home, &[home.address, other.address]);
    register(&home, &machine);
    home.deliver();
    machine.enroll(&[]);
    machine.ends();
    home.kill();
    other.site(&["window"]).unwrap();
    machine.enroll(&[]);
    machine.says("HQ has not registered this machine");
    assert_eq!(code_in(&machine.log()), None, "{}", machine.log());
    assert!(other.site(&["claims"]).unwrap().contains("No machine shows a code."));
}
