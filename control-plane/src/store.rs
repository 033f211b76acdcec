//! Where registrations survive the process.
//!
//! A store makes groups of mutations durable and numbers them. It decides nothing: what may be written was decided
//! before, and only what a store has returned is applied. The writer is its only caller.

mod memory;
mod redb;
#[cfg(test)]
mod round_trip_tests;
mod stored;

use std::{fmt, path::PathBuf, str::FromStr};

use crate::registry::{Item, Mutation, Revision};

pub use self::{memory::Memory, redb::Redb};

/// Durable records under growing revisions.
pub trait Store: Send + 'static {
    /// Reads everything. Called at the start, and again after a failed commit, whose outcome is unknown until then.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is known; try again later.
    fn load(&mut self) -> impl Future<Output = Result<Loaded, StoreError>> + Send;

    /// Makes all of `group` durable, or nothing of it, and yields one revision for each mutation, in order. What one
    /// mutation writes has one revision.
    ///
    /// Not cancel safe: once polled it must be awaited, or its outcome is unknown.
    ///
    /// # Errors
    /// [`StoreError`]: the outcome is unknown until [`Store::load`] succeeds.
    fn commit(
        &mut self,
        group: &[Mutation],
    ) -> impl Future<Output = Result<Vec<Revision>, StoreError>> + Send;
}

/// Everything a store holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// Names this incarnation of the store: random, drawn when it was created. Revisions of two epochs do not compare.
    pub epoch: String,
    /// The revision of the last mutation.
    pub revision: Revision,
    /// Every record: replicas, then policies, overrides and routes, each kind in an order of the store's own.
    pub items: Vec<Item>,
}

/// Why a store could not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no room left.
    #[error("no space left: {0}")]
    Full(String),
    /// Anything else; it may pass.
    #[error("{0}")]
    Unavailable(String),
}

/// Which store to use, as `--store` says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// A file of our own, `redb:PATH`. One process at a time.
    Redb(PathBuf),
    /// Nothing survives, `memory:`.
    Memory,
}

impl FromStr for StoreLocation {
    type Err = String;

    /// Reads `redb:PATH` or `memory:`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("redb", "")) => Err("redb: needs a path, e.g. redb:gateway.redb".into()),
            Some(("redb", path)) => Ok(Self::Redb(path.into())),
            Some(("memory", "")) => Ok(Self::Memory),
            Some(("etcd", _)) => {
                Err("etcd:// is not available in this version: use redb:PATH or memory:".into())
            }
            _ => Err("is neither redb:PATH nor memory:".into()),
        }
    }
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redb(path) => write!(f, "redb:{}", path.display()),
            Self::Memory => f.write_str("memory:"),
        }
    }
}

/// The store that [`StoreLocation`] names.
#[derive(Debug)]
pub enum AnyStore {
    /// In a file.
    Redb(Redb),
    /// Nowhere.
    Memory(Memory),
}

impl AnyStore {
    /// Opens a store, or makes one where there is none.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be used: no permission, no such directory, in use by another process, or
    /// not a store of ours.
    pub async fn open(location: &StoreLocation) -> Result<Self, StoreError> {
        match location {
            StoreLocation::Redb(path) => Redb::open(path.clone()).await.map(Self::Redb),
            StoreLocation::Memory => Ok(Self::Memory(Memory::new())),
        }
    }
}

impl Store for AnyStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        match self {
            Self::Redb(store) => store.load().await,
            Self::Memory(store) => store.load().await,
        }
    }

    async fn commit(&mut self, group: &[Mutation]) -> Result<Vec<Revision>, StoreError> {
        match self {
            Self::Redb(store) => store.commit(group).await,
            Self::Memory(store) => store.commit(group).await,
        }
    }
}

/// A new epoch's name: 128 random bits.
fn new_epoch() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_says_what_it_is_or_what_would_be_allowed() {
        assert_eq!("redb:a/b.redb".parse(), Ok(StoreLocation::Redb("a/b.redb".into())));
        assert_eq!("memory:".parse(), Ok(StoreLocation::Memory));
        for (text, why) in [
            ("redb:", "redb: needs a path, e.g. redb:gateway.redb"),
            ("etcd://a:1", "etcd:// is not available in this version: use redb:PATH or memory:"),
            ("a.redb", "is neither redb:PATH nor memory:"),
            ("memory:x", "is neither redb:PATH nor memory:"),
            ("", "is neither redb:PATH nor memory:"),
        ] {
            assert_eq!(text.parse::<StoreLocation>(), Err(why.to_owned()), "{text:?}");
        }
    }
}
