//! M8: the kubelet's certificate, for a key that is made here and never leaves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use protocol::bytes::{B64u, pem};
use protocol::cert::Cert;
use protocol::clock::Time;
use protocol::crypto::{Alg, Signer as _, SoftKey};
use protocol::csr::Csr;
use protocol::json;
use protocol::messages::{Config, KubeletChain, KubeletRequest, Message};
use protocol::refusal::{Refusal, Refused};
use zeroize::Zeroizing;

use crate::site::enroll::{Proved, Step};
use crate::site::http::Meaning;
use crate::state::{State, write_file};

/// The service that it is, as the configuration names it.
pub const SERVICE: &str = "kubelet";
/// Where kubelet reads key and certificate from; it notices when the file is replaced.
pub const PEM: &str = "var/lib/kubelet/pki/kubelet-client-current.pem";

/// Where that is below `root`.
pub fn file(root: &Path) -> PathBuf {
    root.join(PEM)
}

/// Asks for a certificate and puts key and chain where kubelet reads them. The key that is asked for is saved first,
/// so that asking again after a power cut asks for the same.
pub fn obtain(
    site: &mut Proved,
    state: &State,
    root: &Path,
    config: &Config,
    version: &str,
) -> Result<Step<Time>> {
    let key = pending(state)?;
    let subject = format!("system:node:{}", config.node);
    let csr = csr(state, &key.0, &subject)?;
    let request = KubeletRequest { csr: B64u(csr), kubelet: version.to_owned() };
    let chain: KubeletChain = match site.talk().json(Message::Kubelet, "", &request)?.meaning() {
        Meaning::Good(body) => json::parse(&body)?,
        Meaning::Wait(said, after) => return Ok(Step::Wait(said, after)),
        Meaning::No(said) => return Ok(Step::No(said)),
    };
    let first = chain.chain.first().context("no certificate in the answer")?;
    let cert = Cert::parse(&first.0)?;
    if cert.key_hash != key.0.key_hash() || cert.common_name != subject {
        return Ok(Step::Refused(Refused::new(
            Refusal::WrongAnswer,
            'a',
            "the kubelet's certificate is for another key",
        )));
    }
    let mut text = Zeroizing::new(String::new());
    for der in &chain.chain {
        text.push_str(&pem("CERTIFICATE", &der.0));
    }
    text.push_str(&Zeroizing::new(pem("PRIVATE KEY", &key.1)));
    write_file(&root.join(PEM), text.as_bytes(), 0o600)?;
    state.remove("kubelet.csr")?;
    state.remove("kubelet.key")?;
    Ok(Step::Done(cert.not_after))
}

/// Where there is no certificate for this Node: one that nobody believes, for the key that is asked for. The kubelet of a
/// control-plane machine needs some to start the very API server that has the right one signed.
pub fn stand_in(state: &State, root: &Path, node: &str) -> Result<()> {
    if current(root, node).is_some() {
        return Ok(());
    }
    let (key, pkcs8) = pending(state)?;
    let mut text = Zeroizing::new(pem("CERTIFICATE", &protocol::issue::pledge(&key)?));
    text.push_str(&Zeroizing::new(pem("PRIVATE KEY", &pkcs8)));
    write_file(&root.join(PEM), text.as_bytes(), 0o600)
}

/// The request for `key`: the one that was made before, if there is one.
fn csr(state: &State, key: &SoftKey, subject: &str) -> Result<Vec<u8>> {
    let fits = |csr: &Csr| csr.key_hash == key.key_hash() && csr.common_names == [subject.to_owned()];
    if let Some(csr) = state.bytes("kubelet.csr")?.filter(|der| Csr::parse(der).is_ok_and(|csr| fits(&csr))) {
        return Ok(csr);
    }
    let csr = protocol::issue::request(subject, Some("system:nodes"), key)?;
    state.save_bytes("kubelet.csr", &csr)?;
    Ok(csr)
}

fn pending(state: &State) -> Result<(SoftKey, Zeroizing<Vec<u8>>)> {
    if let Some(der) = state.bytes("kubelet.key")?
        && let Ok(key) = SoftKey::from_pkcs8(&der)
    {
        return Ok((key, Zeroizing::new(der)));
    }
    let (key, pkcs8) = SoftKey::generate(Alg::Es256)?;
    state.save_bytes("kubelet.key", &pkcs8)?;
    Ok((key, pkcs8))
}

/// The certificate that kubelet has now; none where there is none for this Node.
pub fn current(root: &Path, node: &str) -> Option<Cert> {
    let text = std::fs::read_to_string(root.join(PEM)).ok()?;
    let body = text.split("-----BEGIN CERTIFICATE-----").nth(1)?.split("-----END").next()?;
    let cert = Cert::parse(&protocol::est::read_base64(body.as_bytes()).ok()?).ok()?;
    (cert.common_name == format!("system:node:{node}")).then_some(cert)
}

/// Whether it is time for a new one: a third of its life is over, or all of it.
pub fn is_due(cert: &Cert, now: Time) -> bool {
    let life = i64::try_from(cert.not_after.since(cert.not_before)).unwrap_or(0);
    now >= cert.not_before.plus(life / 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_for_a_certificate_is_none_and_its_key_is_the_one_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state")).unwrap();
        stand_in(&state, dir.path(), "node-1-a").unwrap();
        assert!(current(dir.path(), "node-1-a").is_none(), "so M8 is asked");
        let (first, key) = (std::fs::read(dir.path().join(PEM)).unwrap(), pending(&state).unwrap().1);
        assert!(String::from_utf8_lossy(&first).contains(&pem("PRIVATE KEY", &key)));
        stand_in(&state, dir.path(), "node-1-a").unwrap();
        assert_eq!(pending(&state).unwrap().1, key);
    }

    #[test]
    fn a_certificate_is_renewed_after_a_third_of_its_life() {
        let (key, _) = SoftKey::generate(Alg::Es256).unwrap();
        let mut cert = Cert::parse(&protocol::issue::pledge(&key).unwrap()).unwrap();
        (cert.not_before, cert.not_after) = (Time(0), Time(300));
        assert!(!is_due(&cert, Time(99)));
        assert!(is_due(&cert, Time(100)) && is_due(&cert, Time(1000)));
    }
}
