//! Times on the wire, and what time it is at least when no clock can be trusted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::bytes::Malformed;

/// A point in time: whole seconds since 1970-01-01T00:00:00Z. Text form: RFC 3339 with `Z`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub i64);

/// Seconds in a day.
pub const DAY: i64 = 86_400;
/// Seconds in a year of 365 days.
pub const YEAR: i64 = 365 * DAY;
/// A real-time clock further ahead of the floor than this is not believed.
pub const FARTHEST_RTC: i64 = 3 * YEAR;
/// 9999-12-31T23:59:59Z, "no end" in RFC 5280 section 4.1.2.5.
pub(crate) const NEVER: Time = Time(253_402_300_799);

impl Time {
    /// This many seconds later (earlier when negative).
    #[must_use]
    pub fn plus(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds).clamp(0, NEVER.0))
    }

    /// Seconds from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }

    /// For libraries that count from the same epoch.
    pub(crate) fn as_unix(self) -> rustls_pki_types::UnixTime {
        rustls_pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.since(Self(0))))
    }

    /// For certificate builders.
    pub(crate) fn as_date(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_date().format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Time {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        const SHAPE: Malformed = Malformed("a time like 2026-11-22T12:00:00Z");
        if text.len() != 20 || !text.ends_with('Z') {
            return Err(SHAPE);
        }
        OffsetDateTime::parse(text, &Rfc3339).map(|date| Self(date.unix_timestamp())).map_err(|_| SHAPE)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The computer's clock; none where it cannot be read as a time after 1970. A build with debug assertions believes
/// `NODEBOOT_CLOCK` (seconds since 1970) instead, by which a test tells it another time.
pub fn system() -> Option<Time> {
    // A boot loader's words reach the first program of a machine as environment: no release believes them.
    if cfg!(debug_assertions)
        && let Some(told) = std::env::var("NODEBOOT_CLOCK").ok().and_then(|text| text.parse().ok())
    {
        return Some(Time(told));
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok().map(Time)
}

/// The real-time clock, if it can be believed: not before the floor, not more than three years after it.
pub fn known_rtc(rtc: Option<Time>, floor: Time) -> Option<Time> {
    rtc.filter(|rtc| *rtc >= floor && *rtc <= floor.plus(FARTHEST_RTC))
}

/// The time used for validity checks: it is at least this late. `starts` are the notBefore times of the chain at
/// hand, so "not yet valid" never blocks while "expired" still does.
pub fn effective(floor: Time, rtc: Option<Time>, starts: impl IntoIterator<Item = Time>) -> Time {
    starts.into_iter().chain(known_rtc(rtc, floor)).fold(floor, Time::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOV: Time = Time(1_795_348_800);

    #[test]
    fn times_read_and_write_as_rfc_3339() {
        assert_eq!(NOV.to_string(), "2026-11-22T12:00:00Z");
        assert_eq!("2026-11-22T12:00:00Z".parse(), Ok(NOV));
        for bad in
            ["2026-11-22T12:00:00+00:00", "2026-11-22T12:00:00.5Z", "2026-11-22", "2026-13-22T12:00:00Z", ""]
        {
            assert!(bad.parse::<Time>().is_err(), "{bad}");
        }
        assert_eq!(NEVER.to_string(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn a_clock_at_1970_or_2090_is_not_believed() {
        assert_eq!(known_rtc(Some(Time(60)), NOV), None);
        assert_eq!(known_rtc(Some(NOV.plus(64 * YEAR)), NOV), None);
        assert_eq!(known_rtc(Some(NOV.plus(YEAR)), NOV), Some(NOV.plus(YEAR)));
    }

    #[test]
    fn effective_time_is_never_before_the_chain_nor_the_floor() {
        assert_eq!(effective(NOV, Some(Time(60)), [NOV.plus(5), NOV.plus(-9)]), NOV.plus(5));
        assert_eq!(effective(NOV, None, []), NOV);
    }
}
