//! Every life can be explained, and nothing that a person reads is left blank.

use anyhow::Result;
use decide::{Life, Offer};
use protocol::bytes::Digest;
use protocol::clock::Time;
use protocol::id::Id;
use protocol::record::Auth;

use super::find::{Fit, Kind, Names, fit, the_one};
use super::*;
use crate::model::Slots;
use crate::site::machine::KubeletState;
use crate::site::machine::{Around, NodeView};
use crate::site::slots::{Eyes, Sight};
use crate::site::store::{self, Store};
use crate::site::word::Word;

const NOW: Time = Time(1_800_000_000);

fn record(change: impl FnOnce(&mut Record)) -> Record {
    let mut record: Record =
        serde_json::from_str(r#"{"id":"mc_01","epoch":1,"site":"ship-7","slot":"node-1"}"#).unwrap();
    record.hints.product_serial = Some("5CG1234ABC".into());
    change(&mut record);
    record
}

fn machine(life: Life) -> Machine {
    Machine {
        id: "mc_01".into(),
        life,
        since: NOW.plus(-90),
        s: Some(Digest::of(b"node key")),
        proven: vec![Id::Ek(Digest::of(b"ek"))],
        slot: Some("node-1".into()),
        heard: NOW.plus(-12),
        ..Machine::default()
    }
}

fn explained(machine: &Machine, node: NodeView) -> Explained {
    let record = record(|_| {});
    let around = Around {
        record: Some(&record),
        site: "ship-7",
        now: NOW,
        node,
        offer: Offer::Mine,
        alive: true,
        skew: None,
    };
    let reason = decide::reason(machine.life, &machine.seen(&around));
    of_machine(machine, Some(&record), reason, NOW)
}

#[test]
fn every_life_is_explained_in_every_view_of_its_node() {
    let views = [
        NodeView::Blind,
        NodeView::Absent,
        NodeView::There { ready: false },
        NodeView::There { ready: true },
    ];
    for life in Life::ALL {
        for view in views {
            let it = explained(&machine(*life), view);
            for text in [&it.person, &it.engineer, &it.next, &it.deadline, &it.row.reason] {
                assert!(!text.is_empty(), "{life:?} {view:?}: {it:?}");
            }
            assert_eq!(it.row.life, life.word());
            assert_eq!(it.row.serial, "5CG1234ABC");
        }
    }
}

#[test]
fn each_life_has_the_reason_that_the_rest_of_the_system_gives() {
    let ready = NodeView::There { ready: true };
    let mut member = machine(Life::Member);
    member.kubelet = KubeletState::Issued;
    let cases = [
        (machine(Life::Assigned), NodeView::Absent, "installing"),
        (machine(Life::Joining), NodeView::There { ready: false }, "starting"),
        (member.clone(), ready, "member"),
        (member, NodeView::Blind, "cluster-away"),
        (machine(Life::Missing), NodeView::Absent, "not-ready"),
        (machine(Life::Replaced), NodeView::Absent, "replaced"),
        (machine(Life::Retired(decide::Why::Lost)), NodeView::Absent, "lost"),
    ];
    for (machine, view, wanted) in cases {
        assert_eq!(explained(&machine, view).row.reason, wanted, "{:?}", machine.life);
    }
}

#[test]
fn of_a_machine_that_may_be_dead_it_says_how_a_spare_takes_its_place() {
    let missing = machine(Life::Missing);
    let record = record(|_| {});
    let reason = decide::Reason::of(decide::Code::Missing, Life::Missing);
    let next = of_machine(&missing, Some(&record), reason, NOW).next;
    let typed = format!("`provisioner retire {}` frees its place for a spare", missing.node().unwrap());
    assert!(next.contains(&typed), "{next}");
}

#[test]
fn a_wait_names_the_moment_it_ends_and_a_late_one_says_so() {
    let mut waits = machine(Life::Assigned);
    let by = NOW.plus(-90).plus(30 * 60);
    assert_eq!(explained(&waits, NodeView::Absent).deadline, format!("{by}, in 28 min"));
    waits.since = NOW.plus(-40 * 60);
    let late = explained(&waits, NodeView::Absent).deadline;
    assert!(late.ends_with("10 min ago, so somebody should look"), "{late}");
}

/// What a machine of this registration will meet at a site with the slot node-1, whose device key "used" counts as used.
fn met(change: impl FnOnce(&mut Record)) -> Explained {
    let dir = tempfile::tempdir().unwrap();
    let used = Digest::of(b"used").to_string();
    let store = Store::open_or_make(&dir.path().join("store.redb"), |tx| {
        tx.put(store::HOLDERS, "node-2", &"mc_02")?;
        tx.put(store::BURNED, &used, &crate::site::rebuild::NOBODY)
    });
    let slots: Slots = serde_json::from_str(r#"{"slots":[{"name":"node-1"},{"name":"node-2"}]}"#).unwrap();
    let word = std::sync::Arc::new(Word { slots, ..Word::none("ship-7") });
    let (site, eyes, alive) = ("ship-7".to_owned(), Eyes::NoCluster, std::sync::Arc::default());
    let record = record(|record| {
        record.auth = vec![Auth::DevKey { sha256: Digest::of(b"new") }];
        change(record);
    });
    let sight = Sight { word, site, now: NOW, eyes, alive };
    of_record(&record, prospect(&sight, &store.unwrap().look().unwrap(), &record).unwrap())
}

#[test]
fn a_registered_machine_is_promised_no_more_than_it_will_meet() {
    let by_role = |record: &mut Record| (record.slot, record.roles) = (None, vec!["control-plane".into()]);
    let cases: [(Explained, &str, &str); 6] = [
        (met(|record| record.auth.clear()), "unknown", "it will show a code"),
        (met(|record| record.slot = Some("node-99".into())), "no-such-slot", "until a bundle brings node-99"),
        (met(by_role), "no-such-slot", "until a bundle brings such a slot"),
        (met(|record| record.slot = Some("node-2".into())), "slot-taken", "`provisioner retire mc_02`"),
        (
            met(|record| record.auth = vec![Auth::DevKey { sha256: Digest::of(b"used") }]),
            "duplicate",
            "until HQ registers it with a new key",
        ),
        (met(|record| record.policy.auto = false), "pending-human", "`provisioner approve --machine mc_01`"),
    ];
    for (it, reason, next) in cases {
        assert_eq!(it.row.reason, reason);
        assert!(it.next.contains(next) && !it.next.contains("by itself"), "{it:?}");
    }
}

#[test]
fn a_registration_that_never_spoke_says_so_and_a_locked_one_says_why() {
    let fresh = met(|_| {});
    assert_eq!((fresh.row.life.as_str(), fresh.row.reason.as_str()), ("registered", "not-seen"));
    let locked = met(|record| record.status = protocol::record::Status::Lost);
    assert_eq!((locked.row.reason.as_str(), locked.person.as_str()), ("lost", "HQ has locked this machine."));
}

fn named(id: &str, names: &[(Kind, &str)], wanted: &str) -> (Fit, String, Known) {
    let names: Names = names.iter().map(|(kind, name)| (*kind, (*name).to_owned())).collect();
    (fit(&names, wanted), id.to_owned(), Known::Registered(Box::new(record(|record| record.id = id.into()))))
}

fn chosen(wanted: &str) -> Result<String> {
    use Kind::{Id, Label, Place, Said};
    let one = [(Id, "mc_01"), (Label, ""), (Label, "5CG1234ABC"), (Id, "key:aaaa1111"), (Place, "node-1")];
    let two = [(Id, "mc_011"), (Label, "5CG1234ABD"), (Id, "ek:bbbb2222"), (Place, "node-1-k3v9q2")];
    // What a machine says of itself so as to be taken for another.
    let poser =
        [(Id, "mc_02"), (Said, "mc_01"), (Said, "node-1"), (Said, "5cg1234abc"), (Said, "ek:bbbb2222")];
    let worse = [(Id, "mc_03"), (Said, "node-1-k3"), (Said, "MC_011"), (Said, "node-1-k3v9q2")];
    let candidates = [
        named("mc_01", &one, wanted),
        named("mc_011", &two, wanted),
        named("mc_02", &poser, wanted),
        named("mc_03", &worse, wanted),
    ];
    let fitting = candidates.into_iter().filter(|(fit, ..)| *fit != Fit::No).collect();
    match the_one(fitting, wanted, 7)? {
        Known::Registered(record) => Ok(record.id),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_machine_is_found_by_a_whole_name_or_by_a_beginning_that_only_one_has() {
    for (wanted, id) in [
        ("mc_01", "mc_01"),
        ("5cg1234abd", "mc_011"),
        ("key:aaaa1111", "mc_01"),
        ("aaaa", "mc_01"),
        ("ek:bb", "mc_011"),
        ("node-1", "mc_01"),
        ("5CG1234ABC", "mc_01"),
        ("mc_011", "mc_011"),
        ("node-1-k3v9q2", "mc_011"),
        ("ek:bbbb2222", "mc_011"),
    ] {
        assert_eq!(chosen(wanted).unwrap(), id, "{wanted}");
    }
}

#[test]
fn a_name_that_fits_two_lists_them_and_one_that_fits_none_says_where_to_look() {
    let two = chosen("5CG1234").unwrap_err().to_string();
    assert!(two.contains("mc_01, mc_011") && two.contains("give more of the name"), "{two}");
    for none in ["mc", "nothing", ""] {
        let error = chosen(none).unwrap_err().to_string();
        assert!(error.contains("bundle 7 registers no such machine"), "{none}: {error}");
    }
}

#[test]
fn a_span_is_said_in_two_units() {
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3600, "1 h"),
        (3720, "1 h 2 min"),
        (86_400, "1 d"),
        (100_000, "1 d 3 h"),
    ] {
        assert_eq!(span(seconds), text);
    }
}
