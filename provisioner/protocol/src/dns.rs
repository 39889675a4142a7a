//! DNS (RFC 1035) as bytes, as far as a registrar is found by it: SRV records (RFC 2782) and addresses.

use std::net::IpAddr;

use crate::mdns::{A, AAAA, IN, Reader, SRV, Writer};

/// Header flags: a question that the server is to follow up by itself; an answer.
const RECURSION: u16 = 0x0100;
const RESPONSE: u16 = 0x8000;
/// More records than the datagram holds.
const TRUNCATED: u16 = 0x0200;
/// The server's verdict (RCODE): all is well; there is no such name.
const VERDICT: u16 = 0x000f;
const NO_NAME: u16 = 3;
/// Records of one datagram beyond this are not looked at.
const MOST: u16 = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Where a service is.
    Service,
    /// IPv4 addresses of a host.
    V4,
    /// IPv6 addresses of a host.
    V6,
}

/// A record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A service is at this port of this host.
    Service(u16, String),
    /// A host has this address.
    Address(IpAddr),
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These records, in its order; a name that does not exist has none.
    Records(Vec<Record>),
    /// It cannot or may not say: another one may.
    Cannot,
}

/// A datagram that asks for the records of `kind` at `name`.
pub fn question(id: u16, name: &str, kind: Kind) -> Vec<u8> {
    let mut out = Writer::new(id, RECURSION, [1, 0, 0, 0]);
    out.name(name);
    let kind = match kind {
        Kind::Service => SRV,
        Kind::V4 => A,
        Kind::V6 => AAAA,
    };
    out.u16s(&[kind, IN]);
    out.done()
}

/// The answer to the question `id`; none where the datagram is damaged or answers something else.
pub fn read_answer(datagram: &[u8], id: u16) -> Option<Answer> {
    let mut reader = Reader { all: datagram, at: 0 };
    let (answered, flags) = (reader.u16()?, reader.u16()?);
    if answered != id || flags & RESPONSE == 0 {
        return None;
    }
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    reader.bytes(4)?;
    if !matches!(flags & VERDICT, 0 | NO_NAME) || (flags & TRUNCATED != 0 && answers == 0) {
        return Some(Answer::Cannot);
    }
    for _ in 0..questions {
        reader.name()?;
        reader.bytes(4)?;
    }
    let mut records = Vec::new();
    for _ in 0..answers.min(MOST) {
        reader.name()?;
        let kind = reader.u16()?;
        reader.bytes(6)?;
        let length = usize::from(reader.u16()?);
        let begin = reader.at;
        let data = reader.bytes(length)?;
        match (kind, length) {
            (A, 4) => records.push(Record::Address(<[u8; 4]>::try_from(data).ok()?.into())),
            (AAAA, 16) => records.push(Record::Address(<[u8; 16]>::try_from(data).ok()?.into())),
            (SRV, 7..) => {
                let mut inside = Reader { all: datagram, at: begin + 4 };
                records.push(Record::Service(inside.u16()?, inside.name()?));
            }
            // An alias, of which what it stands for comes with it; or something odd.
            _ => {}
        }
    }
    Some(Answer::Records(records))
}

/// Names, one after the other, as search domains are told (RFC 3397, RFC 8106); none where they are damaged.
pub fn names(bytes: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader { all: bytes, at: 0 };
    let mut names = Vec::new();
    while reader.at < bytes.len() {
        names.push(reader.name()?);
    }
    // Some fill up with empty ones.
    names.retain(|name| !name.is_empty());
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mdns::Data;

    /// An answer with an alias before the address of what it stands for.
    fn answer() -> Vec<u8> {
        let mut out = Writer::new(7, RESPONSE, [1, 3, 0, 0]);
        out.name("_brski-registrar._tcp.site.test");
        out.u16s(&[SRV, IN]);
        let service = Data::Service(7443, "registrar.site.test");
        out.record("_brski-registrar._tcp.site.test", SRV, false, 60, &service);
        out.record("registrar.site.test", 5, false, 60, &Data::Name("a.site.test"));
        out.record("a.site.test", A, false, 60, &Data::Address("10.7.0.2".parse().unwrap()));
        out.done()
    }

    #[test]
    fn where_a_service_is_and_who_its_host_is_are_read() {
        let host = "registrar.site.test".to_owned();
        let address = Record::Address("10.7.0.2".parse().unwrap());
        let records = Answer::Records(vec![Record::Service(7443, host), address]);
        assert_eq!(read_answer(&answer(), 7), Some(records));
        assert_eq!(read_answer(&answer(), 8), None, "the answer to another question");
        let mut nothing = Writer::new(7, RESPONSE | NO_NAME, [0; 4]).done();
        assert_eq!(read_answer(&nothing, 7), Some(Answer::Records(vec![])));
        nothing[2] = 0;
        assert_eq!(read_answer(&nothing, 7), None, "a question is no answer");
    }

    #[test]
    fn a_server_that_fails_refuses_or_cuts_has_not_said_that_there_is_nothing() {
        for flags in [RESPONSE | 2, RESPONSE | 5, RESPONSE | TRUNCATED] {
            assert_eq!(read_answer(&Writer::new(7, flags, [0; 4]).done(), 7), Some(Answer::Cannot));
        }
    }

    #[test]
    fn the_server_is_asked_to_follow_the_question_up() {
        for (kind, number) in [(Kind::Service, 33), (Kind::V4, 1), (Kind::V6, 28)] {
            let asked = question(7, "a.test", kind);
            assert_eq!(asked[..6], [0, 7, 1, 0, 0, 1], "recursion is desired");
            assert_eq!(asked[asked.len() - 4..], [0, number, 0, 1]);
        }
    }

    #[test]
    fn an_answer_cut_anywhere_is_none() {
        let whole = answer();
        assert!((0..whole.len()).all(|cut| read_answer(&whole[..cut], 7).is_none()));
    }
}
