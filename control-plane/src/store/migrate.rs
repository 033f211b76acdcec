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

/// Which of the two stores could not do it, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoveError {
    /// The one that is copied.
    #[error(transparent)]
    From(StoreError),
    /// The one that is filled.
    #[error(transparent)]
    To(StoreError),
}

/// Copies all that `from` holds into `to`. Nothing is changed in `from`. Leases keep their ids, so owners go on renewing them; each
/// has one full time to live from the start of a control plane on `to`.
///
/// Not cancel safe: `to` holds a part then, and is refused the next time.
///
/// # Errors
/// [`MoveError`] of either store; when `to` is not empty, or somebody else writes to it.
pub async fn migrate<F: Store, T: Store>(from: &mut F, to: &mut T) -> Result<Moved, MoveError> {
    let loaded = from.load().await.map_err(MoveError::From)?;
    let target = to.load().await.map_err(MoveError::To)?;
    let refused = |why: String| Err(MoveError::To(StoreError::Unavailable(why)));
    if !target.items.is_empty() {
        return refused(format!(
            "it holds {} records, and records are moved into an empty one only: name another one, or remove what a copy that was \
             interrupted has left",
            target.items.len()
        ));
    }
    let at = crate::clock::wall();
    let mutations = loaded.items.into_iter().map(|item| Mutation::one(moved(item), at));
    let mutations: Vec<_> = mutations.collect();
    let (mut base, mut done) = (target.revision, 0);
    while done < mutations.len() {
        let end = mutations.len().min(done + to.max_group());
        match to.commit(base, &mutations[done..end]).await.map_err(MoveError::To)? {
            Commit::Durable(revisions) => {
                done += revisions.len();
                base = revisions.last().copied().unwrap_or(base);
            }
            Commit::Overtaken(_) => {
                return refused(
                    "somebody else writes to it: stop the control planes that use it already, remove what is there, and begin again"
                        .into(),
                );
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

    /// A store that cannot be read.
    struct Damaged;

    impl Store for Damaged {
        async fn load(&mut self) -> Result<crate::store::Loaded, StoreError> {
            Err(StoreError::Unavailable("damaged".into()))
        }

        async fn commit(&mut self, _: Revision, _: &[Mutation]) -> Result<Commit, StoreError> {
            Err(StoreError::Unavailable("damaged".into()))
        }
    }

    #[tokio::test]
    async fn the_store_that_cannot_be_used_is_the_one_that_is_blamed() {
        let why = StoreError::Unavailable("damaged".into());
        let from = migrate(&mut Damaged, &mut Memory::new()).await;
        assert_eq!(from, Err(MoveError::From(why.clone())));
        assert_eq!(migrate(&mut Memory::new(), &mut Damaged).await, Err(MoveError::To(why)));
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
