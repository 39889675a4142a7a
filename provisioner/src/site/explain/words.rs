//! The sentences for each thing that a person may ask about.

use decide::Step;
use protocol::clock::Time;
use protocol::image::{BankReport, Kind};
use protocol::inventory::SecureBoot;
use protocol::messages::NoDisk;
use protocol::record::Record;
use protocol::refusal::Wait;

use super::prospects::Prospect;
use super::{ClaimRow, Explained, Row};
use crate::model::Slot;
use crate::plain;
use crate::site::claims::Claim;
use crate::site::machine::{KubeletState, Machine};
use crate::site::posers::Poser;
use crate::site::updates::Way;

/// The word for a machine that HQ registered and that never spoke here.
const REGISTERED: &str = "registered";

pub(super) fn row(machine: &Machine, record: Option<&Record>, reason: decide::Reason, now: Time) -> Row {
    let hinted = record.and_then(|record| record.hints.product_serial.clone());
    Row {
        machine: machine.id.clone(),
        serial: plain::word(&hinted.unwrap_or_else(|| machine.hw.dmi.serial.clone())),
        life: machine.life.word().to_owned(),
        reason: reason.code.word().to_owned(),
        slot: machine.slot.clone().unwrap_or_default(),
        node: machine.node().unwrap_or_default(),
        since: machine.since.to_string(),
        seconds: now.since(machine.since),
    }
}

pub(super) fn unseen_row(record: &Record, reason: &str) -> Row {
    Row {
        machine: record.id.clone(),
        serial: record.hints.product_serial.clone().unwrap_or_default(),
        life: REGISTERED.to_owned(),
        reason: reason.to_owned(),
        slot: record.slot.clone().unwrap_or_default(),
        ..Row::default()
    }
}

pub(super) fn claim_row(claim: &Claim, now: Time) -> ClaimRow {
    ClaimRow {
        machine: format!("key:{}", claim.s),
        serial: plain::word(&claim.hw.dmi.serial),
        model: plain::word(format!("{} {}", claim.hw.dmi.vendor, claim.hw.dmi.product).trim()),
        slot: claim.approved.clone().unwrap_or_default(),
        seconds: now.since(claim.since),
    }
}

pub(super) fn poser_row(poser: &Poser, now: Time) -> Row {
    Row {
        machine: format!("key:{}", poser.s),
        serial: poser.serial.clone(),
        life: decide::Life::Quarantined.word().to_owned(),
        reason: poser.code.word().to_owned(),
        since: poser.first.to_string(),
        seconds: now.since(poser.first),
        ..Row::default()
    }
}

/// What a machine's explanation says of a key that was refused in its name. `other`: the machine itself is known here
/// by another key.
pub(super) fn posed_as(poser: &Poser, other: bool, now: Time) -> (String, String) {
    let who = if other { "another machine" } else { "a machine" };
    let what = match poser.code {
        decide::Code::AuthMismatch => "label",
        _ => "device key",
    };
    let (ago, from, why) = (span(now.since(poser.last)), poser.source, poser.code.word());
    let text = format!("{who} showed this {what} {ago} ago, from {from}, and was refused ({why})");
    ("somebody else".to_owned(), text)
}

pub(super) fn of_poser(poser: &Poser, now: Time) -> Explained {
    let reason = decide::Reason::of(poser.code, decide::Life::Quarantined);
    let facts = [
        ("poses as", poser.of.clone()),
        ("from", poser.source.to_string()),
        ("last refused", format!("{} ago", span(now.since(poser.last)))),
        ("says it is", poser.model.clone()),
    ];
    Explained {
        row: poser_row(poser, now),
        person: poser.code.person().to_owned(),
        engineer: poser.code.engineer().to_owned(),
        next: poser.code.next().to_owned(),
        deadline: deadline(reason, poser.first, now),
        facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
    }
}

/// A slot that no machine holds, and the registration that it is kept for.
pub(super) fn of_slot(slot: &Slot, kept_for: Option<&Record>) -> Explained {
    let (engineer, next) = match kept_for {
        Some(record) => (
            format!("It is kept for {}, whose registration names it.", record.id),
            format!("{0} takes it when it is plugged in: see `provisioner explain {0}`.", record.id),
        ),
        None => (
            "No registration names it, or the machine that one names was taken out.".to_owned(),
            format!("The next registered {} takes it that proves itself or stands by.", slot.role.word()),
        ),
    };
    let row = Row {
        machine: slot.name.clone(),
        life: "free".to_owned(),
        reason: "free".to_owned(),
        slot: slot.name.clone(),
        ..Row::default()
    };
    let serial = kept_for.and_then(|record| record.hints.product_serial.clone()).unwrap_or_default();
    Explained {
        row,
        person: "This is a slot that no machine holds.".to_owned(),
        engineer,
        next,
        deadline: "until a machine takes it".to_owned(),
        facts: vec![("its serial".to_owned(), plain::word(&serial))],
    }
}

pub(super) fn of_machine(
    machine: &Machine,
    record: Option<&Record>,
    reason: decide::Reason,
    now: Time,
) -> Explained {
    Explained {
        row: row(machine, record, reason, now),
        person: reason.code.person().to_owned(),
        engineer: reason.code.engineer().to_owned(),
        // What is to be typed is typed as it stands.
        next: reason.code.next().replace("MACHINE", &machine.node().unwrap_or_else(|| machine.id.clone())),
        deadline: deadline(reason, machine.since, now),
        facts: facts(machine, now),
    }
}

fn deadline(reason: decide::Reason, since: Time, now: Time) -> String {
    match reason.deadline {
        None => "nothing is waited for".to_owned(),
        Some(decide::Deadline::Until(what)) => format!("until {what}"),
        Some(decide::Deadline::Within(patience)) => {
            let by = since.plus(i64::try_from(patience.as_secs()).unwrap_or(0));
            if now > by {
                format!("{by}: {} ago, so somebody should look", span(now.since(by)))
            } else {
                format!("{by}, in {}", span(by.since(now)))
            }
        }
    }
}

/// What a machine's banks of one kind hold.
fn bank(report: &BankReport) -> String {
    let mut text = report.version.clone();
    if report.trial {
        text.push_str(", another one is being tried");
    } else if report.staged.is_some() {
        text.push_str(", another one is in the other bank");
    }
    if let Some(failed) = &report.failed {
        text = format!("{text}; {} was tried and dropped: {}", failed.version, failed.why);
    }
    plain::sentence(&text)
}

/// Which image a machine is to run as well, and what it waits for.
pub(super) fn wanted(way: &Way) -> Option<(String, String)> {
    let text = match way.step {
        Step::Nothing => return None,
        Step::Stage => "It is being fetched.".to_owned(),
        Step::Activate => "It is here, and is tried next.".to_owned(),
        Step::Wait(why) => {
            let about = Some(&way.about).filter(|about| !about.is_empty());
            let about = about.map(|about| format!(": {}", about.trim_end_matches('.'))).unwrap_or_default();
            let what = why.sentence().trim_end_matches('.');
            format!("{what}{about}. {} ({})", why.next(), why.word())
        }
    };
    let text = plain::sentence(&format!("{}: {text}", way.want.version));
    Some((format!("{} wanted", way.want.kind.word()), text))
}

fn facts(machine: &Machine, now: Time) -> Vec<(String, String)> {
    let listed = |values: Vec<String>| (!values.is_empty()).then(|| values.join(" "));
    let heard = (machine.heard != Time::default())
        .then(|| format!("{} ago, heartbeats count", span(now.since(machine.heard))));
    let kubelet = match machine.kubelet {
        KubeletState::None => None,
        KubeletState::Asked => Some("asked for".to_owned()),
        KubeletState::Issued => {
            Some(machine.kubelet_until.map_or("issued".to_owned(), |until| format!("until {until}")))
        }
    };
    [
        ("slot", machine.slot.clone()),
        ("Node", machine.node()),
        ("proven", listed(machine.proven.iter().map(ToString::to_string).collect())),
        ("node key", machine.s.map(|s| format!("key:{s}"))),
        ("addresses", listed(machine.addresses.iter().map(ToString::to_string).collect())),
        ("last heard", heard),
        ("certificate", kubelet),
        ("its network", machine.network.clone()),
        ("Secure Boot", secure_boot(machine.hw.secure_boot).map(str::to_owned)),
        ("os", machine.banks.get(&Kind::Os).map(bank)),
        ("kubernetes", machine.banks.get(&Kind::Kubernetes).map(bank)),
        ("to be removed", listed(machine.former.clone())),
        ("own state", Some(machine.hw.state.clone()).filter(|state| !state.is_empty())),
        ("its disk", machine.wipe.then(|| "is erased as soon as it speaks".to_owned())),
        ("its disk", machine.waits_for_disk(now).then(|| shut(machine))),
        ("no disk", machine.no_disk.as_ref().map(|none| no_disk(machine, none, now))),
        ("wiped", machine.wiped.map(|at| format!("{} ago", span(now.since(at))))),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.map(|value| (name.to_owned(), value)))
    .collect()
}

/// Of a machine that gets the key of its disk by a person's word alone.
fn shut(machine: &Machine) -> String {
    let name = machine.node().unwrap_or_else(|| machine.id.clone());
    let why = "is shut, and its key is not given out unasked: Secure Boot was on and is not any more, or a person has to say \
               yes to this machine (`auto: false`)";
    if machine.opens.is_some() {
        return format!("{why}. A person has said yes: it gets it when it asks next");
    }
    format!(
        "{why}. Who stands at the machine may be a thief. See to it; then, for once: `provisioner approve --machine {name}`"
    )
}

/// Of a machine that may use none of its disks.
fn no_disk(machine: &Machine, none: &NoDisk, now: Time) -> String {
    let (found, name) = (&none.found, machine.node().unwrap_or_else(|| machine.id.clone()));
    if let Some(yes) = machine.yes_to_disk(now) {
        return format!(
            "{found} A person has said yes to {}: it is overwritten when the machine asks next",
            yes.mark
        );
    }
    let mark = match none.marks.as_slice() {
        [] => return found.clone(),
        [one] => one.as_str(),
        _ => "DISK",
    };
    format!(
        "{found} Or, where nobody needs what is there any more, for an hour: `provisioner approve --machine {name} --overwrite \
         {mark}`"
    )
}

/// What the machine says of its firmware; nothing of one that does not know Secure Boot.
fn secure_boot(state: SecureBoot) -> Option<&'static str> {
    match state {
        SecureBoot::On => Some("on"),
        SecureBoot::Off => Some("OFF: this machine starts whatever is given to it"),
        SecureBoot::Setup => {
            Some("OFF: nobody's keys are in the firmware; a depot's stick puts the owner's there")
        }
        SecureBoot::Unknown => None,
    }
}

/// What else there is to know of a machine that the site registered itself.
pub(super) fn by_voice() -> (String, String) {
    let text = "by telephone: without a voucher it goes on once a person at the machine confirms the site; \
                HQ's bundle takes over when it answers a report";
    ("approved".to_owned(), text.to_owned())
}

pub(super) fn of_record(record: &Record, prospect: Prospect) -> Explained {
    let ids: Vec<_> = record.auth.iter().map(|auth| auth.id().to_string()).collect();
    Explained {
        row: unseen_row(record, prospect.reason),
        person: prospect.person.to_owned(),
        engineer: prospect.engineer,
        next: prospect.next,
        deadline: prospect.deadline,
        facts: vec![("expects".to_owned(), ids.join(" "))],
    }
}

pub(super) fn of_claim(claim: &Claim, now: Time) -> Explained {
    let shown = claim_row(claim, now);
    let wait = Wait::PendingHq;
    let (next, deadline) = match claim.approved {
        None => ("It goes on when HQ approves its code.", "until HQ says yes; a code is good for an hour"),
        Some(_) => (
            "It goes on when a bundle brings its registration: send a report to HQ.",
            "until the next bundle is applied",
        ),
    };
    Explained {
        row: Row {
            machine: shown.machine,
            serial: shown.serial,
            life: decide::Life::Discovered.word().to_owned(),
            reason: wait.code().to_owned(),
            slot: shown.slot,
            since: claim.since.to_string(),
            seconds: shown.seconds,
            ..Row::default()
        },
        person: wait.sentence().to_owned(),
        engineer: "No registration names what it proved; it shows a code on its screen (M10).".to_owned(),
        next: next.to_owned(),
        deadline: deadline.to_owned(),
        facts: vec![(
            "proven".to_owned(),
            claim.proven.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        )],
    }
}

/// A span of time as people say it: the two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}
