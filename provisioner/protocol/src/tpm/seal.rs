//! Secrets that the TPM gives out only while the machine is as it was: sealed to values of its registers (PCRs).

use ring::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::client::Tpm;
use super::command::{NULL, PASSWORD, Verb};
use super::error::Error;
use super::wire::{Reader, sized};
use crate::bytes::{B64u, Digest};

/// The registers that a secret is sealed to. 7: whether the firmware checks what it starts, and by whose keys (TCG PC
/// Client Platform Firmware Profile 1.06 section 3.3.4). 15: zero until [`Tpm::close`], so that nothing that runs later
/// gets the secret.
const PCRS: [u8; 2] = [7, CLOSED];
/// The register that [`Tpm::close`] extends.
const CLOSED: u8 = 15;
/// Bytes of what a register holds.
const VALUE: usize = 32;
/// `TPM_ALG_SHA256`.
const SHA256: [u8; 2] = [0x00, 0x0b];
/// Up to the policy in the public area of sealed bytes: `TPM_ALG_KEYEDHASH`, SHA-256, fixedTPM, fixedParent and noDA. No
/// password opens it, and wrong passwords for other things do not lock it.
const SEALED: [u8; 8] = [0x00, 0x08, 0x00, 0x0b, 0x00, 0x00, 0x04, 0x12];
/// Bytes of a secret: what every TPM takes (`MAX_SYM_DATA` is 128).
const LENGTHS: std::ops::RangeInclusive<usize> = 32..=64;

/// A secret as kept on the disk: only the TPM that sealed it opens it. The JSON form is `{"private","public"}`, the bodies
/// of `TPM2B_PRIVATE` and `TPM2B_PUBLIC` in base64url.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    private: B64u,
    public: B64u,
}

impl Tpm {
    /// Seals 32 to 64 bytes to this TPM and to what its registers hold now, at a start that nobody has closed yet.
    pub fn seal(&mut self, secret: &[u8]) -> Result<Sealed, Error> {
        if !LENGTHS.contains(&secret.len()) {
            return Err(Error::Length(secret.len()));
        }
        self.operation(|tpm| {
            tpm.forget();
            let mut registers = tpm.registers()?;
            registers[VALUE..].fill(0);
            let public = [&SEALED[..], &sized(&policy(&registers)), &[0x00, 0x10, 0, 0]].concat();
            let sensitive = Zeroizing::new([&[0, 0][..], &sized(secret)].concat());
            let sensitive = Zeroizing::new(sized(&sensitive));
            let storage = tpm.storage()?;
            let parameters: &[&[u8]] = &[&sensitive, &sized(&public), &[0; 6]];
            let created = tpm.call(Verb::Create, &[storage], &[PASSWORD], parameters);
            tpm.flush(storage);
            let created = created?;
            let mut reader = Reader(&created.parameters);
            let blob = reader.sized().zip(reader.sized());
            let (private, public) = blob.ok_or(Error::Garbled(Verb::Create.name()))?;
            Ok(Sealed { private: B64u(private.to_vec()), public: B64u(public.to_vec()) })
        })
    }

    /// Gives a sealed secret out. [`Error::changed`] where the registers hold something else than at [`Tpm::seal`];
    /// [`Error::foreign`] where another TPM sealed it, or this one was cleared since.
    pub fn unseal(&mut self, blob: &Sealed) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.operation(|tpm| {
            tpm.forget();
            let storage = tpm.storage()?;
            let parameters: &[&[u8]] = &[&sized(&blob.private.0), &sized(&blob.public.0)];
            let loaded = tpm.call(Verb::Load, &[storage], &[PASSWORD], parameters);
            tpm.flush(storage);
            let handle = loaded?.handle;
            let session = tpm.policy_session()?;
            // No digest to compare with: the object has the policy.
            tpm.call(Verb::PolicyPcr, &[session], &[], &[&[0, 0], &selection()])?;
            let answer = tpm.call(Verb::Unseal, &[handle], &[session], &[])?;
            tpm.used_up(session);
            tpm.flush(handle);
            let secret = answer.read(|reader| reader.sized().map(|secret| Zeroizing::new(secret.to_vec())));
            secret.ok_or(Error::Garbled(Verb::Unseal.name()))
        })
    }

    /// Until the machine starts anew, nothing that was sealed is given out any more, whoever asks.
    pub fn close(&mut self) -> Result<(), Error> {
        self.operation(|tpm| {
            // TPML_DIGEST_VALUES with one of SHA-256.
            let mark = Digest::of(b"node-boot: what was sealed was given out");
            let parameters: &[&[u8]] = &[&[0, 0, 0, 1], &SHA256, &mark.0];
            tpm.call(Verb::PcrExtend, &[u32::from(CLOSED)], &[PASSWORD], parameters).map(drop)
        })
    }

    /// What the registers hold, joined.
    fn registers(&mut self) -> Result<Vec<u8>, Error> {
        let answer = self.call(Verb::PcrRead, &[], &[], &[&selection()])?;
        answer.read(read_registers).ok_or(Error::NoBank)
    }

    /// A session that a policy is shown to; it is over with its use. NULL is `TPM_RH_NULL`: neither salted nor bound.
    pub(super) fn policy_session(&mut self) -> Result<u32, Error> {
        // Nothing is authenticated or encrypted by this session: the nonce may be any 16 bytes. No salt;
        // TPM_SE_POLICY; TPM_ALG_NULL; TPM_ALG_SHA256.
        let rest = [0, 0, 1, 0, 0x10, 0, 0x0b];
        let parameters: &[&[u8]] = &[&sized(&[0; 16]), &rest];
        Ok(self.call(Verb::StartAuthSession, &[NULL, NULL], &[], parameters)?.handle)
    }
}

/// `TPML_PCR_SELECTION`: our registers of the SHA-256 bank.
fn selection() -> Vec<u8> {
    let mut bits = [0; 3];
    for pcr in PCRS {
        bits[usize::from(pcr / 8)] |= 1 << (pcr % 8);
    }
    [&[0, 0, 0, 1][..], &SHA256, &[3], &bits].concat()
}

/// The registers in an answer of `TPM2_PCR_Read`, joined. None where the TPM did not give all of them: it keeps no SHA-256.
fn read_registers(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let (_counter, given) = (reader.u32()?, reader.take(selection().len())?);
    let count = usize::try_from(reader.u32()?).ok()?;
    if given != selection() || count != PCRS.len() {
        return None;
    }
    let registers: Option<Vec<_>> =
        (0..count).map(|_| reader.sized().filter(|one| one.len() == VALUE)).collect();
    Some(registers?.concat())
}

/// Digest of the policy that these registers hold these values: `TPM2_PolicyPCR` on a fresh session (TPM 2.0 Part 3,
/// section 23.7).
fn policy(registers: &[u8]) -> [u8; 32] {
    let code = (Verb::PolicyPcr as u32).to_be_bytes();
    let values = digest::digest(&digest::SHA256, registers);
    Digest::of(&[&[0; 32][..], &code, &selection(), values.as_ref()].concat()).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registers_are_7_and_15_of_the_sha_256_bank() {
        assert_eq!(selection(), [0, 0, 0, 1, 0, 0x0b, 3, 0x80, 0x80, 0]);
    }

    #[test]
    fn an_answer_without_all_registers_is_refused() {
        let all =
            [&[0, 0, 0, 9][..], &selection(), &[0, 0, 0, 2], &sized(&[7; 32]), &sized(&[0; 32])].concat();
        assert_eq!(read_registers(&mut Reader(&all)).map(|registers| registers.len()), Some(64));
        assert!((0..all.len()).all(|cut| read_registers(&mut Reader(&all[..cut])).is_none()));
        let none = [&[0, 0, 0, 9, 0, 0, 0, 0][..], &[0, 0, 0, 0]].concat();
        assert!(read_registers(&mut Reader(&none)).is_none(), "it has no such bank");
    }
}
