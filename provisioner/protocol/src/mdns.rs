//! Multicast DNS (RFC 6762) as bytes: questions with what the asker knows already, and the answer to a one-shot one.

use std::net::IpAddr;

/// Port of multicast DNS.
pub const PORT: u16 = 5353;
/// IPv4 group.
pub const GROUP_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(224, 0, 0, 251);
/// IPv6 group.
pub const GROUP_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const ANY: u16 = 255;
pub(crate) const IN: u16 = 1;
/// In a question's class: an answer by unicast is welcome (RFC 6762 section 5.4).
const UNICAST: u16 = 0x8000;
/// What is asked, and known, in one datagram beyond this is not looked at.
const MOST: u16 = 64;

/// One question of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name asked for, `_brski-registrar._tcp.local`.
    pub name: String,
    /// The type of record asked for.
    pub kind: u16,
    /// Whether an answer by unicast is welcome.
    pub unicast: bool,
}

/// A datagram that asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    /// Its number, to be repeated to a one-shot asker.
    pub id: u16,
    /// Its questions.
    pub questions: Vec<Question>,
    /// Instances that the asker knows already and needs no word about: the targets of its PTR records, with TTL.
    pub known: Vec<(String, u32)>,
}

/// An answer that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The registrar's port.
    pub port: u16,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its `own=` hint, hexadecimal.
    pub own: String,
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

/// The question for a service: a datagram.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut out = Writer::new(id, 0, [1, 0, 0, 0]);
    out.name(name);
    out.u16s(&[PTR, IN]);
    out.done()
}

/// A datagram under construction; each name is written once and pointed at afterwards (RFC 1035 section 4.1.4).
pub(crate) struct Writer {
    out: Vec<u8>,
    names: Vec<(String, u16)>,
}

impl Writer {
    pub(crate) fn new(id: u16, flags: u16, counts: [u16; 4]) -> Self {
        Self { out: header(id, flags, counts), names: Vec::new() }
    }

    pub(crate) fn u16s(&mut self, numbers: &[u16]) {
        self.out.extend(numbers.iter().copied().flat_map(u16::to_be_bytes));
    }

    pub(crate) fn name(&mut self, name: &str) {
        let mut rest = name.trim_end_matches('.');
        while !rest.is_empty() {
            if let Some((_, at)) = self.names.iter().find(|(known, _)| known == rest) {
                let pointer = 0xc000 | at;
                return self.u16s(&[pointer]);
            }
            if let Some(at) = u16::try_from(self.out.len()).ok().filter(|at| *at < 0x4000) {
                self.names.push((rest.to_owned(), at));
            }
            let (label, after) = rest.split_once('.').unwrap_or((rest, ""));
            self.text(label.as_bytes(), 63);
            rest = after;
        }
        self.out.push(0);
    }

    /// Bytes behind their length, cut to `most`.
    fn text(&mut self, bytes: &[u8], most: u8) {
        let length = u8::try_from(bytes.len()).unwrap_or(most).min(most);
        self.out.push(length);
        self.out.extend_from_slice(&bytes[..usize::from(length)]);
    }

    /// A question again, as it was asked.
    pub(crate) fn question(&mut self, question: &Question) {
        self.name(&question.name);
        self.u16s(&[question.kind, IN]);
    }

    /// A record; `flush` tells everybody to forget what they knew of this name and kind.
    pub(crate) fn record(&mut self, name: &str, kind: u16, flush: bool, ttl: u32, data: &Data<'_>) {
        self.name(name);
        self.u16s(&[kind, if flush { UNICAST | IN } else { IN }]);
        self.out.extend(ttl.to_be_bytes());
        let length = self.out.len();
        self.u16s(&[0]);
        match data {
            Data::Name(name) => self.name(name),
            Data::Service(port, host) => {
                self.u16s(&[0, 0, *port]);
                self.name(host);
            }
            Data::Texts(texts) => texts.iter().for_each(|text| self.text(text.as_bytes(), 255)),
            Data::Address(IpAddr::V4(four)) => self.out.extend(four.octets()),
            Data::Address(IpAddr::V6(six)) => self.out.extend(six.octets()),
        }
        let written = u16::try_from(self.out.len() - length - 2).unwrap_or(0);
        self.out[length..length + 2].copy_from_slice(&written.to_be_bytes());
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.out
    }
}

/// What a record says.
pub(crate) enum Data<'a> {
    Name(&'a str),
    Service(u16, &'a str),
    Texts(&'a [String]),
    Address(IpAddr),
}

/// Where a reader is in a datagram.
pub(crate) struct Reader<'a> {
    pub all: &'a [u8],
    pub at: usize,
}

impl<'a> Reader<'a> {
    pub fn u16(&mut self) -> Option<u16> {
        let bytes = self.all.get(self.at..self.at.checked_add(2)?)?;
        self.at += 2;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.all.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    /// A name; pointers (RFC 1035 section 4.1.4) only lead back, so that none can turn in a circle.
    pub fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let (mut at, mut jumped, mut least) = (self.at, false, self.at);
        loop {
            let length = usize::from(*self.all.get(at)?);
            match length {
                0 => {
                    at += 1;
                    break;
                }
                1..=63 => {
                    let label = self.all.get(at + 1..at + 1 + length)?;
                    name.push_str(&String::from_utf8_lossy(label));
                    name.push('.');
                    at += 1 + length;
                    if name.len() > 255 {
                        return None;
                    }
                }
                192.. => {
                    let target = (length & 63) << 8 | usize::from(*self.all.get(at + 1)?);
                    if target >= least {
                        return None;
                    }
                    if !jumped {
                        self.at = at + 2;
                    }
                    (jumped, least, at) = (true, target, target);
                }
                _ => return None,
            }
        }
        if !jumped {
            self.at = at;
        }
        Some(name.trim_end_matches('.').to_owned())
    }
}

/// Reads a datagram that asks; none for answers and for anything damaged.
pub(crate) fn read_query(datagram: &[u8]) -> Option<Query> {
    let mut reader = Reader { all: datagram, at: 0 };
    let (id, flags) = (reader.u16()?, reader.u16()?);
    // Answers, and whatever is no plain query (RFC 6762 section 18.3).
    if flags & 0xf800 != 0 {
        return None;
    }
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    if counts[0] > MOST || counts[1] > MOST {
        return None;
    }
    let mut query = Query { id, ..Query::default() };
    for _ in 0..counts[0] {
        let (name, kind, class) = (reader.name()?, reader.u16()?, reader.u16()?);
        query.questions.push(Question { name, kind, unicast: class & UNICAST != 0 });
    }
    for _ in 0..counts[1] {
        reader.name()?;
        let kind = reader.u16()?;
        reader.u16()?;
        let ttl = u32::from(reader.u16()?) << 16 | u32::from(reader.u16()?);
        let length = usize::from(reader.u16()?);
        let end = reader.at.checked_add(length).filter(|end| *end <= datagram.len())?;
        if kind == PTR {
            query.known.push((reader.name()?, ttl));
        }
        reader.at = end;
    }
    (!query.questions.is_empty()).then_some(query)
}

/// Reads an answer; none for anything else.
pub fn read_answer(datagram: &[u8]) -> Option<Found> {
    let mut reader = Reader { all: datagram, at: 0 };
    let (_, flags) = (reader.u16()?, reader.u16()?);
    if flags & 0x8000 == 0 {
        return None;
    }
    let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    for _ in 0..counts[0] {
        reader.name()?;
        reader.bytes(4)?;
    }
    let mut found = Found::default();
    for _ in 0..counts[1..].iter().map(|count| u32::from(*count)).sum::<u32>().min(MOST.into()) {
        reader.name()?;
        let kind = reader.u16()?;
        reader.bytes(6)?;
        let length = usize::from(reader.u16()?);
        let data = reader.bytes(length)?;
        match (kind, data.len()) {
            (SRV, 7..) => found.port = u16::from_be_bytes([data[4], data[5]]),
            (A, 4) => found.addresses.push(<[u8; 4]>::try_from(data).ok()?.into()),
            (AAAA, 16) => found.addresses.push(<[u8; 16]>::try_from(data).ok()?.into()),
            (TXT, _) => found.own = read_own(data).unwrap_or_default(),
            _ => {}
        }
    }
    (found.port != 0).then_some(found)
}

fn read_own(mut data: &[u8]) -> Option<String> {
    while let Some((length, rest)) = data.split_first() {
        let (text, after) = rest.split_at_checked(usize::from(*length))?;
        if let Some(own) = text.strip_prefix(b"own=") {
            let is_hint = own.len() == 8 && own.iter().all(u8::is_ascii_hexdigit);
            return is_hint.then(|| String::from_utf8_lossy(own).into_owned());
        }
        data = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_asked() {
        let query = read_query(&question(7, "_brski-registrar._tcp.local")).unwrap();
        let asked = Question { name: "_brski-registrar._tcp.local".into(), kind: PTR, unicast: false };
        assert_eq!(query, Query { id: 7, questions: vec![asked], known: vec![] });
    }

    #[test]
    fn what_an_asker_knows_is_read_with_its_names() {
        let mut out = Writer::new(0, 0, [2, 2, 0, 0]);
        out.name("_a._tcp.local");
        out.u16s(&[PTR, UNICAST | IN]);
        out.name("x._a._tcp.local");
        out.u16s(&[TXT, IN]);
        out.record("_a._tcp.local", PTR, false, 4500, &Data::Name("x._a._tcp.local"));
        out.record("x._a._tcp.local", TXT, false, 4500, &Data::Texts(&["t=1".to_owned()]));
        let query = read_query(&out.done()).unwrap();
        assert_eq!(query.known, [("x._a._tcp.local".to_owned(), 4500)]);
        let kinds: Vec<_> = query.questions.iter().map(|asked| (asked.kind, asked.unicast)).collect();
        assert_eq!(kinds, [(PTR, true), (TXT, false)]);
    }

    #[test]
    fn circular_names_and_other_operations_are_refused() {
        let mut circle = header(1, 0, [1, 0, 0, 0]);
        circle.extend([192, 12, 0, 12, 0, 1]);
        assert_eq!(read_query(&circle), None);
        for flags in [0x8000, 0x2800, 0x7800] {
            let mut other = question(1, "_a._tcp.local");
            other[2..4].copy_from_slice(&u16::to_be_bytes(flags));
            assert_eq!(read_query(&other), None);
        }
        let mut many = question(1, "_a._tcp.local");
        many[4..6].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(read_query(&many), None);
    }
}
