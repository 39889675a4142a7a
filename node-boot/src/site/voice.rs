//! Whether a machine may go on without a voucher because a person approved it by telephone: R13.

pub mod person; // a person at this machine says yes or no

use std::time::Duration;

use protocol::cert::{Cert, issued_by};
use protocol::clock::effective;
use protocol::refusal::{Refusal, Refused};
use protocol::voucher::{Setting, VOICE_EPOCH, check_session};

use self::person::Person;

/// How long a voucher is looked for on the LAN before a person's word can stand in for it.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// What is known when a provisioner says that the machine is approved by voice.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// Whether the owner's anchors allow it.
    pub allowed: bool,
    /// Whether the machine holds an epoch or a pin: it belongs to a site already.
    pub stored: bool,
    /// Whether a provisioner offered a valid voucher.
    pub offered: bool,
    /// For how long a voucher has been looked for.
    pub searched: Duration,
    /// What the person at this machine says.
    pub person: Person,
}

/// That a machine may go on by voice: only [`judge`] makes it.
#[derive(Debug)]
pub struct Admission(());

/// What to do about an approval by voice.
#[derive(Debug)]
pub enum Verdict {
    /// Look for a voucher first.
    Search,
    /// Ask the person at this machine, or wait for the answer.
    Ask,
    /// Pin the site's CA and go on.
    GoOn(Admission),
    /// No.
    Refuse(Refused),
}

/// Judges an approval by voice. What can never change is said before anybody is asked.
pub fn judge(seen: &Seen, patience: Duration) -> Verdict {
    let refuse = |case, detail| Verdict::Refuse(Refused::new(Refusal::VoiceRefused, case, detail));
    if !seen.allowed {
        return refuse('a', "The owner does not allow it; it goes on when a bundle brings its voucher.");
    }
    if seen.stored {
        return refuse('b', "It belongs to a site already; only headquarters' voucher moves it.");
    }
    if seen.offered {
        return refuse('c', "Headquarters' voucher is here, and counts for more.");
    }
    match seen.person {
        Person::Unreachable => refuse(
            'd',
            "Nobody can be asked here: connect a screen and a keyboard, or a stick (--stick DIR), and restart it.",
        ),
        Person::No => refuse('d', "The person here said no; restart this machine to be asked again."),
        Person::Silent => refuse('d', "Nobody here answered; the question comes again."),
        _ if seen.searched < patience => Verdict::Search,
        Person::NotAsked | Person::Asked => Verdict::Ask,
        Person::Yes => Verdict::GoOn(Admission(())),
    }
}

/// What a person's word is not enough for: a control-plane machine needs a voucher. R13e.
pub fn check_role(epoch: u32, role: &str) -> Result<(), Refused> {
    if epoch == VOICE_EPOCH && role != "worker" {
        let detail = format!("the role {role:?} needs headquarters' voucher");
        return Err(Refused::new(Refusal::VoiceRefused, 'e', detail));
    }
    Ok(())
}

/// The site that the verified chain of this session names, and its CA: issued by an anchor of the owner itself, and
/// enough to verify the leaf. That a certificate was shown proves nothing.
pub fn site_of(setting: &Setting<'_>) -> Result<(String, Cert), Refused> {
    let anchors = setting.trust.site_anchors();
    let shown = setting.chain.iter().skip(1).filter_map(|der| Cert::parse(der).ok());
    let found = shown.into_iter().find_map(|ca| {
        let at = effective(setting.floor, setting.rtc, [ca.not_before]);
        let anchored = anchors.iter().any(|anchor| issued_by(&ca, anchor, at));
        let site = ca.site().filter(|_| anchored && check_session(setting, &ca).is_ok())?.to_owned();
        Some((site, ca))
    });
    found.ok_or_else(|| {
        Refused::new(Refusal::VoiceRefused, 'd', "no certificate of the provisioner names its site")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Seen =
        Seen { allowed: true, stored: false, offered: false, searched: PATIENCE, person: Person::Yes };
    const PERSONS: [Person; 6] =
        [Person::NotAsked, Person::Asked, Person::Yes, Person::No, Person::Silent, Person::Unreachable];

    /// What comes of it, in one word.
    fn verdict(seen: Seen) -> String {
        match judge(&seen, PATIENCE) {
            Verdict::Search => "search".to_owned(),
            Verdict::Ask => "ask".to_owned(),
            Verdict::GoOn(_) => "go on".to_owned(),
            Verdict::Refuse(refused) => refused.id(),
        }
    }

    #[test]
    fn r13a_an_owner_who_does_not_allow_voice_is_obeyed_whoever_confirms() {
        for person in PERSONS {
            assert_eq!(verdict(Seen { allowed: false, person, ..GOOD }), "R13a");
        }
    }

    #[test]
    fn r13b_a_machine_that_belongs_to_a_site_is_not_talked_into_another() {
        for person in PERSONS {
            assert_eq!(verdict(Seen { stored: true, person, ..GOOD }), "R13b");
        }
    }

    #[test]
    fn r13c_a_valid_voucher_counts_for_more_than_a_voice() {
        for person in PERSONS {
            assert_eq!(verdict(Seen { offered: true, person, ..GOOD }), "R13c");
        }
    }

    #[test]
    fn r13d_without_a_person_at_this_machine_nothing_goes_on() {
        for person in [Person::No, Person::Silent, Person::Unreachable] {
            assert_eq!(verdict(Seen { person, ..GOOD }), "R13d");
        }
        assert_eq!(verdict(Seen { person: Person::NotAsked, ..GOOD }), "ask");
        assert_eq!(verdict(Seen { person: Person::Asked, ..GOOD }), "ask");
        assert_eq!(verdict(GOOD), "go on");
    }

    #[test]
    fn r13e_a_control_plane_machine_needs_a_voucher() {
        assert_eq!(check_role(VOICE_EPOCH, "control-plane").unwrap_err().id(), "R13e");
        assert!(check_role(VOICE_EPOCH, "worker").is_ok());
        assert!(check_role(1, "control-plane").is_ok());
    }

    #[test]
    fn a_voucher_is_looked_for_until_patience_is_over_even_after_an_early_yes() {
        for person in [Person::NotAsked, Person::Asked, Person::Yes] {
            let early = Seen { searched: PATIENCE.saturating_sub(Duration::from_millis(1)), person, ..GOOD };
            assert_eq!(verdict(early), "search");
        }
    }
}
