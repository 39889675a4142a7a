//! The one entrance for HQ's word: a watched folder. What was taken is kept beside, with why it was refused.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use protocol::approval;
use protocol::bundle::{self, FILE_LIMIT, Setting};
use protocol::refusal::{Refusal, Refused};

use super::rebuild::{self, Stage};
use super::store::{Look, MACHINES, SECTIONS};
use super::word::{Read, Word};
use super::{Site, broken, slots, voice};

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_millis(500);

impl Site {
    /// Takes one file: a bundle or an approval. What became of it, in words.
    pub async fn take(&self, name: &str, bytes: &[u8]) -> Result<String, Refused> {
        if bytes.starts_with(bundle::MAGIC) || has_ending(name, "nbb") {
            let seq = self.accept_bundle(bytes).await?;
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

    /// Puts a bundle in force, or says why not: R45.
    pub async fn accept_bundle(&self, file: &[u8]) -> Result<u64, Refused> {
        let opened = bundle::open(file, self.name(), &self.keys.identity.grant.bundle_key.0)?;
        let (trust, floor) = self.trust();
        let seq = self.highest_bundle().map_err(broken)?;
        let setting = Setting { trust: &trust, site: self.name(), seq, floor, rtc: Some(self.now()) };
        let checked = bundle::check(&opened, &setting)?;
        let held = self.held()?;
        let read = Read::of(checked.index, &opened, &|digest| held.get(digest).cloned())?;
        let mut newer = trust;
        if let Some(anchors) = read.revocations.as_ref().and_then(|r| r.anchors.as_ref()) {
            newer = newer.accept_anchors(anchors.get()).unwrap_or(newer);
        }
        if let Some(doc) = read.revocations.as_ref().and_then(|r| r.doc.as_ref()) {
            newer = newer.accept_revoked(doc.get(), floor, Some(self.now())).unwrap_or(newer);
        }
        let (seq, full, now) = (read.index.seq, read.index.base.is_none(), self.now());
        self.keep_bundle(seq, file).map_err(broken)?;
        self.set_trust(newer, floor.max(checked.floor), seq).map_err(broken)?;
        let mine = read.index.reports.get(&self.keys.issuing.key_hash).copied();
        self.store
            .write(move |tx| {
                read.save(tx)?;
                rebuild::has_bundle(tx, mine, now)?;
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
        Ok(seq)
    }

    /// The number that the next bundle must exceed. A store that was lost takes the last one again, and none before it.
    fn highest_bundle(&self) -> Result<u64> {
        if self.rebuild() != Some(Stage::Bundle) {
            return Ok(self.word().seq);
        }
        let kept: super::keys::KeptTrust =
            serde_json::from_slice(&std::fs::read(self.dir.join("trust.json"))?)?;
        Ok(kept.bundle.saturating_sub(1))
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

/// Watches the folder until the program ends.
pub async fn watch(site: Arc<Site>) -> Result<()> {
    let inbox = site.dir.join("inbox");
    for folder in ["", "done", "refused"] {
        std::fs::create_dir_all(inbox.join(folder))?;
    }
    loop {
        for entry in std::fs::read_dir(&inbox)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let whole = has_ending(&name, "nbb") || has_ending(&name, "jws");
            if whole && entry.file_type().is_ok_and(|kind| kind.is_file()) {
                take_file(&site, &inbox, &name).await?;
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn take_file(site: &Site, inbox: &Path, name: &str) -> Result<()> {
    let path = inbox.join(name);
    let size = std::fs::metadata(&path)?.len();
    let verdict = if size > FILE_LIMIT as u64 {
        Err(Refused::new(Refusal::BundleRefused, 'g', format!("{size} bytes; at most {FILE_LIMIT}")))
    } else {
        site.take(name, &std::fs::read(&path)?).await
    };
    let (folder, why) = match verdict {
        Ok(said) => ("done", said),
        Err(refused) => {
            tracing::warn!(file = name, id = refused.id(), %refused, "refused");
            site.metrics.refusal(refused.refusal.code());
            ("refused", refused.to_string())
        }
    };
    std::fs::write(inbox.join(folder).join(format!("{name}.why")), why + "\n")?;
    std::fs::rename(&path, inbox.join(folder).join(name))?;
    Ok(())
}
