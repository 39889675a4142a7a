//! One question and its answer on the LAN: "where is the registrar?" (RFC 6762 section 6.7, one-shot queries).

use std::net::IpAddr;

/// Port of multicast DNS.
pub const PORT: u16 = 5353;
/// IPv4 group.
pub const GROUP_V4: std::net::Ipv4Addr = std::net::Ipv4Addr::new(224, 0, 0, 251);
/// IPv6 group.
pub const GROUP_V6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

const PTR: u16 = 12;
const TXT: u16 = 16;
const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;
const IN: u16 = 1;
/// RFC 6762 section 6.7: an answer to a one-shot query is not to be kept.
const TTL: u32 = 10;

/// A question that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number, to be repeated.
    pub id: u16,
    /// The name asked for, `_brski-registrar._tcp.local`.
    pub name: String,
    kind: u16,
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

fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let bytes = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(bytes.len()).unwrap_or(63));
        out.extend_from_slice(bytes);
    }
    out.push(0);
}

fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [id, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

/// The question for a service: a datagram.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut out = header(id, 0, [1, 0, 0, 0]);
    put_name(&mut out, name);
    out.extend([PTR, IN].into_iter().flat_map(u16::to_be_bytes));
    out
}

/// Where a reader is in a datagram.
struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u16(&mut self) -> Option<u16> {
        let bytes = self.all.get(self.at..self.at.checked_add(2)?)?;
        self.at += 2;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn bytes(&mut self, length: usize) -> Option<&[u8]> {
        let bytes = self.all.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(bytes)
    }

    /// A name; pointers (RFC 1035 section 4.1.4) only lead back, so that none can turn in a circle.
    fn name(&mut self) -> Option<String> {
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

/// Reads a question; none for answers and for anything damaged.
pub fn read_question(datagram: &[u8]) -> Option<Question> {
    let mut reader = Reader { all: datagram, at: 0 };
    let (id, flags, count) = (reader.u16()?, reader.u16()?, reader.u16()?);
    if flags & 0x8000 != 0 || count == 0 {
        return None;
    }
    reader.at = 12;
    let name = reader.name()?;
    let kind = reader.u16()?;
    reader.u16()?;
    Some(Question { id, name, kind })
}

impl Question {
    /// Whether it asks for this service.
    pub fn wants(&self, service: &str) -> bool {
        self.name.eq_ignore_ascii_case(service) && matches!(self.kind, PTR | ANY)
    }
}

/// A record whose name stands already, at `name` bytes from the start (RFC 1035 section 4.1.4).
fn record(out: &mut Vec<u8>, name: usize, kind: u16, data: &[u8]) {
    out.extend(pointer(name));
    out.extend([kind, IN].into_iter().flat_map(u16::to_be_bytes));
    out.extend(TTL.to_be_bytes());
    out.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    out.extend_from_slice(data);
}

fn pointer(at: usize) -> [u8; 2] {
    (0xc000 | u16::try_from(at & 0x3fff).unwrap_or(0)).to_be_bytes()
}

/// A label in front of a name that stands already.
fn label(text: &str, rest: usize) -> Vec<u8> {
    let bytes = &text.as_bytes()[..text.len().min(63)];
    [&[u8::try_from(bytes.len()).unwrap_or(0)], bytes, &pointer(rest)].concat()
}

/// The answer: who, where, and the owner's hint, in one datagram. `instance` is also the host's name.
pub fn answer(question: &Question, instance: &str, found: &Found) -> Vec<u8> {
    const ASKED: usize = 12;
    /// Fixed part of a record before its data.
    const FIXED: usize = 12;
    let count = u16::try_from(found.addresses.len()).unwrap_or(0);
    let mut out = header(question.id, 0x8400, [1, 1, 0, count + 2]);
    put_name(&mut out, &question.name);
    let local = out.len() - b"\x05local\0".len();
    out.extend([question.kind, IN].into_iter().flat_map(u16::to_be_bytes));
    let full = out.len() + FIXED;
    record(&mut out, ASKED, PTR, &label(instance, ASKED));
    let mut srv: Vec<u8> = [0, 0, found.port].into_iter().flat_map(u16::to_be_bytes).collect();
    let host = out.len() + FIXED + srv.len();
    srv.extend(label(instance, local));
    record(&mut out, full, SRV, &srv);
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap_or(0)], text.as_bytes()].concat();
    record(&mut out, full, TXT, &[text("txtvers=1"), text(&format!("own={}", found.own))].concat());
    for address in &found.addresses {
        match address {
            IpAddr::V4(four) => record(&mut out, host, A, &four.octets()),
            IpAddr::V6(six) => record(&mut out, host, AAAA, &six.octets()),
        }
    }
    out
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
    for _ in 0..counts[1..].iter().map(|count| u32::from(*count)).sum::<u32>().min(64) {
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
            return Some(String::from_utf8_lossy(own).into_owned());
        }
        data = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "_brski-registrar._tcp.local";

    fn found() -> Found {
        Found {
            port: 7443,
            addresses: vec![[10, 7, 0, 2].into(), "fe80::1".parse().unwrap()],
            own: "2cb2055d".into(),
        }
    }

    #[test]
    fn question_and_answer_fit_in_250_bytes_together() {
        let asked = question(7, SERVICE);
        let read = read_question(&asked).unwrap();
        assert!(read.wants(SERVICE));
        let answered = answer(&read, "ship-7-1", &found());
        assert_eq!(read_answer(&answered), Some(found()));
        assert!(asked.len() + answered.len() <= 250, "{} + {}", asked.len(), answered.len());
    }

    #[test]
    fn cut_and_circular_datagrams_are_refused_without_a_panic() {
        let answered = answer(&read_question(&question(7, SERVICE)).unwrap(), "p", &found());
        for cut in 0..answered.len() {
            let _ = read_answer(&answered[..cut]);
            let _ = read_question(&answered[..cut]);
        }
        let mut circle = header(1, 0, [1, 0, 0, 0]);
        circle.extend([192, 12, 0, 12, 0, 1]);
        assert_eq!(read_question(&circle), None);
        for place in 0..answered.len() {
            let mut changed = answered.clone();
            changed[place] ^= 0xff;
            let _ = read_answer(&changed);
        }
    }
}
