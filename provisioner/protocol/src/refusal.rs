//! Every refusal and every wait of the protocol, with the sentence a person reads.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! table {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = ($id:literal, $status:literal, $code:literal, $text:literal),)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = $text] $variant,)* }

        impl $name {
            /// All of them, in the order of the specification.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The id that tests are named after.
            pub fn id(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }

            /// The HTTP status, 0 where the refusal is not an HTTP answer.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }

            /// The stable word in answers, logs, metrics and events.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            /// The sentence for a person.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The row whose stable word is `code`.
            pub fn from_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|row| row.code() == code)
            }
        }
    };
}

table! {
    /// Why something was refused. R1–R16 are spoken by the machine, R17–R46 by the provisioner, R47–R50 by HQ.
    Refusal {
        Stranger = ("R1", 0, "stranger", "This provisioner does not belong to my owner."),
        NotAProvisioner = ("R2", 0, "not-a-provisioner", "This machine poses as a provisioner."),
        SiteExpired = ("R3", 0, "site-expired", "The provisioner's certificate has expired; ask HQ."),
        SiteRevoked = ("R4", 0, "site-revoked", "HQ has withdrawn this site's certificate."),
        VoucherMalformed = ("R5", 0, "voucher-malformed", "The voucher is damaged."),
        VoucherSigner = ("R6", 0, "voucher-signer", "The voucher was not signed by my owner."),
        VoucherSignature = ("R7", 0, "voucher-signature", "The voucher was altered."),
        VoucherAssertion = ("R8", 0, "voucher-assertion", "The voucher does not confirm ownership."),
        VoucherOtherMachine = ("R9", 0, "voucher-other-machine", "The voucher is for another machine."),
        VoucherOtherSite = ("R10", 0, "voucher-other-site", "My owner assigned me to another site."),
        VoucherExpired = ("R11", 0, "voucher-expired", "The voucher has expired; ask HQ for a new one."),
        VoucherEpoch = ("R12", 0, "voucher-epoch", "The voucher is older than one I know."),
        VoiceRefused = ("R13", 0, "voice-refused", "I cannot be approved by voice."),
        HqWordRefused = ("R14", 0, "hq-word-refused", "An order in HQ's name is not valid."),
        WrongAnswer = ("R15", 0, "wrong-answer", "The provisioner's answer is not for me."),
        TooEarly = ("R16", 0, "too-early", "The site has not proved itself yet."),
        Tls = ("R17", 0, "tls", "The connection is not mutual TLS 1.3."),
        SlowDown = ("R18", 429, "slow-down", "Too many or too large requests; waiting."),
        TooLarge = ("R18", 413, "too-large", "Too many or too large requests; waiting."),
        TooSlow = ("R18", 408, "too-slow", "Too many or too large requests; waiting."),
        PvrMediaType = ("R19", 415, "pvr-media-type", "The request is damaged."),
        PvrMalformed = ("R19", 400, "pvr-malformed", "The request is damaged."),
        PvrSignature = ("R19", 403, "pvr-signature", "The request is damaged."),
        OtherProvisioner = ("R20", 401, "other-provisioner", "The request was made for another provisioner."),
        Unknown = ("R21", 404, "unknown", "This site does not know this machine."),
        Lost = ("R22", 403, "lost", "HQ has locked this machine."),
        Revoked = ("R22", 403, "revoked", "HQ has locked this machine."),
        Rma = ("R22", 403, "rma", "HQ has locked this machine."),
        SaidNo = ("R22", 403, "refused", "A person at this site has said no to this machine."),
        Retired = ("R22", 403, "retired", "A person at this site has taken this machine out of service."),
        NotNow = ("R23", 403, "not-now", "HQ allows this machine at another time."),
        BundleBehind = ("R24", 503, "bundle-behind", "This site needs the latest bundle from HQ."),
        AuthMismatch = ("R25", 403, "auth-mismatch", "Right label, wrong hardware. Call HQ."),
        ProofTooWeak = ("R26", 403, "proof-too-weak", "HQ demands a stronger proof."),
        NotInTpm = ("R27", 403, "not-in-tpm", "The key is not held by the TPM."),
        EkTemplate = ("R28", 403, "ek-template", "This TPM key is of an unknown kind."),
        ProofWrong = ("R29", 403, "proof-wrong", "The machine could not prove its key."),
        Duplicate = ("R30", 403, "duplicate", "Another machine has already used this key."),
        MemberAlive = ("R31", 403, "member-alive", "The machine it replaces is still running."),
        Superseded = ("R32", 403, "superseded", "A newer installation replaced this one."),
        NotProven = ("R33", 403, "not-proven", "The machine has not proved itself yet."),
        CsrKey = ("R34", 400, "csr-key", "The certificate request has a wrong key."),
        CsrName = ("R35", 403, "csr-name", "The certificate request has a wrong name."),
        NameUsed = ("R36", 409, "name-used", "Making a new key for a new name."),
        CsrNotOurs = ("R37", 0, "csr-not-ours", "A node asked for a certificate by itself."),
        ServingRefused = ("R38", 0, "serving-refused", "A node asked for an address that is not its own."),
        ClusterUnsafe = ("R39", 503, "cluster-unsafe", "The cluster must be changed first: "),
        NotControlPlane = ("R40", 403, "not-control-plane", "HQ has not made this a control-plane machine."),
        TooManyClaims = ("R41", 429, "too-many-claims", "Too many machines wait for a code."),
        ClaimWrong = ("R42", 400, "claim-wrong", "The code has run out; here is a new one."),
        CodeWrong = ("R43", 0, "code-wrong", "This code is not right. Please read it again."),
        Heartbeat = ("R44", 0, "heartbeat", "The heartbeat is not from a machine of this site."),
        BundleRefused = ("R45", 0, "bundle-refused", "This file is damaged, old or for another site."),
        ApprovalRefused = ("R46", 0, "approval-refused", "The approval fits no waiting machine."),
        ReportRefused = ("R47", 0, "report-refused", "This report is not from one of our provisioners."),
        CaRequestRefused = ("R48", 0, "ca-request-refused", "This provisioner is not registered."),
        ImportRefused = ("R49", 0, "import-refused", "A row cannot be imported."),
        Moved = ("R50", 0, "moved", "The machine already joined another site."),
        NotFound = ("-", 404, "not-found", "There is nothing at this address."),
        Broken = ("-", 500, "internal", "The provisioner could not do this now; it is asked again."),
    }
}

table! {
    /// Why a machine has to wait (HTTP 202): it asks again after `Retry-After`.
    Wait {
        Unknown = ("W1", 202, "unknown", "HQ has not registered this machine; a person can admit it with a code."),
        PendingHuman = ("W2", 202, "pending-human", "Waiting for a person at the site to say yes."),
        PendingHq = ("W3", 202, "pending-hq", "Waiting for HQ to approve the code on the screen."),
        Approved = ("W4", 202, "approved", "Approved by voice; a person at this machine must confirm the site."),
        NoFreeSlot = ("W5", 202, "no-free-slot", "Every place in the cluster is taken; this machine stands by."),
        ClusterAway = ("W6", 202, "cluster-away", "The cluster does not answer; it is asked again."),
    }
}

impl Refusal {
    /// R1 to R16: with these a machine refuses a site.
    pub fn is_a_machines(self) -> bool {
        let number = self.id().strip_prefix('R').and_then(|number| number.parse().ok());
        number.is_some_and(|number: u8| number <= 16)
    }
}

/// A refusal with the lettered case of the specification and a detail for the engineer (never a secret).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// What is refused.
    pub refusal: Refusal,
    /// The case, `a`, `b`, …, or a space where there is only one.
    pub case: char,
    /// What exactly was wrong, for logs.
    pub detail: String,
}

impl Refused {
    /// A refusal of `case` with `detail`.
    pub fn new(refusal: Refusal, case: char, detail: impl Into<String>) -> Self {
        Self { refusal, case, detail: detail.into() }
    }

    /// The id of the specification with its case, such as `R5c`.
    pub fn id(&self) -> String {
        format!("{}{}", self.refusal.id(), self.case).trim_end().to_owned()
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.refusal.sentence())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({}: {})", self.refusal.code(), self.detail) }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal, ' ', "")
    }
}

/// The JSON body of every refusal and every wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The stable word.
    pub reason: String,
    /// The sentence for a person.
    pub text: String,
}

impl From<&Refused> for Said {
    fn from(refused: &Refused) -> Self {
        let mut text = refused.refusal.sentence().to_owned();
        if refused.refusal == Refusal::ClusterUnsafe {
            text.push_str(&refused.detail);
        }
        Self { reason: refused.refusal.code().to_owned(), text }
    }
}

impl From<Wait> for Said {
    fn from(wait: Wait) -> Self {
        Self { reason: wait.code().to_owned(), text: wait.sentence().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_the_specification_has_a_row() {
        for number in 1..=50 {
            let id = format!("R{number}");
            assert!(Refusal::ALL.iter().any(|row| row.id() == id), "{id}");
        }
    }

    #[test]
    fn only_words_of_machines_are_taken_from_them() {
        assert!(Refusal::Stranger.is_a_machines() && Refusal::VoiceRefused.is_a_machines());
        assert!(!Refusal::Duplicate.is_a_machines() && !Refusal::Broken.is_a_machines());
    }

    #[test]
    fn one_word_never_means_two_refusals() {
        for row in Refusal::ALL {
            assert_eq!(Refusal::from_code(row.code()), Some(*row));
        }
    }
}
