//! Which images the machine runs from, for a person.

use std::path::Path;

use anyhow::{Context, Result};
use protocol::image::Kind;

use crate::os::bank::{Bank, Banks, FILE};
use crate::state::State;

pub(super) fn show(state: &Path, json: bool) -> Result<()> {
    let banks: Option<Banks> = State::open(state)?.load(FILE)?;
    let banks = banks.context("this machine's system was not installed by node-boot: it has no banks")?;
    if json {
        println!("{}", serde_json::to_string(&banks)?);
        return Ok(());
    }
    for kind in Kind::ALL {
        for line in lines(kind, banks.of(kind)) {
            println!("{line}");
        }
    }
    Ok(())
}

fn lines(kind: Kind, bank: &Bank) -> Vec<String> {
    let word = kind.word();
    let mut lines = vec![format!("{word}: {} is kept ({})", bank.kept.version, bank.kept.partition())];
    if let Some(staged) = &bank.staged {
        let what = match &bank.trial {
            Some(trial) => format!("is being tried, {} of 2 times so far", trial.tries),
            None if bank.failed.as_ref().is_some_and(|failed| failed.root == staged.root) => {
                "was dropped".to_owned()
            }
            None => "is whole: it is tried when the site says so".to_owned(),
        };
        lines.push(format!("{word}: {} in the other bank {what}", staged.version));
    } else {
        lines.push(format!("{word}: the other bank holds nothing that is whole"));
    }
    for (said, what) in [(&bank.failed, "failed"), (&bank.refused, "is not taken")] {
        lines.extend(said.as_ref().map(|said| format!("{word}: {} {what}: {}", said.version, said.why)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use protocol::bytes::Digest;
    use protocol::image::Image;

    use super::*;

    #[test]
    fn a_person_reads_what_runs_what_waits_and_why_something_was_dropped() {
        let image = |version: &str, root: u8| Image {
            kind: Kind::Os,
            version: version.into(),
            root: Digest([root; 32]),
            blocks: 1,
            size: 8192,
            program: None,
        };
        let mut bank =
            Banks::installed(&[image("0.1.0", 1), Image { kind: Kind::Kubernetes, ..image("v1.36.3", 3) }]);
        let bank = &mut bank.as_mut().unwrap().os;
        assert!(lines(Kind::Os, bank)[1].ends_with("nothing that is whole"));
        bank.has_staged(image("0.2.0", 2));
        assert_eq!(
            lines(Kind::Os, bank)[1],
            "os: 0.2.0 in the other bank is whole: it is tried when the site says so"
        );
        assert!(bank.begin_trial(&Digest([2; 32])));
        bank.count_try();
        assert_eq!(
            lines(Kind::Os, bank)[1],
            "os: 0.2.0 in the other bank is being tried, 1 of 2 times so far"
        );
        bank.fail("its kubelet ended 3 times");
        let said = lines(Kind::Os, bank);
        assert_eq!(
            said[1..],
            ["os: 0.2.0 in the other bank was dropped", "os: 0.2.0 failed: its kubelet ended 3 times"]
        );
    }
}
