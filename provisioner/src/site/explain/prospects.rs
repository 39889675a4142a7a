//! What a registered machine that never spoke here will meet when it is plugged in.

use anyhow::Result;
use decide::{Code, NOT_SEEN};
use protocol::bytes::Digest;
use protocol::record::{Auth, Record};
use protocol::refusal::Refused;

use crate::site::admit;
use crate::site::rebuild::NOBODY;
use crate::site::slots::Sight;
use crate::site::store::{BURNED, HOLDERS, Look};
use crate::site::word::Word;

/// What it will meet: a reason's word, and the sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prospect {
    pub reason: &'static str,
    pub person: &'static str,
    pub engineer: String,
    pub next: String,
    pub deadline: String,
}

/// What a machine of this registration will meet here.
pub(super) fn prospect(sight: &Sight, look: &impl Look, record: &Record) -> Result<Prospect> {
    if let Err(refused) = admit::check_standing(record, &sight.site, sight.now) {
        return Ok(locked(&refused));
    }
    if record.auth.is_empty() {
        return Ok(label_only());
    }
    if let Some(used) = used_up(look, record)? {
        return Ok(used);
    }
    if let Some(no_place) = no_place(look, &sight.word, record)? {
        return Ok(no_place);
    }
    Ok(if record.policy.auto { welcome() } else { wanted(record) })
}

fn of(code: Code, engineer: impl Into<String>, next: impl Into<String>) -> Prospect {
    let deadline = match decide::Reason::of(code, decide::Life::Discovered).deadline {
        Some(decide::Deadline::Until(what)) => format!("until {what}"),
        _ => "nothing is waited for".to_owned(),
    };
    Prospect {
        reason: code.word(),
        person: code.person(),
        engineer: engineer.into(),
        next: next.into(),
        deadline,
    }
}

/// Nothing stands in its way.
fn welcome() -> Prospect {
    Prospect {
        reason: NOT_SEEN.word,
        person: NOT_SEEN.person,
        engineer: NOT_SEEN.engineer.to_owned(),
        next: NOT_SEEN.next.to_owned(),
        deadline: format!("until {}", NOT_SEEN.until),
    }
}

fn locked(refused: &Refused) -> Prospect {
    Prospect {
        reason: refused.refusal.code(),
        person: refused.refusal.sentence(),
        engineer: if refused.detail.is_empty() {
            format!("Its registration says {}.", refused.refusal.code())
        } else {
            format!("{}.", refused.detail)
        },
        next: "It is refused when it speaks.".to_owned(),
        deadline: "until HQ changes its registration and a bundle brings that".to_owned(),
    }
}

fn label_only() -> Prospect {
    of(
        Code::Unknown,
        "It is registered by a label only; a label can stand on any machine, and proves nothing.",
        "Plugged in, it will show a code while a window is open (`provisioner window`); HQ approves the code. Or HQ \
         registers what `node-boot register` prints on it.",
    )
}

/// A device key is good once, at whatever site, and for nobody after a store was lost.
fn used_up(look: &impl Look, record: &Record) -> Result<Option<Prospect>> {
    let mut lost = false;
    for auth in record.accepted() {
        let Auth::DevKey { sha256 } = auth else { return Ok(None) };
        match look.get::<Digest>(BURNED, &sha256.to_string())? {
            None => return Ok(None),
            Some(by) => lost |= by == NOBODY,
        }
    }
    let engineer = if lost {
        "Its device key counts as used since the store of this site was lost or restored."
    } else {
        "Its device key was used before, here or at another site."
    };
    Ok(Some(of(Code::Duplicate, engineer, "It is refused until HQ registers it with a new key.")))
}

/// HQ's plan has no place for it, or another machine has it.
fn no_place(look: &impl Look, word: &Word, record: &Record) -> Result<Option<Prospect>> {
    let Some(name) = &record.slot else {
        let fits =
            word.slots.slots.iter().any(|slot| record.roles.iter().any(|role| role == slot.role.word()));
        let roles = record.roles.join(", ");
        let engineer =
            format!("HQ's plan for this site has no slot of the role that it is registered for ({roles}).");
        let next = "It stands by until a bundle brings such a slot, or another registration.";
        return Ok((!fits).then(|| of(Code::NoSuchSlot, engineer, next)));
    };
    if word.slots.get(name).is_none() {
        let engineer = format!("It is registered for {name}, and HQ's plan for this site has no such slot.");
        let next = format!("It stands by until a bundle brings {name}, or another registration.");
        return Ok(Some(of(Code::NoSuchSlot, engineer, next)));
    }
    let holder: Option<String> = look.get(HOLDERS, name)?;
    Ok(holder.filter(|holder| *holder != record.id).map(|holder| {
        let engineer = format!("It is registered for {name}, and {holder} holds that slot.");
        let next =
            format!("It stands by. If {holder} is dead, `provisioner retire {holder}` frees the slot.");
        of(Code::SlotTaken, engineer, next)
    }))
}

fn wanted(record: &Record) -> Prospect {
    of(
        Code::PendingHuman,
        "HQ's registration says `auto: false`: a person at this site has to say yes.",
        format!("Plugged in, it waits until somebody says `provisioner approve --machine {}`.", record.id),
    )
}
