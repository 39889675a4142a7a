//! Everything that cannot be made again, in one file: a line that names it, a line of contents, then the contents.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use protocol::bytes::Digest;
use protocol::clock::Time;
use serde::{Deserialize, Serialize};

use crate::site::store::{self, Look, META, Store};
use crate::site::{Site, keys, rebuild};

const MAGIC: &[u8] = b"node-boot backup 1\n";
/// Name of the store.
const STORE: &str = "store.redb";
/// What is kept beside it. The leaf and its key are made anew.
const FILES: [&str; 7] = [
    "identity.json",
    "trust.json",
    "issuing-ca.key",
    "issuing-ca.tpm",
    "cluster.json",
    keys::OWNER,
    super::ROLES,
];

/// Names and bytes.
type Files = Vec<(String, Vec<u8>)>;

#[derive(Serialize, Deserialize)]
struct Contents {
    site: String,
    at: Time,
    files: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    name: String,
    size: usize,
    sha256: Digest,
}

/// Writes a backup into the provisioner's folder: the path of the file, which holds private keys.
pub(super) async fn make(site: &Site) -> Result<PathBuf> {
    let mut files = vec![(STORE.to_owned(), copy(&site.store, site.dir.join(STORE)).await?)];
    for name in FILES {
        match fs::read(site.dir.join(name)) {
            Ok(bytes) => files.push((name.to_owned(), bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("reading {name}")),
        }
    }
    let path = site.dir.join("backup.part");
    keys::save(&path, &pack(site.name(), site.now(), &files))?;
    Ok(path)
}

/// The bytes of the store's file while nobody writes it: what was saved so far, as after a power cut at this moment.
async fn copy(store: &Store, path: PathBuf) -> Result<Vec<u8>> {
    // One thread writes the store, and this closure holds it.
    store.write(move |_| Ok(fs::read(&path))).await?.context("copying the store")
}

fn pack(site: &str, at: Time, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entry = |(name, bytes): &(String, Vec<u8>)| Entry {
        name: name.clone(),
        size: bytes.len(),
        sha256: Digest::of(bytes),
    };
    let contents = Contents { site: site.to_owned(), at, files: files.iter().map(entry).collect() };
    let mut packed = [MAGIC, &protocol::json::to_vec(&contents), b"\n"].concat();
    for (_, bytes) in files {
        packed.extend_from_slice(bytes);
    }
    packed
}

fn unpack(packed: &[u8]) -> Result<(Contents, Files)> {
    let rest = packed.strip_prefix(MAGIC).context("this file is no backup of a provisioner")?;
    let end = rest.iter().position(|byte| *byte == b'\n').context("the backup ends too early")?;
    let contents: Contents = serde_json::from_slice(&rest[..end]).context("the backup's contents")?;
    let mut rest = &rest[end + 1..];
    let mut files = Vec::new();
    for entry in &contents.files {
        let known = entry.name == STORE || FILES.contains(&entry.name.as_str());
        ensure!(known, "the backup holds {}, which this version does not know", entry.name);
        let (bytes, after) = rest.split_at_checked(entry.size).context("the backup ends too early")?;
        ensure!(Digest::of(bytes) == entry.sha256, "the backup is damaged: {}", entry.name);
        files.push((entry.name.clone(), bytes.to_vec()));
        rest = after;
    }
    Ok((contents, files))
}

/// What a restore brought back.
#[derive(Debug, PartialEq, Eq)]
pub struct Restored {
    /// The site.
    pub site: String,
    /// When the backup was made.
    pub at: Time,
    /// Device keys that count as used from now on, because nobody here can know that they were not.
    pub burned: usize,
}

/// Puts a backup back; what was there before is kept beside.
pub async fn restore(dir: &Path, file: &Path) -> Result<Restored> {
    // One that has just started does not answer yet, and has its store open.
    let running = super::client::is_running(dir) || store::in_use(&dir.join(STORE));
    ensure!(!running, "another provisioner serves {}: stop it first", dir.display());
    let packed = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let (contents, files) = unpack(&packed)?;
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    set_aside(dir)?;
    for (name, bytes) in &files {
        keys::save(&dir.join(name), bytes).with_context(|| format!("writing {name}"))?;
    }
    let burned = settle(&Store::open(&dir.join(STORE))?).await?;
    Ok(Restored { site: contents.site, at: contents.at, burned })
}

/// What happened after the backup is not known here: device keys count as used, Nodes say who holds which slot.
async fn settle(store: &Store) -> Result<usize> {
    let burned = store.write(|tx| {
        tx.put(META, rebuild::STAGE, &rebuild::Stage::Nodes)?;
        let known = tx.get(META, "next/report")?.unwrap_or(0);
        rebuild::skip_reports(tx, known)?;
        rebuild::burn(tx)
    });
    Ok(burned.await?)
}

/// Moves what a restore would mix with into a folder beside.
fn set_aside(dir: &Path) -> Result<()> {
    let present: Vec<_> = [STORE, "leaf.key", "leaf.der"]
        .into_iter()
        .chain(FILES)
        .filter(|name| dir.join(name).exists())
        .collect();
    if present.is_empty() {
        return Ok(());
    }
    let mut asides = (1..100).map(|n| dir.join(format!("before-restore-{n}")));
    let free = asides.find(|aside| !aside.exists());
    let aside = free.context("there are too many folders called before-restore: remove old ones")?;
    fs::create_dir(&aside)?;
    for name in present {
        fs::rename(dir.join(name), aside.join(name)).with_context(|| format!("moving {name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use protocol::id::Id;

    use super::*;
    use crate::site::rebuild::NOBODY;
    use crate::site::store::{BURNED, IDS, MACHINES};

    #[tokio::test]
    async fn a_backup_of_a_store_in_use_opens_and_holds_all_that_was_saved_before() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join(STORE);
        let store = Store::open(&path).unwrap();
        for n in 0..50 {
            store.write(move |tx| tx.put(MACHINES, &format!("m{n}"), &vec![n; 500])).await.unwrap();
        }
        let bytes = copy(&store, path).await.unwrap();
        store.write(|tx| tx.put(MACHINES, "later", &1)).await.unwrap();
        let packed = pack("ship-7", Time(7), &[(STORE.to_owned(), bytes)]);
        let file = other.path().join("backup");
        fs::write(&file, packed).unwrap();
        let to = other.path().join("new");
        let restored = Restored { site: "ship-7".into(), at: Time(7), burned: 0 };
        assert_eq!(restore(&to, &file).await.unwrap(), restored);
        let restored = Store::open(&to.join(STORE)).unwrap();
        assert_eq!(restored.look().unwrap().all(MACHINES, "").unwrap().len(), 50);
    }

    #[tokio::test]
    async fn after_a_restore_no_device_key_is_good_that_may_have_been_used_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(STORE);
        let store = Store::open(&path).unwrap();
        let (used, fresh, ek) = (Digest::of(b"used"), Digest::of(b"fresh"), Digest::of(b"ek"));
        let ids = [Id::Key(used), Id::Key(fresh), Id::Ek(ek)];
        let by = Digest::of(b"the machine that used it");
        let fill = store.write(move |tx| {
            ids.iter().try_for_each(|id| tx.put(IDS, &id.to_string(), &"mc_01"))?;
            tx.put(META, "next/report", &5)?;
            tx.put(META, "reported/4", &17)?;
            tx.put(BURNED, &used.to_string(), &by)
        });
        fill.await.unwrap();
        assert_eq!(settle(&store).await.unwrap(), 1);
        let look = store.look().unwrap();
        assert_eq!(look.get(BURNED, &used.to_string()).unwrap(), Some(by));
        assert_eq!(look.get(BURNED, &fresh.to_string()).unwrap(), Some(NOBODY));
        assert_eq!(
            look.get(META, rebuild::STAGE).unwrap(),
            Some(rebuild::Stage::Nodes),
            "who holds which slot"
        );
        // Headquarters may have heard reports of numbers that this store does not know, about other events.
        assert!(look.get::<u64>(META, "next/report").unwrap() > Some(1_000_000));
        assert_eq!(look.all(META, "reported/").unwrap(), []);
    }

    #[tokio::test]
    async fn a_damaged_cut_or_foreign_backup_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let good = pack("ship-7", Time(7), &[("trust.json".to_owned(), b"{}".to_vec())]);
        let mut damaged = good.clone();
        *damaged.last_mut().unwrap() ^= 1;
        let foreign = pack("ship-7", Time(7), &[("../../etc/passwd".to_owned(), b"x".to_vec())]);
        for bad in [&damaged[..], &good[..good.len() - 1], &foreign, b"", b"node-boot backup 1\n"] {
            let file = dir.path().join("bad");
            fs::write(&file, bad).unwrap();
            assert!(restore(&dir.path().join("new"), &file).await.is_err());
            assert!(!dir.path().join("new").exists());
        }
    }

    #[tokio::test]
    async fn a_folder_whose_store_is_in_use_is_not_restored() {
        let dir = tempfile::tempdir().unwrap();
        let _open = Store::open(&dir.path().join(STORE)).unwrap();
        let said = restore(dir.path(), Path::new("a-backup")).await.unwrap_err().to_string();
        assert!(said.contains("another provisioner serves"), "{said}");
        assert!(dir.path().join(STORE).exists(), "it is where it was");
    }

    #[tokio::test]
    async fn what_was_there_before_a_restore_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup");
        fs::write(&file, pack("ship-7", Time(7), &[("trust.json".to_owned(), b"new".to_vec())])).unwrap();
        fs::write(dir.path().join("trust.json"), "old").unwrap();
        restore(dir.path(), &file).await.unwrap();
        assert_eq!(fs::read(dir.path().join("trust.json")).unwrap(), b"new");
        assert_eq!(fs::read(dir.path().join("before-restore-1/trust.json")).unwrap(), b"old");
    }
}
