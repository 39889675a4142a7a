//! The file of the store: opened when it is needed, by one program.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadOnlyDatabase};

use super::{StoreError, failed};

/// Pages kept in memory, bytes: the provisioner is a guest on a small machine.
const CACHE: usize = 8 * 1024 * 1024;

/// The file, opened when it is needed. After an I/O error redb refuses everything until it is opened anew: a full disk
/// must not outlast the lack of room.
pub(super) struct File {
    path: PathBuf,
    open: RwLock<Option<Arc<Database>>>,
}

impl File {
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), open: RwLock::new(None) }
    }

    /// The file, opened now if it is not.
    pub(super) fn get(&self) -> Result<Arc<Database>, StoreError> {
        if let Some(database) = &*self.open.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Arc::clone(database));
        }
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*open {
            return Ok(Arc::clone(database));
        }
        let opened = Database::builder().set_cache_size(CACHE).create(&self.path);
        let database = opened.map_err(|error| failed("open its file")(&cannot_open(&self.path, &error)))?;
        Ok(Arc::clone(open.insert(Arc::new(database))))
    }

    /// The next one who asks opens it anew.
    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether another program has the file open. It is not changed by asking.
pub fn in_use(path: &Path) -> bool {
    matches!(ReadOnlyDatabase::open(path), Err(DatabaseError::DatabaseAlreadyOpen))
}

/// Why the file does not open, and what to do. One that somebody else has open is in use, and nothing is wrong with it.
fn cannot_open(path: &Path, error: &DatabaseError) -> String {
    if matches!(error, DatabaseError::DatabaseAlreadyOpen) {
        let folder = path.parent().unwrap_or(path);
        return format!("another provisioner serves {}: stop it first", folder.display());
    }
    format!(
        "{}: {error}; move the file away: the store is made again from HQ's bundle and the Nodes, or comes from \
         `provisioner restore`",
        path.display()
    )
}
