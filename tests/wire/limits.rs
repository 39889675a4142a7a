//! Those who ask too much or too slowly are refused, and nobody else waits for them.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use protocol::messages::{Message, Outcome, VOUCHER_TYPE};
use protocol::refusal::Refusal;
use socket2::{Domain, Socket, Type};
use tests::pledge::{Pledge, Session};
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

/// A bare connection from a chosen address of this computer.
fn bare(host: u8, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into()).unwrap();
    socket.connect_timeout(&address.into(), DEADLINE).unwrap();
    socket.into()
}

/// Whether the other side has closed it.
fn is_over(socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let read = (&*socket).read(&mut [0]);
    !read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn r18a_two_hosts_that_only_connect_shut_nobody_out_and_are_soon_rid_of() {
    let honest = Pledge::new().unwrap();
    let served = Served::with(&[&honest]);
    let flood: Vec<_> = (0..4400u16).map(|n| bare(2 + u8::from(n % 2 == 0), served.address)).collect();
    let begin = Instant::now();
    honest.connect_from(IpAddr::from([127, 0, 0, 4]), served.address).unwrap().admission().unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let left = flood.iter().filter(|socket| !is_over(socket)).count();
    assert!(left <= 512, "{left} of them are still waited for");
    crate::until("nobody waits for them any more", || flood.iter().all(is_over));
}

#[test]
fn r18a_one_source_keeps_so_many_connections_and_a_machine_of_the_site_is_not_counted() {
    let (honest, stranger) = (Pledge::new().unwrap(), Pledge::new().unwrap());
    let served = Served::with(&[&honest]);
    let source = IpAddr::from([127, 0, 0, 2]);
    let mut member = honest.connect_from(source, served.address).unwrap();
    member.admission().unwrap();
    let answers =
        |session: &mut Session<'_>| session.send(Message::Time, "", "application/json", b"").is_ok();
    let arrive = |_| {
        let mut session = stranger.connect_from(source, served.address).unwrap();
        assert!(answers(&mut session));
        session
    };
    let mut flood: Vec<_> = (0..70).map(arrive).collect();
    let staying = flood.iter_mut().map(answers).filter(|answered| *answered).count();
    assert_eq!(staying, 64, "the oldest are gone");
    assert!(answers(&mut member));
}

#[test]
fn a_key_that_costs_nothing_alarms_nobody_and_one_with_a_voucher_does_once() {
    let registered = Pledge::new().unwrap();
    let served = Served::with(&[&registered]);
    let refusing = |session: &mut Session<'_>, reason: &str| {
        let outcome = Outcome { version: 1, status: false, reason: Some(reason.to_owned()) };
        assert_eq!(session.json(Message::VoucherStatus, &outcome).unwrap().status, 200);
    };
    let words = ["stranger", "voucher-expired", "duplicate", "\u{1b}[2Jno such word"];
    let told = || {
        ["stranger", "voucher-expired", "duplicate", "voucher-refused"]
            .map(|word| served.count("nodeboot_alarms_total", word))
    };
    for _ in 0..20 {
        let free = Pledge::new().unwrap();
        let mut session = free.connect(served.address).unwrap();
        for word in words {
            refusing(&mut session, word);
        }
    }
    assert_eq!(told(), [0; 4]);
    let mut session = registered.connect(served.address).unwrap();
    assert_eq!(session.voucher().unwrap().status, 200);
    for word in words.iter().rev() {
        refusing(&mut session, word);
    }
    assert_eq!(told(), [0, 0, 0, 1], "one machine and hour, one alarm");
    let report = served.hq.run(&["ingest", &served.report()]).unwrap();
    assert_eq!(report.matches("ALARM").count(), 1, "{report}");
}
