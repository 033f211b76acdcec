//! The store that a configuration names, whichever it is.

use std::{collections::BTreeSet, sync::Arc};

use gateway_proto::NodeId;
use gateway_runtime::tls::Standing;

use super::{
    Commit, Etcd, EtcdFiles, Fence, Loaded, Memory, News, Peers, Redb, Store, StoreError, StoreLocation,
};
use crate::{
    leases::Outlet,
    registry::{Mutation, Revision},
};

/// The store that [`StoreLocation`] names.
#[derive(Debug)]
pub enum AnyStore {
    /// In a file.
    Redb(Redb),
    /// In an etcd.
    Etcd(Box<Etcd>),
    /// Nowhere.
    Memory(Memory),
}

impl AnyStore {
    /// Opens a store, or makes one where there is none. `files` are for etcd.
    ///
    /// # Errors
    /// [`StoreError`] when the file cannot be used: no permission, no such directory, in use by another process, or
    /// not a store of ours; when etcd does not answer within 10 s, does not let us in, or holds something else there.
    pub async fn open(location: &StoreLocation, files: &EtcdFiles) -> Result<Self, StoreError> {
        match location {
            StoreLocation::Redb(path) => Redb::open(path.clone()).await.map(Self::Redb),
            StoreLocation::Etcd(location) => {
                Etcd::open(location, files).await.map(|store| Self::Etcd(Box::new(store)))
            }
            StoreLocation::Memory => Ok(Self::Memory(Memory::new())),
        }
    }

    /// Opens a store that is there.
    ///
    /// # Errors
    /// [`StoreError`] when there is none, and as [`AnyStore::open`].
    pub async fn open_existing(location: &StoreLocation, files: &EtcdFiles) -> Result<Self, StoreError> {
        match location {
            StoreLocation::Redb(path) if !path.exists() => {
                Err(StoreError::Unavailable("there is no such file".into()))
            }
            StoreLocation::Etcd(location) => {
                Etcd::open_existing(location, files).await.map(|store| Self::Etcd(Box::new(store)))
            }
            other => Self::open(other, files).await,
        }
    }
}

impl Store for AnyStore {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        match self {
            Self::Redb(store) => store.load().await,
            Self::Etcd(store) => store.load().await,
            Self::Memory(store) => store.load().await,
        }
    }

    async fn commit(&mut self, base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        match self {
            Self::Redb(store) => store.commit(base, group).await,
            Self::Etcd(store) => store.commit(base, group).await,
            Self::Memory(store) => store.commit(base, group).await,
        }
    }

    async fn is_at(&mut self, base: Revision) -> Result<bool, StoreError> {
        match self {
            Self::Redb(store) => store.is_at(base).await,
            Self::Etcd(store) => store.is_at(base).await,
            Self::Memory(store) => store.is_at(base).await,
        }
    }

    async fn resume(&mut self, base: Revision) -> Result<Option<Revision>, StoreError> {
        match self {
            Self::Redb(store) => store.resume(base).await,
            Self::Etcd(store) => store.resume(base).await,
            Self::Memory(store) => store.resume(base).await,
        }
    }

    async fn news(&mut self) -> News {
        match self {
            Self::Redb(store) => store.news().await,
            Self::Etcd(store) => store.news().await,
            Self::Memory(store) => store.news().await,
        }
    }

    async fn name_followers(&mut self, followers: BTreeSet<NodeId>) -> Result<(), StoreError> {
        match self {
            Self::Redb(store) => store.name_followers(followers).await,
            Self::Etcd(store) => store.name_followers(followers).await,
            Self::Memory(store) => store.name_followers(followers).await,
        }
    }

    async fn fence(&mut self, fence: Option<Fence>, base: Option<Revision>) -> Result<bool, StoreError> {
        match self {
            Self::Redb(store) => store.fence(fence, base).await,
            Self::Etcd(store) => store.fence(fence, base).await,
            Self::Memory(store) => store.fence(fence, base).await,
        }
    }

    fn max_group(&self) -> usize {
        match self {
            Self::Redb(store) => store.max_group(),
            Self::Etcd(store) => store.max_group(),
            Self::Memory(store) => store.max_group(),
        }
    }

    fn is_shared(&self) -> bool {
        match self {
            Self::Redb(store) => store.is_shared(),
            Self::Etcd(store) => store.is_shared(),
            Self::Memory(store) => store.is_shared(),
        }
    }

    fn outlet(&self) -> Option<Outlet> {
        match self {
            Self::Redb(store) => store.outlet(),
            Self::Etcd(store) => store.outlet(),
            Self::Memory(store) => store.outlet(),
        }
    }

    fn certificates(&self) -> Option<Arc<Standing>> {
        match self {
            Self::Redb(store) => store.certificates(),
            Self::Etcd(store) => store.certificates(),
            Self::Memory(store) => store.certificates(),
        }
    }

    fn peers(&self) -> Option<Peers> {
        match self {
            Self::Redb(store) => store.peers(),
            Self::Etcd(store) => store.peers(),
            Self::Memory(store) => store.peers(),
        }
    }
}
