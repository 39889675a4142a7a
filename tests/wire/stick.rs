//! What headquarters puts on a site's stick for the machine that founds the site, and when it does not any more.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use protocol::attest::Binding;
use protocol::bytes::{B64u, Digest};
use protocol::certify::CaRequest;
use protocol::crypto::{Alg, Signer as _, SoftKey};
use protocol::id::Id;
use protocol::issue;
use protocol::record::{Sites, Status};
use protocol::refusal::Refused;
use protocol::report::{self, Join};
use protocol::tpm::Ek;
use provisioner::site::rebuild::Stage;
use provisioner::site::{Answer, Peer, Site, system_clock};
use tests::stage::SITE;

use crate::Served;
use crate::forge::{Desk, stolen_keys, tpm};

/// The machine of the vectors is registered, and a provisioner in its TPM certified.
fn certify(served: &Served) {
    served.hq.import(&format!("serial,ek-p256,site,roles\nPRV1,{},{SITE},worker\n", tpm::ek_id())).unwrap();
    certify_one_more(served).unwrap();
}

/// Headquarters is asked to certify a provisioner in that TPM.
fn certify_one_more(served: &Served) -> anyhow::Result<String> {
    let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
    let request = CaRequest {
        csr: B64u(issue::request("ship-7 issuing CA", None, &key).unwrap()),
        ek: Some(B64u(tpm::ek())),
        key: Some(B64u(tpm::key_of(key.spki()))),
        private: Some(B64u(b"what only that TPM can read".to_vec())),
        seal: None,
    };
    let [path, reply] = ["request.json", "reply.json"].map(|name| served.hq.path(name));
    std::fs::write(&path, protocol::json::to_vec(&request)).unwrap();
    let (path, reply) = (path.display().to_string(), reply.display().to_string());
    served.hq.run(&["site", "certify", SITE, &path, "-o", &reply])
}

#[test]
fn a_machine_that_is_locked_out_becomes_no_provisioner_by_a_stick_nor_by_a_new_certificate_until_it_is_back()
{
    let served = Served::with(&[]);
    certify(&served);
    let desk = Desk::of(&served.hq);
    for word in ["lost", "rma"] {
        let said = served.hq.run(&["machines", "revoke", "PRV1", &format!("--{word}")]).unwrap();
        assert!(
            said.contains("provisioner of ship-7") && said.contains("`provisioner hq site revoke ship-7`"),
            "{said}"
        );
        let found = desk.0.certified(SITE).unwrap();
        assert!(
            found.brought.is_empty() && found.left_out[0].contains(&format!("is {word}")),
            "{:?}",
            found.left_out
        );
        let said = certify_one_more(&served).unwrap_err().to_string();
        assert!(said.contains(&format!("is {word}")), "{said}");
        desk.amend(|record| record.status = Status::Active);
        assert_eq!(desk.0.certified(SITE).unwrap().brought.len(), 1);
    }
    desk.amend(|record| record.site = Sites::One("ship-9".to_owned()));
    assert!(desk.0.certified(SITE).unwrap().left_out[0].contains("no machine of ship-7 is registered"));
}

#[test]
fn a_stick_brings_provisioners_only_while_their_ca_is_believed() {
    let served = Served::with(&[]);
    certify(&served);
    let desk = Desk::of(&served.hq).0;
    let found = desk.certified(SITE).unwrap();
    let hashes: Vec<_> = found.brought.iter().map(|(ek, _)| ek.to_string()).collect();
    assert_eq!((hashes, found.left_out), (vec![tpm::ek_id()], vec![]));
    desk.revoke_site(SITE, system_clock()).unwrap();
    let found = desk.certified(SITE).unwrap();
    assert!(found.brought.is_empty() && found.left_out[0].contains("its CA was withdrawn"));
}

/// A TPM that is on until it is dropped.
struct Chip(Child);

impl Chip {
    /// None where there is no `swtpm`.
    fn on(folder: &Path, socket: &Path) -> Option<Self> {
        let mut swtpm = Command::new("swtpm");
        swtpm.args(["socket", "--tpm2", "--flags", "startup-clear"]);
        swtpm.arg("--tpmstate").arg(format!("dir={}", folder.display()));
        swtpm.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
        swtpm.arg("--ctrl").arg(format!("type=unixio,path={}", folder.join("ctrl").display()));
        let chip = Self(swtpm.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?);
        crate::until("the TPM's socket", || std::os::unix::net::UnixStream::connect(socket).is_ok());
        Some(chip)
    }
}

impl Drop for Chip {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_provisioner_that_comes_back_to_a_machine_whose_disk_is_lost_knows_that_it_has_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).display().to_string();
    let Some(_chip) = Chip::on(folder.path(), &folder.path().join("tpm")) else { return };
    let served = Served::with(&[]);
    let (owner, tpm) = (served.hq.owner_file().display().to_string(), format!("unix:{}", at("tpm")));
    let init = |dir: &str, words: &[&str]| {
        let all = ["init", "--dir", &at(dir), "--tpm", &tpm, "--owner", &owner];
        served.elsewhere(&[&all, words].concat()).unwrap()
    };
    init("bench", &["--site", SITE]);
    let request: CaRequest =
        protocol::json::parse(&std::fs::read(folder.path().join("bench/ca-request.json")).unwrap()).unwrap();
    let ek = Ek::parse(&request.ek.unwrap().0).unwrap().id().to_string();
    let ek = ek.strip_prefix("ek:").unwrap();
    served.hq.import(&format!("serial,ek-p256,site,roles\nPRV1,{ek},{SITE},worker\n")).unwrap();
    served.hq.run(&["site", "certify", SITE, &at("bench/ca-request.json"), "-o", &at("reply")]).unwrap();
    let file = served.hq.dir().join(format!("sites/{SITE}/provisioners/{ek}.json")).display().to_string();
    let stage = |dir: &str| Site::open(&folder.path().join(dir), system_clock).unwrap().rebuild();
    init("first", &["--certified", &file]);
    assert_eq!(stage("first"), None);
    init("again", &["--certified", &file, "--returns"]);
    assert_eq!(stage("again"), Some(Stage::Bundle), "device keys may be used, and a cluster may be there");
}

#[test]
fn a_site_that_reported_a_node_is_never_told_to_found_a_cluster_again() {
    let served = Served::with(&[]);
    let slots = "slots:\n- name: node-1\n  role: control-plane\n  address: 10.7.0.1\n  cidr: 10.7.0.0/24\n";
    served.hq.edit(&format!("sites/{SITE}/slots.yaml"), slots).unwrap();
    served.hq.edit(&format!("sites/{SITE}/site.yaml"), "name: ship-7\ncluster:\n  found: node-1\n").unwrap();
    let told = || {
        let site = &Desk::of(&served.hq).next().sections["site"];
        let site: serde_json::Value = serde_json::from_slice(site).unwrap();
        site["cluster"]["found"].as_str().map(str::to_owned)
    };
    assert_eq!(told(), Some("node-1".to_owned()));
    let keys = stolen_keys(&served);
    let join = Join {
        machine: "mc_1".into(),
        s: Digest([1; 32]),
        slot: "node-1".into(),
        node: "node-1-abcdef".into(),
        at: system_clock(),
    };
    let report = serde_json::json!({ "site": SITE, "provisioner": keys.issuing.key_hash, "seq": 1,
        "created-on": system_clock(), "bundle": 1, "joins": [join] });
    let (leaf, key) = keys.leaf();
    let text = report::make(&serde_json::from_value(report).unwrap(), &leaf.der, &*key).unwrap();
    let file = served.hq.path("report.jws");
    std::fs::write(&file, text).unwrap();
    served.hq.run(&["ingest", &file.display().to_string()]).unwrap();
    assert_eq!(told(), None);
}

/// What the machine of the vectors' TPM is told, when it asks with this key what it is to be.
fn told(site: &Site, key: u8) -> Result<bool, Refused> {
    let (s, source) = (Digest([key; 32]), SocketAddr::from(([10, 7, 0, 1], 1)));
    let peer = Peer { s, binding: Binding { x: [0; 32], s }, source };
    let ek: Id = format!("ek:{}", tpm::ek_id()).parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        site.prove(&peer, "tpm-ek", ek, None).await?;
        match site.config(site.bound(&s)?, &peer).await? {
            Answer::Now(config) => Ok(config.found),
            Answer::Wait(..) => Ok(false),
        }
    })
}

#[test]
fn the_first_installation_beside_the_provisioners_key_is_told_to_found_the_cluster_and_no_later_one() {
    let mut served = Served::with(&[]);
    let slots = "slots:\n- name: node-1\n  role: control-plane\n  address: 10.7.0.1\n  cidr: 10.7.0.0/24\n";
    served.hq.edit(&format!("sites/{SITE}/slots.yaml"), slots).unwrap();
    served.hq.edit(&format!("sites/{SITE}/site.yaml"), "name: ship-7\ncluster:\n  found: node-1\n").unwrap();
    served.hq.import(&format!("serial,ek-p256,site,slot\nPRV1,{},{SITE},node-1\n", tpm::ek_id())).unwrap();
    served.deliver();
    served.kill();
    let open = || Site::open(&served.path(), system_clock).unwrap();
    let refused = told(&open(), 1).unwrap_err();
    assert!(refused.to_string().contains("and this is another one"), "its key is in no TPM: {refused}");
    let file = served.path().join("ca-request.json");
    let mut request: CaRequest = protocol::json::parse(&std::fs::read(&file).unwrap()).unwrap();
    request.ek = Some(B64u(tpm::ek()));
    std::fs::write(&file, protocol::json::to_vec(&request)).unwrap();
    assert!(told(&open(), 1).unwrap());
    assert!(told(&open(), 1).unwrap(), "after a power cut it goes on");
    let refused = told(&open(), 2).unwrap_err().to_string();
    assert!(refused.contains("another installation of this machine has begun"), "{refused}");
}
