//! One service's replicas.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{Address, ReplicaId, content::ContentHash};

use crate::registry::{Population, Record, Revision};

/// One service's replicas.
#[derive(Debug, Clone, Default)]
pub struct ServiceEntry {
    replicas: BTreeMap<ReplicaId, Arc<Record>>,
    owners: HashMap<Address, ReplicaId>,
    population: Population,
    revision: Revision,
}

impl ServiceEntry {
    /// The replicas in the order of their ids.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Arc<Record>> {
        self.replicas.values()
    }

    /// The replicas whose ids come after `id`, in order.
    pub fn replicas_after(&self, id: &str) -> impl Iterator<Item = &Arc<Record>> {
        self.replicas.range::<str, _>((Bound::Excluded(id), Bound::Unbounded)).map(|(_, record)| record)
    }

    /// One replica.
    pub fn get(&self, id: &ReplicaId) -> Option<&Arc<Record>> {
        self.replicas.get(id)
    }

    /// Which replica is reached at the address.
    pub fn owner(&self, address: &Address) -> Option<&ReplicaId> {
        self.owners.get(address)
    }

    /// How many there are.
    pub fn population(&self) -> Population {
        self.population
    }

    /// When the oldest of them was registered.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.replicas().map(|record| record.created_at).min()
    }

    /// The revision of the last change to one of its replicas; after a restart, to one that is still there.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The hash of its replicas.
    pub fn hash(&self) -> ContentHash {
        let mut hash = ContentHash::default();
        self.replicas().for_each(|record| hash.add_replica(&record.key, record.revision));
        hash
    }

    pub(super) fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }

    /// Takes a record in, and yields the one whose place it takes.
    pub(super) fn put(&mut self, record: Arc<Record>) -> Option<Arc<Record>> {
        let id = record.key.replica.clone();
        self.owners.insert(record.endpoint.address.clone(), id.clone());
        self.revision = self.revision.max(record.revision);
        self.population.add(record.lost.is_some());
        let before = self.replicas.insert(id, Arc::clone(&record));
        if let Some(old) = &before {
            self.population.remove(old.lost.is_some());
        }
        if let Some(old) = before.as_ref().filter(|old| old.endpoint.address != record.endpoint.address) {
            self.release(old);
        }
        before
    }

    pub(super) fn remove(&mut self, id: &ReplicaId, revision: Revision) -> Option<Arc<Record>> {
        let old = self.replicas.remove(id)?;
        self.population.remove(old.lost.is_some());
        self.release(&old);
        self.revision = revision;
        Some(old)
    }

    /// Frees the record's address, unless another replica has taken it meanwhile.
    fn release(&mut self, record: &Record) {
        if self.owners.get(&record.endpoint.address) == Some(&record.key.replica) {
            self.owners.remove(&record.endpoint.address);
        }
    }
}
