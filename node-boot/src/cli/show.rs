//! Commands that only look: who answers, who this machine is, where it stands.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use protocol::crypto::Signer as _;
use protocol::inventory::Facts;
use protocol::record::is_junk;
use protocol::voucher::VOICE_EPOCH;
use serde::Serialize;

use super::{STANDS, Where};
use crate::console;
use crate::join::kubelet;
use crate::site::discover::{self, Candidate};
use crate::site::dns::Resolver;
use crate::site::identify::{Identity, identify};
use crate::state::{Belief, State};

/// Who answers on the LAN, and how quickly.
pub(super) fn discovery() -> Result<()> {
    let mut seen = 0;
    let mut show = |begin: Instant, candidate: &Candidate| {
        seen += 1;
        let owner = if candidate.own.is_empty() { "unknown" } else { &candidate.own };
        let (address, by, time) = (candidate.address, candidate.by, begin.elapsed().as_secs_f64() * 1e3);
        println!("{address} after {time:.2} ms ({by}), owner {owner}");
        false
    };
    let begin = Instant::now();
    discover::ask(Duration::from_secs(1), |candidate| show(begin, candidate))?;
    let begin = Instant::now();
    let dns = match Resolver::of_this_machine() {
        None => "/etc/resolv.conf names no DNS server and search domain to ask it under".to_owned(),
        Some(resolver) => {
            let domains = resolver.domains();
            let answered = resolver.ask(|| false, |candidate| show(begin, candidate));
            if answered {
                format!("DNS names none under {domains}")
            } else {
                "DNS does not answer".to_owned()
            }
        }
    };
    let cables = discover::interfaces().len();
    ensure!(cables > 0, "no network interface has a cable with a link: please check cable and switch");
    ensure!(
        seen > 0,
        "no provisioner answered on the {cables} interface(s) with a cable, and {dns}: is it on the same LAN, does `provisioner \
         serve` run there, and do UDP 5353 (multicast) and TCP 7443 pass?"
    );
    Ok(())
}

pub(super) fn look(at: &Where) -> Result<(Identity, Facts)> {
    let machine = at.machine()?;
    let facts = crate::os::inventory::look(&machine.dmi, machine.tpm.is_some());
    let identity = identify(&machine.state, machine.tpm.as_ref(), &facts)?;
    for warning in warnings(identity.tpm.is_some(), &facts.dmi.serial) {
        eprintln!("{}", console::clean(&format!("warning: {warning}")));
    }
    Ok((identity, facts))
}

/// What a machine without TPM comes to.
pub(super) const NO_TPM: &str = "no TPM is seen here: a key in a file will be registered, and whoever copies the disk \
                                 has it too; see whether the firmware has switched the TPM off, or give --tpm";

/// What a person should know before headquarters registers this machine so.
fn warnings(has_tpm: bool, serial: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if !has_tpm {
        warnings.push(NO_TPM.to_owned());
    }
    if serial.is_empty() {
        warnings.push(
            "the firmware tells no serial: the row has none, so label the machine by its keys".to_owned(),
        );
    } else if is_junk(serial) {
        warnings.push(format!(
            "the firmware's serial {serial:?} is a maker's placeholder: the row leaves it out"
        ));
    }
    warnings
}

pub(super) fn model(facts: &Facts) -> String {
    format!("{} {}", facts.dmi.vendor, facts.dmi.product).trim().to_owned()
}

/// Who this machine is.
pub(super) fn identity(at: &Where) -> Result<()> {
    let (identity, facts) = look(at)?;
    for (name, value) in names(&identity, &facts) {
        println!("{}", console::clean(&format!("{name:<17}  {value}")));
    }
    Ok(())
}

/// Every name of this machine, with what it is a name of.
pub(super) fn names(identity: &Identity, facts: &Facts) -> Vec<(String, String)> {
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let mut names = vec![
        ("model".to_owned(), or_none(model(facts))),
        ("serial".to_owned(), or_none(facts.dmi.serial.clone())),
    ];
    let eks = identity.tpm.iter().flat_map(|chip| &chip.eks);
    names.extend(eks.map(|ek| (format!("TPM EK ({})", ek.kind()), ek.id().to_string())));
    let device = identity.device.iter().map(|key| format!("key:{}", key.key_hash()));
    names.extend(device.map(|key| ("device key (file)".to_owned(), key)));
    let held = if identity.tpm.is_some() { "TPM" } else { "file" };
    names.push((format!("node key ({held})"), format!("key:{}", identity.node.key_hash())));
    names
}

/// Where this machine stands.
#[derive(Debug, Default, Serialize)]
struct Standing {
    /// What it said last of where it stands; empty where it has not run.
    stands: String,
    /// Since how many seconds.
    seconds: u64,
    /// Its site; none where it belongs to none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    /// The epoch of its voucher; 0 after an approval by telephone.
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<String>,
    /// The end of its kubelet's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

fn standing(at: &Where) -> Result<Standing> {
    ensure!(at.state.exists(), "node-boot has never run here: there is no {}", at.state.display());
    let state = State::open(&at.state)?;
    let mut standing = Standing::default();
    let file = state.path(STANDS);
    if let Ok(sentence) = std::fs::read_to_string(&file) {
        standing.seconds = std::fs::metadata(&file)?.modified()?.elapsed().unwrap_or_default().as_secs();
        standing.stands = sentence;
    }
    if let Some(held) = state.load::<Belief>("belief.json")?.and_then(|belief| belief.voucher) {
        (standing.site, standing.epoch) = (Some(held.site), Some(held.epoch));
    }
    if let Some(config) = state.load::<protocol::messages::Config>("config.json")? {
        let cert = kubelet::current(&at.root, &config.node);
        standing.certificate = cert.map(|cert| cert.not_after.to_string());
        (standing.slot, standing.node, standing.role) =
            (Some(config.slot), Some(config.node), Some(config.role));
    }
    Ok(standing)
}

/// Shows where this machine stands.
pub(super) fn status(at: &Where, json: bool) -> Result<()> {
    let it = standing(at)?;
    if json {
        println!("{}", serde_json::to_string(&it)?);
        return Ok(());
    }
    if !it.stands.is_empty() {
        println!("{} ({})", it.stands, ago(Duration::from_secs(it.seconds)));
    }
    match (&it.site, it.epoch) {
        (Some(site), Some(VOICE_EPOCH)) => {
            println!("belongs to site {site}, approved by telephone; headquarters' voucher is still to come");
        }
        (Some(site), epoch) => println!("belongs to site {site} (epoch {})", epoch.unwrap_or_default()),
        (None, _) => println!("belongs to no site yet"),
    }
    if let (Some(slot), Some(node), Some(role)) = (&it.slot, &it.node, &it.role) {
        println!("slot {slot}, Node {node}, {role}");
        match &it.certificate {
            Some(until) => println!("kubelet's certificate until {until}"),
            None => println!("kubelet has no certificate yet"),
        }
    }
    Ok(())
}

/// About how long ago, in the largest unit that fits.
fn ago(time: Duration) -> String {
    let (count, unit) = match time.as_secs() {
        seconds @ 0..60 => (seconds, "second"),
        seconds @ 60..3600 => (seconds / 60, "minute"),
        seconds @ 3600..172_800 => (seconds / 3600, "hour"),
        seconds => (seconds / 86_400, "day"),
    };
    format!("{count} {unit}{} ago", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_registers_a_machine_without_tpm_or_serial_is_warned() {
        assert!(warnings(true, "5CG1234ABC").is_empty());
        let both = warnings(false, "To be filled by O.E.M.");
        assert!(both[0].contains("a key in a file will be registered"), "{both:?}");
        assert!(both[1].contains("\"To be filled by O.E.M.\" is a maker's placeholder"), "{both:?}");
        assert!(warnings(true, "")[0].contains("tells no serial"));
    }
}
