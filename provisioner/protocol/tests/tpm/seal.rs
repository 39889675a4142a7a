//! Secrets sealed to a TPM and to what it measured.

use std::sync::Arc;

use protocol::bytes::{Digest, b64u, from_b64u};
use protocol::tpm::{Error, Sealed, Tpm};

use super::chip::{Heard, Machine, Wire};

#[test]
fn a_secret_is_given_out_after_a_power_cut_and_not_once_it_was_closed_or_pcr_7_is_another() {
    let Some(machine) = Machine::blank() else { return };
    let power = machine.power_on();
    let heard: Heard = Arc::default();
    let mut tpm = machine.checked(&heard, false);
    let kept = serde_json::to_string(&tpm.seal(&[7; 64]).unwrap()).unwrap();
    let blob: Sealed = serde_json::from_str(&kept).unwrap();
    drop((tpm, power));
    let power = machine.power_on();
    let mut tpm = machine.checked(&heard, true);
    let key = tpm.create_key().unwrap();
    assert_eq!(*tpm.unseal(&blob).unwrap(), [7; 64]);
    assert!(tpm.sign(&key, &Digest::of(b"keys work beside it")).is_ok());
    assert_eq!(*tpm.unseal(&blob).unwrap(), [7; 64], "again");
    tpm.close().unwrap();
    assert!(tpm.unseal(&blob).unwrap_err().changed());
    let later = tpm.seal(&[9; 32]).unwrap();
    assert!(tpm.unseal(&later).unwrap_err().changed(), "closed for what is sealed now, too");
    drop((tpm, power));
    // TPM2_PCR_Extend of PCR 7, as other firmware does.
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    assert_eq!(*tpm.unseal(&blob).unwrap(), [7; 64], "a new start opens it again");
    assert_eq!(*tpm.unseal(&later).unwrap(), [9; 32], "and what was sealed once it was closed");
    extend(&machine, 7);
    let refused = tpm.unseal(&blob).unwrap_err();
    assert!(refused.changed() && !refused.foreign(), "{refused}");
    assert!(refused.to_string().contains("firmware"), "{refused}");
    let anew = tpm.seal(&[8; 32]).unwrap();
    assert_eq!(*tpm.unseal(&anew).unwrap(), [8; 32], "sealed anew");
}

#[test]
fn what_is_sealed_is_of_a_size_that_every_tpm_takes() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    for (length, fits) in [(31, false), (32, true), (64, true), (65, false)] {
        assert_eq!(tpm.seal(&vec![1; length]).is_ok(), fits, "{length}");
    }
}

#[test]
fn a_secret_of_another_or_a_cleared_tpm_is_foreign_and_an_altered_one_too() {
    let (Some(one), Some(two)) = (Machine::blank(), Machine::blank()) else { return };
    let (_power, _other) = (one.power_on(), two.power_on());
    let mut first = Tpm::open(&one.spec()).unwrap();
    let blob = first.seal(&[7; 32]).unwrap();
    let refused = Tpm::open(&two.spec()).unwrap().unseal(&blob).unwrap_err();
    assert!(refused.foreign() && !refused.changed(), "{refused}");
    // Attributes that would let an empty password open it.
    let mut altered = serde_json::to_value(&blob).unwrap();
    let public = from_b64u(altered["public"].as_str().unwrap()).unwrap();
    let public = [&public[..7], &[0x52], &public[8..]].concat();
    altered["public"] = b64u(&public).into();
    assert!(first.unseal(&serde_json::from_value(altered).unwrap()).unwrap_err().foreign());
    Wire::to(&one).command(0x126, &[0x4000_000a], &[]);
    assert!(first.unseal(&blob).unwrap_err().foreign(), "cleared");
    assert!(first.seal(&[7; 32]).is_ok());
}

#[test]
fn a_tpm_that_somebody_owns_or_that_is_broken_is_not_taken_for_a_changed_machine() {
    let Some(machine) = Machine::blank() else { return };
    let power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let blob = tpm.seal(&[7; 32]).unwrap();
    // TPM2_HierarchyChangeAuth of the owner.
    Wire::to(&machine).command(0x129, &[0x4000_0001], &[0, 3, b'a', b'b', b'c']);
    let refused = tpm.unseal(&blob).unwrap_err();
    assert!(
        !refused.changed() && !refused.foreign() && refused.to_string().contains("password"),
        "{refused}"
    );
    drop(power);
    let silent = tpm.unseal(&blob).unwrap_err();
    assert!(matches!(silent, Error::Silent { .. }) && !silent.changed() && !silent.foreign(), "{silent}");
}

#[test]
fn a_tpm_that_is_locked_after_wrong_passwords_gives_the_secret_out() {
    let Some(machine) = Machine::blank() else { return };
    let _power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    let blob = tpm.seal(&[7; 32]).unwrap();
    // TPM2_DictionaryAttackParameters: no failure at all is allowed.
    let none = [0u32, 1000, 1000].map(u32::to_be_bytes).concat();
    Wire::to(&machine).command(0x13a, &[0x4000_000a], &none);
    assert_eq!(*tpm.unseal(&blob).unwrap(), [7; 32]);
}

#[test]
fn a_tpm_whose_sha_256_bank_is_off_says_what_to_switch_on() {
    let Some(machine) = Machine::blank() else { return };
    let power = machine.power_on();
    let mut tpm = Tpm::open(&machine.spec()).unwrap();
    // TPM2_PCR_Allocate by the platform: no register of SHA-256, all of SHA-384, from the next start on.
    let banks = [&[0, 0, 0, 2][..], &[0, 0x0b, 3, 0, 0, 0], &[0, 0x0c, 3, 0xff, 0xff, 0xff]].concat();
    Wire::to(&machine).command(0x12b, &[0x4000_000c], &banks);
    drop(power);
    let _power = machine.power_on();
    let refused = tpm.seal(&[7; 32]).unwrap_err();
    assert!(matches!(refused, Error::NoBank) && refused.to_string().contains("firmware setup"), "{refused}");
}

/// Extends a PCR, as firmware and systems do.
fn extend(machine: &Machine, pcr: u32) {
    let values = [&[0, 0, 0, 1, 0, 0x0b][..], &[9; 32]].concat();
    Wire::to(machine).command(0x182, &[pcr], &values);
}
