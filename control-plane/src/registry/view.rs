//! What is known: every durable record, and the only way to change it.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{Address, ReplicaId, ReplicaKey, ServiceName};

use super::{Event, Mutation, Record, Revision, Write};

/// All replicas at one revision.
///
/// A service exists while it has a replica.
#[derive(Debug, Clone, Default)]
pub struct View {
    revision: Revision,
    services: BTreeMap<ServiceName, ServiceEntry>,
    replica_count: usize,
}

/// One service's replicas.
#[derive(Debug, Clone, Default)]
pub struct ServiceEntry {
    replicas: BTreeMap<ReplicaId, Arc<Record>>,
    owners: HashMap<Address, ReplicaId>,
    revision: Revision,
}

/// A mutation that the store has made durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The revision the store gave it.
    pub revision: Revision,
    /// What it does.
    pub mutation: Mutation,
}

/// What applying a committed mutation brought about.
#[derive(Debug, Clone)]
pub struct Applied {
    /// For data planes.
    pub change: Change,
    /// For people.
    pub event: Event,
}

/// One replica's step from one revision to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The revision it leads to.
    pub revision: Revision,
    /// Whose step.
    pub key: ReplicaKey,
    /// What it is now; `None`: gone.
    pub record: Option<Arc<Record>>,
    /// Whether it was there before.
    pub existed: bool,
    /// What this meant for its service.
    pub service: ServiceStep,
}

/// What a replica's step meant for its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceStep {
    /// It was there and still is.
    Stayed,
    /// This was its first replica.
    Appeared,
    /// This was its last one.
    Vanished,
}

impl ServiceEntry {
    /// The replicas in the order of their ids.
    pub fn replicas(&self) -> impl ExactSizeIterator<Item = &Arc<Record>> {
        self.replicas.values()
    }

    /// When the oldest of them was registered.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.replicas().map(|record| record.created_at).min()
    }

    /// The revision of the last change to one of its replicas; after a restart, to one that is still there.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Frees the record's address, unless another replica has taken it meanwhile.
    fn release(&mut self, record: &Record) {
        if self.owners.get(&record.address) == Some(&record.key.replica) {
            self.owners.remove(&record.address);
        }
    }
}

impl View {
    /// The view of what a store holds at `revision`.
    pub fn new(revision: Revision, records: impl IntoIterator<Item = Record>) -> Self {
        let mut view = Self { revision, ..Self::default() };
        for record in records {
            view.put(Arc::new(record));
        }
        view
    }

    /// The revision of the last change applied.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many replicas there are in all services.
    pub fn replica_count(&self) -> usize {
        self.replica_count
    }

    /// The services in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = (&ServiceName, &ServiceEntry)> {
        self.services.iter()
    }

    /// The services whose names come after `name`, in order.
    pub fn services_after(&self, name: &str) -> impl Iterator<Item = (&ServiceName, &ServiceEntry)> {
        self.services.range::<str, _>((Bound::Excluded(name), Bound::Unbounded))
    }

    /// One service.
    pub fn service(&self, name: &ServiceName) -> Option<&ServiceEntry> {
        self.services.get(name)
    }

    /// One replica.
    pub fn get(&self, key: &ReplicaKey) -> Option<&Arc<Record>> {
        self.services.get(&key.service)?.replicas.get(&key.replica)
    }

    /// Which replica of the service is reached at the address.
    pub fn owner(&self, service: &ServiceName, address: &Address) -> Option<&ReplicaId> {
        self.services.get(service)?.owners.get(address)
    }

    /// All replicas, by service and then id.
    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.services.values().flat_map(|entry| entry.replicas.values())
    }

    /// The replicas that come after `key`, by service and then id.
    pub fn replicas_after(&self, key: &ReplicaKey) -> impl Iterator<Item = &Arc<Record>> {
        let within = self.services.get(&key.service).into_iter().flat_map(|entry| {
            entry.replicas.range::<str, _>((Bound::Excluded(key.replica.as_str()), Bound::Unbounded))
        });
        let later = self.services_after(key.service.as_str()).flat_map(|(_, entry)| entry.replicas.iter());
        within.chain(later).map(|(_, record)| record)
    }

    /// Takes in what the store made durable, in the store's order.
    ///
    /// # Panics
    /// When the revision does not grow: the store would have broken its word.
    pub fn apply(&mut self, committed: Committed) -> Applied {
        let Committed { revision, mutation } = committed;
        assert!(revision > self.revision, "the store numbers mutations in a growing order");
        self.revision = revision;
        let event = mutation.event(revision);
        let change = match mutation.write {
            Write::Put(record) => self.put(Arc::new(Record { revision, ..*record })),
            Write::Remove => self.remove(&mutation.key, revision),
        };
        Applied { change, event }
    }

    /// What leads from `self` to `next`, one change for each key that differs, all at the revision of `next`.
    pub fn changes_to(&self, next: &Self) -> Vec<Change> {
        let mut scratch = self.clone();
        let mut changes: Vec<Change> = self
            .replicas()
            .filter(|record| next.get(&record.key).is_none())
            .map(|record| scratch.remove(&record.key, next.revision))
            .collect();
        for record in next.replicas() {
            if self.get(&record.key) != Some(record) {
                changes.push(scratch.put(Arc::clone(record)));
            }
        }
        for change in &mut changes {
            change.revision = next.revision;
        }
        changes
    }

    fn put(&mut self, record: Arc<Record>) -> Change {
        let service = if self.services.contains_key(&record.key.service) {
            ServiceStep::Stayed
        } else {
            ServiceStep::Appeared
        };
        let entry = self.services.entry(record.key.service.clone()).or_default();
        let id = record.key.replica.clone();
        entry.owners.insert(record.address.clone(), id.clone());
        entry.revision = entry.revision.max(record.revision);
        let before = entry.replicas.insert(id, Arc::clone(&record));
        match &before {
            Some(old) if old.address != record.address => entry.release(old),
            Some(_) => {}
            None => self.replica_count += 1,
        }
        Change {
            revision: record.revision,
            key: record.key.clone(),
            existed: before.is_some(),
            record: Some(record),
            service,
        }
    }

    fn remove(&mut self, key: &ReplicaKey, revision: Revision) -> Change {
        let mut service = ServiceStep::Stayed;
        let mut existed = false;
        if let Some(entry) = self.services.get_mut(&key.service) {
            if let Some(old) = entry.replicas.remove(&key.replica) {
                existed = true;
                self.replica_count -= 1;
                entry.release(&old);
                entry.revision = revision;
            }
            if entry.replicas.is_empty() {
                self.services.remove(&key.service);
                service = ServiceStep::Vanished;
            }
        }
        Change { revision, key: key.clone(), record: None, existed, service }
    }
}
