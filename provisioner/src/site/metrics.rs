//! What is counted, in Prometheus' text format, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// The media type of the text: Prometheus 3 takes no answer that does not say what it is.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The values of one metric by the value of its label.
type Series = BTreeMap<String, u64>;

/// A metric: its name, what it means, its type, and the name of its one label.
struct Family(&'static str, &'static str, &'static str, &'static str);

const REQUESTS: Family =
    Family("nodeboot_requests_total", "Requests of machines that were read.", "counter", "path");
const REFUSALS: Family =
    Family("nodeboot_refusals_total", "What was refused: requests, datagrams, files.", "counter", "reason");
const ALARMS: Family = Family(
    "nodeboot_alarms_total",
    "What people were told of, also in the report to HQ.",
    "counter",
    "reason",
);
const MACHINES: Family =
    Family("nodeboot_machines", "Machines that the site knows, by where they stand.", "gauge", "life");
const BUNDLE: Family =
    Family("nodeboot_bundle_seq", "Number of HQ's bundle in force, 0 before the first.", "gauge", "site");

impl Family {
    fn write(&self, text: &mut String, series: &Series) {
        let Self(name, help, kind, label) = self;
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (value, number) in series {
            let _ = writeln!(text, "{name}{{{label}=\"{}\"}} {number}", escaped(value));
        }
    }
}

/// The value of a label as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[derive(Default)]
struct Counters(Mutex<Series>);

impl Counters {
    fn add(&self, label: &str) {
        let mut series = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match series.get_mut(label) {
            Some(count) => *count += 1,
            None => drop(series.insert(label.to_owned(), 1)),
        }
    }

    fn series(&self) -> Series {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What was counted since the program was started.
#[derive(Default)]
pub struct Metrics {
    requests: Counters,
    refusals: Counters,
    alarms: Counters,
}

impl Metrics {
    /// A request to this path was read; the path is one of the protocol's, never what a stranger wrote.
    pub fn request(&self, path: &'static str) {
        self.requests.add(path);
    }

    /// A request was refused.
    pub fn refusal(&self, reason: &str) {
        self.refusals.add(reason);
    }

    /// People were told of something.
    pub fn alarm(&self, reason: &str) {
        self.alarms.add(reason);
    }

    /// The text of `/metrics`, with what was looked at just now: how many machines have each life (none where the store
    /// does not answer), the site, and the number of its bundle.
    pub fn text(&self, lives: Option<&BTreeMap<String, u64>>, site: &str, seq: u64) -> String {
        let mut text = String::new();
        REQUESTS.write(&mut text, &self.requests.series());
        REFUSALS.write(&mut text, &self.refusals.series());
        ALARMS.write(&mut text, &self.alarms.series());
        if let Some(lives) = lives {
            MACHINES.write(&mut text, lives);
        }
        BUNDLE.write(&mut text, &Series::from([(site.to_owned(), seq)]));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_breaks_out_of_its_quotes() {
        let metrics = Metrics::default();
        metrics.refusal("a\"} 7\nb\\");
        let text = metrics.text(None, "ship-7", 3);
        assert!(text.contains("\nnodeboot_refusals_total{reason=\"a\\\"} 7\\nb\\\\\"} 1\n"), "{text}");
        assert!(text.ends_with("\nnodeboot_bundle_seq{site=\"ship-7\"} 3\n"), "{text}");
        assert!(!text.contains("nodeboot_machines"), "{text}");
    }
}
