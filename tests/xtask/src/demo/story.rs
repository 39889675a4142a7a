//! A story that is told as it happens, with a table of times at its end.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::stage::{DEADLINE, Site};

const POD: &str = r"apiVersion: v1
kind: Pod
metadata: { name: NAME }
spec:
  terminationGracePeriodSeconds: 1
  nodeName: NODE
  containers:
  - { name: hello, image: localhost/hello:1, imagePullPolicy: Never }
";

/// What is told, with the time each step took.
pub struct Story {
    start: Instant,
    steps: Vec<(String, Duration)>,
}

impl Story {
    /// From now on.
    pub fn begin() -> Self {
        Self { start: Instant::now(), steps: Vec::new() }
    }

    /// Tells what happens, and when.
    pub fn say(&self, text: &str) {
        let colour = std::io::stdout().is_terminal();
        let at = self.start.elapsed().as_secs_f64();
        if colour {
            println!("\x1b[2m{at:6.1} s\x1b[0m  {text}");
        } else {
            println!("{at:6.1} s  {text}");
        }
    }

    /// Does one step, and keeps its time.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        let done = work().with_context(|| name.to_owned())?;
        self.steps.push((name.to_owned(), begin.elapsed()));
        Ok(done)
    }

    /// The time of each step, and of everything.
    pub fn table(&self) -> String {
        let mut table = format!("\n{:<62} {:>8}\n", "step", "seconds");
        let all = ("everything".to_owned(), self.start.elapsed());
        for (name, took) in self.steps.iter().chain([&all]) {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "{name:<62} {:>8.2}", took.as_secs_f64());
        }
        table
    }

    /// Runs a Pod on a Node; the Pod's address.
    pub fn pod(&mut self, site: &Site, who: &str, node: &str) -> Result<String> {
        let account = ["get", "sa", "default"];
        site.plane.kubectl_until("the default account", DEADLINE, &account, |_| true)?;
        let pod = format!("hello-{node}");
        let address = self.step(&format!("{who}: a Pod on it runs"), || {
            site.plane.apply(&POD.replace("NAME", &pod).replace("NODE", node))?;
            let words = ["get", "pod", &pod, "-o", "jsonpath={.status.phase} {.status.podIP}"];
            Ok(site.plane.kubectl_until("the Pod", DEADLINE, &words, |said| said.starts_with("Running "))?)
        })?;
        self.say(&format!("A Pod runs on {node}."));
        Ok(address.split(' ').nth(1).unwrap_or_default().to_owned())
    }
}

/// Lines that somebody else said.
pub fn indent(text: &str) -> String {
    text.lines().fold(String::new(), |mut all, line| {
        let _ = writeln!(all, "          | {line}");
        all
    })
}
