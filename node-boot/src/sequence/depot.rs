//! A machine at the depot: its firmware comes to believe the owner, its row comes onto the stick, and it switches itself off.

use std::fs;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::id::Id;
use protocol::section::Depot;
use protocol::tpm::Ek;

use super::Awake;
use crate::cli::columns;
use crate::console::{ends, fails, say};
use crate::os::bank::Banks;
use crate::os::init::{System, power};
use crate::os::{disk, secure};
use crate::owner::images_of;
use crate::site::own;
use crate::state::write_file;
use crate::stop::pause;

/// The table on it that headquarters imports.
const TABLE: &str = "nodeboot/machines.csv";
/// Requests of provisioners on it, by the key of each machine's TPM: headquarters certifies those that it wants.
const REQUESTS: &str = "nodeboot/requests";
/// Where keys are made: what the request brings is all that has to last.
const BENCH: &str = "/run/provisioner";
/// Long enough to read what was done.
const TO_READ: Duration = Duration::from_secs(15);
/// Roles of a machine that nobody has given a slot yet.
const ROLES: &str = "worker";

/// One thing that is done at the depot.
struct Step {
    /// What it is about, for the screen.
    name: &'static str,
    /// Does it, or finds it done; what was done.
    run: fn(&Awake, &Depot) -> Result<String>,
}

/// Everything, in this order; one that fails does not keep the others from being done.
const STEPS: [Step; 5] = [
    Step { name: "Firmware", run: |_, depot| secure::enrol(&depot.keys).map(str::to_owned) },
    Step { name: "TPM", run: clear },
    Step { name: "Registration", run: register },
    Step { name: "Provisioner", run: request },
    Step { name: "Disk", run: flash },
];

impl Awake {
    /// Whether this machine was started from a depot's stick. The same bits on its own disk make no depot of a site.
    pub(super) fn at_depot(&self) -> Result<Option<Depot>> {
        let depot =
            self.depot.clone().filter(|_| self.at.system == Some(System::Live) && self.shut.is_none());
        let Some(depot) = depot.filter(|_| disk::stick().is_some()) else { return Ok(None) };
        let section = fs::read(&self.at.owner)?;
        ensure!(
            !disk::stick_is_memory(),
            "this is a depot's stick, fetched over the network: what it collects would be lost. Start from the stick itself"
        );
        let there = disk::with_stick(|stick| Ok(fs::read(stick.join(layout::OWNER)).unwrap_or_default()))?;
        Ok((there == section).then_some(depot))
    }

    /// Makes the machine ready for its site, and switches it off.
    pub(super) fn make_ready(&self, depot: &Depot) -> Result<()> {
        let mut failed = 0;
        for step in STEPS {
            match (step.run)(self, depot) {
                Ok(done) => say(&format!("{}: {done}.", step.name)),
                Err(error) => {
                    failed += 1;
                    say(&format!("{}: NOT DONE. {error:#}.", step.name));
                }
            }
        }
        if failed > 0 {
            fails("This machine is NOT ready: read above why. Switch it off by its power button.");
            while pause(TO_READ).is_ok() {}
            return Ok(());
        }
        ends(&format!(
            "This machine is ready for {}. It switches itself off; then pull the stick out.",
            depot.site
        ));
        // Whoever presses the power button meanwhile has read it.
        if pause(TO_READ).is_ok() {
            power::ask_for_end().context("asking for the end")?;
            let _ = pause(super::PATIENCE_FOR_END);
        }
        Ok(())
    }
}

/// Whoever had the machine before has no key in its TPM, and nothing that he sealed to it, from here on. What was made in it for
/// this owner stays.
fn clear(awake: &Awake, _: &Depot) -> Result<String> {
    let Some(chip) = &awake.identity.tpm else { return Ok("this machine has none".to_owned()) };
    let is_known = disk::with_stick(|stick| Ok(is_known(stick, &chip.eks)))?;
    if let Some(why) = is_needed(disk::holds_ours()?, is_known) {
        return Ok(format!("left as it is: {why}"));
    }
    let mut tpm = chip.tpm.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = tpm.clear() {
        return Ok(format!(
            "not cleared, and what others made in it stays: {error}. The firmware's setup may clear it"
        ));
    }
    ensure!(
        tpm.eks()? == chip.eks,
        "cleared, its endorsement keys are others: start from the stick once more"
    );
    Ok("cleared: nothing that others made in it is good any more".to_owned())
}

/// Why what is in the TPM has to stay there.
fn is_needed(holds_ours: bool, is_known: bool) -> Option<&'static str> {
    match (holds_ours, is_known) {
        (true, _) => Some("a disk of this machine is sealed to it, or may be"),
        (false, true) => Some("the stick has what was made in it before"),
        (false, false) => None,
    }
}

/// Whether a stick has the request of a machine's provisioner, or what came of that.
fn is_known(stick: &Path, eks: &[Ek]) -> bool {
    let requests = eks.iter().filter_map(|ek| if let Id::Ek(ek) = ek.id() { Some(ek) } else { None });
    let requests = requests.map(|ek| format!("{REQUESTS}/{ek}.json"));
    requests.chain(own::files(eks)).any(|file| stick.join(file).exists())
}

/// The machine's row comes into the stick's table.
fn register(awake: &Awake, depot: &Depot) -> Result<String> {
    let mut row: Vec<_> = columns(&awake.identity, &awake.facts).to_vec();
    // A key in a file is gone when the machine is switched off: it is none to be known by.
    row.retain(|(name, _)| *name != "dev-key");
    let serial = row.iter().find(|(name, _)| *name == "serial").map(|(_, value)| value.clone());
    let serial = serial.unwrap_or_default();
    let has_key = row.iter().any(|(name, value)| name.starts_with("ek-") && !value.is_empty());
    ensure!(
        has_key || !serial.is_empty(),
        "this machine has neither a TPM nor a serial: see in the firmware's setup whether its TPM is switched off"
    );
    row.extend([("site", depot.site.clone()), ("slot", String::new()), ("roles", ROLES.to_owned())]);
    let is_new = disk::with_stick(|stick| {
        let path = stick.join(TABLE);
        let before = if path.exists() { fs::read_to_string(&path)? } else { String::new() };
        let Some(table) = with_row(&before, &row)? else { return Ok(false) };
        write_file(&path, table.as_bytes(), 0o644)?;
        Ok(true)
    })?;
    let done = if is_new { "its row is in" } else { "its row is already in" };
    let by = if has_key { "the key of its TPM" } else { "its label only: it has no TPM" };
    Ok(format!("{done} {TABLE} on the stick, by {by}"))
}

/// The machine's request to be a provisioner of its site comes onto the stick.
fn request(awake: &Awake, depot: &Depot) -> Result<String> {
    let chip = awake.identity.tpm.as_ref().zip(awake.at.tpm.as_ref());
    let Some((chip, spec)) = chip else {
        return Ok("none is asked for: this machine has no TPM".to_owned());
    };
    let Some(Id::Ek(ek)) = chip.eks.first().map(Ek::id) else { bail!("its TPM has no endorsement key") };
    let file = format!("{REQUESTS}/{ek}.json");
    if disk::with_stick(|stick| Ok(stick.join(&file).exists()))? {
        return Ok("its request is on the stick already".to_owned());
    }
    let text = own::request(&depot.site, Path::new(BENCH), Some(&spec.to_string()), &awake.at.owner)?;
    disk::with_stick(|stick| write_file(&stick.join(&file), text.as_bytes(), 0o644))?;
    Ok(format!("its request is on the stick, in {REQUESTS}"))
}

/// The table with this machine's row; none where it is in it.
fn with_row(before: &str, row: &[(&'static str, String)]) -> Result<Option<String>> {
    let names: Vec<_> = row.iter().map(|(name, _)| *name).collect();
    let header = names.join(",");
    if before.lines().next().is_some_and(|first| first != header) {
        bail!("the stick's {TABLE} is another table: move it away. Its first line is to be {header}");
    }
    let place = names.iter().position(|name| *name == "serial").unwrap_or_default();
    let keys: Vec<_> =
        row.iter().filter(|(name, value)| name.starts_with("ek-") && !value.is_empty()).collect();
    let is_it = |line: &str| {
        let cells: Vec<_> = line.split(',').collect();
        if keys.is_empty() {
            return cells.get(place).is_some_and(|serial| *serial == row[place].1);
        }
        keys.iter().any(|(_, key)| cells.contains(&key.as_str()))
    };
    if before.lines().skip(1).any(is_it) {
        return Ok(None);
    }
    let values: Vec<_> = row.iter().map(|(_, value)| value.as_str()).collect();
    let start = if before.is_empty() { header + "\n" } else { before.to_owned() };
    let gap = if start.ends_with('\n') { "" } else { "\n" };
    Ok(Some(format!("{start}{gap}{}\n", values.join(","))))
}

/// What is on the stick comes onto the machine's disk, where headquarters wants that.
fn flash(awake: &Awake, depot: &Depot) -> Result<String> {
    if !depot.flash {
        return Ok("left as it is, as headquarters wants it".to_owned());
    }
    let banks = Banks::installed(&images_of(&awake.at.owner)?);
    disk::flash(&banks.context("the stick does not say what is on it")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The endorsement key of the specification's vectors.
    const EK: &str = concat!(
        "ACMACwADALIAIINxl2dEhLP4GpDMjUal1yT9UtduBlILZPKh2hszFGmqAAYAgABDABAAAwAQACBNAV5f7_",
        "dmiygVOsaCyBnxsivQ2UZ7yAFdomdjwaTUaQAgyoA-ATsp42nnf3IG5ykl_Qokwm-_Gll1HA3xWkuTcTg"
    );

    #[test]
    fn a_tpm_is_emptied_only_where_neither_a_disk_nor_the_stick_needs_what_is_in_it() {
        assert_eq!(is_needed(false, false), None);
        assert!(is_needed(false, true).unwrap().contains("the stick"));
        for known in [false, true] {
            assert!(is_needed(true, known).unwrap().contains("a disk of this machine"));
        }
    }

    fn row(serial: &str, key: &str) -> Vec<(&'static str, String)> {
        vec![("serial", serial.to_owned()), ("ek-p256", key.to_owned()), ("site", "ship-7".to_owned())]
    }

    #[test]
    fn a_tpm_whose_request_the_stick_has_or_what_came_of_it_is_known() {
        let stick = tempfile::tempdir().unwrap();
        let public = protocol::bytes::from_b64u(EK).unwrap();
        let eks = [Ek::parse(&public).unwrap()];
        let Id::Ek(hash) = eks[0].id() else { panic!("an endorsement key") };
        assert!(!is_known(stick.path(), &eks));
        for file in [format!("{REQUESTS}/{hash}.json"), layout::provisioner(hash)] {
            write_file(&stick.path().join(&file), b"{}", 0o600).unwrap();
            assert!(is_known(stick.path(), &eks), "{file}");
            fs::remove_file(stick.path().join(&file)).unwrap();
        }
    }

    #[test]
    fn a_machine_has_one_row_however_often_it_is_plugged_in() {
        let one = with_row("", &row("A1", "key-1")).unwrap().unwrap();
        assert_eq!(one, "serial,ek-p256,site\nA1,key-1,ship-7\n");
        assert_eq!(with_row(&one, &row("A1", "key-1")).unwrap(), None);
        assert_eq!(with_row(&one, &row("", "key-1")).unwrap(), None, "a key is the machine");
        // The same label on other hardware is another machine: headquarters is to see both.
        let two = with_row(&one, &row("A1", "key-2")).unwrap().unwrap();
        assert_eq!(two, format!("{one}A1,key-2,ship-7\n"));
        let three = with_row(two.trim_end(), &row("A3", "")).unwrap().unwrap();
        assert_eq!(three, format!("{two}A3,,ship-7\n"), "an editor may leave out the last line's end");
        assert_eq!(with_row(&three, &row("A3", "")).unwrap(), None);
        let said = with_row("a;b\n", &row("A1", "key-1")).unwrap_err().to_string();
        assert!(said.contains("move it away"), "{said}");
    }
}
