//! What the site remembers: one file, opened by one program, written in groups.
//!
//! Every change is a closure. Those that wait at the same moment are run in one transaction, which is on disk before
//! any of them is answered: what a message promises is saved before it is spoken, at one flush for all.

mod file; // opened when it is needed

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use self::file::File;
pub use self::file::in_use;

/// The layout of the file. An older program refuses a newer one.
pub const SCHEMA: u64 = 1;
/// Changes that are saved together at most: a crowd of a thousand in a few flushes.
const GROUP: usize = 512;
/// Changes that may wait before their makers do.
const QUEUE: usize = 4096;

/// A table: text to JSON.
pub type Table = TableDefinition<'static, &'static str, &'static [u8]>;

/// `schema`, `bundle` (index in force), `floor`, `next` numbers.
pub const META: Table = Table::new("meta");
/// HQ's word in sections: name to bytes.
pub const SECTIONS: Table = Table::new("sections");
/// Registrations by their id.
pub const RECORDS: Table = Table::new("records");
/// Registrations' provable ids to the registration's id.
pub const IDS: Table = Table::new("ids");
/// Labels in small letters to the ids of registrations.
pub const LABELS: Table = Table::new("labels");
/// Vouchers by the id of the machine they name.
pub const VOUCHERS: Table = Table::new("vouchers");
/// What the site knows of each machine, by the id of its registration.
pub const MACHINES: Table = Table::new("machines");
/// Node keys by hash: whose they are, and whether they are current.
pub const KEYS: Table = Table::new("keys");
/// Device keys that were used, by hash, and the node key they are bound to for good.
pub const BURNED: Table = Table::new("burned");
/// Names of Nodes, used for ever, and the node key they belong to.
pub const NAMES: Table = Table::new("names");
/// Keys of kubelets by hash, and the Node they are for.
pub const KUBELETS: Table = Table::new("kubelets");
/// Slots and the machine that holds each.
pub const HOLDERS: Table = Table::new("holders");
/// Registrations that the site made after an approval by voice, until HQ's bundle answers for them.
pub const VOICES: Table = Table::new("voices");
/// Keys that open machines' disks, by the disk's name: secrets.
pub const DISKS: Table = Table::new("disks");
/// What goes into the next report.
pub const EVENTS: Table = Table::new("events");
/// Who did what.
pub const AUDIT: Table = Table::new("audit");

const ALL: [Table; 16] = [
    META, SECTIONS, RECORDS, IDS, LABELS, VOUCHERS, MACHINES, KEYS, BURNED, NAMES, KUBELETS, HOLDERS, VOICES,
    DISKS, EVENTS, AUDIT,
];

/// The store could not do what it was asked; nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store cannot {doing}: {why}")]
pub struct StoreError {
    doing: &'static str,
    why: String,
}

fn failed(doing: &'static str) -> impl Fn(&dyn std::fmt::Display) -> StoreError {
    move |why| StoreError { doing, why: why.to_string() }
}

/// Reading and, inside [`Store::write`], changing.
pub trait Look {
    /// The value of a key.
    fn bytes(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Shows every key and value of a table whose key begins with `prefix`. What sees them must not look again.
    fn walk(&self, table: Table, prefix: &str, see: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError>;

    /// Every key and value of a table whose key begins with `prefix`.
    fn all(&self, table: Table, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut found = Vec::new();
        self.walk(table, prefix, &mut |key, value| found.push((key.to_owned(), value.to_vec())))?;
        Ok(found)
    }

    /// The value of a key, read as JSON.
    fn get<T: DeserializeOwned>(&self, table: Table, key: &str) -> Result<Option<T>, StoreError> {
        let bytes = self.bytes(table, key)?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(|e| failed("read an entry")(&e))).transpose()
    }

    /// Shows every value of a table, read as JSON.
    fn each<T: DeserializeOwned>(
        &self,
        table: Table,
        see: &mut dyn FnMut(&str, T),
    ) -> Result<(), StoreError> {
        let mut wrong = Ok(());
        self.walk(table, "", &mut |key, bytes| match serde_json::from_slice(bytes) {
            Ok(value) => see(key, value),
            Err(error) => wrong = Err(failed("read an entry")(&error)),
        })?;
        wrong
    }

    /// Every value of a table, read as JSON.
    fn list<T: DeserializeOwned>(&self, table: Table) -> Result<Vec<(String, T)>, StoreError> {
        let mut found = Vec::new();
        self.each(table, &mut |key, value| found.push((key.to_owned(), value)))?;
        Ok(found)
    }
}

/// A look at one moment.
pub struct Snapshot(redb::ReadTransaction);

impl Look for Snapshot {
    fn bytes(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let fail = failed("read");
        let table = self.0.open_table(table).map_err(|e| fail(&e))?;
        Ok(table.get(key).map_err(|e| fail(&e))?.map(|value| value.value().to_vec()))
    }

    fn walk(&self, table: Table, prefix: &str, see: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        let table = self.0.open_table(table).map_err(|e| failed("read")(&e))?;
        walk(&table, prefix, see)
    }
}

fn walk(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
    see: &mut dyn FnMut(&str, &[u8]),
) -> Result<(), StoreError> {
    let fail = failed("read");
    for entry in table.range(prefix..).map_err(|e| fail(&e))? {
        let (key, value) = entry.map_err(|e| fail(&e))?;
        if !key.value().starts_with(prefix) {
            break;
        }
        see(key.value(), value.value());
    }
    Ok(())
}

/// A change in the making. Check first, write last: what a closure wrote stays even when it answers no.
pub struct Change<'a> {
    tx: &'a redb::WriteTransaction,
    /// Opening and closing a table costs more than an entry: each is opened once for the whole group.
    open: RefCell<BTreeMap<String, OpenTable<'a>>>,
}

type OpenTable<'a> = redb::Table<'a, &'static str, &'static [u8]>;

impl Look for Change<'_> {
    fn bytes(&self, table: Table, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.on(table, "read", |table| Ok(table.get(key)?.map(|value| value.value().to_vec())))
    }

    fn walk(&self, table: Table, prefix: &str, see: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        self.on(table, "read", |table| Ok(walk(table, prefix, see)))?
    }
}

impl<'a> Change<'a> {
    fn of(tx: &'a redb::WriteTransaction) -> Self {
        Self { tx, open: RefCell::default() }
    }

    fn on<T>(
        &self,
        table: Table,
        doing: &'static str,
        work: impl FnOnce(&mut OpenTable<'a>) -> Result<T, redb::StorageError>,
    ) -> Result<T, StoreError> {
        let mut open = self.open.borrow_mut();
        if !open.contains_key(table.name()) {
            let opened = self.tx.open_table(table).map_err(|e| failed(doing)(&e))?;
            open.insert(table.name().to_owned(), opened);
        }
        let Some(opened) = open.get_mut(table.name()) else { return Err(failed(doing)(&"a table is gone")) };
        work(opened).map_err(|e| failed(doing)(&e))
    }

    /// Saves bytes.
    pub fn put_bytes(&self, table: Table, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.on(table, "write", |table| table.insert(key, value).map(drop))
    }

    /// Saves a value as JSON.
    pub fn put<T: Serialize>(&self, table: Table, key: &str, value: &T) -> Result<(), StoreError> {
        self.put_bytes(table, key, &protocol::json::to_vec(value))
    }

    /// Forgets a key.
    pub fn remove(&self, table: Table, key: &str) -> Result<(), StoreError> {
        self.on(table, "write", |table| table.remove(key).map(drop))
    }

    /// Forgets a whole table.
    pub fn clear(&self, table: Table) -> Result<(), StoreError> {
        self.open.borrow_mut().remove(table.name());
        self.tx.delete_table(table).map_err(|e| failed("write")(&e))?;
        self.tx.open_table(table).map(drop).map_err(|e| failed("write")(&e))
    }

    /// The next number of a series.
    pub fn next(&self, series: &str) -> Result<u64, StoreError> {
        let key = format!("next/{series}");
        let next = self.get::<u64>(META, &key)?.unwrap_or(0) + 1;
        self.put(META, &key, &next)?;
        Ok(next)
    }

    /// Adds a value at the end of a table of numbered entries.
    pub fn append<T: Serialize>(&self, table: Table, series: &str, value: &T) -> Result<u64, StoreError> {
        let number = self.next(series)?;
        self.put(table, &self::number(number), value)?;
        Ok(number)
    }
}

/// The key of a numbered entry.
pub fn number(number: u64) -> String {
    format!("{number:020}")
}

type Job = Box<dyn FnOnce(&Change<'_>) -> Result<Tell, StoreError> + Send>;
type Tell = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// The store.
pub struct Store {
    file: Arc<File>,
    jobs: Option<SyncSender<(Job, Tell)>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_or_make(path, |_| Ok(()))
    }

    /// Opens the file; where there is none, makes one that begins with what `first` saves.
    pub fn open_or_make(
        path: &Path,
        first: impl FnOnce(&Change<'_>) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let fail = failed("open its file");
        let file = Arc::new(File::at(path));
        prepare(&*file.get()?, first)?;
        let (jobs, waiting) = sync_channel(QUEUE);
        let for_writer = Arc::clone(&file);
        let writer =
            std::thread::Builder::new().name("store".into()).spawn(move || write_all(&for_writer, &waiting));
        Ok(Self { file, jobs: Some(jobs), writer: Some(writer.map_err(|e| fail(&e))?) })
    }

    /// A look at what is saved now.
    pub fn look(&self) -> Result<Snapshot, StoreError> {
        self.file.get()?.begin_read().map(Snapshot).map_err(|e| failed("read")(&e))
    }

    /// Makes a change and waits until it is on disk.
    pub async fn write<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Change<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (tell, told) = oneshot::channel();
        let tell = Arc::new(std::sync::Mutex::new(Some(tell)));
        let on_failure = Arc::clone(&tell);
        let job: Job = Box::new(move |tx| {
            let value = change(tx)?;
            Ok(Box::new(move |saved| answer(&tell, saved.map(|()| value))))
        });
        let lost: Tell = Box::new(move |saved| {
            if let Err(error) = saved {
                answer(&on_failure, Err(error));
            }
        });
        let gone = || StoreError { doing: "write", why: "it is being closed".to_owned() };
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.try_send((job, lost))
            .map_err(|_| StoreError { doing: "write", why: "too many changes wait".into() })?;
        told.await.map_err(|_| gone())?
    }
}

fn answer<T>(
    tell: &std::sync::Mutex<Option<oneshot::Sender<Result<T, StoreError>>>>,
    value: Result<T, StoreError>,
) {
    let sender = tell.lock().ok().and_then(|mut tell| tell.take());
    if let Some(sender) = sender {
        // Whoever asked may have gone meanwhile; what he asked for is saved all the same.
        let _ = sender.send(value);
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn prepare(
    database: &Database,
    first: impl FnOnce(&Change<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let fail = failed("open its file");
    let tx = database.begin_write().map_err(|e| fail(&e))?;
    for table in ALL {
        tx.open_table(table).map_err(|e| fail(&e))?;
    }
    let change = Change::of(&tx);
    match change.get::<u64>(META, "schema")? {
        Some(schema) if schema > SCHEMA => {
            let why =
                format!("it has layout {schema} and this program knows {SCHEMA}: run the newer program");
            return Err(fail(&why));
        }
        Some(_) => {}
        None => first(&change)?,
    }
    change.put(META, "schema", &SCHEMA)?;
    drop(change);
    tx.commit().map_err(|e| fail(&e))
}

fn write_all(file: &File, waiting: &Receiver<(Job, Tell)>) {
    while let Ok(first) = waiting.recv() {
        let mut group = vec![first];
        group.extend(waiting.try_iter().take(GROUP - 1));
        let mut jobs = Vec::with_capacity(group.len());
        let mut tells = Vec::with_capacity(group.len());
        for (job, tell) in group {
            jobs.push(job);
            tells.push(tell);
        }
        match file.get().and_then(|database| save(&database, jobs)) {
            Ok(answers) => answers.into_iter().for_each(|tell| tell(Ok(()))),
            Err(error) => {
                file.close();
                for tell in tells {
                    tell(Err(error.clone()));
                }
            }
        }
    }
}

/// Runs a group and flushes it. One that fails takes the group with it: each is asked again by its maker.
fn save(database: &Database, jobs: Vec<Job>) -> Result<Vec<Tell>, StoreError> {
    let tx = database.begin_write().map_err(|e| failed("write")(&e))?;
    let change = Change::of(&tx);
    let answers: Vec<Tell> = jobs.into_iter().map(|job| job(&change)).collect::<Result<_, _>>()?;
    drop(change);
    tx.commit().map_err(|e| failed("write to disk")(&e))?;
    Ok(answers)
}

#[cfg(test)]
mod tests;
