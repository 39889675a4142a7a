//! A machine that may use none of its disks, and a person who says that what one of them holds may be overwritten.

use anyhow::{Result, ensure};
use decide::Alarm;
use protocol::clock::{DAY, Time};
use protocol::messages::{Act, NoDisk, Order, StatusRequest};
use serde::{Deserialize, Serialize};

use super::admin::Heeded;
use super::machine::Machine;
use super::store::{Look as _, MACHINES};
use super::{Site, explain};
use crate::plain;

/// Name of the order.
const OVERWRITE: &str = "overwrite";
/// Disks of one machine that a person can say yes to.
const MOST: usize = 16;
/// Symbols of what is on them all: a person chooses one by that.
const FOUND: usize = 4000;
/// For so long, seconds, a yes is good: nobody changes what is on the disk meanwhile.
const GOOD: i64 = 3600;

/// A person's yes to one disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Yes {
    /// The disk's mark.
    pub mark: String,
    /// Until when it is good.
    pub until: Time,
}

/// What a machine says, as it is kept.
pub(super) fn kept(said: Option<&NoDisk>) -> Option<NoDisk> {
    said.map(|none| NoDisk {
        found: plain::shown(&none.found).chars().take(FOUND).collect(),
        marks: none.marks.iter().take(MOST).map(|mark| plain::word(mark)).collect(),
    })
}

impl Machine {
    /// Notes which disks it has found; a yes to one that it does not show any more is over.
    pub(super) fn finds(&mut self, none: Option<NoDisk>) {
        let shown = |yes: &Yes| none.as_ref().is_some_and(|none| none.marks.contains(&yes.mark));
        self.overwrite = self.overwrite.take().filter(shown);
        self.no_disk = none;
    }

    /// A person's yes that is still good.
    pub(super) fn yes_to_disk(&self, now: Time) -> Option<&Yes> {
        self.overwrite.as_ref().filter(|yes| now <= yes.until)
    }

    /// The order that a person's yes is, as long as the machine shows that disk.
    pub(super) fn order_to_overwrite(&self, asked: &StatusRequest, now: Time) -> Option<Order> {
        let shown = &asked.health.no_disk.as_ref()?.marks;
        let mark = self.yes_to_disk(now).map(|yes| yes.mark.clone()).filter(|mark| shown.contains(mark))?;
        Some(Order { id: OVERWRITE.to_owned(), act: Act::Overwrite { mark } })
    }
}

impl Site {
    /// Tells people once in a while of a machine that cannot be installed.
    pub(super) async fn note_disks(&self, id: &str, asked: &StatusRequest) {
        if asked.health.no_disk.is_some() {
            self.alarm_every(DAY.unsigned_abs(), Alarm::NoDisk, id).await;
        }
    }

    /// A person's yes: the disk of this mark of the machine called `wanted` is emptied, and the system put on it.
    pub async fn let_overwrite(&self, wanted: &str, mark: &str) -> Result<Heeded> {
        let machine = explain::find_machine(self, wanted)?;
        let name = machine.node().unwrap_or_else(|| machine.id.clone());
        let marks = machine.no_disk.as_ref().map(|none| none.marks.as_slice()).unwrap_or_default();
        ensure!(!marks.is_empty(), "{name} waits for no disk: there is nothing to overwrite");
        ensure!(
            marks.iter().any(|shown| shown == mark),
            "{name} shows no disk {mark}, but {}: `provisioner explain {name}` says what is on each",
            marks.join(", ")
        );
        let (id, s) = (machine.id, machine.s);
        let yes = Yes { mark: mark.to_owned(), until: self.now().plus(GOOD) };
        let named = id.clone();
        let change = self.store.write(move |tx| {
            if let Some(mut machine) = tx.get::<Machine>(MACHINES, &named)? {
                machine.overwrite = Some(yes);
                tx.put(MACHINES, &named, &machine)?;
            }
            Ok(())
        });
        change.await?;
        self.call(s);
        Ok(Heeded { machine: id, running: None })
    }
}

#[cfg(test)]
mod tests {
    use protocol::messages::Health;

    use super::*;

    #[test]
    fn a_yes_to_a_disk_is_good_for_its_time_and_for_that_disk() {
        let until = Time(1_800_000_000);
        let overwrite = Some(Yes { mark: "1a2b3c4d".into(), until });
        let machine = Machine { overwrite, ..Machine::default() };
        let order = |mark: &str, now| {
            let no_disk = Some(NoDisk { found: String::new(), marks: vec![mark.to_owned()] });
            let health = Health { no_disk, ..Health::default() };
            machine.order_to_overwrite(&StatusRequest { health, ..StatusRequest::default() }, now)
        };
        assert_eq!(
            order("1a2b3c4d", until).map(|order| order.act),
            Some(Act::Overwrite { mark: "1a2b3c4d".into() })
        );
        assert_eq!(order("1a2b3c4d", until.plus(1)), None);
        assert_eq!(order("00000001", until), None);
    }
}
