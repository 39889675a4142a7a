//! What is counted, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

/// Counters by name and label.
#[derive(Default)]
pub struct Metrics(Mutex<BTreeMap<(&'static str, String), u64>>);

impl Metrics {
    fn add(&self, name: &'static str, label: &str) {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counters.get_mut(&(name, label.to_owned())) {
            Some(count) => *count += 1,
            None => drop(counters.insert((name, label.to_owned()), 1)),
        }
    }

    /// A request was answered.
    pub fn request(&self, message: &str) {
        self.add("nodeboot_requests_total", message);
    }

    /// A request was refused.
    pub fn refusal(&self, reason: &str) {
        self.add("nodeboot_refusals_total", reason);
    }

    /// People were told of something.
    pub fn alarm(&self, reason: &str) {
        self.add("nodeboot_alarms_total", reason);
    }

    /// The text of `/metrics`, with gauges that were looked at just now: name, label value, value.
    pub fn text(&self, gauges: &[(&str, String, f64)]) -> String {
        let mut text = String::new();
        let mut last = "";
        for ((name, label), count) in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if *name != last {
                let _ = writeln!(text, "# TYPE {name} counter");
                last = name;
            }
            let _ = writeln!(text, "{name}{{reason=\"{label}\"}} {count}");
        }
        let mut last = "";
        for (name, label, value) in gauges {
            if *name != last {
                let _ = writeln!(text, "# TYPE {name} gauge");
                last = name;
            }
            let _ = writeln!(text, "{name}{{label=\"{label}\"}} {value}");
        }
        text
    }
}
