//! A store that forgets everything with the process: for trials and tests.

use std::collections::{BTreeMap, HashSet};

use super::{Commit, Fence, Loaded, Store, StoreError, new_epoch};
use crate::registry::{Item, Key, Mutation, Revision, Write};

/// Records in memory. It never fails.
#[derive(Debug, Clone)]
pub struct Memory {
    epoch: String,
    revision: Revision,
    items: BTreeMap<Key, Item>,
    /// Where all of it is, once it has moved.
    moved: Option<Fence>,
}

impl Memory {
    /// An empty store with an epoch of its own.
    pub fn new() -> Self {
        Self { epoch: new_epoch(), revision: 0, items: BTreeMap::new(), moved: None }
    }

    /// Takes a group in. Yields one revision for each mutation.
    pub fn write(&mut self, group: &[Mutation]) -> Vec<Revision> {
        let mut revisions = Vec::with_capacity(group.len());
        for mutation in group {
            self.revision += 1;
            revisions.push(self.revision);
            for write in mutation.writes() {
                match &write.write {
                    Write::Put(item) => {
                        self.items.insert(write.key.clone(), item.clone().at(self.revision));
                    }
                    Write::Remove => {
                        self.items.remove(&write.key);
                    }
                }
            }
        }
        revisions
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for Memory {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        if let Some(moved) = &self.moved {
            return Err(StoreError::Fenced(moved.clone()));
        }
        let items = self.items.values().cloned().collect();
        Ok(Loaded {
            epoch: self.epoch.clone(),
            revision: self.revision,
            items,
            kept: HashSet::new(),
            owes: false,
            followers: None,
        })
    }

    async fn commit(&mut self, _base: Revision, group: &[Mutation]) -> Result<Commit, StoreError> {
        Ok(Commit::Durable(self.write(group)))
    }

    /// Nobody else is to be kept out, so only the last of fences counts.
    async fn fence(&mut self, fence: Option<Fence>, _base: Option<Revision>) -> Result<bool, StoreError> {
        self.moved = fence.filter(|fence| matches!(fence, Fence::Moved { .. }));
        Ok(true)
    }
}
