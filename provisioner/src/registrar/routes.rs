//! Each message to its room: size, shape and order are checked here, what it means is decided on the other side.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RANGE, RETRY_AFTER};
use protocol::attest::{self, Binding, Challenge};
use protocol::bytes::{B64u, Digest, b64u};
use protocol::cert::Cert;
use protocol::claim::{Open, Reveal};
use protocol::csr::Csr;
use protocol::id::Id;
use protocol::inventory::Facts;
use protocol::messages::{
    BINDING_LABEL, JSON_TYPE, KubeletChain, KubeletRequest, Message, Outcome, PIECE, StatusRequest,
    VOUCHER_TYPE, Who,
};
use protocol::refusal::{Refusal, Refused, Said, Wait};
use protocol::tpm::{Ek, NotInTpm, Public, make_credential};
use protocol::{est, heartbeat, json, pvr};

use super::guests::Guest;
use super::limits::Limits;
use super::reply::{Reply, answered, certificates, empty, part, reply, said, wait};
use crate::plain;
use crate::site::{Answer, Bound, Peer, Site, images};

/// Seconds a TPM challenge is good for.
const CHALLENGE: u32 = 60;

/// A secret that the machine's TPM has to give back.
struct Pending {
    id: [u8; 16],
    secret: [u8; 32],
    proves: Id,
    /// The disk that the proof is for; none where it is for the key of the connection.
    disk: Option<B64u>,
    since: Instant,
}

/// What is known of one connection.
#[derive(Default)]
struct State {
    /// What it said of its hardware (M2), kept until a proof (M4) says whose hardware that is.
    hw: Option<Facts>,
    /// The registration whose voucher was given here (M2).
    given: Option<String>,
    proven: Vec<Id>,
    pending: Option<Pending>,
}

/// One connection.
pub struct Session {
    site: Arc<Site>,
    limits: Arc<Limits>,
    guest: Arc<Guest>,
    peer: Peer,
    leaf: Vec<u8>,
    beat_key: [u8; 32],
    state: Mutex<State>,
}

fn refuse(refusal: Refusal, case: char, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, case, detail)
}

/// What the machine showed in the handshake.
pub fn certificate_of(tls: &rustls::ServerConnection) -> Result<Cert> {
    let certificate = tls.peer_certificates().and_then(|chain| chain.first()).context("no certificate")?;
    Ok(Cert::parse(certificate)?)
}

impl Session {
    /// What a finished handshake proves.
    pub fn of(
        site: Arc<Site>,
        limits: Arc<Limits>,
        tls: &rustls::ServerConnection,
        source: SocketAddr,
        guest: Arc<Guest>,
    ) -> Result<Self> {
        let s = certificate_of(tls)?.key_hash;
        let x = tls.export_keying_material([0; 32], BINDING_LABEL, None)?;
        let beat_key = tls.export_keying_material([0; 32], heartbeat::LABEL, None)?;
        let leaf = site.keys.leaf().0.der;
        let peer = Peer { s, binding: Binding { x, s }, source };
        Ok(Self { site, limits, guest, peer, leaf, beat_key, state: Mutex::default() })
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>) -> Reply {
        let known = Message::of(request.method().as_str(), request.uri().path());
        let found = known.map(|(message, rest)| (message, rest.to_owned()));
        let reply = match found {
            None => Err(Refusal::NotFound.into()),
            Some((message, rest)) => {
                self.site.metrics.request(message.path().1);
                self.handle(message, &rest, request).await
            }
        };
        reply.unwrap_or_else(|refused| self.refused(&refused))
    }

    fn refused(&self, refused: &Refused) -> Reply {
        self.site.metrics.refusal(refused.refusal.code());
        let machine = &self.peer.s;
        tracing::info!(%machine, source = %self.peer.source, id = refused.id(), reason = refused.refusal.code(),
            detail = plain::sentence(&refused.detail), "refused");
        let mut reply = reply(refused.refusal.status(), JSON_TYPE, json::to_vec(&Said::from(refused)));
        let headers = reply.headers_mut();
        if matches!(refused.refusal.status(), 429 | 503) {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
        }
        if matches!(refused.refusal, Refusal::OtherProvisioner | Refusal::TooLarge | Refusal::TooSlow) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }

    async fn handle(
        &self,
        message: Message,
        rest: &str,
        request: Request<Incoming>,
    ) -> Result<Reply, Refused> {
        if !self.limits.admit(self.peer.source.ip(), &self.peer.s, Instant::now()) {
            return Err(refuse(Refusal::SlowDown, 'a', "too many requests"));
        }
        let media =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if message == Message::RequestVoucher && media != VOUCHER_TYPE {
            return Err(refuse(Refusal::PvrMediaType, 'a', plain::word(media)));
        }
        let range =
            request.headers().get(RANGE).and_then(|value| value.to_str().ok()).and_then(images::range);
        let body = read(request, message.limit(), self.limits.patience()).await?;
        match message.who() {
            Who::Any => self.anybody(message, rest, &body).await,
            // R33, R32, R22: nothing of the site is said to a key that is not a machine's.
            Who::Bound => {
                if message == Message::Status
                    && let Some(farewell) = self.site.farewell(&self.peer, &Self::parse(&body)?).await?
                {
                    return Ok(said(&farewell));
                }
                let bound = self.site.bound(&self.peer.s)?;
                self.guest.known(self.peer.s);
                self.site.alive.heard(&self.peer.s);
                if message == Message::Image {
                    return self.image(rest, range).await;
                }
                self.machine(message, bound, &body).await
            }
        }
    }

    /// Messages that every key may send.
    async fn anybody(&self, message: Message, rest: &str, body: &[u8]) -> Result<Reply, Refused> {
        match message {
            Message::RequestVoucher => self.voucher(body).await,
            Message::VoucherStatus => {
                let given = self.state().given.clone();
                self.site.voucher_status(&self.peer, given, &Self::parse::<Outcome>(body)?).await;
                Ok(empty())
            }
            Message::Attest => self.attest(body).await,
            Message::AttestProof => self.attest_proof(rest, body).await,
            Message::Claim => {
                let open: Open = Self::parse(body)?;
                let proven = self.proven();
                Ok(said(&self.site.claim(&self.peer, &proven, &open)?))
            }
            Message::ClaimReveal => self.reveal(rest, body),
            _ => Err(Refusal::NotFound.into()),
        }
    }

    /// Messages that only a machine with a proven key may send.
    async fn machine(&self, message: Message, bound: Bound, body: &[u8]) -> Result<Reply, Refused> {
        match message {
            Message::CaCerts => Ok(certificates(&self.site.ca_chain())),
            Message::CsrAttrs => Ok(reply(200, est::ATTRIBUTES_TYPE, est::NO_ATTRIBUTES)),
            Message::SimpleEnroll | Message::SimpleReenroll => self.enroll(&bound, body),
            Message::Time => Ok(said(&self.site.clock())),
            Message::Config => Ok(answered(self.site.config(bound, &self.peer).await?, said)),
            Message::Kubelet => self.kubelet(bound, body).await,
            Message::EnrollStatus => {
                self.site.enrolled(&bound, &Self::parse::<Outcome>(body)?).await;
                Ok(empty())
            }
            Message::Status => {
                let asked: StatusRequest = Self::parse(body)?;
                Ok(said(&self.site.status(&bound, &self.peer, self.beat_key, &asked).await?))
            }
            Message::DiskKey => {
                self.site.keep_disk_key(&bound, Self::parse(body)?).await?;
                Ok(empty())
            }
            _ => Err(Refusal::NotFound.into()),
        }
    }

    /// A piece of an image.
    async fn image(&self, rest: &str, range: Option<(u64, u64)>) -> Result<Reply, Refused> {
        let broken = |error: &dyn std::fmt::Display| refuse(Refusal::Broken, ' ', error.to_string());
        let digest: Digest = rest.parse().map_err(|_| Refusal::NotFound)?;
        let (from, length) = range.unwrap_or((0, PIECE));
        let dir = self.site.dir.clone();
        let read = tokio::task::spawn_blocking(move || images::piece(&dir, &digest, from, length)).await;
        let piece = read.map_err(|error| broken(&error))?.map_err(|error| broken(&error))?;
        let (bytes, size) = piece.filter(|(bytes, _)| !bytes.is_empty()).ok_or(Refusal::NotFound)?;
        Ok(part(bytes, from, size))
    }

    fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
        json::parse(body).map_err(|error| refuse(Refusal::PvrMalformed, 'b', error.to_string()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn proven(&self) -> Vec<Id> {
        let state = self.state();
        let own = Id::Key(self.peer.s);
        state.proven.iter().cloned().chain([own]).collect()
    }

    async fn voucher(&self, body: &[u8]) -> Result<Reply, Refused> {
        let pvr = pvr::check(body, &self.peer.s, &self.leaf)?;
        let answer = self.site.request_voucher(&self.peer, &pvr).await?;
        self.state().hw = Some(plain::facts(pvr.claims.hw));
        if let Answer::Now(given) = &answer {
            self.state().given = Some(given.machine.clone());
        }
        Ok(answered(answer, |given| reply(200, VOUCHER_TYPE, given.voucher.clone())))
    }

    async fn attest(&self, body: &[u8]) -> Result<Reply, Refused> {
        let wrong = |case| refuse(Refusal::ProofWrong, case, "the proof does not fit this connection");
        match Self::parse::<attest::Request>(body)? {
            attest::Request::TpmEk { ek, key, disk } => self.challenge(&ek, &key, disk),
            attest::Request::DevKey { spki, sig } => {
                let id = self.peer.binding.check_dev_key(&spki.0, &sig.0).ok_or_else(|| wrong('a'))?;
                self.prove("dev-key", id).await
            }
            attest::Request::Idevid { cert, sig } => {
                let id = self.peer.binding.check_idevid(&cert.0, &sig.0).ok_or_else(|| wrong('a'))?;
                self.prove("idevid", id).await
            }
        }
    }

    /// A secret for the TPM that holds `ek`, to be given out only if it also holds the key of this connection.
    fn challenge(&self, ek: &B64u, key: &B64u, disk: Option<B64u>) -> Result<Reply, Refused> {
        let key = Public::node_key(&key.0).map_err(|error| match error {
            NotInTpm::Attributes => refuse(Refusal::NotInTpm, 'a', "the key is not fixed to a TPM"),
            NotInTpm::Scheme => refuse(Refusal::NotInTpm, 'c', "the key has another scheme"),
        })?;
        if Digest::of(&key.spki()) != self.peer.s {
            return Err(refuse(Refusal::NotInTpm, 'b', "it is another key than the one of this connection"));
        }
        let ek = Ek::parse(&ek.0).map_err(|error| refuse(Refusal::EkTemplate, ' ', error.to_string()))?;
        let broken = |error: &dyn std::fmt::Display| refuse(Refusal::Broken, ' ', error.to_string());
        let (id, secret) = (random::<16>()?, random::<32>()?);
        let random = protocol::crypto::SystemRandom::new();
        let credential =
            make_credential(&ek, &key.name(), &secret, &random).map_err(|error| broken(&error))?;
        let pending = Pending { id, secret, proves: ek.id(), disk, since: Instant::now() };
        self.state().pending = Some(pending);
        Ok(said(&Challenge {
            id: B64u(id.to_vec()),
            blob: B64u(credential.blob),
            secret: B64u(credential.secret),
            ttl: CHALLENGE,
        }))
    }

    async fn attest_proof(&self, rest: &str, body: &[u8]) -> Result<Reply, Refused> {
        let wrong = |case, detail: &str| refuse(Refusal::ProofWrong, case, detail);
        let proof: attest::Proof = Self::parse(body)?;
        // One shot: whatever comes of it, this challenge is over.
        let pending = self.state().pending.take();
        let pending = pending.ok_or_else(|| wrong('c', "no challenge is open on this connection"))?;
        if rest != b64u(&pending.id) {
            return Err(wrong('d', "it answers another challenge"));
        }
        if pending.since.elapsed() > Duration::from_secs(CHALLENGE.into()) {
            return Err(wrong('b', "it came too late"));
        }
        if !self.peer.binding.check_tpm_proof(&pending.secret, &pending.id, &proof.proof.0) {
            return Err(wrong('a', "the TPM did not give the secret out"));
        }
        let Some(disk) = pending.disk else { return self.prove("tpm-ek", pending.proves).await };
        let firmware = self.state().hw.as_ref().map(|hw| hw.secure_boot).unwrap_or_default();
        let answer = self.site.disk(&self.peer, &pending.proves, &disk, firmware).await?;
        let ids = vec![pending.proves];
        Ok(answered(answer, |disk| said(&attest::Proven { ids, machine: None, disk: Some(disk.clone()) })))
    }

    async fn prove(&self, kind: &str, id: Id) -> Result<Reply, Refused> {
        let hw = {
            let mut state = self.state();
            state.proven.push(id.clone());
            state.hw.clone()
        };
        Ok(said(&self.site.prove(&self.peer, kind, id, hw).await?))
    }

    fn enroll(&self, bound: &Bound, body: &[u8]) -> Result<Reply, Refused> {
        let wrong = |error: protocol::bytes::Malformed| refuse(Refusal::CsrKey, 'b', error.to_string());
        let csr = Csr::parse(&est::read_base64(body).map_err(wrong)?).map_err(wrong)?;
        Ok(certificates(&self.site.certify(bound, &self.peer, &csr)?))
    }

    async fn kubelet(&self, bound: Bound, body: &[u8]) -> Result<Reply, Refused> {
        let asked: KubeletRequest = Self::parse(body)?;
        let csr =
            Csr::parse(&asked.csr.0).map_err(|error| refuse(Refusal::CsrKey, 'b', error.to_string()))?;
        let answer = self.site.kubelet(bound.running(&asked.kubelet), &self.peer, &csr).await?;
        Ok(answered(answer, |chain| said(&KubeletChain { chain: chain.iter().cloned().map(B64u).collect() })))
    }

    fn reveal(&self, rest: &str, body: &[u8]) -> Result<Reply, Refused> {
        let id = protocol::bytes::from_b64u(rest).unwrap_or_default();
        self.site.reveal(&self.peer, &id, &Self::parse::<Reveal>(body)?)?;
        Ok(wait(Wait::PendingHq, crate::site::admit::RETRY))
    }
}

fn random<const N: usize>() -> Result<[u8; N], Refused> {
    protocol::crypto::random().map_err(|error| refuse(Refusal::Broken, ' ', error.to_string()))
}

/// A body of at most `limit` bytes, read in time: R18b, R18c.
async fn read(request: Request<Incoming>, limit: usize, patience: Duration) -> Result<Bytes, Refused> {
    let too_large = || refuse(Refusal::TooLarge, 'b', format!("more than {limit} bytes"));
    let body = request.into_body();
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let limited = http_body_util::Limited::new(body, limit);
    match tokio::time::timeout(patience, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(refuse(Refusal::TooSlow, 'c', format!("no body within {} s", patience.as_secs()))),
    }
}
