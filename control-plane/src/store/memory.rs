//! A store that forgets everything with the process: for trials and tests.

use std::collections::BTreeMap;

use gateway_proto::ReplicaKey;

use super::{Loaded, Store, StoreError, new_epoch};
use crate::registry::{Mutation, Record, Revision, Write};

/// Records in memory. It never fails.
#[derive(Debug)]
pub struct Memory {
    epoch: String,
    revision: Revision,
    records: BTreeMap<ReplicaKey, Record>,
}

impl Memory {
    /// An empty store with an epoch of its own.
    pub fn new() -> Self {
        Self { epoch: new_epoch(), revision: 0, records: BTreeMap::new() }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for Memory {
    async fn load(&mut self) -> Result<Loaded, StoreError> {
        let records = self.records.values().cloned().collect();
        Ok(Loaded { epoch: self.epoch.clone(), revision: self.revision, records })
    }

    async fn commit(&mut self, group: &[Mutation]) -> Result<Vec<Revision>, StoreError> {
        let mut revisions = Vec::with_capacity(group.len());
        for mutation in group {
            self.revision += 1;
            revisions.push(self.revision);
            match &mutation.write {
                Write::Put(record) => {
                    let record = Record { revision: self.revision, ..Record::clone(record) };
                    self.records.insert(mutation.key.clone(), record);
                }
                Write::Remove => {
                    self.records.remove(&mutation.key);
                }
            }
        }
        Ok(revisions)
    }
}
