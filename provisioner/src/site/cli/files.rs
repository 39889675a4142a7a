//! Files that a person hands over or gets: bundles, backups, rendered configurations.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use protocol::bundle::{FILE_LIMIT, MAGIC};
use protocol::clock::Time;

use crate::plain;
use crate::site::admin::{Ask, ask, backup};
use crate::site::keys;

/// Copies a bundle or an approval into the inbox and waits for the verdict.
pub fn apply(dir: &Path, file: &Path, now: Time) -> Result<()> {
    // Asked first: a file that nobody takes would lie there until somebody does, perhaps months later.
    ask::<Vec<String>>(dir, &Ask::Health {})?;
    let size = fs::metadata(file).with_context(|| format!("reading {}", file.display()))?.len();
    ensure!(
        size <= FILE_LIMIT as u64,
        "{} has {size} bytes, and HQ sends at most {FILE_LIMIT}: is this the right file?",
        file.display()
    );
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let stem = file
        .file_stem()
        .map(|stem| stem.to_string_lossy().replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    let kind = if bytes.starts_with(MAGIC) { "nbb" } else { "jws" };
    ensure!(
        kind == "nbb" || is_signed(&bytes),
        "{} is neither a bundle (.nbb) nor an approval (.jws) from HQ, or only a part of one",
        file.display()
    );
    let stem: String = stem.unwrap_or_default().chars().take(60).collect();
    let name = format!("{}-{}-{stem}.{kind}.part", now.0, std::process::id());
    keys::save(&dir.join("inbox").join(&name), &bytes).context("copying it into the inbox")?;
    let said: String = ask(dir, &Ask::Apply { name })?;
    println!("{}.", sentence(&said));
    Ok(())
}

/// Whether it has the form of a signed document (RFC 7515 section 7.2); the provisioner says whose, and what it is.
fn is_signed(bytes: &[u8]) -> bool {
    let document = serde_json::from_slice::<serde_json::Value>(bytes);
    document.is_ok_and(|it| it.get("payload").is_some() && it.get("signatures").is_some())
}

fn sentence(said: &str) -> String {
    let mut symbols = said.chars();
    symbols.next().map_or_else(String::new, |first| first.to_uppercase().to_string() + symbols.as_str())
}

/// Takes a backup of the running provisioner to `file`.
pub fn back_up(dir: &Path, file: &Path) -> Result<()> {
    let to = std::path::absolute(file)?;
    // Asked first: what nobody can write is not made.
    let folder = to.parent().context("a file has a folder")?;
    ensure!(folder.is_dir(), "there is no folder {} to write the backup to: make it first", folder.display());
    let made: std::path::PathBuf = ask(dir, &Ask::Backup {})?;
    let bytes = fs::read(&made).with_context(|| format!("reading {}", made.display()))?;
    fs::remove_file(&made)?;
    keys::save(&to, &bytes).with_context(|| format!("writing {}", file.display()))?;
    println!(
        "{} holds everything that cannot be made again, private keys too: keep it like a key.",
        file.display()
    );
    Ok(())
}

/// Puts a backup back, while the provisioner does not run.
pub async fn restore(dir: &Path, file: &Path) -> Result<()> {
    let restored = backup::restore(dir, file).await?;
    println!("Restored: {} as it was at {}.", restored.site, restored.at);
    if restored.burned > 0 {
        println!(
            "{} used now: a machine without a TPM that is installed anew makes another one, which HQ writes into \
             machines/mc_….yaml (docs/hq.md).",
            plain::count(restored.burned, "device key")
                + if restored.burned == 1 { " counts as" } else { " count as" }
        );
    }
    println!("What happened since is not known here. Apply HQ's latest bundle before machines are admitted:");
    println!("1. provisioner serve --dir {}", dir.display());
    println!("2. provisioner apply --dir {} BUNDLE", dir.display());
    Ok(())
}

/// Shows the files that a machine would be sent, or what of them differs from a folder.
pub fn render(dir: &Path, machine: &str, diff: Option<&Path>) -> Result<()> {
    if let Some(folder) = diff {
        ensure!(
            folder.is_dir(),
            "{} is no folder on this computer: --diff compares with one",
            folder.display()
        );
    }
    let files: Vec<(String, String)> = ask(dir, &Ask::Render { machine: machine.to_owned() })?;
    match diff {
        Some(folder) => print!("{}", differences(machine, folder, &files)),
        None => files.iter().for_each(|(path, text)| println!("==> {path}\n{}", text.trim_end())),
    }
    Ok(())
}

/// What differs from the files below a folder, and what was compared with what.
fn differences(machine: &str, folder: &Path, files: &[(String, String)]) -> String {
    let mut text = format!(
        "What {machine} would be sent (+), compared with the files below {} on this computer (-):\n",
        folder.display()
    );
    let mut same = 0;
    for (path, new) in files {
        let below = folder.join(path.trim_start_matches('/'));
        let old = fs::read_to_string(&below).ok();
        if old.as_ref() == Some(new) {
            same += 1;
            continue;
        }
        let absent = if old.is_none() { " (is not there)" } else { "" };
        let (old, from) = (old.unwrap_or_default(), format!("{}{absent}", below.display()));
        let diff = similar::TextDiff::from_lines(&old, new);
        text.push_str(&diff.unified_diff().header(&from, path).to_string());
    }
    text + &format!("{same} of {} files are the same.\n", files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_says_with_what_it_compares() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("etc")).unwrap();
        fs::write(folder.path().join("etc/a"), "1\n").unwrap();
        let files =
            [("/etc/a", "1\n"), ("/etc/b", "2\n")].map(|(path, text)| (path.to_owned(), text.to_owned()));
        let text = differences("node-1", folder.path(), &files);
        let below = folder.path().display();
        assert_eq!(
            text,
            format!(
                "What node-1 would be sent (+), compared with the files below {below} on this computer (-):\n\
                 --- {below}/etc/b (is not there)\n+++ /etc/b\n@@ -0,0 +1 @@\n+2\n1 of 2 files are the same.\n"
            )
        );
    }
}
