//! The fence of a file: an entry in it.

use redb::{Database, ReadableDatabase};

use super::{META, damaged, failed};
use crate::store::{Fence, StoreError};

/// In [`META`].
const ENTRY: &str = "fence";

/// # Errors
/// [`StoreError::Fenced`], if it has one.
pub(super) fn refuse(database: &Database) -> Result<(), StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = transaction.open_table(META).map_err(failed)?;
    match meta.get(ENTRY).map_err(failed)? {
        Some(entry) => Err(StoreError::Fenced(Fence::decode(entry.value().as_bytes()).map_err(damaged)?)),
        None => Ok(()),
    }
}

/// Puts one there, or takes it away.
pub(super) fn set(database: &Database, fence: Option<&Fence>) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    {
        let mut meta = transaction.open_table(META).map_err(failed)?;
        match fence {
            Some(fence) => meta.insert(ENTRY, fence.encode().as_str()).map(drop),
            None => meta.remove(ENTRY).map(drop),
        }
        .map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Redb, tests::put},
        *,
    };
    use crate::store::Store;

    #[tokio::test]
    async fn whoever_has_moved_all_of_a_file_changes_it_no_more_either_until_it_is_reopened() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Redb::open(folder.path().join("gateway.redb")).await.unwrap();
        store.commit(0, &[put("a")]).await.unwrap();
        let (moving, moved) = (Fence::Moving { to: "memory:".into() }, Fence::Moved { to: "memory:".into() });
        assert_eq!(store.fence(Some(moving), None).await, Ok(true));
        let loaded = store.load().await;
        assert!(loaded.is_ok(), "it keeps out others only");
        assert_eq!(store.fence(Some(moved.clone()), Some(1)).await, Ok(true));
        assert_eq!(store.load().await, Err(StoreError::Fenced(moved)));
        assert_eq!(store.fence(None, None).await, Ok(true));
        assert_eq!(store.load().await, loaded);
    }

    #[tokio::test]
    async fn a_file_with_a_fence_opens_for_nobody_but_who_put_it_there_until_it_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.redb");
        let fence = Fence::Moved { to: "etcd://a:2379/gw".into() };
        let mut store = Redb::open(path.clone()).await.unwrap();
        store.commit(0, &[put("a")]).await.unwrap();
        let loaded = store.load().await.unwrap();
        store.fence(Some(fence.clone()), None).await.unwrap();
        drop(store);
        let mut store = Redb::open(path.clone()).await.unwrap();
        assert_eq!(store.load().await, Err(StoreError::Fenced(fence.clone())));
        assert_eq!(store.fence(Some(fence.clone()), None).await, Err(StoreError::Fenced(fence)));
        store.fence(None, None).await.unwrap();
        drop(store);
        assert_eq!(Redb::open(path).await.unwrap().load().await, Ok(loaded));
    }
}
