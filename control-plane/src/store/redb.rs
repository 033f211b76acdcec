//! The store in a file: redb, one fsync for each group.
//!
//! redb's calls block, so each runs on tokio's blocking threads. A failed commit leaves redb's handle unusable, so
//! the file is closed then and opened anew by the next load.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Loaded, Store, StoreError, new_epoch, stored};
use crate::registry::{Mutation, Record, Revision, Write};

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const COUNTERS: TableDefinition<'_, &str, i64> = TableDefinition::new("counters");
const REPLICAS: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("replicas");
/// Of the tables above and of what they hold. A later layout gets another number.
const FORMAT: &str = "1";

/// Records in one file, which no other process may have open.
#[derive(Debug)]
pub struct Redb {
    path: PathBuf,
    /// `None` after a failed commit, until a load opens the file anew.
    database: Option<Arc<Database>>,
}

impl Redb {
    /// Opens the file, or makes it with a new epoch.
    ///
    /// # Errors
    /// [`StoreError`] when another process has it open, when it cannot be read or written, or is no such store.
    pub async fn open(path: PathBuf) -> Result<Self, StoreError> {
        let opened = path.clone();
        let database = blocking(move || open(&opened)).await?;
        Ok(Self { path, database: Some(Arc::new(database)) })
    }
}

impl Store for Redb {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        let database = match &self.database {
            Some(database) => Arc::clone(database),
            None => {
                let path = self.path.clone();
                let database = Arc::new(blocking(move || open(&path)).await?);
                Arc::clone(self.database.insert(database))
            }
        };
        blocking(move || read_all(&database)).await
    }

    async fn commit(&mut self, group: &[Mutation]) -> Result<Vec<Revision>, StoreError> {
        let Some(database) = self.database.take() else {
            return Err(StoreError::Unavailable("the file is closed after a failed commit".into()));
        };
        let group = group.to_vec();
        // A failure drops the handle in there: closing a file is IO, too.
        let (database, revisions) = blocking(move || {
            let revisions = write(&database, &group)?;
            Ok((database, revisions))
        })
        .await?;
        self.database = Some(database);
        Ok(revisions)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("the store's task ended: {error}"))))
}

fn open(path: &Path) -> Result<Database, StoreError> {
    // Lease ids prove ownership, so the file is for its owner only.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    let file = file.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let database = Database::builder().create_file(file).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => {
            StoreError::Unavailable("another process has the file open".into())
        }
        other => failed(other),
    })?;
    let transaction = database.begin_write().map_err(failed)?;
    {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        let format = meta.get("format").map_err(failed)?.map(|value| value.value().to_owned());
        match format.as_deref() {
            Some(FORMAT) => {}
            Some(other) => {
                let why = format!("the file has format {other}, this version reads format {FORMAT}");
                return Err(StoreError::Unavailable(why));
            }
            None => {
                meta.insert("format", FORMAT).map_err(failed)?;
                meta.insert("epoch", new_epoch().as_str()).map_err(failed)?;
            }
        }
        // Reading needs the tables to exist.
        transaction.open_table(COUNTERS).map_err(failed)?;
        transaction.open_table(REPLICAS).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(database)
}

fn read_all(database: &Database) -> Result<Loaded, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = transaction.open_table(META).map_err(failed)?;
    let epoch = meta.get("epoch").map_err(failed)?.map(|value| value.value().to_owned());
    let epoch = epoch.ok_or_else(|| StoreError::Unavailable("the file names no epoch".into()))?;
    let counters = transaction.open_table(COUNTERS).map_err(failed)?;
    let revision = counters.get("revision").map_err(failed)?.map_or(0, |value| value.value());
    let replicas = transaction.open_table(REPLICAS).map_err(failed)?;
    let mut records = Vec::new();
    for entry in replicas.iter().map_err(failed)? {
        let (key, bytes) = entry.map_err(failed)?;
        let record = stored::decode(bytes.value()).map_err(|why| {
            let (service, replica) = key.value();
            StoreError::Unavailable(format!("the record of {service}/{replica} is damaged: {why}"))
        })?;
        records.push(record);
    }
    Ok(Loaded { epoch, revision, records })
}

fn write(database: &Database, group: &[Mutation]) -> Result<Vec<Revision>, StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    let mut revisions = Vec::with_capacity(group.len());
    {
        let mut counters = transaction.open_table(COUNTERS).map_err(failed)?;
        let mut replicas = transaction.open_table(REPLICAS).map_err(failed)?;
        let mut revision = counters.get("revision").map_err(failed)?.map_or(0, |value| value.value());
        for mutation in group {
            revision += 1;
            revisions.push(revision);
            let key = (mutation.key.service.as_str(), mutation.key.replica.as_str());
            match &mutation.write {
                Write::Put(record) => {
                    let record = Record { revision, ..Record::clone(record) };
                    replicas.insert(key, stored::encode(&record).as_slice()).map_err(failed)?;
                }
                Write::Remove => {
                    replicas.remove(key).map_err(failed)?;
                }
            }
        }
        counters.insert("revision", revision).map_err(failed)?;
    }
    transaction.commit().map_err(failed)?;
    Ok(revisions)
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(io) if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
            StoreError::Full(io.to_string())
        }
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::{registry::Cause, store::stored::tests::record};

    fn put(id: &str) -> Mutation {
        let record = record(id);
        Mutation {
            key: record.key.clone(),
            expected: None,
            write: Write::Put(Box::new(record)),
            cause: Cause::Registered,
            at: UNIX_EPOCH,
        }
    }

    fn removal(id: &str) -> Mutation {
        Mutation { write: Write::Remove, ..put(id) }
    }

    #[tokio::test]
    async fn a_reopened_file_has_everything_that_was_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.redb");
        let mut store = Redb::open(path.clone()).await.unwrap();
        assert_eq!(store.commit(&[put("a"), put("b"), put("c")]).await, Ok(vec![1, 2, 3]));
        assert_eq!(store.commit(&[removal("b")]).await, Ok(vec![4]));
        let before = store.load().await.unwrap();
        drop(store);
        let after = Redb::open(path).await.unwrap().load().await.unwrap();
        assert_eq!(after, before);
        assert_eq!(after.revision, 4);
        let kept = [("a", 1), ("c", 3)].map(|(id, revision)| Record { revision, ..record(id) });
        assert_eq!(after.records, kept);
    }

    #[tokio::test]
    async fn two_new_files_have_two_epochs() {
        let folder = tempfile::tempdir().unwrap();
        let mut epochs = Vec::new();
        for name in ["one", "two"] {
            epochs.push(Redb::open(folder.path().join(name)).await.unwrap().load().await.unwrap().epoch);
        }
        assert_ne!(epochs[0], epochs[1]);
    }

    #[tokio::test]
    async fn a_second_opening_of_one_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.redb");
        let _first = Redb::open(path.clone()).await.unwrap();
        let second = Redb::open(path).await.unwrap_err();
        assert_eq!(second, StoreError::Unavailable("another process has the file open".into()));
    }

    #[tokio::test]
    async fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "my notes").unwrap();
        assert!(Redb::open(path.clone()).await.is_err());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "my notes");
    }

    #[tokio::test]
    async fn after_a_failure_the_next_load_opens_the_file_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Redb::open(folder.path().join("gateway.redb")).await.unwrap();
        store.commit(&[put("a")]).await.unwrap();
        store.database = None;
        assert!(store.commit(&[put("b")]).await.is_err());
        assert_eq!(store.load().await.unwrap().revision, 1);
        assert_eq!(store.commit(&[put("b")]).await, Ok(vec![2]));
    }
}
