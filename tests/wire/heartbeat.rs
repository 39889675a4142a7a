//! Datagrams that count for nothing: no answer, no change, only a number in the metric.

use std::net::UdpSocket;

use protocol::bytes::Digest;
use protocol::crypto::Signer as _;
use protocol::heartbeat::{self, Datagram, State};
use protocol::messages::StatusRequest;
use protocol::refusal::Refusal;
use tests::pledge::Pledge;
use tests::stage::DEADLINE;

use crate::Served;

/// A machine's end of the heartbeats.
struct Heart<'a> {
    served: &'a Served,
    socket: UdpSocket,
    key: [u8; 32],
    s: Digest,
}

impl Heart<'_> {
    fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.served.address).unwrap();
    }

    fn dropped(&self) -> u64 {
        self.served.count("nodeboot_refusals_total", Refusal::Heartbeat.code())
    }

    /// Sends what is to be dropped, then a good beat with this counter: only that one is answered.
    fn drops(&self, datagram: &[u8], counter: u64) {
        let before = self.dropped();
        self.send(datagram);
        self.answers(counter);
        assert_eq!(self.dropped(), before + 1);
    }

    /// What a good beat with this counter is answered: the flags.
    fn answers(&self, counter: u64) -> u8 {
        self.send(&heartbeat::beat(&self.key, &self.s, counter, State::Ready));
        let mut answer = [0; 64];
        let length = self.socket.recv(&mut answer).unwrap();
        let answer = Datagram::read_answer(&answer[..length]).unwrap();
        assert!(answer.made_by(&self.key));
        assert_eq!(answer.counter, counter);
        answer.byte
    }
}

#[test]
fn r44_a_heartbeat_with_a_wrong_code_an_old_counter_or_of_nobody_is_dropped_and_counted() {
    let (pledge, stranger) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&pledge]);
    let mut session = pledge.connect(served.address).unwrap();
    session.admission().unwrap();
    assert_eq!(session.status(&StatusRequest::default()).unwrap().status, 200);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let heart = Heart { served: &served, socket, key: session.beat_key, s: session.binding.s };
    assert_eq!(heart.answers(1), 0);
    let beat = |counter| heartbeat::beat(&heart.key, &heart.s, counter, State::Ready);
    let mut forged = beat(2);
    forged[20] = State::GoingDown as u8;
    heart.drops(&forged, 2);
    heart.drops(&heartbeat::beat(&[7; 32], &heart.s, 3, State::Ready), 3);
    heart.drops(&beat(3), 4);
    heart.drops(&beat(1), 5);
    heart.drops(&heartbeat::beat(&heart.key, &stranger.node.key_hash(), 6, State::Ready), 6);

    // A newer M11 replaces the key: what was made with the old one is nobody's.
    let mut session = pledge.connect(served.address).unwrap();
    assert_eq!(session.status(&StatusRequest::default()).unwrap().status, 200);
    let old = beat(7);
    let heart = Heart { key: session.beat_key, ..heart };
    heart.drops(&old, 1);
}

#[test]
fn a_machine_is_called_when_there_is_news_and_until_it_has_asked() {
    let pledge = Pledge::new().unwrap();
    let served = Served::with(&[&pledge]);
    pledge.connect(served.address).unwrap().admission().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let asks = || {
        let mut session = pledge.connect(served.address).unwrap();
        assert_eq!(session.status(&StatusRequest::default()).unwrap().status, 200);
        let socket = socket.try_clone().unwrap();
        Heart { served: &served, socket, key: session.beat_key, s: session.binding.s }
    };
    let heart = asks();
    assert_eq!(heart.answers(1), 0);
    served.deliver();
    assert_eq!(heart.answers(2), heartbeat::FLAG_STATUS_NOW, "headquarters has said something");
    let heart = asks();
    assert_eq!(heart.answers(1), 0);
    served.site(&["retire", "WIRE000"]).unwrap();
    assert_eq!(heart.answers(2), heartbeat::FLAG_STATUS_NOW, "a person has said something");
    served.site(&["retire", "WIRE000", "--undo"]).unwrap();
    assert_eq!(asks().answers(1), 0);
}
