//! Answers as HTTP, for machines and for EST clients.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use protocol::messages::JSON_TYPE;
use protocol::refusal::{Said, Wait};
use protocol::{est, json};

use crate::site::Answer;

pub(super) type Reply = Response<Full<Bytes>>;

pub(super) fn reply(status: u16, media: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    reply
}

/// Certificates, DER, as RFC 7030 section 4.1.3 wants them.
pub(super) fn certificates(chain: &[Vec<u8>]) -> Reply {
    let chain: Vec<_> = chain.iter().map(Vec::as_slice).collect();
    let mut reply = reply(200, est::CERTS_TYPE, est::certs_only(&chain));
    reply.headers_mut().insert("content-transfer-encoding", HeaderValue::from_static("base64"));
    reply
}

/// A piece of something larger (RFC 9110 section 15.3.7).
pub(super) fn part(bytes: Vec<u8>, from: u64, size: u64) -> Reply {
    let last = from + bytes.len() as u64 - 1;
    let mut reply = reply(206, "application/octet-stream", bytes);
    if let Ok(range) = HeaderValue::try_from(format!("bytes {from}-{last}/{size}")) {
        reply.headers_mut().insert(CONTENT_RANGE, range);
    }
    reply
}

pub(super) fn said<T: serde::Serialize>(value: &T) -> Reply {
    reply(200, JSON_TYPE, json::to_vec(value))
}

pub(super) fn empty() -> Reply {
    reply(200, JSON_TYPE, "{}")
}

pub(super) fn wait(wait: Wait, after: u32) -> Reply {
    let mut reply = reply(202, JSON_TYPE, json::to_vec(&Said::from(wait)));
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after));
    reply
}

pub(super) fn answered<T>(answer: Answer<T>, now: impl FnOnce(&T) -> Reply) -> Reply {
    match answer {
        Answer::Now(value) => now(&value),
        Answer::Wait(reason, after) => wait(reason, after),
    }
}
