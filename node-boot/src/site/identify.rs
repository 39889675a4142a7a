//! Who this machine is: its node key, in the TPM or in a file, and every name it can prove.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use protocol::crypto::{Alg, Signer, SoftKey};
use protocol::id::Id;
use protocol::inventory::Facts;
use protocol::tpm::{Ek, Key, KeyBlob, Spec, Tpm};
use zeroize::Zeroizing;

use crate::state::State;

/// The machine's keys and names.
pub struct Identity {
    /// The node key: TLS, voucher request, certificate request.
    pub node: Arc<dyn Signer>,
    /// Its self-signed certificate, DER.
    pub pledge: Vec<u8>,
    /// The device key of a machine without TPM.
    pub device: Option<SoftKey>,
    /// The TPM, and the node key's blob in it.
    pub tpm: Option<Chip>,
    /// Every name, the most canonical first.
    pub ids: Vec<Id>,
}

/// A TPM that holds the node key.
pub struct Chip {
    /// The TPM.
    pub tpm: Arc<Mutex<Tpm>>,
    /// Its endorsement keys, canonical first.
    pub eks: Vec<Ek>,
    /// The node key in it.
    pub blob: KeyBlob,
}

/// Reads the machine's keys; makes those that are not there.
pub fn identify(state: &State, spec: Option<&Spec>, facts: &Facts) -> Result<Identity> {
    ensure!(
        spec.is_some() || state.bytes("node.tpm")?.is_none(),
        "this machine's key is in its TPM, and there is none: give --tpm as `node-boot run` has it, or see whether the \
         firmware has switched it off"
    );
    let chip = spec.map(|spec| chip(state, spec)).transpose()?;
    let node: Arc<dyn Signer> = match &chip {
        Some(chip) => {
            Arc::new(Key::load(Arc::clone(&chip.tpm), chip.blob.clone()).context("loading the node key")?)
        }
        None => Arc::new(soft(state, "node.key")?),
    };
    // A machine with a TPM needs no device key; one that HQ registered by a device key has it from the depot.
    let device = match (&chip, state.bytes("device.key")?) {
        (Some(_), None) => None,
        (_, _) => Some(soft(state, "device.key")?),
    };
    let mut ids: Vec<Id> = chip.iter().flat_map(|chip| &chip.eks).map(Ek::id).collect();
    ids.extend(device.iter().map(|key| Id::Key(key.key_hash())));
    ids.push(Id::Key(node.key_hash()));
    if !facts.dmi.serial.is_empty() {
        ids.push(Id::Serial(facts.dmi.serial.clone()));
    }
    let pledge = pledge(state, &*node)?;
    Ok(Identity { node, pledge, device, tpm: chip, ids })
}

/// Begins a new installation: the node key and everything that was made for it are forgotten; what the machine is
/// registered by stays.
pub fn begin_anew(state: &State) -> Result<()> {
    for name in
        ["node.der", "config.json", "kubelet.csr", "kubelet.key", "pledge.der", "node.tpm", "node.key"]
    {
        state.remove(name)?;
    }
    Ok(())
}

fn chip(state: &State, spec: &Spec) -> Result<Chip> {
    let mut tpm = Tpm::open(spec)?;
    // Making an RSA endorsement key takes a real chip seconds: once in the machine's life.
    let eks = if let Some(eks) = state.load::<Vec<Ek>>("eks.json")? {
        eks
    } else {
        let eks = tpm.eks()?;
        state.save("eks.json", &eks)?;
        eks
    };
    let usable = |tpm: &mut Tpm, blob: &KeyBlob| tpm.load(blob);
    let kept = state.load::<KeyBlob>("node.tpm")?;
    let blob = match kept {
        Some(blob) => match usable(&mut tpm, &blob) {
            Ok(()) => blob,
            Err(error) if error.foreign() => new_key(state, &mut tpm)?,
            Err(error) => return Err(error).context("loading the node key"),
        },
        None => new_key(state, &mut tpm)?,
    };
    Ok(Chip { tpm: Arc::new(Mutex::new(tpm)), eks, blob })
}

fn new_key(state: &State, tpm: &mut Tpm) -> Result<KeyBlob> {
    let blob = tpm.create_key().context("making the node key in the TPM")?;
    state.save("node.tpm", &blob)?;
    state.remove("pledge.der")?;
    Ok(blob)
}

fn soft(state: &State, name: &str) -> Result<SoftKey> {
    if let Some(der) = state.bytes(name)?
        && let Ok(key) = SoftKey::from_pkcs8(&Zeroizing::new(der))
    {
        return Ok(key);
    }
    let (key, pkcs8) = SoftKey::generate(Alg::Es256)?;
    state.save_bytes(name, &pkcs8)?;
    Ok(key)
}

/// The self-signed certificate: made once for a key, since each signature costs a TPM a fifth of a second.
fn pledge(state: &State, node: &dyn Signer) -> Result<Vec<u8>> {
    if let Some(der) = state.bytes("pledge.der")?
        && protocol::cert::Cert::parse(&der).is_ok_and(|cert| cert.key_hash == node.key_hash())
    {
        return Ok(der);
    }
    let der = protocol::issue::pledge(node)?;
    state.save_bytes("pledge.der", &der)?;
    Ok(der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_keeps_its_keys_until_it_begins_anew_and_what_it_is_registered_by_after_that_too() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let who = || {
            let identity = identify(&state, None, &Facts::default()).unwrap();
            let device = identity.device.as_ref().unwrap().key_hash();
            (device, identity.node.key_hash(), identity.pledge)
        };
        let before = who();
        assert_eq!(who(), before);
        let made_for_it = ["node.der", "config.json", "kubelet.csr", "kubelet.key", "node.tpm"];
        for name in made_for_it {
            state.save_bytes(name, b"x").unwrap();
        }
        state.save_bytes("belief.json", b"x").unwrap();
        begin_anew(&state).unwrap();
        assert!(made_for_it.iter().all(|name| state.bytes(name).unwrap().is_none()));
        assert!(state.bytes("belief.json").unwrap().is_some(), "whom it believes stays");
        let after = who();
        assert_eq!(after.0, before.0);
        assert!(after.1 != before.1 && after.2 != before.2);
    }
}
