//! Pinned inputs for which something newer waits in a registry: Debian's packages, Go modules, Rust crates.

use anyhow::{Context as _, Result, ensure};
use harness::assets::on_path;
use std::path::Path;
use std::process::{Command, Stdio};

/// Folders of module files, and the modules that are pinned there for their own sake.
const MODULES: [(&str, &str); 6] = [
    ("cni", "github.com/containernetworking/plugins"),
    ("containerd", "github.com/containerd/containerd/v2"),
    ("coredns", "github.com/coredns/coredns"),
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kubernetes", "k8s.io/kubernetes"),
    ("runc", "github.com/opencontainers/runc"),
];

/// A pinned input that is not the newest.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    registry: &'static str,
    name: String,
    pinned: String,
    waiting: String,
}

type Ask = fn() -> Result<Vec<Row>>;

/// Lists them; fails where a registry does not answer, after what the others said.
pub fn outdated() -> Result<()> {
    let registries: [(&str, Ask); 3] =
        [("Debian's mirror", debian), ("the Go module proxy", go), ("crates.io", crates)];
    let (mut rows, mut silent) = (Vec::new(), Vec::new());
    for (name, ask) in registries {
        match ask() {
            Ok(found) => rows.extend(found),
            Err(error) => silent.push(format!("{name} does not answer: {error:#}")),
        }
    }
    print!("{}", table(&rows));
    ensure!(silent.is_empty(), "{}", silent.join("\n"));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "nothing newer is waiting\n".to_owned();
    }
    let line = |cells: [&str; 4]| {
        format!("{:<9} {:<40} {:<24} {}", cells[0], cells[1], cells[2], cells[3]).trim_end().to_owned() + "\n"
    };
    let rows = rows.iter().map(|row| line([row.registry, &row.name, &row.pinned, &row.waiting]));
    line(["registry", "input", "pinned", "waiting"]) + &rows.collect::<String>()
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let said = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {name}"))?;
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{name}: {}", error.trim().lines().last().unwrap_or_default());
    // cargo says what it would do where others say what went wrong.
    Ok(String::from_utf8_lossy(&said.stdout).into_owned() + &error)
}

/// Packages whose candidate is newer; for a kernel, whose name has its version in it, the one that Debian names now.
fn debian() -> Result<Vec<Row>> {
    ensure!(on_path("apt-get"), "there is no apt-get here");
    if rustix::process::geteuid().is_root() {
        output(Command::new("apt-get").args(["-qq", "-o", "APT::Update::Error-Mode=any", "update"]))?;
    }
    let mut rows = Vec::new();
    for pin in
        image::pins()?.into_iter().chain(image::pins_of(include_str!("../../kubernetes/images/nft.yaml"))?)
    {
        let kernel = pin.name.starts_with("linux-image-").then(newest_kernel).transpose()?;
        let name = kernel.as_ref().unwrap_or(&pin.name);
        let policy = output(Command::new("apt-cache").args(["policy", name]))?;
        let candidate =
            candidate(&policy).with_context(|| format!("apt-cache knows no {name}: apt-get update"))?;
        let newer = Command::new("dpkg").args(["--compare-versions", candidate, "gt", &pin.version]).status();
        if newer.context("cannot run dpkg")?.success() {
            let waiting = kernel
                .as_ref()
                .filter(|kernel| **kernel != pin.name)
                .map_or_else(|| candidate.to_owned(), |kernel| format!("{candidate} ({kernel})"));
            rows.push(Row { registry: "Debian", name: pin.name, pinned: pin.version, waiting });
        }
    }
    rows.dedup();
    Ok(rows)
}

fn candidate(policy: &str) -> Option<&str> {
    let found = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    found.filter(|version| *version != "(none)")
}

/// The kernel that `linux-image-amd64` depends on.
fn newest_kernel() -> Result<String> {
    let said = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let name = said.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    Ok(format!("linux-image-{}", name.context("linux-image-amd64 depends on no kernel")?))
}

fn go() -> Result<Vec<Row>> {
    const UPDATE: &str = "{{.Version}} {{with .Update}}{{.Version}}{{end}}";
    let go = crate::go::toolchain(harness::assets::cache().parent().context("no cache")?)?;
    let mut rows = Vec::new();
    for (folder, module) in MODULES {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubernetes").join(folder);
        let mut list = Command::new(&go);
        list.current_dir(folder).args(["list", "-m", "-u", "-f", UPDATE, module]);
        list.env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly");
        let said = output(&mut list)?;
        if let Some((pinned, waiting)) = said.lines().next().and_then(|line| line.trim().split_once(' ')) {
            let (pinned, waiting) = (pinned.to_owned(), waiting.to_owned());
            rows.push(Row { registry: "Go", name: module.to_owned(), pinned, waiting });
        }
    }
    Ok(rows)
}

fn crates() -> Result<Vec<Row>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let said = output(Command::new(cargo).args(["update", "--dry-run", "--color", "never"]))?;
    Ok(said.lines().filter_map(update).collect())
}

/// A line of `cargo update`: `Updating NAME vPINNED -> vWAITING`.
fn update(line: &str) -> Option<Row> {
    let words: Vec<_> = line.split_whitespace().collect();
    let ["Updating", name, pinned, "->", waiting, ..] = words[..] else { return None };
    let version = |word: &str| word.trim_start_matches('v').to_owned();
    Some(Row {
        registry: "crates.io",
        name: name.to_owned(),
        pinned: version(pinned),
        waiting: version(waiting),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say_becomes_rows_of_a_table() {
        let said = "    Updating crates.io index\n     Locking 1 package to latest compatible version\n    Updating serde \
                    v1.0.1 -> v1.0.2\nnote: pass `--verbose`\n";
        let rows: Vec<_> = said.lines().filter_map(update).collect();
        assert_eq!(rows.len(), 1);
        let table = table(&rows);
        assert!(table.lines().nth(1).unwrap().starts_with("crates.io serde "), "{table}");
        assert!(table.ends_with(" 1.0.2\n"), "{table}");
        assert_eq!(
            candidate("mount:\n  Installed: (none)\n  Candidate: 2.38.1-5+deb12u3\n"),
            Some("2.38.1-5+deb12u3")
        );
        assert_eq!(candidate("mount:\n  Candidate: (none)\n"), None);
    }

    #[test]
    fn every_folder_of_go_modules_with_pinned_ones_is_asked_for() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kubernetes");
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(entry.path().join("go.mod")).unwrap();
            let asked = MODULES.iter().find(|(folder, _)| *folder == name);
            assert_eq!(asked.is_some(), text.contains("require"), "{name}");
            assert!(asked.is_none_or(|(_, module)| text.contains(&format!("{module} v"))), "{name}");
        }
    }
}
