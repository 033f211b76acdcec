//! A store that is filled before it gets its name: whoever ends half-way leaves nothing that is taken for a whole one.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{Redb, blocking, of_the_file, put_in_place};
use crate::store::StoreError;

/// A new store, beside the place that is to be its own. Goes with this, unless it has got there.
#[derive(Debug)]
pub(in crate::store) struct Draft {
    /// What is filled.
    pub(in crate::store) store: Redb,
    beside: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// For a place where nothing is.
    ///
    /// # Errors
    /// [`StoreError`] when something is there, or no file can be made beside it.
    pub(in crate::store) async fn begin(path: PathBuf) -> Result<Self, StoreError> {
        if fs::symlink_metadata(&path).is_ok() {
            return Err(taken());
        }
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{:016x}.part", rand::random::<u64>()));
        let beside = PathBuf::from(beside);
        Ok(Self { store: Redb::open(beside.clone()).await?, beside, path })
    }

    /// Gives it its name, durably.
    ///
    /// # Errors
    /// [`StoreError`] when something has come there meanwhile, or the name cannot be given.
    pub(in crate::store) async fn finish(mut self) -> Result<(), StoreError> {
        let (database, beside, path) = (self.store.database.take(), self.beside.clone(), self.path.clone());
        blocking(move || {
            // Closed in order, so that whoever opens it finds nothing to repair.
            drop(database);
            put(&beside, &path)
        })
        .await
    }
}

fn put(beside: &Path, path: &Path) -> Result<(), StoreError> {
    put_in_place(beside, path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => taken(),
        _ => of_the_file(error),
    })
}

fn taken() -> StoreError {
    StoreError::Unavailable("there is a file already: name one that is not there yet".into())
}

impl Drop for Draft {
    fn drop(&mut self) {
        // It is a second name for the same file by now, or of no use.
        let _ = fs::remove_file(&self.beside);
    }
}
