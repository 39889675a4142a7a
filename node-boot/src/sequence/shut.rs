//! A machine whose own disk is shut: the site's key opens it again, or a person's word erases it. Until then the disk stays as
//! it is, and the machine becomes nothing else.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use protocol::attest::Disk;
use protocol::bytes::{B64u, Secret};
use protocol::messages::{DiskKey, Order};

use super::{Awake, PATIENCE_FOR_END};
use crate::console::{say, stands, why_wait};
use crate::join::agent;
use crate::os::{disk, init};
use crate::site::enroll::{Proved, Setup, Step};
use crate::stop::pause;

/// The key that the site keeps, so that it has it again when it was lost there.
pub(super) const KEY: &str = "disk-key.json";
/// How long a machine waits before it asks for its disk again.
const ASK_AGAIN: Duration = Duration::from_secs(30);

impl Awake {
    /// Asks the site that has proved itself for the key of the disk; starts anew where that opens it.
    pub(super) fn open_by_site(&mut self, proved: &mut Proved, why: &str) -> Result<()> {
        if self.identity.tpm.is_none() {
            stands(&format!("This machine's disk stays shut: {why}."));
            return pause(ASK_AGAIN);
        }
        stands(&format!("This machine's disk is shut: {why}. Asking the site for its key."));
        let disk = disk::name_of_locked().unwrap_or_default();
        let step = proved.ask_for_disk(&self.setup(&self.trust()?), &disk)?;
        let Some(answer) = self.what_of(proved, step)? else { return Ok(()) };
        match answer {
            Disk { wipe: true, .. } => wipe(proved, None),
            Disk { key: Some(key), .. } => {
                let chip = self.identity.tpm.as_ref().context("the TPM")?;
                if disk::unlock(&key, &chip.tpm)? {
                    return start_anew("The site's key opens this machine's disk. Starting from there.");
                }
                stays_shut("the site's key is not this disk's")
            }
            Disk { key: None, .. } => stays_shut("the site has no key of it"),
        }
    }

    /// Gives the site the key of the second way to the disk, where there is one.
    pub(super) fn offer_disk_key(&self, proved: &mut Proved) -> Result<()> {
        if let Some(key) = self.at.state.load::<DiskKey>(KEY)?
            && !proved.keep_disk_key(&key)?
        {
            say("The site keeps no key of this machine's disk.");
        }
        Ok(())
    }
}

/// A site that keeps keys of disks.
pub(super) struct Keys<'a> {
    pub proved: &'a mut Proved,
    pub setup: Setup<'a>,
}

impl disk::Site for Keys<'_> {
    fn key_of(&mut self, disk: &B64u) -> Result<Option<Secret>> {
        match self.proved.ask_for_disk(&self.setup, disk)? {
            Step::Done(answer) => Ok(answer.key),
            Step::Wait(said, after) => {
                stands(&why_wait(&said.reason));
                pause(Duration::from_secs(after))?;
                bail!("the site gives no key of this disk yet ({})", said.reason)
            }
            Step::No(said) => bail!("{} ({})", said.text, said.reason),
            Step::Refused(refused) => bail!("{refused}"),
        }
    }

    fn keep(&mut self, key: &DiskKey) -> Result<bool> {
        let kept = self.proved.keep_disk_key(key)?;
        if kept {
            self.setup.state.save(KEY, key)?;
        }
        Ok(kept)
    }
}

/// Carries out the order of a site that has proved itself. It is told once nobody can open the disk any more; the rest goes by
/// itself, whatever happens.
pub(super) fn wipe(proved: &mut Proved, order: Option<&Order>) -> Result<()> {
    disk::wipe().context("wiping this machine")?;
    if let Some(order) = order
        && let Err(error) = agent::done(proved, order)
    {
        say(&format!("The site was not told that this machine is being wiped: {error:#}."));
    }
    start_anew("The site has ordered this machine to be wiped.")
}

/// Wipes a machine that is told nothing else any more, where that was ordered.
pub(super) fn is_wiped(proved: &mut Proved) -> Result<bool> {
    let Some(order) = agent::farewell(proved)? else { return Ok(false) };
    wipe(proved, Some(&order))?;
    Ok(true)
}

fn stays_shut(why: &str) -> Result<()> {
    stands(&format!(
        "This machine's disk stays shut: {why}. Undo what was changed in the firmware setup, put the disk back where it \
         was, or have it erased by `provisioner wipe`."
    ));
    pause(ASK_AGAIN)
}

/// Nothing else is done until PID 1 has ended this program.
pub(super) fn start_anew(why: &str) -> Result<()> {
    say(why);
    init::power::ask_for_restart().context("asking for a new start")?;
    pause(PATIENCE_FOR_END)
}
