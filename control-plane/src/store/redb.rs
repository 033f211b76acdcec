//! The store in a file: redb, one fsync for each group.
//!
//! redb's calls block, so each runs on tokio's blocking threads. A failed commit leaves redb's handle unusable, so
//! the file is closed then and opened anew by the next load.

#[cfg(test)]
mod damage_tests;
mod draft;
mod fence;
mod followers;
#[cfg(test)]
mod power_tests;
#[cfg(test)]
mod volatile_disk;

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use gateway_proto::NodeId;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, StorageError, Table,
    TableDefinition, TableHandle, backends::FileBackend,
};

pub(super) use self::draft::Draft;
use super::{ANOTHER_FORMAT, Commit, Fence, Loaded, Store, StoreError, new_epoch, stored};
use crate::registry::{Item, Key, Mutation, Revision, Write};

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const COUNTERS: TableDefinition<'_, &str, i64> = TableDefinition::new("counters");
/// By revision, then service and id: what changes at the same time lies side by side. A group of new replicas, of
/// however many services, fills a few pages at the end, where by name it would touch two for each of them. The record
/// that a change takes the place of is found by the revision at which the change was decided.
const REPLICAS: TableDefinition<'_, (i64, &str, &str), &[u8]> = TableDefinition::new("replicas_by_revision");
const POLICIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("policies");
const OVERRIDES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("overrides");
const ROUTES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("routes");
/// Pages of the file kept in memory. The registry holds everything that is read, so this serves writes only: the upper
/// levels of the trees and what one commit changes. redb's own default, 1 GiB, would keep the file there a second time.
const CACHE_BYTES: usize = 8 * 1024 * 1024;
/// Of the tables above and of what they hold. A later layout gets another number.
const FORMAT: &str = "5";

/// A full disk, a quota, and a limit on the size of one file.
const LACKS_ROOM: [ErrorKind; 3] =
    [ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge];

/// A place where no file of ours can be.
const IS_NO_PLACE: [ErrorKind; 5] = [
    ErrorKind::NotFound,
    ErrorKind::NotADirectory,
    ErrorKind::IsADirectory,
    ErrorKind::PermissionDenied,
    ErrorKind::ReadOnlyFilesystem,
];

/// Records in one file, which no other process may have open.
#[derive(Debug)]
pub struct Redb {
    place: Place,
    /// `None` after a failed commit, until a load opens the file anew.
    database: Option<Arc<Database>>,
    /// Whom the process before has named, until it is told.
    followers: Option<BTreeSet<NodeId>>,
    /// Whether the file's fence, if it has one, keeps out others only: ours does, until all has moved.
    has_fenced: bool,
}

/// Where the bytes of a store are.
#[derive(Debug, Clone)]
enum Place {
    File(PathBuf),
    /// Of which a power loss leaves what was synced.
    #[cfg(test)]
    Disk(volatile_disk::Disk),
}

impl Redb {
    /// Opens the file, or makes it with a new epoch.
    ///
    /// # Errors
    /// [`StoreError`] when another process has it open, when it cannot be read or written, or is no such store.
    pub async fn open(path: PathBuf) -> Result<Self, StoreError> {
        Self::open_at(Place::File(path)).await
    }

    async fn open_at(place: Place) -> Result<Self, StoreError> {
        let opened = place.clone();
        let (database, followers) = blocking(move || {
            let database = open(&opened)?;
            match followers::take(&database) {
                Ok(followers) => Ok((database, followers)),
                // It is of use, not of need. After a failed write the file has to be opened anew.
                Err(error) => {
                    tracing::warn!(%error, "the data planes to be expected back are not known");
                    drop(database);
                    Ok((open(&opened)?, None))
                }
            }
        })
        .await?;
        Ok(Self { place, database: Some(Arc::new(database)), followers, has_fenced: false })
    }

    /// Makes all of `group` durable, or nothing of it. Yields one revision for each mutation.
    async fn write(&mut self, group: &[Mutation]) -> Result<Vec<Revision>, StoreError> {
        let Some(database) = self.database.take() else {
            return Err(closed());
        };
        let group = group.to_vec();
        // A failure drops the handle in there: closing a file is IO, too.
        let written = blocking(move || {
            let revisions = write(&database, &group)?;
            Ok((database, revisions))
        });
        let (database, revisions) = written.await.map_err(|error| match error {
            // redb may have panicked with the change in hand.
            StoreError::Unusable(why) => StoreError::Unanswered(why),
            error => error,
        })?;
        self.database = Some(database);
        Ok(revisions)
    }
}

impl Store for Redb {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        let database = match &self.database {
            Some(database) => Arc::clone(database),
            None => {
                let place = self.place.clone();
                let database = Arc::new(blocking(move || open(&place)).await?);
                Arc::clone(self.database.insert(database))
            }
        };
        let has_fenced = self.has_fenced;
        let loaded = blocking(move || {
            if !has_fenced {
                fence::refuse(&database)?;
            }
            read_all(&database)
        });
        let loaded = loaded.await?;
        Ok(Loaded { followers: self.followers.take(), ..loaded })
    }

    async fn commit(&mut self, _base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        self.write(group).await.map(Commit::Durable)
    }

    async fn name_followers(&mut self, followers: BTreeSet<NodeId>) -> Result<(), StoreError> {
        let Some(database) = self.database.take() else { return Err(closed()) };
        self.database =
            Some(blocking(move || followers::name(&database, &followers).map(|()| database)).await?);
        Ok(())
    }

    /// Nobody else has the file open, so nothing becomes of ours, and nothing becomes durable, without us.
    async fn fence(&mut self, fence: Option<Fence>, _base: Option<Revision>) -> Result<bool, StoreError> {
        let Some(database) = self.database.take() else { return Err(closed()) };
        let (kept, is_closing, has_fenced) = (Arc::clone(&database), fence.is_some(), self.has_fenced);
        let keeps_out_others = matches!(fence, Some(Fence::Filling { .. } | Fence::Moving { .. }));
        let done = blocking(move || {
            if is_closing && !has_fenced {
                fence::refuse(&database)?;
            }
            fence::set(&database, fence.as_ref())
        });
        let done = done.await;
        match done {
            Ok(()) => (self.database, self.has_fenced) = (Some(kept), keeps_out_others),
            // Nothing was written.
            Err(StoreError::Fenced(_)) => self.database = Some(kept),
            Err(_) => {}
        }
        done.map(|()| true)
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("the file is closed after a failed commit".into())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let result = tokio::task::spawn_blocking(work).await;
    // redb trusts some of what it reads, and panics where that is wrong.
    result.unwrap_or_else(|error| Err(damaged(error)))
}

fn open(place: &Place) -> Result<Database, StoreError> {
    match place {
        Place::File(path) => open_file(path),
        #[cfg(test)]
        Place::Disk(disk) => open_existing(disk.attach().map_err(of_the_file)?),
    }
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return create(path),
        opened => opened.map_err(of_the_file)?,
    };
    // A store is whole before it gets its name, so this one has lost what it held, and redb would make a new one of it.
    if file.metadata().map_err(of_the_file)?.len() == 0 {
        return Err(damaged("it is empty"));
    }
    let database = open_existing(FileBackend::new(file).map_err(not_opened)?)?;
    // Whoever made it may have ended before its name was durable, and what is written to a file without a name is lost with it. Most have
    // not, and not everybody may open the folder, nor has every file system a way to sync one.
    if let Err(error) = sync_folder(path) {
        tracing::warn!(
            %error,
            path = %path.display(),
            "the folder of the store's file cannot be synced: if the machine crashed just after the file was made, it may be lost"
        );
    }
    Ok(database)
}

/// Makes a store that is at `path` only once it is whole: a process that ends half-way leaves no file that nobody can
/// open.
fn create(path: &Path) -> Result<Database, StoreError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{:016x}.new", rand::random::<u64>()));
    // Lease ids prove ownership, so the file is for its owner only.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&draft);
    let made = FileBackend::new(file.map_err(of_the_file)?).map_err(not_opened).and_then(create_in);
    let made = made.map(|database| (database, put_in_place(draft.as_ref(), path)));
    // It is a second name for the same file by now, or of no use.
    let _ = fs::remove_file(&draft);
    match made? {
        (database, Ok(())) => Ok(database),
        (_, Err(error)) if error.kind() == ErrorKind::AlreadyExists => open_file(path),
        (_, Err(error)) => Err(of_the_file(error)),
    }
}

/// Gives a new file its name, durably, unless another file has got it meanwhile.
fn put_in_place(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        // Not every file system has links.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => fs::rename(draft, path)?,
        linked => linked?,
    }
    sync_folder(path)
}

/// Makes the name of a file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes a store where there is nothing.
fn create_in(backend: impl StorageBackend) -> Result<Database, StoreError> {
    let database = builder().create_with_backend(backend).map_err(not_opened)?;
    let transaction = database.begin_write().map_err(failed)?;
    {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        meta.insert("format", FORMAT).map_err(failed)?;
        meta.insert("epoch", new_epoch().as_str()).map_err(failed)?;
        // Reading needs the tables to exist.
        transaction.open_table(COUNTERS).map_err(failed)?;
        transaction.open_table(REPLICAS).map_err(failed)?;
        transaction.open_table(POLICIES).map_err(failed)?;
        transaction.open_table(OVERRIDES).map_err(failed)?;
        transaction.open_table(ROUTES).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(database)
}

/// Opens a store and checks every page of it, so that nothing is served that was not written.
fn open_existing(backend: impl StorageBackend) -> Result<Database, StoreError> {
    let is_repaired = Arc::new(AtomicBool::new(false));
    let mut builder = builder();
    let repairing = Arc::clone(&is_repaired);
    builder.set_repair_callback(move |_| repairing.store(true, Ordering::Relaxed));
    let mut database = builder.create_with_backend(backend).map_err(not_opened)?;
    // A repair, which follows an end without a close, has read everything already.
    if !is_repaired.load(Ordering::Relaxed) && !database.check_integrity().map_err(not_opened)? {
        tracing::warn!("the store's file is not as it was left: repaired, perhaps without the last changes");
    }
    match format(&database)?.as_deref() {
        Some(FORMAT) => Ok(database),
        Some(other) => {
            let why =
                format!("the file has format {other}, this version reads format {FORMAT}; {ANOTHER_FORMAT}");
            Err(StoreError::Unusable(why))
        }
        None => Err(damaged("it names no format")),
    }
}

fn format(database: &Database) -> Result<Option<String>, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = transaction.open_table(META).map_err(damaged)?;
    Ok(meta.get("format").map_err(failed)?.map(|value| value.value().to_owned()))
}

fn read_all(database: &Database) -> Result<Loaded, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = transaction.open_table(META).map_err(failed)?;
    let epoch = meta.get("epoch").map_err(failed)?.map(|value| value.value().to_owned());
    let epoch = epoch.ok_or_else(|| damaged("it names no epoch"))?;
    let counters = transaction.open_table(COUNTERS).map_err(failed)?;
    let revision = counters.get("revision").map_err(failed)?.map_or(0, |value| value.value());
    let mut items = Vec::new();
    let replicas = transaction.open_table(REPLICAS).map_err(failed)?;
    for entry in replicas.iter().map_err(failed)? {
        let (key, bytes) = entry.map_err(failed)?;
        let record = stored::decode_replica(bytes.value()).map_err(|why| {
            let (_, service, replica) = key.value();
            damaged(format!("the record of {service}/{replica}: {why}"))
        })?;
        items.push(record.into());
    }
    let others: [(TableDefinition<'_, &str, &[u8]>, Decode); 3] = [
        (POLICIES, stored::decode_policy),
        (OVERRIDES, stored::decode_override),
        (ROUTES, stored::decode_route),
    ];
    for (definition, decode) in others {
        let table = transaction.open_table(definition).map_err(failed)?;
        for entry in table.iter().map_err(failed)? {
            let (key, bytes) = entry.map_err(failed)?;
            let what = || format!("the entry {} of {}", key.value(), definition.name());
            items.push(decode(bytes.value()).map_err(|why| damaged(format!("{}: {why}", what())))?);
        }
    }
    Ok(Loaded { epoch, revision, items, kept: HashSet::new(), owes: false, followers: None })
}

type Decode = fn(&[u8]) -> Result<Item, String>;

fn write(database: &Database, group: &[Mutation]) -> Result<Vec<Revision>, StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut revisions = Vec::with_capacity(group.len());
    {
        let mut counters = transaction.open_table(COUNTERS).map_err(failed)?;
        let mut replicas = transaction.open_table(REPLICAS).map_err(failed)?;
        let mut policies = transaction.open_table(POLICIES).map_err(failed)?;
        let mut overrides = transaction.open_table(OVERRIDES).map_err(failed)?;
        let mut routes = transaction.open_table(ROUTES).map_err(failed)?;
        let mut revision = counters.get("revision").map_err(failed)?.map_or(0, |value| value.value());
        for mutation in group {
            revision += 1;
            revisions.push(revision);
            for write in mutation.writes() {
                let bytes = match &write.write {
                    Write::Put(item) => Some(stored::encode(&item.clone().at(revision))),
                    Write::Remove => None,
                };
                match &write.key {
                    Key::Replica(key) => {
                        let at = |revision| (revision, key.service.as_str(), key.replica.as_str());
                        if let Some(before) = write.expected
                            && replicas.remove(at(before)).map_err(failed)?.is_none()
                        {
                            let why = format!("the file has no {key} of revision {before}: read it again");
                            return Err(StoreError::Unavailable(why));
                        }
                        if let Some(bytes) = bytes {
                            replicas.insert(at(revision), bytes.as_slice()).map_err(failed)?;
                        }
                    }
                    Key::Policy(scope) => set(&mut policies, scope.as_str(), bytes.as_deref())?,
                    Key::Override(id) => set(&mut overrides, id.as_str(), bytes.as_deref())?,
                    Key::Route(name) => set(&mut routes, name.as_str(), bytes.as_deref())?,
                }
            }
        }
        counters.insert("revision", revision).map_err(failed)?;
    }
    // It may fail in its last sync, of what the disk has already, and does not say so.
    transaction.commit().map_err(|error| match failed(error) {
        StoreError::Full(why) => StoreError::FullUnanswered(why),
        error => StoreError::Unanswered(error.to_string()),
    })?;
    Ok(revisions)
}

/// Writes an entry, or removes it.
fn set<'a, K: redb::Key>(
    table: &mut Table<'_, K, &'static [u8]>,
    key: K::SelfType<'a>,
    bytes: Option<&[u8]>,
) -> Result<(), StoreError> {
    match bytes {
        Some(bytes) => table.insert(key, bytes).map(drop).map_err(failed),
        None => table.remove(key).map(drop).map_err(failed),
    }
}

fn of_the_file(error: io::Error) -> StoreError {
    failed(redb::Error::Io(error))
}

fn not_opened(error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
        DatabaseError::Storage(StorageError::Corrupted(why)) => damaged(why),
        // Neither comes from a device.
        DatabaseError::Storage(StorageError::Io(error))
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            damaged(error)
        }
        other => failed(other),
    }
}

fn damaged(why: impl fmt::Display) -> StoreError {
    StoreError::Unusable(format!(
        "the file is damaged, or no store of this program: {why}; put a backup in its place, or move it away and let replicas register anew"
    ))
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(io) if LACKS_ROOM.contains(&io.kind()) => StoreError::Full(io.to_string()),
        redb::Error::Io(io) if IS_NO_PLACE.contains(&io.kind()) => StoreError::Unusable(io.to_string()),
        other @ (redb::Error::UpgradeRequired(_) | redb::Error::Corrupted(_)) => {
            StoreError::Unusable(other.to_string())
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests;
