//! DNS (RFC 1035) as bytes, as far as a registrar is found by it: SRV records (RFC 2782) and addresses.

use std::net::IpAddr;

use crate::mdns::{A, AAAA, IN, Reader, SRV, Writer};

/// Header flags: a question that the server is to follow up by itself; an answer.
const RECURSION: u16 = 0x0100;
const RESPONSE: u16 = 0x8000;
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

/// The records of the answer to the question `id`, in their order; a name that does not exist has none. None where the
/// datagram is damaged or answers something else.
pub fn read_answer(datagram: &[u8], id: u16) -> Option<Vec<Record>> {
    let mut reader = Reader { all: datagram, at: 0 };
    if reader.u16()? != id || reader.u16()? & RESPONSE == 0 {
        return None;
    }
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    reader.bytes(4)?;
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
        match kind {
            A => records.push(Record::Address(<[u8; 4]>::try_from(data).ok()?.into())),
            AAAA => records.push(Record::Address(<[u8; 16]>::try_from(data).ok()?.into())),
            SRV => {
                let mut inside = Reader { all: datagram, at: begin };
                inside.bytes(4)?;
                records.push(Record::Service(inside.u16()?, inside.name()?));
            }
            // An alias; what it stands for comes with it.
            _ => {}
        }
    }
    Some(records)
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
        assert_eq!(read_answer(&answer(), 7), Some(vec![Record::Service(7443, host), address]));
        assert_eq!(read_answer(&answer(), 8), None, "the answer to another question");
        let mut nothing = Writer::new(7, RESPONSE | 3, [0; 4]).done();
        assert_eq!(read_answer(&nothing, 7), Some(vec![]));
        nothing[2] = 0;
        assert_eq!(read_answer(&nothing, 7), None, "a question is no answer");
    }

    #[test]
    fn an_answer_cut_anywhere_is_none() {
        let whole = answer();
        assert!((0..whole.len()).all(|cut| read_answer(&whole[..cut], 7).is_none()));
    }
}
