//! What is said to whom, and when.

use super::*;
use crate::mdns::{Found, question, read_answer};

const KIND: &str = "_brski-registrar._tcp.local";
const FULL: &str = "ship-7-1._brski-registrar._tcp.local";

fn service() -> Service {
    let texts = vec!["txtvers=1".to_owned(), "own=2cb2055d".to_owned()];
    Service { types: vec![KIND, "_brski-proxy._tcp.local"], instance: "ship-7-1".into(), port: 7443, texts }
}

fn cable(now: Instant) -> Cable {
    let net = |ip: &str, prefix| Net { ip: ip.parse().unwrap(), prefix };
    Cable::new(vec![net("10.7.0.2", 24), net("fe80::1", 64)], now)
}

fn from(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A question of a standing browser, by multicast, with what it knows.
fn browsing(class: u16, known: Option<u32>) -> Vec<u8> {
    let mut out = Writer::new(0, 0, [1, known.map_or(0, |_| 1), 0, 0]);
    out.name(KIND);
    out.u16s(&[PTR, class]);
    if let Some(ttl) = known {
        out.record(KIND, PTR, false, ttl, &Data::Name(FULL));
    }
    out.done()
}

#[test]
fn a_one_shot_question_and_its_answer_fit_in_250_bytes_together() {
    let now = Instant::now();
    let asked = question(7, KIND);
    let answered = cable(now).heard(&service(), &asked, from("10.7.0.9:40000"), now).unwrap();
    let addresses = vec!["10.7.0.2".parse().unwrap(), "fe80::1".parse().unwrap()];
    assert_eq!(read_answer(&answered), Some(Found { port: 7443, addresses, own: "2cb2055d".into() }));
    assert_eq!(answered[..2], [0, 7], "its number");
    assert!(asked.len() + answered.len() <= 250, "{} + {}", asked.len(), answered.len());
    assert_eq!(
        cable(now).heard(&service(), &question(7, "_x._tcp.local"), from("10.7.0.9:40000"), now),
        None
    );
}

#[test]
fn nobody_off_the_link_is_answered() {
    let now = Instant::now();
    for (source, near) in [
        ("10.7.0.9:4000", true),
        ("10.7.1.9:4000", false),
        ("169.254.3.4:4000", true),
        ("[fe80::9%3]:4000", true),
        ("[2001:db8::9]:4000", false),
        ("127.0.0.1:4000", false),
    ] {
        let answered = cable(now).heard(&service(), &question(7, KIND), from(source), now);
        assert_eq!(answered.is_some(), near, "{source}");
    }
    let everywhere = Net { ip: "10.0.0.1".parse().unwrap(), prefix: 0 };
    assert!(!everywhere.holds("8.8.8.8".parse().unwrap()), "a default route is no link");
}

#[test]
fn news_is_told_twice_a_second_apart_and_answers_keep_that_pause() {
    let start = Instant::now();
    let mut cable = cable(start);
    let service = service();
    assert!(cable.speak(&service, start).is_some() && cable.speak(&service, start).is_none());
    assert!(cable.speak(&service, start + PAUSE).is_some());
    assert_eq!(cable.due(), None);
    let later = start + PAUSE * 5;
    assert_eq!(cable.heard(&service, &browsing(1, None), from("10.7.0.9:5353"), later), None);
    let due = cable.due().unwrap();
    let delay = due - later;
    assert!(delay >= Duration::from_millis(20) && delay <= Duration::from_millis(120));
    assert!(cable.speak(&service, due).is_some());
    cable.heard(&service, &browsing(1, None), from("10.7.0.9:5353"), due);
    assert_eq!(cable.due(), Some(due + PAUSE));
}

#[test]
fn who_wants_it_alone_gets_it_alone_and_who_knows_it_gets_nothing() {
    let now = Instant::now();
    let mut cable = cable(now);
    cable.speak(&service(), now);
    cable.speak(&service(), now + PAUSE);
    let alone = cable.heard(&service(), &browsing(0x8001, None), from("10.7.0.9:5353"), now).unwrap();
    assert_eq!(read_answer(&alone).map(|found| found.port), Some(7443));
    assert_eq!(cable.heard(&service(), &browsing(1, Some(OTHER_TTL)), from("10.7.0.9:5353"), now), None);
    assert_eq!(cable.due(), None);
    cable.heard(&service(), &browsing(1, Some(OTHER_TTL / 3)), from("10.7.0.9:5353"), now);
    assert!(cable.due().is_some(), "what it knows is about to run out");
}

/// As many questions as are read, for one of two names each: the first spelled out and the others pointing at it.
fn many_questions(class: u16) -> Vec<u8> {
    let mut out = Writer::new(9, 0, [64, 0, 0, 0]);
    for n in 0..64 {
        out.name(if n % 2 == 0 { KIND } else { FULL });
        out.u16s(&[ANY, class]);
    }
    out.done()
}

#[test]
fn no_answer_to_one_asker_is_much_larger_than_his_question() {
    let now = Instant::now();
    let net = |ip: &str| Net { ip: ip.parse().unwrap(), prefix: 24 };
    let nets: Vec<_> = (0..40).map(|n| net(&format!("fd00::{n}"))).chain([net("10.7.0.2")]).collect();
    let service = Service { instance: "x".repeat(63), texts: vec!["t".repeat(250)], ..service() };
    let mut largest = 0;
    for asked in [many_questions(1), many_questions(0x8001), question(7, KIND), browsing(0x8001, None)] {
        for source in ["10.7.0.9:4000", "10.7.0.9:5353"] {
            let mut cable = Cable::new(nets.clone(), now);
            let Some(answer) = cable.heard(&service, &asked, from(source), now) else { continue };
            assert!(answer.len() <= DATAGRAM && answer.len() <= TIMES * asked.len() + MORE);
            let questions = usize::from(answer[5]);
            assert_eq!(questions, usize::from(source.ends_with(":4000")), "the first question alone");
            largest = largest.max(answer.len());
        }
    }
    assert!(largest > 300, "{largest}");
    let cable = Cable::new(nets, now);
    assert!(cable.farewell(&service).len() <= DATAGRAM);
}

#[test]
fn who_asks_without_end_is_answered_so_often_a_second_and_others_all_the_same() {
    let now = Instant::now();
    let mut cable = cable(now);
    let mut ask =
        |source: &str, now| cable.heard(&service(), &question(7, KIND), from(source), now).is_some();
    let answered = (0..100).filter(|_| ask("10.7.0.9:4000", now)).count();
    assert_eq!(answered, 50);
    assert!(ask("10.7.0.8:4000", now));
    assert!(ask("10.7.0.9:4001", now + PAUSE));
    let crowd = (0..5000).filter(|n| ask(&format!("[fe80::{n:x}%3]:4000"), now + PAUSE * 2)).count();
    assert_eq!(crowd, 500);
}

#[test]
fn hostile_datagrams_are_heard_without_a_panic() {
    let now = Instant::now();
    let mut cable = cable(now);
    for genuine in [browsing(1, Some(9)), question(7, KIND), cable.farewell(&service())] {
        for place in 0..genuine.len() {
            let source = from("10.7.0.9:4000");
            let _ = cable.heard(&service(), &genuine[..place], source, now);
            let _ = read_answer(&genuine[..place]);
            for bit in 0..8 {
                let mut changed = genuine.clone();
                changed[place] ^= 1 << bit;
                let _ = cable.heard(&service(), &changed, source, now);
                let _ = read_answer(&changed);
            }
        }
    }
}
