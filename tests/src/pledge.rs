//! A pledge made of the wire crate alone, for load and for hostile tests: it believes anybody.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::attest::{Binding, Request};
use protocol::bytes::{B64u, b64, b64u};
use protocol::cert::Cert;
use protocol::claim::{Code, Open, Opened, Reveal, commit, sas};
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::id::Id;
use protocol::messages::{ALPN, BINDING_LABEL, KubeletRequest, Message, SNI, StatusRequest, VOUCHER_TYPE};
use protocol::pvr::{self, Claims};
use protocol::{est, heartbeat, issue, json};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::tls::Anybody;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine without TPM: a node key and a device key.
pub struct Pledge {
    /// The key of its TLS connections.
    pub node: SoftKey,
    /// The key that HQ registered.
    pub device: SoftKey,
    /// The same, as it lies on the disk; empty where it was given.
    pub device_pkcs8: Vec<u8>,
    node_pkcs8: Vec<u8>,
    certificate: Vec<u8>,
    config: Arc<ClientConfig>,
}

fn config(certificate: Vec<u8>, pkcs8: &[u8]) -> Result<Arc<ClientConfig>> {
    let key = PrivateKeyDer::try_from(pkcs8.to_vec()).map_err(anyhow::Error::msg)?;
    let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_client_auth_cert(vec![certificate.into()], key)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// An answer: status, and body.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Seconds after which to ask again.
    pub retry_after: Option<u32>,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The stable word of a refusal or a wait; empty otherwise.
    pub fn reason(&self) -> String {
        let said: Result<protocol::refusal::Said, _> = json::parse(&self.body);
        said.map(|said| said.reason).unwrap_or_default()
    }
}

impl Pledge {
    /// A new machine.
    pub fn new() -> Result<Self> {
        let (device, pkcs8) = SoftKey::generate(Alg::Es256)?;
        Ok(Self { device_pkcs8: pkcs8.to_vec(), ..Self::with_device(device)? })
    }

    /// A new installation of the machine with this device key.
    pub fn with_device(device: SoftKey) -> Result<Self> {
        let (node, pkcs8) = SoftKey::generate(Alg::Es256)?;
        let certificate = issue::pledge(&node)?;
        let config = config(certificate.clone(), &pkcs8)?;
        Ok(Self { node, node_pkcs8: pkcs8.to_vec(), device, device_pkcs8: vec![], certificate, config })
    }

    /// Shows what M5 answered in every handshake from now on.
    pub fn wear(&mut self, body: &[u8]) -> Result<()> {
        let certificate = est::read_certs_only(body)?.into_iter().next().context("a certificate")?;
        let own = protocol::cert::Cert::parse(&certificate)?.key_hash == self.node.key_hash();
        ensure!(own, "the certificate is for another key");
        self.config = config(certificate, &self.node_pkcs8)?;
        Ok(())
    }

    /// The id that HQ registers.
    pub fn id(&self) -> Id {
        Id::Key(self.device.key_hash())
    }

    /// M1: a connection.
    pub fn connect(&self, address: SocketAddr) -> Result<Session<'_>> {
        self.over(TcpStream::connect_timeout(&address, PATIENCE)?)
    }

    /// M1 from a chosen address of this computer, as if the machine were another one on the LAN.
    pub fn connect_from(&self, from: IpAddr, address: SocketAddr) -> Result<Session<'_>> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect_timeout(&address.into(), PATIENCE)?;
        self.over(socket.into())
    }

    fn over(&self, socket: TcpStream) -> Result<Session<'_>> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let connection = ClientConnection::new(Arc::clone(&self.config), ServerName::try_from(SNI)?)?;
        let mut stream = StreamOwned::new(connection, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let leaf = stream
            .conn
            .peer_certificates()
            .and_then(|chain| chain.first())
            .context("a certificate")?
            .to_vec();
        let x = stream.conn.export_keying_material([0; 32], BINDING_LABEL, None)?;
        let beat_key = stream.conn.export_keying_material([0; 32], heartbeat::LABEL, None)?;
        let binding = Binding { x, s: self.node.key_hash() };
        Ok(Session { pledge: self, stream: BufReader::new(stream), leaf, binding, beat_key })
    }
}

/// One TLS connection to a provisioner.
pub struct Session<'a> {
    pledge: &'a Pledge,
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    /// The provisioner's leaf, DER.
    pub leaf: Vec<u8>,
    /// What binds proofs to this connection.
    pub binding: Binding,
    /// The key of heartbeats, once M11 was spoken here.
    pub beat_key: [u8; 32],
}

impl Session<'_> {
    /// Sends any request and reads its answer.
    pub fn send(&mut self, message: Message, rest: &str, media: &str, body: &[u8]) -> Result<Answer> {
        let (method, path) = message.path();
        let head = format!(
            "{method} {path}{rest} HTTP/1.1\r\nHost: {SNI}\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        self.read()
    }

    /// Sends a request with a JSON body.
    pub fn json<T: serde::Serialize>(&mut self, message: Message, body: &T) -> Result<Answer> {
        self.send(message, "", "application/json", &json::to_vec(body))
    }

    /// Writes raw bytes, for tests that misbehave.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.get_mut().write_all(bytes)?)
    }

    /// Reads one answer.
    pub fn read(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("a status line")?;
        let (mut length, mut retry_after) = (0, None);
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line)? > 0, "the connection ended within the headers");
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if let Some(value) = line.strip_prefix("retry-after:") {
                retry_after = Some(value.trim().parse()?);
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, retry_after, body })
    }

    /// A voucher request for this session, naming these ids besides its own.
    pub fn pvr(&self, ids: Vec<Id>) -> Result<String> {
        let claims = Claims {
            ids,
            hw: protocol::inventory::Facts::default(),
            epoch: 0,
            bundle: 0,
            floor: Time(0),
            caps: vec!["dev-key".to_owned()],
        };
        let nonce = protocol::crypto::random()?;
        Ok(pvr::make(&claims, &self.leaf, nonce, Time(0), &self.pledge.certificate, &self.pledge.node)?)
    }

    /// M2.
    pub fn voucher(&mut self) -> Result<Answer> {
        let request = self.pvr(vec![self.pledge.id(), Id::Key(self.binding.s)])?;
        self.send(Message::RequestVoucher, "", VOUCHER_TYPE, request.as_bytes())
    }

    /// M4 with the device key.
    pub fn attest(&mut self) -> Result<Answer> {
        let device = &self.pledge.device;
        let sig = B64u(device.sign(&self.binding.dev_key_message())?);
        self.json(Message::Attest, &Request::DevKey { spki: B64u(device.spki().to_vec()), sig })
    }

    /// M10, after M4: the code that the machine shows.
    pub fn claim(&mut self) -> Result<Code> {
        let s = self.binding.s;
        let mut ids = vec![self.pledge.id(), Id::Key(s)];
        ids.sort();
        let nb = protocol::crypto::random::<16>()?;
        let open = Open { commit: commit(&s, &ids, &nb), ids, hw: protocol::inventory::Facts::default() };
        let answer = self.json(Message::Claim, &open)?;
        ensure!(answer.status == 200, "M10: {} {}", answer.status, answer.reason());
        let opened: Opened = json::parse(&answer.body)?;
        let ns: [u8; 16] = opened.ns.0.as_slice().try_into().context("a nonce of 16 bytes")?;
        let reveal = json::to_vec(&Reveal { nb: B64u(nb.to_vec()) });
        let answer = self.send(Message::ClaimReveal, &b64u(&opened.id.0), "application/json", &reveal)?;
        ensure!(answer.status == 202, "M10: {} {}", answer.status, answer.reason());
        Ok(sas(&s, &Cert::parse(&self.leaf)?.key_hash, &nb, &ns))
    }

    /// M5.
    pub fn enroll(&mut self) -> Result<Answer> {
        let csr = issue::request("machine", None, &self.pledge.node)?;
        self.send(Message::SimpleEnroll, "", est::REQUEST_TYPE, b64(&csr).as_bytes())
    }

    /// M8 for a kubelet with the key of `csr`, DER.
    pub fn kubelet(&mut self, csr: Vec<u8>) -> Result<Answer> {
        self.json(Message::Kubelet, &KubeletRequest { csr: B64u(csr), kubelet: String::new() })
    }

    /// M11.
    pub fn status(&mut self, asked: &StatusRequest) -> Result<Answer> {
        self.json(Message::Status, asked)
    }

    /// M1 to M5 as a machine does them; an error names the message that was refused.
    pub fn admission(&mut self) -> Result<()> {
        let good = |message: &str, answer: Answer| {
            ensure!(answer.status == 200, "{message}: {} {}", answer.status, answer.reason());
            Ok(())
        };
        good("M2", self.voucher()?)?;
        good(
            "M3",
            self.send(Message::VoucherStatus, "", "application/json", br#"{"version":1,"status":true}"#)?,
        )?;
        good("M4", self.attest()?)?;
        good("M6", self.send(Message::Time, "", "application/json", b"")?)?;
        good("M5", self.enroll()?)
    }
}
