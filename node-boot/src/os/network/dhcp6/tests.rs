//! What is believed of DHCPv6 servers.

mod talk; // what is asked when

use std::time::Instant;

use super::super::routers::Calls;
use super::client::Client;
use super::*;

const UUID: &str = "4c4c4544-0042-3510-8052-b4c04f4d3633";
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const IAID: [u8; 4] = [0, 0, 0, 7];
const MANAGED: Calls = Calls { addresses: true, names: true };
const HOUR: [u32; 4] = [900, 1440, 1800, 3600];

fn part(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    option(&mut out, kind, value);
    out
}

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// An IA with an address, and its times: to ask its server, to ask everybody, preferred, good.
fn ia(iaid: [u8; 4], own: &str, [renew, rebind, prefers, lasts]: [u32; 4]) -> Vec<u8> {
    let times = |one: u32, other: u32| [one.to_be_bytes(), other.to_be_bytes()].concat();
    let address = [&ip(own).octets()[..], &times(prefers, lasts)].concat();
    part(IA_NA, &[&iaid[..], &times(renew, rebind), &part(IA_ADDRESS, &address)].concat())
}

fn status(code: u8) -> Vec<u8> {
    part(STATUS, &[&[0, code][..], b"as it is"].concat())
}

/// An IA without an address, for this reason.
fn none(code: u8) -> Vec<u8> {
    part(IA_NA, &[&IAID[..], &[0; 8], &status(code)].concat())
}

fn server(by: u8) -> Vec<u8> {
    vec![0, 3, 0, 1, 2, 0, 0, 0, 1, by]
}

/// A server's message to whoever asked, with these options.
fn message(kind: Kind, id: &[u8], client: &[u8], by: u8, options: &[Vec<u8>]) -> Vec<u8> {
    let names = [part(CLIENT_ID, client), part(SERVER_ID, &server(by))].concat();
    [&[kind as u8][..], id, &names, &options.concat()].concat()
}

fn own() -> Own {
    Own::new(UUID, MAC)
}

fn answer(options: &[Vec<u8>]) -> Option<Answer> {
    read(&message(Kind::Reply, &[1, 2, 3], &own().duid, 1, options))
}

fn times(times: [u32; 4]) -> Option<[u64; 4]> {
    let answer = answer(&[ia(IAID, "fd77::50", times)]).unwrap();
    let lease = &answer.given.first()?.1;
    let end = |time: Option<Duration>| time.map_or(u64::MAX, |time| time.as_secs());
    Some([lease.renew.as_secs(), lease.rebind.as_secs(), end(lease.prefers), end(lease.lasts)])
}

#[test]
fn a_machine_is_named_by_its_makers_uuid_and_where_that_names_nobody_by_its_card() {
    let named = own();
    assert_eq!(named.duid[..6], [0, 4, 0x4c, 0x4c, 0x45, 0x44]);
    assert_eq!((named.duid.len(), named.iaid), (18, IAID));
    for junk in ["", "00000000-0000-0000-0000-000000000000", "03000200-0400-0500-0006-000700080009", "x"] {
        assert_eq!(Own::new(junk, MAC).duid, [0, 3, 0, 1, 2, 0, 0, 0, 0, 7], "{junk}");
    }
}

#[test]
fn an_answer_has_address_times_and_names_that_write_no_line_of_their_own() {
    let dns = [ip("fd77::3"), ip("fe80::3"), ip("::1"), ip("ff02::1"), ip("::")].map(|ip| ip.octets());
    let search = b"\x04site\x04test\0\x0cx\nnameserver\0".to_vec();
    let options = [ia(IAID, "fd77::50", HOUR), part(DNS, &dns.concat()), part(SEARCH, &search)];
    let answer = answer(&options).unwrap();
    let (iaid, lease) = &answer.given[0];
    assert_eq!((*iaid, lease.own), (IAID, ip("fd77::50")));
    assert_eq!(times(HOUR), Some(HOUR.map(u64::from)));
    let names = Names { dns: vec![ip("fd77::3"), ip("fe80::3")], search: vec!["site.test".into()] };
    assert_eq!((answer.names, answer.refresh), (names, REFRESHES));
    let many = ip("fd77::3").octets().repeat(80);
    assert_eq!(super::tests::answer(&[part(DNS, &many)]).unwrap().names.dns.len(), MOST);
    let many: Vec<_> = (0..60).map(|_| ia(IAID, "fd77::50", HOUR)).collect();
    assert_eq!(super::tests::answer(&many).unwrap().given.len(), MOST);
}

#[test]
fn times_that_are_left_open_are_the_usual_ones_and_those_that_contradict_each_other_give_nothing() {
    let forever = u32::MAX;
    assert_eq!(times([0, 0, 1000, 2000]), Some([500, 800, 1000, 2000]));
    assert_eq!(times([0, 0, 0, 1000]), Some([500, 800, 0, 1000]), "it is not preferred any more");
    assert_eq!(times([0, 600, 1000, 2000]), Some([500, 600, 1000, 2000]));
    assert_eq!(times([900, 0, 1000, 2000]), Some([800, 800, 1000, 2000]));
    assert_eq!(times([900, 800, 1000, 2000]), None, "nobody is to be asked before its own server");
    assert_eq!(times([900, 1440, 3600, 1800]), None, "it is not preferred for longer than it is good");
    assert_eq!(times([5000, 6000, 1000, 2000]), Some([2000, 2000, 1000, 2000]));
    assert_eq!(times([1, 1, 1, 1]), Some([10, 10, 1, 20]), "nobody is asked every second");
    assert_eq!(times([0; 4]).unwrap()[3], 0, "it is over");
    let endless = times([0, 0, forever, forever]).unwrap();
    assert_eq!(endless[2..], [u64::MAX; 2]);
    assert!(endless[0] > 1_000_000_000 && endless[1] > endless[0]);
    for no in ["::", "::1", "fe80::50", "ff02::50", "::ffff:10.7.0.1"] {
        assert_eq!(answer(&[ia(IAID, no, HOUR)]).unwrap().given, [], "{no}");
    }
    assert_eq!(answer(&[part(REFRESH, &[0; 4])]).unwrap().refresh, SOONEST);
}

#[test]
fn a_message_cut_or_changed_anywhere_is_no_panic_and_one_whose_options_are_cut_off_is_none() {
    let dns = part(DNS, &ip("fd77::3").octets());
    let search = part(SEARCH, b"\x01a\xc0\0");
    let options = [ia(IAID, "fd77::50", HOUR), dns, search, none(2), status(0), part(PREFERENCE, &[])];
    let whole = message(Kind::Advertise, &[1, 2, 3], &own().duid, 1, &options);
    assert!(read(&whole).is_some());
    let mut ends = vec![4];
    for (_, value) in super::options(&whole[4..]).unwrap() {
        ends.push(ends.last().unwrap() + 4 + value.len());
    }
    for cut in 0..whole.len() {
        let is_cut = read(&whole[..cut]).is_none();
        assert!(is_cut || ends.contains(&cut), "cut at {cut}");
    }
    for place in 0..whole.len() {
        for value in [0, 1, 3, 5, 13, 127, 255] {
            let mut odd = whole.clone();
            odd[place] = value;
            let mut client = Client::new(own(), Instant::now());
            client.tick(MANAGED, Instant::now());
            if let Some(answer) = read(&odd) {
                client.hear(answer, ip("fe80::1"), Instant::now());
            }
        }
    }
    let short: [(u16, &[u8]); 4] = [(IA_NA, &[0; 11]), (IA_NA, &[]), (STATUS, &[0]), (STATUS, &[])];
    for (kind, value) in short {
        assert_eq!(answer(&[part(kind, value)]), None, "{kind} {value:?}");
    }
    let inner = [&IAID[..], &[0; 8], &[0, 5, 0, 24, 1]].concat();
    assert_eq!(answer(&[part(IA_NA, &inner)]), None, "an address that is cut off inside");
    let inner = [&IAID[..], &[0; 8], &part(IA_ADDRESS, &[0; 23])].concat();
    assert_eq!(answer(&[part(IA_NA, &inner)]), None, "an address that is too short");
    for name in [0, 2, 131] {
        let names = [part(CLIENT_ID, &own().duid), part(SERVER_ID, &vec![7; name])].concat();
        assert_eq!(read(&[&[7, 1, 2, 3][..], &names].concat()), None, "a server of {name} bytes");
    }
    let question = Question { kind: Kind::Solicit, id: [1, 2, 3], since: 0, server: None, wanted: None };
    assert_eq!(read(&question.bytes(&own())), None, "another client's question");
}
