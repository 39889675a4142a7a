//! What DHCPv6 servers are asked, and when.

use super::*;

const NAMES: Calls = Calls { addresses: false, names: true };

/// A client, and servers that answer what it asks.
struct Talk {
    client: Client,
    calls: Calls,
    now: Instant,
    asked: Vec<Vec<u8>>,
}

impl Talk {
    fn new(calls: Calls) -> Self {
        let now = Instant::now();
        let mut talk = Self { client: Client::new(own(), now), calls, now, asked: vec![] };
        talk.after(0);
        talk.after(1);
        talk
    }

    /// So many seconds later.
    fn after(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let asked = self.client.tick(self.calls, self.now);
        self.asked = if asked.is_empty() { std::mem::take(&mut self.asked) } else { asked };
    }

    /// What was asked last: kind, server and address.
    fn asks(&self) -> (u8, Option<Vec<u8>>, Option<Ipv6Addr>) {
        let asked = self.asked.last().unwrap();
        let all = options(&asked[4..]).unwrap();
        assert_eq!(get(&all, CLIENT_ID), Some(&own().duid[..]));
        let ia = get(&all, IA_NA);
        assert_eq!(ia.is_none(), asked[0] == Kind::Inform as u8);
        let inner = ia.map(|ia| options(&ia[IN_IA..]).unwrap()).unwrap_or_default();
        let wanted = get(&inner, IA_ADDRESS).and_then(|address| read_ip(&address[..16]));
        (asked[0], get(&all, SERVER_ID).map(<[u8]>::to_vec), wanted)
    }

    fn kind(&self) -> u8 {
        self.asks().0
    }

    fn hear(&mut self, kind: Kind, by: u8, options: &[Vec<u8>]) {
        let id = self.asked.last().unwrap()[1..4].to_vec();
        let answer = read(&message(kind, &id, &own().duid, by, options)).unwrap();
        self.client.hear(answer, ip("fe80::1"), self.now);
        self.after(0);
    }

    fn has(&self) -> Option<String> {
        self.client.lease(self.now).map(|(gift, _)| gift.lease.own.to_string())
    }

    fn bound() -> Self {
        let mut talk = Self::new(MANAGED);
        talk.hear(Kind::Advertise, 1, &[ia(IAID, "fd77::50", HOUR), part(PREFERENCE, &[255])]);
        talk.hear(Kind::Reply, 1, &[ia(IAID, "fd77::50", HOUR)]);
        assert_eq!(talk.has().as_deref(), Some("fd77::50"));
        assert!(!talk.client.listens());
        talk
    }
}

const SOLICIT: u8 = Kind::Solicit as u8;
const REQUEST: u8 = Kind::Request as u8;
const RENEW: u8 = Kind::Renew as u8;
const REBIND: u8 = Kind::Rebind as u8;
const INFORM: u8 = Kind::Inform as u8;

#[test]
fn nothing_is_asked_where_no_router_calls_for_it() {
    let mut talk = Talk::new(Calls::default());
    talk.after(3600);
    assert!(talk.asked.is_empty() && !talk.client.listens());
    talk.calls = MANAGED;
    talk.after(0);
    talk.after(1);
    assert_eq!(talk.asks(), (SOLICIT, None, None));
    talk.calls = Calls::default();
    talk.after(0);
    assert!(!talk.client.listens());
}

#[test]
fn of_two_servers_the_one_that_wants_it_more_is_asked_and_nobody_else_answers_for_it() {
    let mut talk = Talk::new(MANAGED);
    talk.hear(Kind::Advertise, 1, &[ia(IAID, "fd77::50", HOUR)]);
    assert_eq!(talk.kind(), SOLICIT, "others have the time of one question");
    talk.hear(Kind::Advertise, 2, &[ia(IAID, "fd77::60", HOUR), part(PREFERENCE, &[9])]);
    talk.hear(Kind::Advertise, 3, &[ia(IAID, "fd77::70", HOUR)]);
    talk.hear(Kind::Reply, 2, &[ia(IAID, "fd77::60", HOUR)]);
    talk.after(2);
    assert_eq!(talk.asks(), (REQUEST, Some(server(2)), Some(ip("fd77::60"))));
    talk.hear(Kind::Reply, 3, &[ia(IAID, "fd77::70", HOUR)]);
    talk.hear(Kind::Reply, 3, &[none(2)]);
    talk.hear(Kind::Reply, 2, &[ia([9; 4], "fd77::70", HOUR)]);
    talk.hear(Kind::Advertise, 2, &[ia(IAID, "fd77::60", HOUR)]);
    assert_eq!((talk.has(), talk.kind()), (None, REQUEST));
    talk.hear(Kind::Reply, 2, &[ia(IAID, "fd77::60", HOUR), part(DNS, &ip("fd77::3").octets())]);
    assert_eq!(talk.has().as_deref(), Some("fd77::60"));
    assert_eq!(talk.client.names().dns, [ip("fd77::3")]);
    talk.hear(Kind::Reply, 2, &[none(3)]);
    assert!(talk.has().is_some(), "nothing is asked any more");
}

#[test]
fn an_answer_to_somebody_else_or_to_another_question_is_not_heard() {
    let mut talk = Talk::new(MANAGED);
    let offer = [ia(IAID, "fd77::50", HOUR), part(PREFERENCE, &[255])];
    let id = talk.asked[0][1..4].to_vec();
    let other = [id[0], id[1], !id[2]];
    for (id, client) in [(&other[..], own().duid), (&id, vec![0, 4, 9, 9]), (&id, own().duid[..17].to_vec())]
    {
        talk.client.hear(
            read(&message(Kind::Advertise, id, &client, 1, &offer)).unwrap(),
            ip("fe80::1"),
            talk.now,
        );
    }
    talk.after(0);
    assert_eq!(talk.kind(), SOLICIT);
    talk.hear(Kind::Advertise, 1, &offer);
    assert_eq!(talk.kind(), REQUEST);
}

#[test]
fn a_server_that_offers_and_does_not_give_makes_room_for_another_one() {
    for no in [none(2), none(4), status(4), vec![]] {
        let mut talk = Talk::new(MANAGED);
        let offer = [ia(IAID, "fd77::50", HOUR), part(PREFERENCE, &[255])];
        talk.hear(Kind::Advertise, 1, &offer);
        if no.is_empty() {
            (0..5).for_each(|_| talk.after(60));
        } else {
            talk.hear(Kind::Reply, 1, &[no]);
        }
        talk.after(1);
        assert_eq!(talk.kind(), SOLICIT);
        talk.hear(Kind::Advertise, 1, &offer);
        assert_eq!(talk.kind(), SOLICIT);
        talk.hear(Kind::Advertise, 2, &[ia(IAID, "fd77::60", HOUR)]);
        talk.after(2);
        assert_eq!(talk.asks(), (REQUEST, Some(server(2)), Some(ip("fd77::60"))));
    }
    let mut alone = Talk::new(MANAGED);
    alone.hear(Kind::Advertise, 1, &[ia(IAID, "fd77::50", HOUR), part(PREFERENCE, &[255])]);
    for busy in [status(1), status(5), none(1), none(77)] {
        alone.hear(Kind::Reply, 1, &[busy]);
        assert_eq!(alone.kind(), REQUEST, "it may be better the next time");
    }
    alone.hear(Kind::Reply, 1, &[none(2)]);
    alone.after(1);
    alone.after(2);
    alone.hear(Kind::Advertise, 1, &[ia(IAID, "fd77::50", HOUR)]);
    assert_eq!(alone.kind(), REQUEST, "where nobody else is there it may try again");
}

#[test]
fn an_address_is_renewed_with_its_server_then_with_anybody_and_ends() {
    let mut talk = Talk::bound();
    talk.after(899);
    assert_eq!(talk.kind(), REQUEST);
    talk.after(1);
    assert_eq!(talk.asks(), (RENEW, Some(server(1)), Some(ip("fd77::50"))));
    talk.hear(Kind::Reply, 2, &[ia(IAID, "fd77::50", HOUR)]);
    talk.hear(Kind::Reply, 1, &[]);
    assert!(talk.client.listens(), "of another server, or without a word of the address");
    talk.hear(Kind::Reply, 1, &[ia(IAID, "fd77::50", HOUR)]);
    let left = talk.client.lease(talk.now).unwrap().1.map(|left| left.unwrap().as_secs());
    assert_eq!(left, [1800, 3600]);
    talk.after(900);
    talk.after(540);
    assert_eq!(talk.asks(), (REBIND, None, Some(ip("fd77::50"))));
    talk.hear(Kind::Reply, 2, &[ia(IAID, "fd77::50", HOUR)]);
    talk.after(900);
    assert_eq!(talk.asks().1, Some(server(2)));
    talk.after(2699);
    assert!(talk.has().is_some());
    talk.after(1);
    talk.after(1);
    assert_eq!((talk.has(), talk.kind()), (None, SOLICIT));
}

#[test]
fn an_address_is_kept_where_no_router_calls_for_it_any_more_and_its_server_gives_it_time() {
    let mut talk = Talk::bound();
    talk.calls = Calls::default();
    talk.after(900);
    assert_eq!(talk.kind(), RENEW);
    talk.hear(Kind::Reply, 1, &[ia(IAID, "fd77::50", HOUR)]);
    talk.after(3600);
    assert!(talk.has().is_none() && !talk.client.listens(), "at its end nobody is asked");
}

#[test]
fn a_server_takes_an_address_away_gives_another_one_or_has_forgotten_it() {
    let mut talk = Talk::bound();
    talk.after(900);
    talk.hear(Kind::Reply, 1, &[ia(IAID, "fd77::50", [0; 4]), ia(IAID, "fd77::51", HOUR)]);
    assert_eq!(talk.has().as_deref(), Some("fd77::51"));
    talk.after(900);
    talk.hear(Kind::Reply, 1, &[ia(IAID, "fd77::9", [0; 4])]);
    assert!(talk.has().is_some(), "another one is over");
    talk.hear(Kind::Reply, 1, &[ia(IAID, "fd77::51", [0; 4])]);
    assert_eq!(talk.has(), None);
    let mut talk = Talk::bound();
    talk.after(900);
    talk.hear(Kind::Reply, 1, &[none(3)]);
    assert_eq!(talk.asks(), (REQUEST, Some(server(1)), Some(ip("fd77::50"))));
    assert!(talk.has().is_some(), "meanwhile it is kept");
    talk.hear(Kind::Reply, 1, &[none(4)]);
    talk.after(1);
    assert_eq!((talk.has(), talk.kind()), (None, SOLICIT));
}

#[test]
fn after_the_cable_was_out_any_server_may_say_that_the_address_is_of_elsewhere() {
    let mut talk = Talk::bound();
    talk.client.replugged(talk.now);
    talk.after(0);
    assert_eq!(talk.asks(), (REBIND, None, Some(ip("fd77::50"))));
    talk.hear(Kind::Reply, 9, &[ia(IAID, "fd77::50", [0; 4])]);
    assert_eq!(talk.has(), None);
}

#[test]
fn names_alone_are_asked_for_and_asked_for_anew_when_they_are_old() {
    let mut talk = Talk::new(NAMES);
    assert_eq!(talk.asks(), (INFORM, None, None));
    talk.hear(Kind::Reply, 1, &[status(1), part(DNS, &ip("fd77::66").octets())]);
    talk.hear(Kind::Advertise, 1, &[part(DNS, &ip("fd77::66").octets())]);
    assert_eq!(*talk.client.names(), Names::default());
    talk.hear(Kind::Reply, 1, &[part(DNS, &ip("fd77::3").octets()), part(REFRESH, &3600u32.to_be_bytes())]);
    assert_eq!((talk.client.names().dns.as_slice(), talk.client.listens()), (&[ip("fd77::3")][..], false));
    talk.after(3600);
    talk.after(1);
    assert!(talk.client.listens());
    talk.hear(Kind::Reply, 2, &[part(DNS, &ip("fd77::4").octets())]);
    assert_eq!(talk.client.names().dns, [ip("fd77::4")]);
    talk.calls = Calls::default();
    talk.after(0);
    assert_eq!(*talk.client.names(), Names::default(), "no router says that there are any");
}

#[test]
fn where_no_server_has_an_address_its_names_are_asked_for_all_the_same() {
    let mut talk = Talk::new(Calls { names: false, ..MANAGED });
    talk.hear(Kind::Advertise, 1, &[none(2)]);
    talk.hear(Kind::Advertise, 1, &[ia(IAID, "fd77::50", [0; 4])]);
    talk.after(2);
    talk.after(0);
    talk.after(1);
    assert_eq!(talk.kind(), INFORM);
    talk.hear(Kind::Reply, 1, &[part(DNS, &ip("fd77::3").octets())]);
    assert_eq!(talk.client.names().dns, [ip("fd77::3")]);
    assert!(talk.client.listens(), "an address may be free later");
}

#[test]
fn a_network_without_server_is_asked_ever_more_seldom() {
    let mut talk = Talk::new(MANAGED);
    let mut asked = 1;
    for _ in 0..86400 {
        asked += talk.client.tick(talk.calls, talk.now).len();
        talk.now += Duration::from_secs(1);
    }
    assert!((50..90).contains(&asked), "{asked} times in a day");
}
