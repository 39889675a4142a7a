//! Others on a machine's LAN: hosts without a key, and sites of the same owner that the machine is not for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_boot::site::tls::{Own, connect};
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::issue;
use protocol::refusal::{Said, Wait};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::Served;
use crate::machine::{NodeBoot, register};
use crate::posers::{leaf, registrar, trust};

/// A host that accepts connections and does no more than send a byte of a handshake now and then, or nothing.
fn drips(host: u8, pause: Option<Duration>) -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, host], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let Some(pause) = pause else {
                held.push(socket);
                continue;
            };
            std::thread::spawn(move || {
                // The head of a TLS record of 16,384 bytes, and then its bytes.
                let _ = socket.write_all(&[22, 3, 3, 64, 0]);
                while socket.write_all(&[2]).is_ok() {
                    std::thread::sleep(pause);
                }
            });
        }
    });
    address
}

#[test]
fn a_genuine_site_that_lets_it_wait_keeps_no_machine_from_its_own() {
    let home = Served::with(&[]);
    let other = home.of_site("ship-8");
    other.site(&["window"]).unwrap();
    let mut machine = NodeBoot::new(&home, &[other.address]);
    register(&home, &machine);
    home.deliver();
    machine.enroll(&[]);
    machine.code();
    assert!(!Path::new(&machine.path("state/last.json")).exists(), "it has proved nothing");
    drop(machine);

    let mut machine = NodeBoot::new(&home, &[other.address, home.address]);
    register(&home, &machine);
    home.deliver();
    machine.enroll(&[]);
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
    assert!(!machine.log().contains("Read this code"), "{}", machine.log());
    let last = std::fs::read_to_string(machine.path("state/last.json")).unwrap();
    assert_eq!(last, format!("{:?}", home.address.to_string()));
}

/// Answers one request with a wait, as a provisioner would.
fn lets_wait(stream: &mut (impl Read + Write), body: &str) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap()])?;
    let length = body.len();
    write!(stream, "HTTP/1.1 202 Accepted\r\nRetry-After: 1\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A stolen provisioner that answers every request with these words.
fn stolen(served: &Served, reason: &str, text: &str) -> SocketAddr {
    let (chain, key) = leaf(served, registrar());
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(key).unwrap())
        .unwrap();
    let config = Arc::new(config);
    let said = Said { reason: reason.to_owned(), text: text.to_owned() };
    let body = String::from_utf8(protocol::json::to_vec(&said)).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, socket.unwrap());
            while lets_wait(&mut stream, &body).is_ok() {}
        }
    });
    address
}

#[test]
fn a_site_that_has_not_proved_itself_writes_nothing_on_the_screen() {
    let served = Served::with(&[]);
    let question =
        "\x1b[2J\r\nHeadquarters approved this machine. Is it to join site ship-7? Type yes or no.";
    let unheard = stolen(&served, "yes\x1b[1m\nIs it to join?", question);
    let mut machine = NodeBoot::new(&served, &[unheard]);
    machine.enroll(&[]);
    machine.says("something this version does not know (yes??1m?Is?it?to?join?).");
    assert!(
        !machine.log().contains(['\x1b', '\r']) && !machine.log().contains("ship-7"),
        "{}",
        machine.log()
    );
    let known = stolen(&served, "pending-human", question);
    let mut machine = NodeBoot::new(&served, &[known]);
    machine.enroll(&[]);
    machine.says(Wait::PendingHuman.sentence());
    assert!(!machine.log().contains("ship-7"), "{}", machine.log());
}

#[test]
fn a_handshake_that_drips_is_given_up_as_a_whole() {
    let served = Served::with(&[]);
    let node: Arc<dyn Signer> = Arc::new(SoftKey::generate(Alg::Es256).unwrap().0);
    let certificate = issue::pledge(&*node).unwrap();
    let own = Own { key: &node, certificate: &certificate };
    let begin = Instant::now();
    let address = drips(1, Some(Duration::from_millis(700)));
    assert!(connect(address, &own, &trust(&served.hq.owner_file()), Time(0), None).is_err());
    let took = begin.elapsed();
    assert!((4..9).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn hosts_that_say_nothing_and_hosts_that_drip_hold_no_machine_up() {
    let served = Served::with(&[]);
    let silent = (11..15).map(|host| drips(host, None));
    let slow = (15..18).map(|host| drips(host, Some(Duration::from_secs(1))));
    let addresses: Vec<_> = silent.chain(slow).chain([served.address]).collect();
    let mut machine = NodeBoot::new(&served, &addresses);
    register(&served, &machine);
    served.deliver();
    machine.enroll(&[]);
    let stands = machine.ends();
    assert!(stands.contains("site ship-7 (epoch 1)"), "{stands}");
    assert!(!machine.log().contains("No answer"), "it did not wait for them: {}", machine.log());
}
