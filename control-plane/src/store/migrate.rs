//! Everything from one store into another one, which is empty.

use super::{Commit, Store, StoreError};
use crate::registry::{Cause, Item, Mutation, RecordWrite, Revision};

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Replicas, policies, overrides and routes.
    pub records: usize,
    /// Of the store that they came from.
    pub from: Revision,
    /// Of the store that they are in.
    pub to: Revision,
}

/// Copies all that `from` holds into `to`. Nothing is changed in `from`. Leases keep their ids, so owners go on renewing them; each
/// has one full time to live from the start of a control plane on `to`.
///
/// Not cancel safe: `to` holds a part then, and is refused the next time.
///
/// # Errors
/// [`StoreError`] of either store; when `to` is not empty, or somebody else writes to it.
pub async fn migrate<F: Store, T: Store>(from: &mut F, to: &mut T) -> Result<Moved, StoreError> {
    let loaded = from.load().await?;
    let target = to.load().await?;
    if !target.items.is_empty() {
        let why =
            format!("it holds {} records: records are moved into an empty one only", target.items.len());
        return Err(StoreError::Unavailable(why));
    }
    let at = crate::clock::wall();
    let mutations = loaded.items.into_iter().map(|item| Mutation::one(moved(item), at));
    let mutations: Vec<_> = mutations.collect();
    let (mut base, mut done) = (target.revision, 0);
    while done < mutations.len() {
        let end = mutations.len().min(done + to.max_group());
        match to.commit(base, &mutations[done..end]).await? {
            Commit::Durable(revisions) => {
                done += revisions.len();
                base = revisions.last().copied().unwrap_or(base);
            }
            Commit::Overtaken(_) => {
                let why = "somebody else writes to it: stop the control planes that use it already";
                return Err(StoreError::Unavailable(why.into()));
            }
        }
    }
    Ok(Moved { records: mutations.len(), from: loaded.revision, to: base })
}

/// The write that begins an item where it was not.
fn moved(mut item: Item) -> RecordWrite {
    if let Item::Replica(record) = &mut item
        && let Some(drain) = record.drain.as_deref_mut()
    {
        // Data planes confirm it anew, by the revisions of the store that they will hear of.
        drain.revision = 0;
    }
    RecordWrite::put(item, None, Cause::Registered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registry::{
            View,
            arbitrary::{carried_out, choices},
        },
        store::{Memory, Redb},
    };
    use proptest::prelude::*;

    /// What it is, whenever it came.
    fn timeless(items: impl IntoIterator<Item = Item>) -> Vec<Item> {
        let items = items.into_iter().map(|mut item| {
            if let Item::Replica(record) = &mut item
                && let Some(drain) = record.drain.as_deref_mut()
            {
                drain.revision = 1;
            }
            item.at(1)
        });
        items.collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn what_was_moved_is_all_there_and_nothing_moves_into_what_is_in_use(choices in choices(60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mutations: Vec<_> =
                carried_out(&choices).into_iter().map(|(committed, _, _)| committed.mutation).collect();
            runtime.block_on(async {
                let mut from = Memory::new();
                from.write(&mutations);
                let mut to = Redb::open(folder.path().join("to.redb")).await.unwrap();
                let moved = migrate(&mut from, &mut to).await.unwrap();
                let (old, new) = (from.load().await.unwrap(), to.load().await.unwrap());
                assert_eq!((moved.records, moved.from, moved.to), (old.items.len(), old.revision, new.revision));
                assert_ne!(old.epoch, new.epoch);
                let (old, new) = (View::new(1, old.items), View::new(1, new.items));
                assert_eq!(timeless(old.items()), timeless(new.items()));
                if moved.records > 0 {
                    let refused = migrate(&mut from, &mut to).await.unwrap_err();
                    assert!(refused.to_string().contains("an empty one only"), "{refused}");
                }
            });
        }
    }
}
