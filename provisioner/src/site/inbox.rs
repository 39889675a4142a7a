//! The one entrance for HQ's word: a watched folder. What was taken is kept beside, with why it was refused.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::approval;
use protocol::bundle::{self, FILE_LIMIT, Opened, Setting};
use protocol::bytes::Digest;
use protocol::refusal::{Refusal, Refused};

use super::rebuild::{self, Stage};
use super::store::{Look, MACHINES, SECTIONS};
use super::word::{Read, Word};
use super::{Site, broken, slots, voice};
use crate::plain;

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_millis(500);
/// When a file that can neither be taken nor moved is looked at again.
const LATER: Duration = Duration::from_mins(1);
/// Verdicts that are kept of each kind, and reports.
const KEPT: usize = 32;
/// Bytes of a file's name: with `.why` behind it 255, which is what disks take.
const NAME: usize = 251;

impl Site {
    /// Takes one file: a bundle or an approval. What became of it, in words.
    pub async fn take(&self, name: &str, bytes: &[u8]) -> Result<String, Refused> {
        if bytes.starts_with(bundle::MAGIC) || has_ending(name, "nbb") {
            let opened = self.open_bundle(bytes)?;
            let word = self.word();
            if opened.index == word.index {
                return Ok(format!("bundle {} is in force already", word.seq));
            }
            // A store that was lost takes its last one again, and none before it.
            let lost = self.rebuild() == Some(Stage::Bundle);
            let least = if lost { self.last_bundle().map_err(broken)? } else { 0 };
            let seq = self.put_in_force(bytes, opened, least).await?;
            return Ok(format!("bundle {seq} is in force"));
        }
        let (trust, floor) = self.trust();
        let text = String::from_utf8_lossy(bytes);
        let approval = approval::check(&text, &trust, self.name(), floor, Some(self.now()))?;
        let code = approval
            .code()
            .ok_or_else(|| Refused::new(Refusal::ApprovalRefused, 'd', "a code of five bytes"))?;
        self.approve_by_hq(code, &approval.slot).await?;
        Ok(format!("the machine that shows {code} is approved for {}", approval.slot))
    }

    pub(super) fn open_bundle(&self, file: &[u8]) -> Result<Opened, Refused> {
        bundle::open(file, self.name(), &self.keys.identity.grant.bundle_key.0)
    }

    /// Puts a bundle in force, or says why not: R45. What is complete in itself has at least the number `least`.
    pub(super) async fn put_in_force(&self, file: &[u8], opened: Opened, least: u64) -> Result<u64, Refused> {
        let (trust, floor) = self.trust();
        let (seq, last) = (self.word().seq, self.last_bundle().map_err(broken)?);
        let setting = Setting { trust: &trust, site: self.name(), seq, floor, rtc: Some(self.now()) };
        let checked = bundle::check(&opened, &setting)?;
        if checked.index.base.is_none() && checked.index.seq < least {
            let detail = format!("number {} is not above {}", checked.index.seq, least - 1);
            return Err(Refused::new(Refusal::BundleRefused, 'd', detail));
        }
        let held = self.held()?;
        let read = Read::of(checked.index, opened, &|digest| held.get(digest).cloned())?;
        let mut newer = trust;
        if let Some(anchors) = read.revocations.as_ref().and_then(|r| r.anchors.as_ref()) {
            newer = newer.accept_anchors(anchors.get()).unwrap_or(newer);
        }
        if let Some(doc) = read.revocations.as_ref().and_then(|r| r.doc.as_ref()) {
            newer = newer.accept_revoked(doc.get(), floor, Some(self.now())).unwrap_or(newer);
        }
        let (seq, full, now) = (read.index.seq, read.index.base.is_none(), self.now());
        self.keep_bundle(seq, file).map_err(broken)?;
        self.set_trust(newer, floor.max(checked.floor), seq.max(last)).map_err(broken)?;
        let mine = read.index.reports.get(&self.keys.issuing.key_hash).copied();
        self.store
            .write(move |tx| {
                read.save(tx)?;
                // Changes of a bundle that was kept make a lost store whole once they are all there.
                if seq >= last {
                    rebuild::has_bundle(tx, mine, now)?;
                }
                mine.map_or(Ok(()), |seq| Site::acknowledge(tx, seq))?;
                voice::hand_over(tx)
            })
            .await
            .map_err(broken)?;
        if full {
            self.drop_bundles_before(seq);
        }
        let look = self.store.look().map_err(broken)?;
        self.set_word(Word::load(&look, self.name()).map_err(broken)?);
        self.look_at_stage().map_err(broken)?;
        self.place_all().await?;
        tracing::info!(seq, "bundle in force");
        self.warn_if_withdrawn();
        Ok(seq)
    }

    /// The highest bundle that was ever in force here: known even where the store is lost.
    fn last_bundle(&self) -> Result<u64> {
        let kept: super::keys::KeptTrust =
            serde_json::from_slice(&std::fs::read(self.dir.join("trust.json"))?)?;
        Ok(kept.bundle)
    }

    fn held(&self) -> Result<std::collections::BTreeMap<protocol::bytes::Digest, Vec<u8>>, Refused> {
        let sections = self.store.look().and_then(|look| look.all(SECTIONS, "")).map_err(broken)?;
        Ok(sections.into_iter().map(|(_, bytes)| (protocol::bytes::Digest::of(&bytes), bytes)).collect())
    }

    /// Offers the slots of a new bundle to the machines that stand by.
    pub(super) async fn place_all(&self) -> Result<(), Refused> {
        if matches!(self.rebuild(), Some(Stage::Bundle | Stage::Nodes)) {
            return Ok(());
        }
        let sight = self.sight();
        let placed = self.store.write(move |tx| {
            for (id, mut machine) in tx.list::<super::machine::Machine>(MACHINES)? {
                if machine.slot.is_none() && machine.s.is_some() {
                    slots::place(tx, &mut machine, &sight)?;
                    tx.put(MACHINES, &id, &machine)?;
                }
            }
            Ok(())
        });
        placed.await.map_err(broken)
    }
}

fn has_ending(name: &str, ending: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// Watches the folder until the program ends. Nothing that lies in it, and no disk, ends that.
pub async fn watch(site: Arc<Site>) -> Result<()> {
    let inbox = site.dir.join("inbox");
    let mut later = HashMap::new();
    loop {
        later.retain(|_, until| *until > Instant::now());
        if let Err(error) = look(&site, &inbox, &mut later).await {
            trouble(&site, &inbox, &error).await;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn trouble(site: &Site, path: &Path, error: &io::Error) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    tracing::error!(file = plain::word(&name), %error, "the inbox");
    site.alarm(decide::Alarm::InboxTrouble, &name).await;
}

/// Takes what lies there now. A file that can neither be taken nor moved is left alone for a while.
async fn look(site: &Site, inbox: &Path, later: &mut HashMap<OsString, Instant>) -> io::Result<()> {
    for folder in ["", "done", "refused"] {
        std::fs::create_dir_all(inbox.join(folder))?;
    }
    let mut taken = false;
    for entry in std::fs::read_dir(inbox)?.flatten() {
        let name = entry.file_name();
        let shown = name.to_string_lossy();
        let whole = has_ending(&shown, "nbb") || has_ending(&shown, "jws");
        if !whole || later.contains_key(&name) || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        taken = true;
        let path = entry.path();
        match take_file(site, inbox, &path, &kept_name(&shown)).await {
            Ok(()) => {}
            // Whoever put it there took it back.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                trouble(site, &path, &error).await;
                if std::fs::rename(&path, inbox.join("refused").join(kept_name(&shown))).is_err() {
                    later.insert(name, Instant::now() + LATER);
                }
            }
        }
    }
    if taken {
        keep_newest(&inbox.join("done"), 2 * KEPT)?;
        keep_newest(&inbox.join("refused"), 2 * KEPT)?;
    }
    keep_newest(&site.dir.join("outbox"), KEPT)
}

/// The name under which a file is put aside: one that every disk takes, with room for the ending of its verdict.
fn kept_name(shown: &str) -> String {
    if shown.len() <= NAME && !shown.contains(char::REPLACEMENT_CHARACTER) {
        return shown.to_owned();
    }
    let (stem, ending) = shown.rsplit_once('.').unwrap_or((shown, ""));
    let short: String = stem.chars().filter(char::is_ascii_alphanumeric).take(40).collect();
    format!("{short}-{}.{ending}", Digest::of(shown.as_bytes()).short_hex())
}

/// Removes all but the newest files of a folder, by when each was put there.
fn keep_newest(folder: &Path, most: usize) -> io::Result<()> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    let names: Vec<_> = entries.flatten().collect();
    if names.len() <= most {
        return Ok(());
    }
    let since = |entry: &std::fs::DirEntry| {
        let there = entry.metadata().ok().filter(std::fs::Metadata::is_file)?;
        Some(((there.ctime(), there.ctime_nsec()), entry.path()))
    };
    let mut files: Vec<_> = names.iter().filter_map(since).collect();
    files.sort();
    for (_, path) in files.iter().take(files.len().saturating_sub(most)) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

async fn take_file(site: &Site, inbox: &Path, path: &Path, name: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    let verdict = if bytes.len() > FILE_LIMIT {
        let detail = format!("it has more bytes than fit, at most {FILE_LIMIT}");
        Err(Refused::new(Refusal::BundleRefused, 'g', detail))
    } else {
        site.take(name, &bytes).await
    };
    let (folder, why) = match verdict {
        Ok(said) => ("done", said),
        Err(refused) => {
            tracing::warn!(file = plain::word(name), id = refused.id(), %refused, "refused");
            site.metrics.refusal(refused.refusal.code());
            ("refused", refused.to_string())
        }
    };
    let written = std::fs::write(inbox.join(folder).join(format!("{name}.why")), why + "\n");
    // Taken is taken, also where the disk has no room for the words.
    std::fs::rename(path, inbox.join(folder).join(name)).and(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_kept_as_one_that_has_room_for_its_verdict() {
        assert_eq!(kept_name("ship-7.nbb"), "ship-7.nbb");
        let (long, other) = (format!("{}.nbb", "x".repeat(248)), format!("{}y.nbb", "x".repeat(247)));
        assert_eq!(long.len(), 252);
        assert!(kept_name(&long).len() <= NAME && has_ending(&kept_name(&long), "nbb"));
        assert_ne!(kept_name(&long), kept_name(&other));
        assert!(kept_name("a\u{fffd}b.jws").starts_with("ab-"));
    }

    #[test]
    fn the_newest_files_stay_whatever_time_they_bear() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..40 {
            let path = folder.path().join(format!("{n}.nbb"));
            let file = std::fs::File::create(&path).unwrap();
            let age = Duration::from_secs(1000 * n);
            file.set_modified(std::time::SystemTime::now() - age).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        keep_newest(folder.path(), KEPT).unwrap();
        let left = |n: u32| folder.path().join(format!("{n}.nbb")).exists();
        assert_eq!((0..40).map(left).filter(|left| *left).count(), KEPT);
        assert!(left(39) && left(8) && !left(7));
        keep_newest(&folder.path().join("none"), 1).unwrap();
    }
}
