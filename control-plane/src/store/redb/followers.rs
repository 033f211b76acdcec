//! The data planes that a process names in the file as it ends, for the next one that opens it.
//!
//! They are taken out by that one before it serves: of a process that is killed, the next one must not believe what an
//! earlier one has named. Nor does anybody who finds that the registry has changed since.

use std::collections::BTreeSet;

use gateway_proto::NodeId;
use redb::{Database, ReadableDatabase, ReadableTable};

use super::{COUNTERS, META, failed};
use crate::{registry::Revision, store::StoreError};

/// In [`META`]: the registry's revision, and then the names, each on a line of its own.
const ENTRY: &str = "followers";

/// Names these.
pub(super) fn name(database: &Database, followers: &BTreeSet<NodeId>) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    {
        let counters = transaction.open_table(COUNTERS).map_err(failed)?;
        let revision = counters.get("revision").map_err(failed)?.map_or(0, |value| value.value());
        let mut meta = transaction.open_table(META).map_err(failed)?;
        meta.insert(ENTRY, write(revision, followers).as_str()).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

/// Takes out whom the process before has named, if it has and nothing has changed since.
pub(super) fn take(database: &Database) -> Result<Option<BTreeSet<NodeId>>, StoreError> {
    let transaction = database.begin_read().map_err(failed)?;
    let meta = transaction.open_table(META).map_err(failed)?;
    let named = meta.get(ENTRY).map_err(failed)?.map(|value| value.value().to_owned());
    let Some(named) = named else { return Ok(None) };
    let counters = transaction.open_table(COUNTERS).map_err(failed)?;
    let revision = counters.get("revision").map_err(failed)?.map_or(0, |value| value.value());
    let transaction = database.begin_write().map_err(failed)?;
    transaction.open_table(META).map_err(failed)?.remove(ENTRY).map_err(failed)?;
    transaction.commit().map_err(failed)?;
    Ok(read(&named, revision))
}

fn write(revision: Revision, followers: &BTreeSet<NodeId>) -> String {
    let names = followers.iter().map(|id| format!("\n{id}")).collect::<String>();
    format!("{revision}{names}")
}

/// `None` for what was named at another revision, and for what nobody has written in this form.
fn read(named: &str, revision: Revision) -> Option<BTreeSet<NodeId>> {
    let (at, names) = named.split_once('\n').unwrap_or((named, ""));
    (at.parse() == Ok(revision)).then(|| names.lines().map(|id| NodeId::parse(id).ok()).collect())?
}

#[cfg(test)]
mod tests {
    use super::{super::Redb, *};
    use crate::store::Store;

    fn ids(ids: &[&str]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId::parse(id).unwrap()).collect()
    }

    #[tokio::test]
    async fn whom_a_process_names_as_it_ends_the_next_one_is_told_and_nobody_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.redb");
        let open = async || Redb::open(path.clone()).await.unwrap();
        for named in [ids(&["n-1", "n-2"]), ids(&[])] {
            let mut store = open().await;
            assert_eq!(store.load().await.unwrap().followers, None);
            store.name_followers(named.clone()).await.unwrap();
            drop(store);
            let mut store = open().await;
            assert_eq!(store.load().await.unwrap().followers, Some(named));
            assert_eq!(store.load().await.unwrap().followers, None, "it is of the start alone");
        }
    }

    #[test]
    fn what_was_named_at_another_revision_or_is_no_list_counts_for_nothing() {
        let named = write(5, &ids(&["n-1", "n-2"]));
        assert_eq!(read(&named, 5), Some(ids(&["n-1", "n-2"])));
        assert_eq!(read(&write(5, &ids(&[])), 5), Some(ids(&[])));
        for (named, revision) in [(named.as_str(), 6), ("", 0), ("n-1", 0), ("5\nn 1", 5)] {
            assert_eq!(read(named, revision), None, "{named:?}");
        }
    }
}
