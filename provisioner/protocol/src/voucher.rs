//! "This machine belongs to the site with this CA": the voucher of RFC 8366 in JWS form, nonceless, made by the
//! owner's own headquarters.

use serde::{Deserialize, Serialize};

use crate::anchors::Trust;
use crate::bytes::{B64, B64u, Digest};
use crate::cert::{self, CMC_RA, Cert, ChainError, SERVER_AUTH};
use crate::clock::{DAY, Time, YEAR, effective};
use crate::crypto::{SignError, Signer};
use crate::id::Id;
use crate::json;
use crate::jws::{self, Unverified, typ};
use crate::refusal::{Refusal, Refused};

/// No voucher and no voucher request is larger, bytes.
pub const LIMIT: usize = 16 * 1024;

/// No certificate of a provisioner lives longer, seconds: a year, and room for how it is made. Whoever had its issuing CA for a
/// moment is not to have it for ten years by one signature.
const LONGEST: u64 = (YEAR + 30 * DAY).cast_unsigned();

/// The epoch of a machine that was admitted by voice and has no voucher yet: HQ's begin with 1.
pub const VOICE_EPOCH: u32 = 0;

/// Our part of a voucher (`manufacturer-proprietary`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Rises when HQ moves the machine or replaces the site's CA.
    pub epoch: u32,
    /// The site's name.
    pub site: String,
}

#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(rename = "created-on")]
    created_on: Time,
    assertion: String,
    #[serde(rename = "serial-number")]
    serial_number: Id,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<serde_json::Value>,
    #[serde(rename = "pinned-domain-cert")]
    pin: B64,
    #[serde(rename = "expires-on", default, skip_serializing_if = "Option::is_none")]
    expires_on: Option<Time>,
    #[serde(rename = "manufacturer-proprietary")]
    assignment: B64u,
}

#[derive(Serialize, Deserialize)]
struct Wrapper {
    #[serde(rename = "ietf-voucher:voucher")]
    voucher: Body,
}

/// What a machine keeps of the voucher in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its epoch; [`VOICE_EPOCH`] when admitted by voice.
    pub epoch: u32,
    /// Hash of the pinned CA's key.
    pub pin: Digest,
}

/// What the machine knows when a voucher comes in.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    /// Anchors and withdrawals in force.
    pub trust: &'a Trust,
    /// The machine's own provable ids.
    pub ids: &'a [Id],
    /// Certificates the provisioner showed in this session: leaf first.
    pub chain: &'a [Vec<u8>],
    /// The latest HQ-signed time seen.
    pub floor: Time,
    /// The real-time clock, if there is one.
    pub rtc: Option<Time>,
    /// The voucher in force, if any.
    pub stored: Option<Stored>,
}

/// A voucher that passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Epoch and site.
    pub assignment: Assignment,
    /// By which of its names headquarters means this machine.
    pub machine: Id,
    /// The CA of the site.
    pub pin: Cert,
    /// The floor this voucher raises: its `created-on`, capped at its signer's notAfter.
    pub floor: Time,
}

/// What HQ writes into a voucher.
#[derive(Clone, Debug)]
pub struct Grant<'a> {
    /// The machine's most canonical id.
    pub machine: &'a Id,
    /// Epoch of its record.
    pub epoch: u32,
    /// The site it belongs to.
    pub site: &'a str,
    /// The CA of that site.
    pub pin: &'a Cert,
    /// Now.
    pub created_on: Time,
    /// Until when it may be used; cut to the notAfter of pin and signer.
    pub expires_on: Time,
}

/// A voucher, signed by HQ's signer: JWS text.
pub fn make(grant: &Grant<'_>, signer: &Cert, key: &dyn Signer) -> Result<String, SignError> {
    let assignment = Assignment { epoch: grant.epoch, site: grant.site.to_owned() };
    let voucher = Body {
        created_on: grant.created_on,
        assertion: "verified".to_owned(),
        serial_number: grant.machine.clone(),
        nonce: None,
        pin: B64(grant.pin.der.clone()),
        expires_on: Some(grant.expires_on.min(grant.pin.not_after).min(signer.not_after)),
        assignment: B64u(json::to_vec(&assignment)),
    };
    jws::sign(&json::to_vec(&Wrapper { voucher }), typ::VOUCHER, &signer.der, key)
}

/// M1 on the machine: whether the certificates shown in TLS (leaf first) are those of a provisioner of the owner.
/// R1–R4.
pub fn check_provisioner(
    trust: &Trust,
    chain: &[Vec<u8>],
    floor: Time,
    rtc: Option<Time>,
) -> Result<(), Refused> {
    let refused = |refusal, case, detail: &str| Refused::new(refusal, case, detail);
    let shown = read_chain(chain)?;
    let [leaf, ..] = shown.as_slice() else { return Err(refused(Refusal::Stranger, ' ', "no certificate")) };
    let anchors = trust.site_anchors();
    let at = effective(floor, rtc, shown.iter().map(|cert| cert.not_before));
    match cert::serves(&leaf.der, &chain[1..], &anchors, at) {
        Err(ChainError::Expired) => return Err(refused(Refusal::SiteExpired, ' ', "expired")),
        Err(ChainError::Usage) => return Err(not_a_provisioner(leaf)),
        Err(ChainError::Untrusted) => {
            return Err(refused(Refusal::Stranger, ' ', "no path to a site anchor"));
        }
        Ok(()) => {}
    }
    if !(leaf.has_usage(SERVER_AUTH) && leaf.has_usage(CMC_RA)) {
        return Err(not_a_provisioner(leaf));
    }
    check_life(leaf)?;
    let withdrawn = shown.iter().find(|cert| trust.withdrew_site(&cert.key_hash));
    match withdrawn {
        Some(cert) if trust.distrusts(&cert.key_hash) => {
            Err(refused(Refusal::SiteRevoked, 'b', &cert.common_name))
        }
        Some(cert) => Err(refused(Refusal::SiteRevoked, 'a', &cert.common_name)),
        None => Ok(()),
    }
}

fn not_a_provisioner(leaf: &Cert) -> Refused {
    let case = match leaf.usages.len() {
        0 => 'a',
        _ if leaf.has_usage(SERVER_AUTH) => 'b',
        _ => 'c',
    };
    Refused::new(Refusal::NotAProvisioner, case, "the certificate lacks the usage of a registrar")
}

fn check_life(leaf: &Cert) -> Result<(), Refused> {
    if leaf.not_after.since(leaf.not_before) <= LONGEST {
        return Ok(());
    }
    let lives = format!("its certificate is good until {}, longer than a year", leaf.not_after);
    Err(Refused::new(Refusal::NotAProvisioner, 'd', lives))
}

fn read_chain(chain: &[Vec<u8>]) -> Result<Vec<Cert>, Refused> {
    let read = chain.iter().map(|der| Cert::parse(der));
    read.collect::<Result<_, _>>().map_err(|error| Refused::new(Refusal::Stranger, ' ', error.to_string()))
}

/// M2's answer on the machine: every check, in order, stopping at the first failure. R5–R12.
pub fn check(text: &[u8], setting: &Setting<'_>) -> Result<Accepted, Refused> {
    if text.len() > LIMIT {
        return Err(Refused::new(Refusal::VoucherMalformed, 'a', format!("{} bytes", text.len())));
    }
    let document = Unverified::read(text, typ::VOUCHER)
        .map_err(|error| Refused::new(Refusal::VoucherMalformed, error.case(), error.to_string()))?;
    let at = setting.trust.check_signer(&document.signer, setting.floor, setting.rtc)?;
    let payload = document.verified().ok_or_else(|| Refused::from(Refusal::VoucherSignature))?;
    let body = read_body(payload)?;
    if !setting.ids.iter().any(|id| id.provable() && *id == body.serial_number) {
        let detail = format!("it names {}", body.serial_number);
        return Err(Refused::new(Refusal::VoucherOtherMachine, ' ', detail));
    }
    let pin = Cert::parse(&body.pin.0)
        .map_err(|error| Refused::new(Refusal::VoucherMalformed, 'a', error.to_string()))?;
    check_session(setting, &pin)?;
    check_expiry(&body, at, &pin, &document.signer)?;
    let assignment: Assignment = json::parse(&body.assignment.0)
        .map_err(|error| Refused::new(Refusal::VoucherMalformed, 'a', error.to_string()))?;
    check_epoch(setting.stored, assignment.epoch, &pin)?;
    Ok(Accepted {
        floor: body.created_on.min(document.signer.not_after),
        assignment,
        machine: body.serial_number,
        pin,
    })
}

fn read_body(payload: &[u8]) -> Result<Body, Refused> {
    #[derive(Deserialize)]
    struct Members(std::collections::BTreeMap<String, serde_json::Value>);

    let Members(members) = json::parse(payload)
        .map_err(|error| Refused::new(Refusal::VoucherMalformed, 'a', error.to_string()))?;
    let vouchers = members.keys().filter(|name| name.starts_with("ietf-voucher")).count();
    if vouchers != 1 || !members.contains_key("ietf-voucher:voucher") {
        return Err(Refused::new(Refusal::VoucherAssertion, 'a', "it does not hold exactly one voucher"));
    }
    let Wrapper { voucher } = json::parse(payload)
        .map_err(|error| Refused::new(Refusal::VoucherMalformed, 'a', error.to_string()))?;
    if voucher.assertion != "verified" {
        return Err(Refused::new(
            Refusal::VoucherAssertion,
            'b',
            format!("assertion {:?}", voucher.assertion),
        ));
    }
    Ok(voucher)
}

/// Whether this session's leaf validates with `pin` as the only anchor. What else stands in the chain proves nothing.
pub fn check_session(setting: &Setting<'_>, pin: &Cert) -> Result<(), Refused> {
    let refused = |case, detail: &str| Refused::new(Refusal::VoucherOtherSite, case, detail);
    let Some(leaf) = setting.chain.first() else { return Err(refused('a', "no certificate")) };
    let starts = setting.chain.iter().filter_map(|der| Cert::parse(der).ok()).map(|cert| cert.not_before);
    let at = effective(setting.floor, setting.rtc, starts.chain([pin.not_before]));
    cert::serves(leaf, &setting.chain[1..], std::slice::from_ref(pin), at)
        .map_err(|error| refused('a', &error.to_string()))?;
    if pin.not_after <= at {
        return Err(refused('b', "the pinned CA has expired"));
    }
    Ok(())
}

fn check_expiry(body: &Body, at: Time, pin: &Cert, signer: &Cert) -> Result<(), Refused> {
    let refused = |case, detail: &str| Err(Refused::new(Refusal::VoucherExpired, case, detail));
    if body.nonce.is_some() {
        return refused('a', "it has a nonce");
    }
    let Some(expires_on) = body.expires_on else { return refused('b', "it never expires") };
    if expires_on <= at {
        return refused('c', &format!("expired on {expires_on}"));
    }
    if expires_on > pin.not_after || expires_on > signer.not_after {
        return refused('d', "it outlives its signer or the pinned CA");
    }
    Ok(())
}

fn check_epoch(stored: Option<Stored>, epoch: u32, pin: &Cert) -> Result<(), Refused> {
    match stored {
        Some(stored) if epoch < stored.epoch => {
            Err(Refused::new(Refusal::VoucherEpoch, 'a', format!("epoch {epoch} after {}", stored.epoch)))
        }
        Some(stored) if epoch == stored.epoch && pin.key_hash != stored.pin => {
            Err(Refused::new(Refusal::VoucherEpoch, 'b', "the same epoch names another CA"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::anchors::tests::{Owner, T};
    use crate::clock::YEAR;
    use crate::crypto::{Alg, SoftKey};
    use crate::issue::{Role, issue};

    /// A site of this owner whose CA ends with `until`, and the chain that its provisioner shows at `now`.
    fn site(owner: &Owner, until: Time, now: Time) -> (Cert, Vec<Vec<u8>>) {
        let key = || SoftKey::generate(Alg::Es256).unwrap().0;
        let (ca_key, issuing_key, leaf_key) = (key(), key(), key());
        let certify = |role, spki: &[u8], ca: &Cert, by: &SoftKey, until| {
            // Whoever has the key of a CA makes what its certificate does not allow.
            let ca = Cert { not_after: until, ..ca.clone() };
            Cert::parse(&issue(&role, spki, &ca, by, now).unwrap()).unwrap()
        };
        let role = Role::SiteCa { site: "s", generation: 1 };
        let ca = certify(role, ca_key.spki(), &owner.a.0, &owner.a.1, until);
        let role = Role::IssuingCa { site: "s", generation: 1, number: 1 };
        let issuing = certify(role, issuing_key.spki(), &ca, &ca_key, until.plus(9 * YEAR));
        let role = Role::Leaf { site: "s", number: 1 };
        let leaf = certify(role, leaf_key.spki(), &issuing, &issuing_key, until.plus(9 * YEAR));
        (ca, vec![leaf.der, issuing.der])
    }

    fn checked(
        owner: &Owner,
        pin: &Cert,
        chain: &[Vec<u8>],
        grant: (Time, Time),
    ) -> Result<Accepted, String> {
        let machine = Id::Key(Digest::of(b"machine"));
        let (created_on, expires_on) = grant;
        let grant = Grant { machine: &machine, epoch: 1, site: "s", pin, created_on, expires_on };
        let voucher = make(&grant, &owner.signer.0, &owner.signer.1).unwrap();
        let (trust, ids) = (owner.trust(), [machine.clone()]);
        let setting = Setting { trust: &trust, ids: &ids, chain, floor: T, rtc: None, stored: None };
        check(voucher.as_bytes(), &setting).map_err(|refused| refused.id())
    }

    #[test]
    fn r2d_a_provisioner_whose_certificate_lives_longer_than_a_year_is_not_believed() {
        let owner = Owner::new();
        let (ca, mut chain) = site(&owner, T.plus(15 * YEAR), T);
        chain.push(ca.der);
        let issuing = Cert::parse(&chain[1]).unwrap();
        let verdict = |life: i64| {
            // As whoever has the issuing CA's key for a moment would make it.
            let leaf = Cert { not_after: issuing.not_before.plus(life), ..Cert::parse(&chain[0]).unwrap() };
            check_life(&leaf).map_err(|refused| (refused.id(), refused.to_string()))
        };
        assert_eq!(check_provisioner(&owner.trust(), &chain, T, None), Ok(()), "as provisioners make it");
        assert_eq!(verdict(YEAR + DAY), Ok(()));
        let (id, said) = verdict(2 * YEAR).unwrap_err();
        assert_eq!(id, "R2d");
        assert!(said.contains("longer than a year"), "{said}");
    }

    #[test]
    fn r10b_a_pinned_ca_that_has_expired_pins_nothing() {
        let owner = Owner::new();
        let session = |floor| {
            let (pin, chain) = site(&owner, T.plus(YEAR), T.plus(YEAR - 9));
            let trust = owner.trust();
            let setting = Setting { trust: &trust, ids: &[], chain: &chain, floor, rtc: None, stored: None };
            check_session(&setting, &pin).map_err(|refused| refused.id())
        };
        assert_eq!(session(T.plus(YEAR - 1)), Ok(()));
        assert_eq!(session(T.plus(YEAR)), Err("R10b".to_owned()));
    }

    #[test]
    fn r11d_a_voucher_ends_with_the_ca_that_it_pins() {
        let owner = Owner::new();
        let (pin, chain) = site(&owner, T.plus(YEAR), T);
        let longer = Cert { not_after: T.plus(9 * YEAR), ..pin.clone() };
        let verdict = |pin| checked(&owner, pin, &chain, (T, T.plus(2 * YEAR))).map(drop);
        assert_eq!(verdict(&pin), Ok(()), "cut where it is made");
        assert_eq!(verdict(&longer), Err("R11d".to_owned()));
    }

    #[test]
    fn no_voucher_says_that_it_is_later_than_its_signer_lives() {
        let owner = Owner::new();
        let (pin, chain) = site(&owner, T.plus(9 * YEAR), T);
        let floor = |created_on| checked(&owner, &pin, &chain, (created_on, T.plus(YEAR))).unwrap().floor;
        assert_eq!(floor(T.plus(YEAR)), T.plus(YEAR));
        assert_eq!(floor(T.plus(500 * YEAR)), owner.signer.0.not_after);
    }
}
