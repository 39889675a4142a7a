//! What a machine tells headquarters of itself before it is sent away, and what its maker tells.

use std::fs;
use std::process::Command;

use protocol::bytes::b64;
use protocol::refusal::Refusal;
use tests::stage::{SITE, code_in, run};

use crate::machine::{NodeBoot, register, register_with};
use crate::{Served, fails};

/// Gives a machine a TPM whose maker certifies its endorsement keys: the certificates, DER.
fn certified_tpm(machine: &mut NodeBoot) -> Vec<Vec<u8>> {
    let state = machine.path("tpm");
    let at = |name: &str| format!("{state}/{name}");
    fs::create_dir(&state).unwrap();
    let ca = ["signingkey = key", "issuercert = pem", "certserial = serial"].map(|line| {
        let (name, file) = line.split_once(" = ").unwrap();
        format!("{name} = {}\n", at(file))
    });
    fs::write(at("ca"), format!("statedir = {state}\n{}", ca.concat())).unwrap();
    let platform = "--platform-manufacturer T\n--platform-version 1\n--platform-model T\n";
    fs::write(at("options"), platform).unwrap();
    let tool = "create_certs_tool = /usr/bin/swtpm_localca\nactive_pcr_banks = sha256\n";
    let own =
        format!("create_certs_tool_config = {}\ncreate_certs_tool_options = {}\n", at("ca"), at("options"));
    fs::write(at("setup"), format!("{tool}{own}")).unwrap();
    let mut setup = Command::new("swtpm_setup");
    setup.args(["--tpm2", "--create-ek-cert", "--lock-nvram", "--tpmstate", &state]);
    setup.args(["--config", &at("setup"), "--write-ek-cert-files", &state]);
    run(&mut setup).unwrap();
    machine.plug_tpm();
    ["ek-rsa2048.crt", "ek-secp384r1.crt"].map(|name| fs::read(at(name)).unwrap()).to_vec()
}

#[test]
fn a_machine_is_registered_by_the_certificates_of_its_tpms_maker_in_any_spelling() {
    if !harness::assets::on_path("swtpm_setup") {
        return harness::skip("swtpm_setup is not installed");
    }
    let served = Served::with(&[]);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    let [rsa, p384]: [_; 2] = certified_tpm(&mut machine).try_into().unwrap();
    // Some makers name the padding that the key is for, 1.2.840.113549.1.1.7, in place of rsaEncryption, ...1.
    let rsa_encryption = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    let place = rsa.windows(15).position(|window| window == rsa_encryption).unwrap();
    let mut oaep = rsa.clone();
    oaep[place + 12] = 7;
    let cell = format!("{} {} {}", b64(&rsa), b64(&oaep), b64(&p384));
    let hashes = ["ek-p256", "ek-p384", "ek-rsa"].map(|column| (column, ""));
    register_with(&served, &machine, &[&[("ek-cert", cell.as_str())], &hashes[..]].concat());
    let listed = served.hq.run(&["machines", "list", "--json"]).unwrap();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let row = run(&mut machine.command(&["register", "--json"])).unwrap();
    let row: serde_json::Value = serde_json::from_str(&row).unwrap();
    let registered: Vec<_> = listed[0]["auth"].as_array().unwrap().iter().map(|key| &key["sha256"]).collect();
    assert_eq!(registered, [&row["ek-rsa"], &row["ek-p384"]]);
    served.deliver();
    machine.enroll(&[]);
    assert!(machine.ends().contains("site ship-7 (epoch 1)"));
}

/// `register --csr`: the request, and what is said to the person beside it.
fn request(served: &Served, machine: &NodeBoot) -> (String, String) {
    let programs = served.programs().provisioner.parent().unwrap();
    let mut command = machine.command(&["register", "--csr", SITE, "--provisioner", &machine.path("prov")]);
    let done = command.env("PATH", programs).output().unwrap();
    let [request, said] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(done.status.success(), "{said}");
    fs::write(machine.path("request.json"), &request).unwrap();
    (request, said)
}

#[test]
fn a_machine_that_may_be_a_provisioner_is_certified_at_the_depot() {
    let served = Served::with(&[]);
    let mut machine = NodeBoot::new(&served, &[served.address]);
    let mut spare = NodeBoot::new(&served, &[served.address]);
    if harness::assets::on_path("swtpm") {
        machine.plug_tpm();
        let mut command = machine.command(&["register", "--csr", SITE]);
        let said = String::from_utf8(command.env("PATH", "/nowhere").output().unwrap().stderr).unwrap();
        assert!(said.contains("this machine has no `provisioner`"), "{said}");
    } else {
        harness::skip("swtpm is not installed");
    }
    for machine in [&mut machine, &mut spare] {
        let (asked, said) = request(&served, machine);
        assert_eq!(request(&served, machine).0, asked, "asked twice it is the same");
        let (file, reply) = (machine.path("request.json"), machine.path("reply.json"));
        let certify =
            |more: &[&str]| served.hq.run(&[&["site", "certify", SITE, &file, "-o", &reply], more].concat());
        // A TPM says who it is, to whoever registered it.
        assert_eq!(code_in(&said).is_none(), said.matches("no TPM is seen here").count() == 0, "{said}");
        match code_in(&said) {
            None => {
                fails(certify(&[]), Refusal::CaRequestRefused, "no machine of ship-7 is registered");
                register(&served, machine);
                certify(&[]).unwrap();
            }
            Some(code) => {
                certify(&["--code", &code]).unwrap();
            }
        }
        let mut init = Command::new(&served.programs().provisioner);
        init.args(["init", "--dir", &machine.path("prov"), "--reply", &reply]);
        assert!(run(&mut init).unwrap().contains("This provisioner is certified"));
    }
}
