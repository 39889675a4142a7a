//! Requests and answers over one connection: as much of HTTP/1.1 (RFC 9112) as a provisioner speaks.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::bytes::Digest;
use protocol::json;
use protocol::messages::{JSON_TYPE, Message, SNI};
use protocol::refusal::Said;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::timed::Timed;
use super::tls::Link;

/// No answer takes longer, from the request to its last byte: M8 may wait for the cluster.
pub const ANSWER: Duration = Duration::from_secs(30);
/// No answer is larger, bytes: a configuration with all its files.
const LIMIT: usize = 4 * 1024 * 1024;
/// No header line is longer, bytes.
const LINE: u64 = 8 * 1024;
/// No answer has more header lines.
const LINES: usize = 64;

/// One connection to a provisioner.
pub struct Conversation {
    reader: BufReader<rustls::StreamOwned<rustls::ClientConnection, Timed>>,
    patience: Duration,
    /// Certificates that the provisioner showed, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// What binds our proofs to this connection.
    pub binding: protocol::attest::Binding,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// After how many seconds to ask again.
    pub retry_after: u64,
    /// The body.
    pub body: Vec<u8>,
}

/// What an answer means.
#[derive(Debug)]
pub enum Meaning {
    /// Done.
    Good(Vec<u8>),
    /// Ask again after so many seconds, and why.
    Wait(Said, u64),
    /// No.
    No(Said),
}

impl Answer {
    /// What it means.
    pub fn meaning(self) -> Meaning {
        let unknown = || Said {
            reason: format!("http-{}", self.status),
            text: "The provisioner answers in a way I do not understand.".into(),
        };
        match self.status {
            200 => Meaning::Good(self.body),
            202 | 429 | 503 | 500 => Meaning::Wait(
                json::parse(&self.body).unwrap_or_else(|_| unknown()),
                self.retry_after.clamp(1, 300),
            ),
            _ => Meaning::No(json::parse(&self.body).unwrap_or_else(|_| unknown())),
        }
    }
}

/// Reads an answer's JSON. An error does not repeat what the other end wrote: it would stand on this machine's screen.
pub fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    json::parse(body).map_err(|_| anyhow::anyhow!("the provisioner's answer cannot be read"))
}

impl Conversation {
    /// Over a link.
    pub fn over(link: Link) -> Self {
        let reader = BufReader::new(link.stream);
        Self { reader, patience: ANSWER, chain: link.chain, binding: link.binding }
    }

    /// Waits so long for each answer from now on.
    pub fn be_patient_for(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// A key both ends take from this connection (RFC 5705).
    pub fn exported(&self, label: &[u8]) -> Result<[u8; 32]> {
        Ok(self.reader.get_ref().conn.export_keying_material([0; 32], label, None)?)
    }

    /// Where the provisioner is.
    pub fn address(&self) -> Result<std::net::SocketAddr> {
        Ok(self.reader.get_ref().sock.peer()?)
    }

    /// Sends a request and reads its answer.
    pub fn send(&mut self, message: Message, rest: &str, media: &str, body: &[u8]) -> Result<Answer> {
        let (method, path) = message.path();
        let length = body.len();
        let head = format!(
            "{method} {path}{rest} HTTP/1.1\r\nHost: {SNI}\r\nContent-Type: {media}\r\nContent-Length: {length}\r\n\r\n"
        );
        self.reader.get_mut().sock.allow(self.patience);
        // One write, one record, one packet.
        self.reader
            .get_mut()
            .write_all(&[head.as_bytes(), body].concat())
            .with_context(|| format!("sending {path}"))?;
        self.read().with_context(|| format!("reading the answer to {path}"))
    }

    /// Sends JSON.
    pub fn json<T: Serialize>(&mut self, message: Message, rest: &str, body: &T) -> Result<Answer> {
        self.send(message, rest, JSON_TYPE, &json::to_vec(body))
    }

    /// Asks for a piece of an image: so many bytes from a byte on, fewer at its end.
    pub fn piece(&mut self, object: &Digest, from: u64, length: u64) -> Result<Answer> {
        let (method, path) = Message::Image.path();
        let last = from + length.max(1) - 1;
        let head =
            format!("{method} {path}{object} HTTP/1.1\r\nHost: {SNI}\r\nRange: bytes={from}-{last}\r\n\r\n");
        self.reader.get_mut().sock.allow(self.patience);
        self.reader.get_mut().write_all(head.as_bytes()).with_context(|| format!("sending {path}"))?;
        self.read().with_context(|| format!("reading the answer to {path}"))
    }

    /// Asks for JSON.
    pub fn get<T: DeserializeOwned>(&mut self, message: Message) -> Result<Result<T, Meaning>> {
        match self.send(message, "", JSON_TYPE, b"")?.meaning() {
            Meaning::Good(body) => Ok(Ok(read_json(&body)?)),
            other => Ok(Err(other)),
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.reader.by_ref().take(LINE).read_line(&mut line).map_err(ended)?;
        ensure!(line.ends_with('\n'), "the connection ended, or a line was too long");
        Ok(line.trim_end().to_owned())
    }

    fn read(&mut self) -> Result<Answer> {
        let first = self.line()?;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let mut answer =
            Answer { status: status.context("the answer is not HTTP")?, retry_after: 5, body: vec![] };
        let mut length = 0;
        for _ in 0..LINES {
            let line = self.line()?;
            if line.is_empty() {
                ensure!(length <= LIMIT, "an answer of {length} bytes");
                answer.body = vec![0; length];
                self.reader.read_exact(&mut answer.body).map_err(ended)?;
                return Ok(answer);
            }
            let (name, value) = line.split_once(':').context("a header without colon")?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse()?,
                "retry-after" => answer.retry_after = value.trim().parse().unwrap_or(5),
                "transfer-encoding" => bail!("an answer of unknown length"),
                _ => {}
            }
        }
        bail!("too many headers")
    }
}
/// A connection that is over, in words for the screen.
fn ended(error: std::io::Error) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return anyhow::anyhow!("the provisioner has closed the connection");
    }
    error.into()
}
