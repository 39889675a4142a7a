//! What went wrong between us and a TPM, and what a person can do about it.

use std::io;

/// Why a TPM did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to it.
    #[error("no security chip (TPM 2.0) at {tpm}: {}", absent(source.kind()))]
    Absent {
        /// Where we looked, as given on the command line.
        tpm: String,
        /// What the system says.
        source: io::Error,
    },
    /// It stopped answering.
    #[error("the security chip at {tpm} gives no answer to {command}: switch the machine off and on again")]
    Silent {
        /// Which TPM, as given on the command line.
        tpm: String,
        /// The command (TPM 2.0 Part 3).
        command: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// It said no.
    #[error("the security chip refused {command} (TPM_RC 0x{code:03x}): {}", words(*code))]
    Refused {
        /// The command (TPM 2.0 Part 3).
        command: &'static str,
        /// `TPM_RC` (TPM 2.0 Part 2, section 6.6).
        code: u32,
    },
    /// It answered something else than the specification has.
    #[error("the security chip's answer to {0} makes no sense: update the machine's firmware")]
    Garbled(&'static str),
    /// It makes none of the endorsement keys that we know.
    #[error("the security chip makes no endorsement key of a known kind: update the machine's firmware")]
    NoEk,
    /// Its endorsement key is not the one it should be.
    #[error(
        "the endorsement key is not this security chip's: the main board was changed, or the chip was reset by its maker's tool"
    )]
    OtherEk,
    /// It keeps no measurements by SHA-256.
    #[error(
        "the security chip keeps no SHA-256 measurements: switch its SHA-256 bank on in the firmware setup"
    )]
    NoBank,
    /// Bytes that are too few to be a secret, or more than every TPM takes.
    #[error("the security chip seals 32 to 64 bytes, and not {0}")]
    Length(usize),
}

impl Error {
    /// Whether the key or credential was made for another TPM, another key, or before this TPM was cleared: it will
    /// never work here, and a new one is needed.
    pub fn foreign(&self) -> bool {
        match self {
            Self::OtherEk => true,
            Self::Refused { code, .. } => reason(*code) == INTEGRITY,
            _ => false,
        }
    }

    /// Whether what was sealed is kept back because the machine is not as it was: another firmware, its checks switched
    /// on or off, or another system.
    pub fn changed(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if reason(*code) == POLICY)
    }

    /// Whether the TPM does not know this kind of key.
    pub(super) fn unsupported(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if UNSUPPORTED.contains(&reason(*code)))
    }
}

/// `TPM_RC_INTEGRITY`: an HMAC over the given data is wrong.
const INTEGRITY: u32 = 0x9f;
/// `TPM_RC_POLICY_FAIL`.
const POLICY: u32 = 0x9d;
/// `TPM_RC_ASYMMETRIC`, `_HASH`, `_VALUE`, `_KEY_SIZE`, `_SYMMETRIC`, `_CURVE`.
const UNSUPPORTED: [u32; 6] = [0x81, 0x83, 0x84, 0x87, 0x96, 0xa6];

/// The code alone: without the layer that the kernel's resource manager adds, and, in format one, without the number
/// of the parameter, handle or session it speaks of.
fn reason(code: u32) -> u32 {
    if code & 0x80 == 0 { code & 0xfff } else { code & 0xbf }
}

fn absent(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => "this program may not use it; run it as root",
        io::ErrorKind::ResourceBusy => "another program holds it; use /dev/tpmrm0, which can be shared",
        _ => "it is off in the firmware setup (look for TPM, PTT or fTPM), or this machine has none",
    }
}

fn words(code: u32) -> &'static str {
    match reason(code) {
        0x101 => "it failed its self-test; take the machine off the mains for a minute",
        0x120 | 0x85 => "a part of it is switched off; switch it on in the firmware setup",
        0x143 => "it does not know this command; update the machine's firmware",
        0x902..=0x905 => {
            "its memory is full of other programs' keys; use /dev/tpmrm0, or switch the machine off and on"
        }
        0x908 | 0x90a | 0x922 => "it is still busy; try again in a minute",
        0x920 | 0x923 => "its memory cannot be written now; try again in a minute",
        0x921 => {
            "it is locked after wrong passwords; leave the machine on for a day, or clear the chip in the firmware setup"
        }
        0x8e | 0xa2 => "somebody set a password on it; clear the chip in the firmware setup",
        POLICY => "the firmware or its settings are not what they were when it was sealed",
        INTEGRITY => "what it was given was made for another chip or key, or before this chip was cleared",
        code if UNSUPPORTED.contains(&code) => "it does not make this kind of key",
        _ => "clear the chip in the firmware setup; if that does not help, call for support",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_command_code_and_remedy() {
        let refused = Error::Refused { command: "TPM2_CreatePrimary", code: 0x9a2 };
        let text = refused.to_string();
        assert!(
            text.contains("TPM2_CreatePrimary") && text.contains("0x9a2") && text.contains("password"),
            "{text}"
        );
        let gone = Error::Absent { tpm: "/dev/tpmrm0".into(), source: io::ErrorKind::NotFound.into() };
        assert!(gone.to_string().contains("firmware setup"));
    }

    #[test]
    fn the_number_of_the_parameter_does_not_matter() {
        for (code, foreign, unsupported) in
            [(0x1df, true, false), (0x2e6, false, true), (0x922, false, false), (0xb_0143, false, false)]
        {
            let refused = Error::Refused { command: "TPM2_Load", code };
            assert_eq!((refused.foreign(), refused.unsupported()), (foreign, unsupported), "{code:x}");
        }
    }
}
