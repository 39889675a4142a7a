//! What is believed of DHCP servers, and what is asked when.

use std::collections::BTreeMap;
use std::time::Instant;

use super::client::{Client, To};
use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// What a server answers.
struct Reply<'a> {
    kind: Kind,
    to: &'a Question,
    gives: &'a str,
    by: [u8; 4],
    options: Vec<(u8, Vec<u8>)>,
}

impl Reply<'_> {
    /// As a message: with a mask, an hour, and these options instead or besides.
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![2, 1, 6, 0];
        out.extend(self.to.id.to_be_bytes());
        out.resize(16, 0);
        out.extend(self.gives.parse::<Ipv4Addr>().unwrap().octets());
        out.resize(28, 0);
        out.extend(self.to.mac);
        out.resize(HEAD, 0);
        out.extend(COOKIE);
        let mut options = BTreeMap::from([
            (KIND, vec![self.kind as u8]),
            (BY, self.by.to_vec()),
            (MASK, vec![255, 255, 255, 0]),
            (TIME, 3600u32.to_be_bytes().to_vec()),
        ]);
        options.extend(self.options.iter().cloned());
        for (kind, value) in options {
            for part in value.chunks(200) {
                out.extend([kind, part.len().try_into().unwrap()]);
                out.extend(part);
            }
        }
        out.push(END);
        out
    }

    fn answer(&self) -> Option<Answer> {
        read(&self.bytes())
    }
}

fn question() -> Question {
    Question { kind: Kind::Discover, id: 7, mac: MAC, since: 0, own: None, wanted: None }
}

fn lease(gives: &str, options: &[(u8, Vec<u8>)]) -> Option<Lease> {
    let reply =
        Reply { kind: Kind::Ack, to: &question(), gives, by: [10, 7, 0, 1], options: options.to_vec() };
    match reply.answer()?.said {
        Said::Ack(lease) => Some(lease),
        other => panic!("{other:?}"),
    }
}

fn ways(lease: &Lease) -> Vec<String> {
    let way = |(to, via): &(Range, Option<IpAddr>)| {
        format!("{to} {}", via.map_or("here".into(), |via| via.to_string()))
    };
    lease.routes.iter().map(way).collect()
}

#[test]
fn a_lease_has_address_routes_resolver_and_times() {
    let dns = vec![10, 7, 0, 1, 10, 7, 0, 2, 127, 0, 0, 1];
    let plain =
        lease("10.7.0.13", &[(ROUTER, vec![10, 7, 0, 1]), (DNS, dns), (DOMAIN, b"site.test\0".to_vec())]);
    let plain = plain.unwrap();
    assert_eq!((plain.own.to_string(), plain.by.to_string()), ("10.7.0.13/24".into(), "10.7.0.1".into()));
    assert_eq!(ways(&plain), ["0.0.0.0/0 10.7.0.1"]);
    assert_eq!(plain.dns.len(), 2, "its own loopback is nobody's server: {:?}", plain.dns);
    assert_eq!((plain.search.as_slice(), plain.mtu), (&["site.test".to_owned()][..], None));
    let hours = |part: u64| Some(Duration::from_secs(450 * part));
    assert_eq!((plain.lasts, Some(plain.renew), Some(plain.rebind)), (hours(8), hours(4), hours(7)));
}

#[test]
fn classless_routes_stand_in_the_place_of_the_router() {
    let routes = vec![24, 10, 8, 0, 10, 7, 0, 9, 0, 10, 7, 0, 1, 20, 172, 16, 31, 0, 0, 0, 0, 33, 1];
    let found = lease("10.7.0.13", &[(ROUTER, vec![10, 7, 0, 254]), (ROUTES, routes)]).unwrap();
    assert_eq!(ways(&found), ["10.8.0.0/24 10.7.0.9", "0.0.0.0/0 10.7.0.1", "172.16.16.0/20 here"]);
    let many: Vec<_> = (0..40u8).flat_map(|net| [24, 10, net, 0, 10, 7, 0, 1]).collect();
    assert_eq!(lease("10.7.0.13", &[(ROUTES, many)]).unwrap().routes.len(), MOST);
}

#[test]
fn search_domains_are_read_and_can_write_no_line_of_their_own() {
    let list = b"\x01a\x04test\0\x01b\xc0\x02\x0cx\nnameserver\0".to_vec();
    let found = lease("10.7.0.13", &[(DOMAIN, b"other.test".to_vec()), (SEARCH, list)]).unwrap();
    assert_eq!(found.search, ["a.test", "b.test"]);
    let odd = lease("10.7.0.13", &[(DOMAIN, b"x\nnameserver 6.6.6.6".to_vec())]).unwrap();
    assert_eq!(odd.search, [""; 0]);
}

#[test]
fn a_packet_size_counts_where_it_neither_switches_ipv6_off_nor_asks_for_more_than_ethernet() {
    for (said, taken) in [(1279u16, None), (1280, Some(1280)), (1400, Some(1400)), (9000, None), (0, None)] {
        let found = lease("10.7.0.13", &[(MTU, said.to_be_bytes().to_vec())]).unwrap();
        assert_eq!(found.mtu, taken, "{said}");
    }
}

#[test]
fn addresses_that_no_machine_can_have_are_not_taken() {
    let no =
        ["0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255", "10.7.0.0", "10.7.0.255"];
    for address in no {
        assert_eq!(lease(address, &[]), None, "{address}");
    }
    for mask in [vec![0; 4], vec![255, 0, 255, 0], vec![255, 255], vec![]] {
        assert_eq!(lease("10.7.0.13", &[(MASK, mask.clone())]), None, "{mask:?}");
    }
    assert_eq!(lease("10.7.0.0", &[(MASK, vec![255, 255, 255, 254])]).unwrap().own.prefix, 31);
}

#[test]
fn times_that_make_no_sense_become_the_usual_ones() {
    let time = |kind: u8, seconds: u32| (kind, seconds.to_be_bytes().to_vec());
    let odd = lease("10.7.0.13", &[time(TIME, 800), time(RENEW, 900), time(REBIND, 1000)]).unwrap();
    let seconds = [odd.lasts.unwrap(), odd.rebind, odd.renew].map(|time| time.as_secs());
    assert_eq!(seconds, [800, 700, 400]);
    let short = lease("10.7.0.13", &[time(TIME, 0), time(RENEW, 0)]).unwrap();
    assert_eq!((short.lasts, short.renew), (Some(Duration::from_secs(20)), Duration::from_secs(10)));
    assert_eq!(lease("10.7.0.13", &[time(TIME, u32::MAX)]).unwrap().lasts, None);
}

#[test]
fn a_message_cut_anywhere_or_not_a_servers_is_no_answer_and_no_panic() {
    let options = vec![(ROUTES, vec![24, 10, 8, 0, 10, 7, 0, 9]), (SEARCH, b"\x01a\xc0\0".to_vec())];
    let by = [10, 7, 0, 1];
    let whole = Reply { kind: Kind::Offer, to: &question(), gives: "10.7.0.13", by, options }.bytes();
    assert!(read(&whole).is_some());
    for cut in 0..whole.len() - 1 {
        let _ = read(&whole[..cut]);
        assert!(cut >= HEAD + 4 || read(&whole[..cut]).is_none(), "cut at {cut}");
    }
    for place in 0..whole.len() {
        for value in [0, 1, 52, 255] {
            let mut odd = whole.clone();
            odd[place] = value;
            let _ = read(&odd);
        }
    }
    assert_eq!(read(&question().bytes()), None, "another client's question");
    let packet = wire::packet(Ipv4Addr::UNSPECIFIED, &whole);
    assert_eq!(wire::message(&packet), None, "it is for a server");
    let mut packet = packet;
    packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
    assert_eq!(wire::message(&packet), Some(&whole[..]));
    for cut in 0..packet.len() {
        assert_eq!(wire::message(&packet[..cut]), None);
    }
    packet[6] = 0x20;
    assert_eq!(wire::message(&packet), None, "a part of a packet");
}

/// A client, and servers that answer what it asks.
struct Talk {
    client: Client,
    now: Instant,
    asked: Option<(Question, To)>,
}

impl Talk {
    fn new() -> Self {
        let now = Instant::now();
        let mut talk = Self { client: Client::new(MAC, now), now, asked: None };
        talk.after(0);
        talk
    }

    /// So many seconds later.
    fn after(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.asked = self.client.tick(self.now).or_else(|| self.asked.take());
    }

    fn asks(&self) -> (Kind, To) {
        let (question, to) = self.asked.as_ref().unwrap();
        (question.kind, *to)
    }

    fn hear(&mut self, kind: Kind, gives: &str, by: u8) {
        let to = &self.asked.as_ref().unwrap().0;
        let reply = Reply { kind, to, gives, by: [10, 7, 0, by], options: vec![] };
        self.client.hear(reply.answer().unwrap(), self.now);
        self.after(0);
    }

    fn has(&self) -> Option<String> {
        self.client.lease(self.now).map(|(lease, _)| lease.own.to_string())
    }

    fn bound() -> Self {
        let mut talk = Self::new();
        talk.hear(Kind::Offer, "10.7.0.13", 1);
        talk.hear(Kind::Ack, "10.7.0.13", 1);
        talk
    }
}

const SERVER_1: To = To::Server(Ipv4Addr::new(10, 7, 0, 1));

#[test]
fn of_two_servers_the_first_good_one_is_kept() {
    let mut talk = Talk::new();
    assert_eq!(talk.asks(), (Kind::Discover, To::Everybody));
    talk.hear(Kind::Offer, "10.7.0.13", 1);
    let wanted = Some((Ipv4Addr::new(10, 7, 0, 13), Ipv4Addr::new(10, 7, 0, 1)));
    assert_eq!(talk.asked.as_ref().unwrap().0.wanted, wanted);
    talk.hear(Kind::Offer, "10.7.0.99", 2);
    talk.hear(Kind::Nak, "10.7.0.99", 2);
    talk.hear(Kind::Ack, "10.7.0.99", 2);
    assert_eq!((talk.has(), talk.asked.as_ref().unwrap().0.wanted), (None, wanted));
    talk.hear(Kind::Ack, "10.7.0.13", 1);
    assert_eq!(talk.has().as_deref(), Some("10.7.0.13/24"));
    talk.hear(Kind::Nak, "10.7.0.13", 1);
    assert!(talk.has().is_some(), "nothing is asked any more");
}

#[test]
fn a_server_that_offers_and_does_not_give_makes_room_for_another_one() {
    for gives_up in [false, true] {
        let mut talk = Talk::new();
        talk.hear(Kind::Offer, "10.7.0.13", 1);
        if gives_up {
            (0..4).for_each(|_| talk.after(60));
        } else {
            talk.hear(Kind::Nak, "10.7.0.13", 1);
        }
        assert_eq!(talk.asks(), (Kind::Discover, To::Everybody));
        talk.hear(Kind::Offer, "10.7.0.13", 1);
        assert_eq!(talk.asks().0, Kind::Discover);
        talk.hear(Kind::Offer, "10.7.0.99", 2);
        talk.hear(Kind::Ack, "10.7.0.99", 2);
        assert_eq!(talk.has().as_deref(), Some("10.7.0.99/24"));
    }
    let mut alone = Talk::new();
    alone.hear(Kind::Offer, "10.7.0.13", 1);
    alone.hear(Kind::Nak, "10.7.0.13", 1);
    alone.after(60);
    alone.hear(Kind::Offer, "10.7.0.13", 1);
    assert_eq!(alone.asks().0, Kind::Request, "where nobody else is there it may try again");
}

#[test]
fn a_lease_is_renewed_with_its_server_then_with_anybody_and_ends() {
    let mut talk = Talk::bound();
    talk.after(1799);
    assert_eq!(talk.asks().0, Kind::Request);
    talk.after(1);
    let own = Some(Ipv4Addr::new(10, 7, 0, 13));
    assert_eq!((talk.asks(), talk.asked.as_ref().unwrap().0.own), ((Kind::Request, SERVER_1), own));
    talk.hear(Kind::Ack, "10.7.0.13", 1);
    assert_eq!(talk.client.lease(talk.now).unwrap().1, Some(Duration::from_hours(1)));
    talk.after(1800);
    talk.after(1350);
    assert_eq!(talk.asks(), (Kind::Request, To::Everybody));
    talk.hear(Kind::Ack, "10.7.0.13", 2);
    assert_eq!(talk.client.lease(talk.now).unwrap().0.by, Ipv4Addr::new(10, 7, 0, 2));
    talk.after(3599);
    assert!(talk.has().is_some());
    talk.after(1);
    assert_eq!((talk.has(), talk.asks()), (None, (Kind::Discover, To::Everybody)));
}

#[test]
fn a_no_takes_the_address_away() {
    let mut talk = Talk::bound();
    talk.after(1800);
    talk.hear(Kind::Nak, "10.7.0.13", 2);
    assert!(talk.has().is_some(), "of another server than the one that was asked");
    talk.hear(Kind::Nak, "10.7.0.13", 1);
    assert_eq!((talk.has(), talk.asks()), (None, (Kind::Discover, To::Everybody)));
}

#[test]
fn after_the_cable_was_out_any_server_may_say_that_the_address_is_of_elsewhere() {
    let mut talk = Talk::bound();
    talk.client.replugged(talk.now);
    talk.after(0);
    assert_eq!(talk.asks(), (Kind::Request, To::Everybody));
    talk.hear(Kind::Nak, "10.9.0.13", 9);
    assert_eq!(talk.has(), None);
}

#[test]
fn an_answer_to_somebody_else_is_not_heard() {
    let mut talk = Talk::new();
    for (id, mac) in [(8, MAC), (talk.client.tick(talk.now).map_or(7, |(one, _)| one.id), [9; 6])] {
        let to = Question { id, mac, ..question() };
        let reply =
            Reply { kind: Kind::Offer, to: &to, gives: "10.7.0.13", by: [10, 7, 0, 1], options: vec![] };
        talk.client.hear(reply.answer().unwrap(), talk.now);
    }
    talk.after(0);
    assert_eq!(talk.asks().0, Kind::Discover);
}

#[test]
fn a_network_without_server_is_asked_ever_more_seldom() {
    let mut talk = Talk::new();
    let mut asked = 1;
    for _ in 0..3600 {
        talk.asked = None;
        talk.after(1);
        asked += u32::from(talk.asked.is_some());
    }
    assert!((40..70).contains(&asked), "{asked} times in an hour");
    assert!(talk.client.in_vain(talk.now).unwrap() >= Duration::from_hours(1));
}
