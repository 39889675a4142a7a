//! Files that a person hands over or gets: bundles, backups, rendered configurations.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use protocol::bundle::{FILE_LIMIT, MAGIC};
use protocol::clock::Time;

use crate::site::admin::{Ask, ask, backup};
use crate::site::{keys, plain};

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
    let made: std::path::PathBuf = ask(dir, &Ask::Backup {})?;
    let bytes = fs::read(&made).with_context(|| format!("reading {}", made.display()))?;
    fs::remove_file(&made)?;
    keys::save(&std::path::absolute(file)?, &bytes).with_context(|| format!("writing {}", file.display()))?;
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
pub fn render(dir: &Path, machine: String, diff: Option<&Path>) -> Result<()> {
    let files: Vec<(String, String)> = ask(dir, &Ask::Render { machine })?;
    for (path, text) in files {
        match diff {
            None => println!("==> {path}\n{}", text.trim_end()),
            Some(folder) => {
                let old = fs::read_to_string(folder.join(path.trim_start_matches('/'))).unwrap_or_default();
                print!("{}", similar::TextDiff::from_lines(&old, &text).unified_diff().header(&path, &path));
            }
        }
    }
    Ok(())
}
