//! Clients that nobody here wrote at the EST listener: strongSwan's `pki` enrols and re-enrols, and none is resumed.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use protocol::messages::{Message, SNI};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, Stream};
use tests::pledge::Pledge;
use tests::stage::run;

use crate::{Served, free_address};

/// `pki` on a computer whose hosts file says that `provisioner.local`, the name in the leaf, is here.
fn command(dir: &Path, words: &[&str]) -> Command {
    std::fs::write(dir.join("hosts"), "127.0.0.1 localhost provisioner.local\n").unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind hosts /etc/hosts && exec pki \"$@\"", "pki"]);
    command.args(words).current_dir(dir);
    command
}

fn pki(dir: &Path, words: &[&str]) -> anyhow::Result<String> {
    run(&mut command(dir, words))
}

#[test]
fn strongswan_enrols_and_re_enrols() {
    if !harness::assets::on_path("pki") {
        return harness::skip("strongSwan's `pki` is not installed: run `cargo xtask kube`");
    }
    let est = free_address();
    let served = Served::with_options(&[], &["--est", &est.to_string()]);
    let dir = tempfile::tempdir().unwrap();
    let anchor = served.site_anchor();
    std::fs::write(dir.path().join("anchor.der"), anchor).unwrap();
    let url = format!("https://provisioner.local:{}", est.port());
    pki(dir.path(), &["--estca", "--url", &url, "--cacert", "anchor.der", "--caout", "ca.der"]).unwrap();
    assert!(std::fs::read_dir(dir.path()).unwrap().count() > 1, "it wrote the CAs");

    let password = served.site_two(["est-client", "add"], &["printer"]).unwrap();
    let password = password
        .split_whitespace()
        .map(|word| word.trim_end_matches([':', '.']))
        .find(|word| word.len() == 26 && word.bytes().all(|b| b.is_ascii_alphanumeric()))
        .unwrap();
    let out = |words: &[&str]| command(dir.path(), words).output().unwrap().stdout;
    let write = |name: &str, bytes: Vec<u8>| {
        assert!(!bytes.is_empty(), "{name}");
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    write("key.der", out(&["--gen", "--type", "ecdsa", "--size", "256"]));
    write("req.der", out(&["--req", "--type", "ecdsa", "--in", "key.der", "--dn", "CN=whatever I like"]));
    let user = format!("printer:{password}");
    let enrol = ["--est", "--url", &url, "--in", "req.der", "--cacert", "anchor.der", "--userpass", &user];
    write("cert.der", out(&enrol));
    let shown = pki(dir.path(), &["--print", "--in", "cert.der"]).unwrap();
    assert!(shown.contains("CN=printer"), "the subject is what was registered: {shown}");
    assert!(pki(dir.path(), &enrol).is_err(), "the password was good once");

    let renew = [
        "--est",
        "--url",
        &url,
        "--in",
        "req.der",
        "--cacert",
        "anchor.der",
        "--cert",
        "cert.der",
        "--key",
        "key.der",
    ];
    write("cert2.der", out(&renew));
    assert!(pki(dir.path(), &["--print", "--in", "cert2.der"]).unwrap().contains("CN=printer"));
}

/// One request for the CA certificates with this configuration: how the handshake went.
fn ask(est: SocketAddr, config: &Arc<ClientConfig>) -> HandshakeKind {
    let mut connection =
        ClientConnection::new(Arc::clone(config), ServerName::try_from(SNI).unwrap()).unwrap();
    let mut socket = TcpStream::connect(est).unwrap();
    let mut stream = Stream::new(&mut connection, &mut socket);
    let (_, path) = Message::CaCerts.path();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {SNI}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    // Some ends close without a word.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    connection.handshake_kind().unwrap()
}

#[test]
fn no_session_of_an_est_client_is_resumed() {
    let est = free_address();
    let served = Served::with_options(&[], &["--est", &est.to_string()]);
    let mut roots = RootCertStore::empty();
    roots.add(served.site_anchor().into()).unwrap();
    for version in [&TLS12, &TLS13] {
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let config = Arc::new(config);
        for _ in 0..2 {
            assert_ne!(ask(est, &config), HandshakeKind::Resumed, "{version:?}");
        }
    }
}

#[test]
fn a_certificate_of_a_machine_gets_nothing_from_the_listener_for_others() {
    let (est, mut pledge) = (free_address(), Pledge::new().unwrap());
    let served = Served::with_options(&[&pledge], &["--est", &est.to_string()]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    let certificate = session.enroll().unwrap().body;
    drop(session);
    assert_eq!(pledge.connect(est).unwrap().enroll().unwrap().status, 401);
    pledge.wear(&certificate).unwrap();
    assert_eq!(pledge.connect(est).unwrap().enroll().unwrap().status, 401);
}
