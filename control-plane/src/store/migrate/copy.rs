//! The store that is being filled: what it has been given, and what it still lacks.

use std::{collections::BTreeMap, time::SystemTime};

use crate::{
    clock,
    registry::{Cause, Item, Key, Mutation, RecordWrite, Revision},
    store::{Commit, Fence, Store, StoreError},
};

/// For each group: a lease ends once, so no more of them can be in the way than replicas leave meanwhile.
const TRIES: usize = 30;

/// A store that is being filled.
pub(in crate::store) struct Copy<'a, T> {
    pub(in crate::store) to: &'a mut T,
    pub(in crate::store) epoch: String,
    /// The store's revision.
    pub(in crate::store) base: Revision,
    /// What is there: as it was where it comes from, and the revision that it has here.
    known: BTreeMap<Key, (Item, Revision)>,
    at: SystemTime,
    is_untouched: bool,
}

impl<'a, T: Store> Copy<'a, T> {
    /// Keeps control planes out of an empty store, which is another one than that of `epoch`.
    pub(in crate::store) async fn begin(to: &'a mut T, from: &str, epoch: &str) -> Result<Self, StoreError> {
        let found = to.load().await?;
        // By whatever name: its fence would keep us out of what we copy, and for good.
        if found.epoch == epoch {
            let why = "it is the store that is to be copied, or has the epoch of that one: name another one";
            return Err(StoreError::Unavailable(why.into()));
        }
        // One that is in use is left alone.
        refuse_records(found.items.len())?;
        to.fence(Some(Fence::Filling { from: from.to_owned() }), None).await?;
        let target = to.load().await?;
        if let Err(refused) = refuse_records(target.items.len()) {
            to.fence(None, None).await?;
            return Err(refused);
        }
        Ok(Self {
            to,
            epoch: target.epoch,
            base: target.revision,
            known: BTreeMap::new(),
            at: clock::wall(),
            is_untouched: true,
        })
    }

    /// How many records it has been given.
    pub(in crate::store) fn len(&self) -> usize {
        self.known.len()
    }

    /// Takes the fence away of a store into which nothing was written: it is as it was found.
    pub(in crate::store) async fn leave(&mut self) {
        if self.is_untouched
            && let Err(error) = self.to.fence(None, None).await
        {
            tracing::warn!(%error, "the new store keeps its fence, although nothing was written to it");
        }
    }

    /// Makes it hold these, and nothing else. Yields how many differed.
    pub(in crate::store) async fn follow(&mut self, items: Vec<Item>) -> Result<usize, StoreError> {
        let mut wanted: BTreeMap<Key, Item> = items.into_iter().map(|item| (item.key(), item)).collect();
        let mut writes = Vec::new();
        for (key, (item, revision)) in &self.known {
            match wanted.remove(key) {
                Some(same) if same == *item => {}
                Some(other) => writes.push((put(&other, Some(*revision)), Some(other))),
                None => writes.push((RecordWrite::remove(key.clone(), *revision, Cause::Registered), None)),
            }
        }
        writes.extend(wanted.into_values().map(|item| (put(&item, None), Some(item))));
        let (mutations, items): (Vec<_>, Vec<_>) =
            writes.into_iter().map(|(write, item)| (Mutation::one(write, self.at), item)).unzip();
        let mut items = items.into_iter();
        let (mut done, mut tries) = (0, 0);
        while done < mutations.len() {
            let end = mutations.len().min(done + self.to.max_group());
            self.is_untouched = false;
            let Commit::Durable(revisions) = self.to.commit(self.base, &mutations[done..end]).await? else {
                tries += 1;
                self.may_try_again(tries).await?;
                continue;
            };
            tries = 0;
            for ((revision, item), mutation) in revisions.iter().zip(&mut items).zip(&mutations[done..]) {
                let key = mutation.main.key.clone();
                match item {
                    Some(item) => self.known.insert(key, (item, *revision)),
                    None => self.known.remove(&key),
                };
            }
            done += revisions.len();
            self.base = revisions.last().copied().unwrap_or(self.base);
        }
        Ok(mutations.len())
    }

    /// A group was not written. Where both stores are in one etcd they share its leases: one ends between its grant and its use here when its
    /// replica leaves the old store, and the next try grants it anew. What the replica has left behind goes with all that has changed.
    async fn may_try_again(&mut self, tries: usize) -> Result<(), StoreError> {
        let why = match self.to.is_at(self.base).await? {
            false => {
                "somebody else writes to it: stop the control planes that use it already, remove what is there, and begin again"
            }
            true if tries >= TRIES => {
                "leases of what is copied end as fast as they are granted: remove what is there, and begin again when less is removed"
            }
            true => return Ok(()),
        };
        Err(StoreError::Unavailable(why.into()))
    }

    /// Looks whether the store holds these.
    pub(in crate::store) async fn compare(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        let held = self.to.load().await?;
        if held.revision == self.base && contents(held.items) == contents(items) {
            return Ok(());
        }
        let why = "it holds something else than was copied: remove what is there, and begin again";
        Err(StoreError::Unavailable(why.into()))
    }
}

fn refuse_records(count: usize) -> Result<(), StoreError> {
    match count {
        0 => Ok(()),
        _ => Err(StoreError::Unavailable(format!(
            "it holds {count} records, and records are copied into an empty one only: name another one, or remove what is there"
        ))),
    }
}

/// Writes an item, in the place of the one that has this revision.
fn put(item: &Item, expected: Option<Revision>) -> RecordWrite {
    // Data planes confirm a drain anew, by the revisions of the store that they will hear of.
    RecordWrite::put(drained_at(item.clone(), 0), expected, Cause::Registered)
}

/// Items as they are whenever they came, by their keys.
pub(in crate::store) fn contents(items: impl IntoIterator<Item = Item>) -> BTreeMap<Key, Item> {
    items.into_iter().map(|item| (item.key(), drained_at(item, 1).at(1))).collect()
}

fn drained_at(mut item: Item, revision: Revision) -> Item {
    if let Item::Replica(record) = &mut item
        && let Some(drain) = record.drain.as_deref_mut()
    {
        drain.revision = revision;
    }
    item
}
