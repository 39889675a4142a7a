//! The machine's clock, set by what its site says: what is signed today is no use to a machine that lives in 1970.

use std::sync::atomic::{AtomicBool, Ordering};

use protocol::clock::{FARTHEST_RTC, Time, known_rtc, system};
use protocol::messages::Clock;
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::console::say;

/// A clock that is so many seconds off is left alone.
const TOLERANCE: i64 = 2;

static COMPLAINED: AtomicBool = AtomicBool::new(false);

/// Sets the clock by what a site said that has proved itself; `asked` is what it showed when the site was asked. Where
/// a test tells the time, or says that the clock is not this machine's alone (`NODEBOOT_CLOCK=host`), it is only said.
pub fn follow(told: &Clock, floor: Time, asked: Option<Time>) {
    let Some(target) = decide(told, floor, asked.zip(system())) else { return };
    if std::env::var_os("NODEBOOT_CLOCK").is_some() {
        return say(&format!("The clock of this machine would be set to {target}."));
    }
    match clock_settime(ClockId::Realtime, Timespec { tv_sec: target.0, tv_nsec: 0 }) {
        Ok(()) => say(&format!("The clock of this machine is set to {target}, as its site says.")),
        Err(error) => {
            if !COMPLAINED.swap(true, Ordering::Relaxed) {
                say(&format!("The clock of this machine is wrong, and cannot be set to {target}: {error}."));
            }
        }
    }
}

/// To what the clock is set; none where it stays as it is. `own` is what it showed when the site was asked and when the
/// answer was there: anything between the two is right.
fn decide(told: &Clock, floor: Time, own: Option<(Time, Time)>) -> Option<Time> {
    let target = told.now.max(floor);
    let Some((asked, answered)) = own else { return Some(target) };
    let known = known_rtc(Some(answered), floor).is_some();
    // A site that is unsure, or lives in a time that no clock of ours would be believed in, changes no good clock.
    if known && (told.uncertain || target > floor.plus(FARTHEST_RTC)) {
        return None;
    }
    let right = asked.plus(-TOLERANCE)..=answered.plus(TOLERANCE);
    (!right.contains(&target)).then_some(target)
}

#[cfg(test)]
mod tests {
    use protocol::clock::{DAY, YEAR};

    use super::*;

    const FLOOR: Time = Time(1_800_000_000);
    const NOW: Time = Time(1_800_000_000 + 40 * DAY);

    fn set_to(now: Time, uncertain: bool, own: Time) -> Option<Time> {
        decide(&Clock { now, uncertain }, FLOOR, Some((own, own)))
    }

    #[test]
    fn a_machine_without_a_good_clock_gets_its_sites_time_and_never_less_than_the_floor() {
        for own in [Time(60), FLOOR.plus(-DAY), NOW.plus(64 * YEAR)] {
            for uncertain in [false, true] {
                assert_eq!(set_to(NOW, uncertain, own), Some(NOW));
                assert_eq!(set_to(Time(60), uncertain, own), Some(FLOOR), "the site knows less than we do");
                assert_eq!(set_to(FLOOR.plus(9 * YEAR), uncertain, own), Some(FLOOR.plus(9 * YEAR)));
            }
        }
        assert_eq!(decide(&Clock { now: NOW, uncertain: true }, FLOOR, None), Some(NOW));
    }

    #[test]
    fn a_good_clock_follows_a_site_that_is_sure_and_no_other() {
        let own = NOW.plus(DAY);
        assert_eq!(set_to(NOW, false, own), Some(NOW));
        assert_eq!(set_to(NOW, true, own), None);
        assert_eq!(set_to(Time(60), false, own), Some(FLOOR));
        assert_eq!(set_to(Time(60), true, own), None, "never the floor where a clock is known");
        assert_eq!(set_to(FLOOR.plus(9 * YEAR), false, own), None);
    }

    #[test]
    fn a_clock_that_is_right_is_left_alone_however_long_the_answer_took() {
        let told = Clock { now: NOW, uncertain: false };
        let own = |asked, answered| decide(&told, FLOOR, Some((NOW.plus(asked), NOW.plus(answered))));
        assert_eq!([own(0, 0), own(-2, -2), own(2, 2), own(-20, 0), own(0, 20)], [None; 5]);
        assert_eq!([own(3, 3), own(-9, -3), own(3, 9)], [Some(NOW); 3]);
    }
}
