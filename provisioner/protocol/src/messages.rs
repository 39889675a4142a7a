//! Each request of the protocol: its path, its size limit, who may send it, and its JSON.

mod status; // M11: how a machine is, and what it is to do

use serde::{Deserialize, Serialize};

pub use self::status::{Act, Done, Health, NoDisk, Order, StatusAnswer, StatusRequest};
use crate::bytes::{B64u, Secret};
use crate::clock::Time;

/// Default TLS port of a provisioner; heartbeats go to the same number over UDP.
pub const PORT: u16 = 7443;
/// Where kubelets find the API servers: the balancer on the machine's own loopback.
pub const BALANCER_PORT: u16 = 7445;
/// ALPN of every connection.
pub const ALPN: &[u8] = b"http/1.1";
/// Name sent in SNI. Names are not checked; chains and vouchers are.
pub const SNI: &str = "provisioner.local";
/// TLS exporter label of the channel binding (RFC 9266), no context, 32 bytes.
pub const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// Media type of vouchers and voucher requests.
pub const VOUCHER_TYPE: &str = "application/voucher-jws+json";
/// Media type of everything else.
pub const JSON_TYPE: &str = "application/json";
/// mDNS service of a registrar (RFC 8995 section 8.6).
pub const REGISTRAR_SERVICE: &str = "_brski-registrar._tcp.local";
/// mDNS service of a join proxy; a provisioner is its own.
pub const PROXY_SERVICE: &str = "_brski-proxy._tcp.local";
/// mDNS service under which a machine shows where it stands.
pub const MACHINE_SERVICE: &str = "_nodeboot._tcp.local";

/// No answer to [`Message::Image`] holds more of an image, bytes; a machine goes on where a shorter one ends.
pub const PIECE: u64 = 2 * 1024 * 1024;

/// Who may send a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Any key.
    Any,
    /// The current key of an active record: after M4.
    Bound,
}

/// A request of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// M2.
    RequestVoucher,
    /// M3.
    VoucherStatus,
    /// M4, first step.
    Attest,
    /// M4, second step: the path goes on with the challenge's id.
    AttestProof,
    /// M5, the CAs of the site.
    CaCerts,
    /// M5, attributes wished for.
    CsrAttrs,
    /// M5, first certificate.
    SimpleEnroll,
    /// M5, renewal.
    SimpleReenroll,
    /// M6.
    Time,
    /// M7.
    Config,
    /// M8.
    Kubelet,
    /// M9.
    EnrollStatus,
    /// M10, first step.
    Claim,
    /// M10, second step: the path goes on with the claim's id.
    ClaimReveal,
    /// M11.
    Status,
    /// M14: the machine gives the site the key of the second way to its disk.
    DiskKey,
    /// A piece of an image: the path goes on with its digest, `Range` says which piece (RFC 9110 section 14.2).
    Image,
}

impl Message {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::RequestVoucher,
        Self::VoucherStatus,
        Self::Attest,
        Self::AttestProof,
        Self::CaCerts,
        Self::CsrAttrs,
        Self::SimpleEnroll,
        Self::SimpleReenroll,
        Self::Time,
        Self::Config,
        Self::Kubelet,
        Self::EnrollStatus,
        Self::Claim,
        Self::ClaimReveal,
        Self::Status,
        Self::DiskKey,
        Self::Image,
    ];

    /// Method and path; a path that ends in `/` goes on with an id.
    pub fn path(self) -> (&'static str, &'static str) {
        match self {
            Self::RequestVoucher => ("POST", "/.well-known/brski/requestvoucher"),
            Self::VoucherStatus => ("POST", "/.well-known/brski/voucher_status"),
            Self::Attest => ("POST", "/v1/attest"),
            Self::AttestProof => ("POST", "/v1/attest/"),
            Self::CaCerts => ("GET", "/.well-known/est/cacerts"),
            Self::CsrAttrs => ("GET", "/.well-known/est/csrattrs"),
            Self::SimpleEnroll => ("POST", "/.well-known/est/simpleenroll"),
            Self::SimpleReenroll => ("POST", "/.well-known/est/simplereenroll"),
            Self::Time => ("GET", "/v1/time"),
            Self::Config => ("GET", "/v1/config"),
            Self::Kubelet => ("POST", "/v1/kubelet"),
            Self::EnrollStatus => ("POST", "/.well-known/brski/enrollstatus"),
            Self::Claim => ("POST", "/v1/claim"),
            Self::ClaimReveal => ("POST", "/v1/claim/"),
            Self::Status => ("POST", "/v1/status"),
            Self::DiskKey => ("POST", "/v1/disk-key"),
            Self::Image => ("GET", "/v1/images/"),
        }
    }

    /// Largest body, bytes.
    pub fn limit(self) -> usize {
        match self {
            Self::RequestVoucher | Self::Status => 16 * 1024,
            Self::Attest | Self::AttestProof | Self::SimpleEnroll | Self::SimpleReenroll | Self::Kubelet => {
                8 * 1024
            }
            Self::VoucherStatus | Self::EnrollStatus | Self::Claim | Self::ClaimReveal | Self::DiskKey => {
                4 * 1024
            }
            Self::CaCerts | Self::CsrAttrs | Self::Time | Self::Config | Self::Image => 0,
        }
    }

    /// Who may send it.
    pub fn who(self) -> Who {
        match self {
            Self::RequestVoucher
            | Self::VoucherStatus
            | Self::Attest
            | Self::AttestProof
            | Self::Claim
            | Self::ClaimReveal => Who::Any,
            _ => Who::Bound,
        }
    }

    /// The message of a method and path, and the id at its end.
    pub fn of<'a>(method: &str, path: &'a str) -> Option<(Self, &'a str)> {
        Self::ALL.iter().find_map(|message| {
            let (its_method, its_path) = message.path();
            let rest = (its_method == method).then(|| path.strip_prefix(its_path)).flatten()?;
            (its_path.ends_with('/') != rest.is_empty()).then_some((*message, rest))
        })
    }
}

/// M3 and M9, request: how it went on the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Always 1.
    pub version: u8,
    /// Whether it went well.
    pub status: bool,
    /// The stable word of the refusal, where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// M6, answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The provisioner's time.
    pub now: Time,
    /// Whether the provisioner itself is unsure.
    pub uncertain: bool,
}

/// A file of the machine's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute path.
    pub path: String,
    /// Permissions, octal text such as `0600`.
    pub mode: String,
    /// Content.
    pub data: B64u,
}

/// M7, answer: everything the machine is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Its record.
    pub machine: String,
    /// Epoch of its record.
    pub epoch: u32,
    /// Its site.
    pub site: String,
    /// Its slot.
    pub slot: String,
    /// The name of its Node.
    pub node: String,
    /// `worker` or `control-plane`.
    pub role: String,
    /// What to write where.
    pub files: Vec<File>,
    /// API servers, `address:port`.
    pub api: Vec<String>,
    /// The cluster's CA, PEM.
    #[serde(rename = "cluster-ca")]
    pub cluster_ca: String,
    /// Whether this machine founds the cluster.
    #[serde(default)]
    pub found: bool,
}

/// M8, request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KubeletRequest {
    /// PKCS#10, DER.
    pub csr: B64u,
    /// The version of the kubelet that will use the certificate, `v1.36.3`; empty where the machine does not know.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kubelet: String,
}

/// M8, answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KubeletChain {
    /// Certificates, DER, the kubelet's first.
    pub chain: Vec<B64u>,
}

/// M14, request: the key that opens a machine's disk beside its TPM. The site keeps the latest of each disk, and gives it to
/// nobody but the machine whose TPM has proved its endorsement key on the asking connection (M4). Answered by 200 and no
/// body. Sent at the installation, and again after each start: a site that lost it has it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskKey {
    /// Name of the disk, 16 bytes.
    pub disk: B64u,
    /// The key, 32 bytes.
    pub key: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_found_by_its_path_and_no_other_is() {
        for message in Message::ALL {
            let (method, path) = message.path();
            let id = if path.ends_with('/') { "abc" } else { "" };
            assert_eq!(Message::of(method, &format!("{path}{id}")), Some((*message, id)));
        }
        for (method, path) in
            [("GET", "/"), ("POST", "/v1/attest/"), ("GET", "/v1/status"), ("POST", "/v1/timeout")]
        {
            assert_eq!(Message::of(method, path), None, "{method} {path}");
        }
    }
}
