//! The second way to the machine's disk: the key that the site keeps of it.

use anyhow::{Result, bail};
use protocol::attest;
use protocol::bytes::B64u;
use protocol::messages::{DiskKey, Message};
use protocol::refusal::Refusal;

use super::enroll::{Proved, Setup, Step, prove};
use super::http::Meaning;

impl Proved {
    /// M4 for a disk that cannot be opened: what the site has to say of it. Nothing changes there.
    pub fn ask_for_disk(&mut self, setup: &Setup<'_>, disk: &B64u) -> Result<Step<attest::Disk>> {
        let step = prove(self.talk(), setup, Some(disk))?;
        Ok(match step {
            Step::Done(proven) => Step::Done(proven.disk.unwrap_or_default()),
            Step::Wait(said, after) => Step::Wait(said, after),
            Step::No(said) => Step::No(said),
            Step::Refused(refused) => Step::Refused(refused),
        })
    }

    /// M14: gives the site the key of the second way to the disk; whether it keeps it. A site of an earlier version does not.
    pub fn keep_disk_key(&mut self, key: &DiskKey) -> Result<bool> {
        match self.talk().json(Message::DiskKey, "", key)?.meaning() {
            Meaning::Good(_) => Ok(true),
            Meaning::No(said) if said.reason == Refusal::NotFound.code() => Ok(false),
            Meaning::No(said) | Meaning::Wait(said, _) => bail!("{} ({})", said.text, said.reason),
        }
    }
}
