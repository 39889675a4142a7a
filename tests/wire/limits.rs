//! Those who ask too much or too slowly are refused, and nobody else waits for them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use protocol::messages::{Message, VOUCHER_TYPE};
use protocol::refusal::Refusal;
use tests::pledge::Pledge;
use tests::stage::DEADLINE;

use crate::{Served, is};

#[test]
fn r18a_a_key_that_asks_without_end_is_told_to_slow_down_and_no_other_is() {
    let (greedy, modest) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&greedy, &modest]);
    let mut session = greedy.connect(served.address).unwrap();
    let mut ask = || session.send(Message::Time, "", "application/json", b"").unwrap();
    let refused = (0..2000).map(|_| ask()).find(|answer| answer.status != Refusal::NotProven.status());
    let refused = refused.unwrap();
    is(&refused, Refusal::SlowDown);
    assert_eq!(refused.retry_after, Some(10));
    let mut again = greedy.connect(served.address).unwrap();
    is(&again.send(Message::Time, "", "application/json", b"").unwrap(), Refusal::SlowDown);
    modest.connect(served.address).unwrap().admission().unwrap();
}

#[test]
fn r18c_who_is_too_slow_is_cut_off_and_holds_up_nobody() {
    let (slow, quick) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with_options(&[&slow, &quick], &["--patience", "3"]);
    let mut silent = TcpStream::connect(served.address).unwrap();
    let mut halting = TcpStream::connect(served.address).unwrap();
    halting.write_all(&[0x16, 3, 1]).unwrap();
    let mut headless = slow.connect(served.address).unwrap();
    headless.raw(b"POST /.well-known/brski/requestvou").unwrap();
    let mut bodiless: Vec<_> = (0..30).map(|_| slow.connect(served.address).unwrap()).collect();
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: p\r\nContent-Type: {VOUCHER_TYPE}\r\nContent-Length: 900\r\n\r\n{{",
        Message::RequestVoucher.path().1
    );
    for session in &mut bodiless {
        session.raw(head.as_bytes()).unwrap();
    }
    quick.connect(served.address).unwrap().admission().unwrap();

    for mut session in bodiless {
        is(&session.read().unwrap(), Refusal::TooSlow);
        assert!(session.read().is_err(), "and the connection is over");
    }
    assert!(headless.read().is_err(), "no head, no answer");
    for socket in [&mut silent, &mut halting] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let ended = socket.read_to_end(&mut Vec::new());
        let waiting = |error: &std::io::Error| error.kind() == ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(waiting), "{ended:?}");
    }
    assert!(served.noted("R18c"));
}
