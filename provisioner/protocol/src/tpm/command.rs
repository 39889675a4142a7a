//! TPM commands and answers as bytes (TPM 2.0 Part 1, section 18, and Part 3).

use zeroize::Zeroizing;

use super::wire::{Reader, sized};

/// `TPM_RS_PW`: authorisation by password; all of ours are empty.
pub(super) const PASSWORD: u32 = 0x4000_0009;
/// `TPM_RH_NULL`.
pub(super) const NULL: u32 = 0x4000_0007;
/// `TPM_RH_OWNER`.
pub(super) const OWNER: u32 = 0x4000_0001;
/// `TPM_RH_ENDORSEMENT`.
pub(super) const ENDORSEMENT: u32 = 0x4000_000b;
/// `TPM_RH_LOCKOUT`.
pub(super) const LOCKOUT: u32 = 0x4000_000a;
/// Longest command or answer of a PC Client TPM.
pub(super) const LONGEST: usize = 4096;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;

macro_rules! verbs {
    ($($verb:ident = $code:literal, $name:literal;)*) => {
        /// The commands that we give.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Verb { $($verb = $code,)* }

        impl Verb {
            pub fn name(self) -> &'static str {
                match self { $(Self::$verb => $name,)* }
            }
        }
    };
}

verbs! {
    Clear = 0x126, "TPM2_Clear";
    CreatePrimary = 0x131, "TPM2_CreatePrimary";
    Startup = 0x144, "TPM2_Startup";
    ActivateCredential = 0x147, "TPM2_ActivateCredential";
    PolicySecret = 0x151, "TPM2_PolicySecret";
    Create = 0x153, "TPM2_Create";
    Load = 0x157, "TPM2_Load";
    Sign = 0x15d, "TPM2_Sign";
    Unseal = 0x15e, "TPM2_Unseal";
    FlushContext = 0x165, "TPM2_FlushContext";
    ReadPublic = 0x173, "TPM2_ReadPublic";
    StartAuthSession = 0x176, "TPM2_StartAuthSession";
    GetCapability = 0x17a, "TPM2_GetCapability";
    PcrRead = 0x17e, "TPM2_PCR_Read";
    PolicyPcr = 0x17f, "TPM2_PolicyPCR";
    PcrExtend = 0x182, "TPM2_PCR_Extend";
}

impl Verb {
    fn returns_handle(self) -> bool {
        matches!(self, Self::CreatePrimary | Self::Load | Self::StartAuthSession)
    }
}

/// A command: the objects it is about, one session for each that needs authorisation, and its parameters.
pub(super) struct Command<'a> {
    pub verb: Verb,
    pub handles: &'a [u32],
    pub sessions: &'a [u32],
    pub parameters: &'a [&'a [u8]],
}

impl Command<'_> {
    /// Its bytes: parameters may be secrets.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut body = Zeroizing::new(Vec::with_capacity(LONGEST));
        self.handles.iter().for_each(|handle| body.extend(handle.to_be_bytes()));
        if !self.sessions.is_empty() {
            // Each: handle, empty nonce, attributes 0 (a policy session ends with its use), empty password.
            let sessions: Vec<u8> = self
                .sessions
                .iter()
                .flat_map(|handle| [&handle.to_be_bytes()[..], &[0; 5]].concat())
                .collect();
            body.extend(u32_len(&sessions).to_be_bytes());
            body.extend(sessions);
        }
        self.parameters.iter().for_each(|parameter| body.extend_from_slice(parameter));
        let tag = if self.sessions.is_empty() { NO_SESSIONS } else { SESSIONS };
        let len = u32_len(&body) + 10;
        let head = [&tag.to_be_bytes()[..], &len.to_be_bytes(), &(self.verb as u32).to_be_bytes()].concat();
        Zeroizing::new([&head[..], &body].concat())
    }
}

fn u32_len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// What a TPM answered to a command that it obeyed.
pub(super) struct Answer {
    /// The object that it made; 0 where the command makes none.
    pub handle: u32,
    /// They may be secrets.
    pub parameters: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// Takes the parameters apart by `read`, nothing left over.
    pub fn read<'a, T>(&'a self, read: impl FnOnce(&mut Reader<'a>) -> Option<T>) -> Option<T> {
        let mut reader = Reader(&self.parameters);
        let value = read(&mut reader)?;
        reader.end()?;
        Some(value)
    }
}

/// Splits an answer into its code and, when that is 0, its content. None when it is not formed like an answer.
pub(super) fn read_answer(verb: Verb, bytes: &[u8]) -> Option<Result<Answer, u32>> {
    let mut reader = Reader(bytes);
    let (tag, len, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
    if usize::try_from(len).ok()? != bytes.len() || ![NO_SESSIONS, SESSIONS].contains(&tag) {
        return None;
    }
    if code != 0 {
        return Some(Err(code));
    }
    let handle = if verb.returns_handle() { reader.u32()? } else { 0 };
    let parameters = if tag == SESSIONS {
        let len = reader.u32()?;
        reader.take(usize::try_from(len).ok()?)?
    } else {
        reader.take(reader.0.len())?
    };
    Some(Ok(Answer { handle, parameters: Zeroizing::new(parameters.to_vec()) }))
}

/// `TPM2B_SENSITIVE_CREATE` of a key without a password.
pub(super) fn no_sensitive() -> Vec<u8> {
    sized(&[0; 4])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_a_session_says_so() {
        let sign = Command {
            verb: Verb::Sign,
            handles: &[0x8000_0001],
            sessions: &[PASSWORD],
            parameters: &[&[1, 2]],
        };
        let expected = [
            &[0x80, 2, 0, 0, 0, 29, 0, 0, 1, 0x5d, 0x80, 0, 0, 1, 0, 0, 0, 9][..],
            &[0x40, 0, 0, 9, 0, 0, 0, 0, 0, 1, 2],
        ];
        assert_eq!(*sign.to_bytes(), expected.concat());
    }

    #[test]
    fn answers_cut_anywhere_are_refused() {
        let good = [0x80, 2, 0, 0, 0, 21, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 1, 7, 0, 0];
        let answer = read_answer(Verb::Load, &good).unwrap().ok().unwrap();
        assert_eq!((answer.handle, &answer.parameters[..]), (0x8000_0000, &[7][..]));
        for len in 0..good.len() {
            assert!(read_answer(Verb::Load, &good[..len]).is_none());
        }
        let mut short = good;
        short[17] = 9;
        assert!(read_answer(Verb::Load, &short).is_none());
    }
}
