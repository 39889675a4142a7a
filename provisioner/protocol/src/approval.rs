//! HQ's signed yes to the code on a machine's screen.

use serde::{Deserialize, Serialize};

use crate::anchors::Trust;
use crate::bytes::B64u;
use crate::cert::Cert;
use crate::claim::Code;
use crate::clock::Time;
use crate::crypto::{SignError, Signer};
use crate::json;
use crate::jws::{self, Unverified, typ};
use crate::refusal::{Refusal, Refused};

/// The payload of an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The site whose machine is approved.
    pub site: String,
    /// The slot it gets.
    pub slot: String,
    /// The code's five bytes.
    pub sas: B64u,
    /// Until when the approval may be used.
    #[serde(rename = "expires-on")]
    pub expires_on: Time,
}

impl Approval {
    /// The code it approves.
    pub fn code(&self) -> Option<Code> {
        <[u8; 5]>::try_from(self.sas.0.as_slice()).ok().map(Code)
    }
}

/// An approval, signed by HQ's signer: JWS text.
pub fn make(approval: &Approval, signer: &Cert, key: &dyn Signer) -> Result<String, SignError> {
    jws::sign(&json::to_vec(approval), typ::APPROVAL, &signer.der, key)
}

/// Checks an approval for `site` at `floor` or later. R46 a, b and the expiry of d.
pub fn check(
    text: &str,
    trust: &Trust,
    site: &str,
    floor: Time,
    rtc: Option<Time>,
) -> Result<Approval, Refused> {
    let refused = |case, detail: String| Refused::new(Refusal::ApprovalRefused, case, detail);
    let document = Unverified::read(text.as_bytes(), typ::APPROVAL)
        .map_err(|error| refused('a', format!("it is no approval: {error}")))?;
    let at = trust.check_signer(&document.signer, floor, rtc).map_err(|error| refused('a', error.detail))?;
    let payload = document.verified().ok_or_else(|| refused('a', "the signature is wrong".into()))?;
    let approval: Approval = json::parse(payload).map_err(|error| refused('a', error.to_string()))?;
    if approval.site != site {
        return Err(refused('b', format!("it is for {}", approval.site)));
    }
    if approval.expires_on <= at {
        return Err(refused('d', format!("it expired on {}", approval.expires_on)));
    }
    Ok(approval)
}
