//! Others on a machine's LAN: hosts without a key, and sites of the same owner that the machine is not for.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use node_boot::site::tls::{Own, connect};
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::issue;

use crate::Served;
use crate::machine::{NodeBoot, register};
use crate::posers::trust;

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
