//! Runs every tier of tests that exists, one line per tier, then the sum.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{deny, lock, need};

/// Between two signs of life while a tier runs.
const SIGN_OF_LIFE: Duration = Duration::from_secs(20);

/// How a tier went.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// A tier: its name, what is looked at, what is run, and why it cannot be run here.
struct Tier {
    name: &'static str,
    checks: &'static [fn() -> Result<()>],
    commands: Vec<Vec<&'static str>>,
    missing: fn() -> Option<String>,
}

fn nothing() -> Option<String> {
    None
}

/// Every tier; tests that are marked as ignored, because they take longer than a run of CI can give them, only in a long run.
fn tiers(long: bool) -> Vec<Tier> {
    let cargo = |words: &'static str| words.split(' ').collect::<Vec<_>>();
    let tier = |name, commands: &[&'static str], missing| Tier {
        name,
        checks: &[],
        commands: commands.iter().map(|words| cargo(words)).collect(),
        missing,
    };
    let machine = if long {
        "test -p tests --test machine -- --test-threads=1 --include-ignored"
    } else {
        "test -p tests --test machine -- --test-threads=1"
    };
    let style =
        tier("style", &["fmt --all --check", "clippy --workspace --all-targets -- -D warnings"], nothing);
    vec![
        Tier { checks: &[lock::check], ..style },
        tier("licences", &["deny check bans licenses sources"], deny::missing),
        tier("unit", &["test --workspace --exclude tests --exclude harness"], nothing),
        tier("wire", &["test -p tests --test wire"], harness::missing),
        tier("harness", &["test -p harness -- --test-threads=1"], harness::missing_for_cluster),
        tier("cluster", &["test -p tests --test cluster -- --test-threads=1"], harness::missing_for_cluster),
        tier("machine", &[machine], harness::missing_for_machine),
    ]
}

/// Runs the tiers whose name contains `only`, or all; with `long` also the tests that CI leaves out.
pub fn test(only: Option<&str>, long: bool) -> Result<()> {
    let tiers = tiers(long);
    let names: Vec<_> = tiers.iter().map(|tier| tier.name).collect();
    if let Some(only) = only.filter(|only| !names.iter().any(|name| name.contains(only))) {
        bail!("no tier is called {only}: there are {}", names.join(", "));
    }
    need::need()?;
    let logs = Path::new("target/tiers");
    std::fs::create_dir_all(logs).context("creating target/tiers for the logs")?;
    let mut total = Count::default();
    let mut lines = Vec::new();
    for tier in tiers.iter().filter(|tier| only.is_none_or(|only| tier.name.contains(only))) {
        let start = Instant::now();
        let (count, note) = match (tier.missing)() {
            Some(why) => (Count { skipped: 1, ..Count::default() }, format!(" ({why})")),
            None => (run(tier, &logs.join(format!("{}.log", tier.name)))?, String::new()),
        };
        let line = format!("tier {:<9} {count}{note}, {} s", tier.name, start.elapsed().as_secs());
        println!("{line}");
        lines.push(line);
        total.passed += count.passed;
        total.failed += count.failed;
        total.skipped += count.skipped;
    }
    println!("\n{}\n\n{total}", lines.join("\n"));
    if total.failed > 0 {
        bail!("{} failed; the whole output of each tier is under {}", total.failed, logs.display());
    }
    Ok(())
}

fn run(tier: &Tier, log: &Path) -> Result<Count> {
    let mut log = File::create(log).with_context(|| format!("creating {}", log.display()))?;
    let mut sum = Count::default();
    for check in tier.checks {
        match check() {
            Ok(()) => sum.passed += 1,
            Err(wrong) => {
                println!("  | {wrong:#}");
                writeln!(log, "{wrong:#}")?;
                sum.failed += 1;
            }
        }
    }
    for words in &tier.commands {
        let before = sum.passed + sum.failed + sum.skipped;
        let good = run_one(tier.name, words, &mut log, &mut sum)?;
        if before == sum.passed + sum.failed + sum.skipped {
            // A check without test lines counts as one test.
            if good { sum.passed += 1 } else { sum.failed += 1 }
        } else if !good && sum.failed == 0 {
            sum.failed += 1;
        }
    }
    Ok(sum)
}

fn run_one(tier: &str, words: &[&str], log: &mut File, sum: &mut Count) -> Result<bool> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log.try_clone()?);
    // Here a test whose needs are missing must say so as a failure: the tier was found fit to run.
    command.env("TIERS_MUST_RUN", "1").env("CARGO_TERM_COLOR", "never");
    println!("tier {tier}: cargo {}", words.join(" "));
    let mut child = command.spawn().with_context(|| format!("starting cargo {}", words.join(" ")))?;
    let output = child.stdout.take().context("the output of cargo")?;
    let mut last = Instant::now();
    let mut quiet = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        writeln!(log, "{line}")?;
        if let Some(name) = line.strip_prefix("test ") {
            note(name, sum);
            if last.elapsed() > SIGN_OF_LIFE {
                println!("tier {tier}: {sum} so far");
                last = Instant::now();
            }
        }
        quiet.push(line);
    }
    let good = child.wait()?.success();
    if !good {
        let from =
            quiet.iter().position(|line| line == "failures:").unwrap_or(quiet.len().saturating_sub(60));
        quiet[from..].iter().take(200).for_each(|line| println!("  | {line}"));
    }
    Ok(good)
}

/// Counts one line of the test runner: `<name> ... ok`.
fn note(line: &str, sum: &mut Count) {
    if line.ends_with("... ok") || line.ends_with("- should panic ... ok") {
        sum.passed += 1;
    } else if line.ends_with("... FAILED") {
        sum.failed += 1;
    } else if line.contains("... ignored") {
        sum.skipped += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_that_help_speaks_of_exists() {
        let help = <crate::Arguments as clap::CommandFactory>::command()
            .find_subcommand_mut("test")
            .map(|test| test.render_help().to_string())
            .unwrap();
        let (_, names) = help.split_once("Part of a tier's name: ").unwrap();
        let named: Vec<_> = names.lines().next().unwrap().split(", ").filter(|name| *name != "…").collect();
        let tiers = tiers(false);
        assert!(named.len() > 3, "{named:?}");
        assert!(named.iter().all(|name| tiers.iter().any(|tier| tier.name == *name)), "{named:?}");
    }

    #[test]
    fn a_long_run_leaves_nothing_of_the_machine_tier_out() {
        let ignored = |long| {
            let tiers = tiers(long);
            let commands = tiers.iter().filter(|tier| tier.name == "machine").flat_map(|tier| &tier.commands);
            commands.flatten().any(|word| *word == "--include-ignored")
        };
        assert!(ignored(true) && !ignored(false));
    }

    #[test]
    fn every_road_of_the_docs_is_a_test_of_the_machine_tier() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let tests: String = std::fs::read_dir(root.join("tests/machine"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
            .map(|path| std::fs::read_to_string(path).unwrap())
            .collect();
        let docs = std::fs::read_to_string(root.join("docs/roads.md")).unwrap();
        let rows: Vec<_> = docs.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
        assert!(rows.len() > 5 && rows.iter().all(|row| row.contains('`')), "{rows:#?}");
        for name in rows.iter().flat_map(|row| row.split('`').skip(1).step_by(2)) {
            assert!(tests.contains(&format!("\nfn {name}(")), "{name}");
        }
    }

    #[test]
    fn an_ignored_test_is_skipped_and_never_passed() {
        let mut sum = Count::default();
        for line in ["a ... ok", "b ... FAILED", "c ... ignored, no TPM", "result: ok. 9 passed"] {
            note(line, &mut sum);
        }
        assert_eq!(sum.to_string(), "1 passed, 1 failed, 1 skipped");
    }
}
