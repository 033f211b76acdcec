//! What this data plane holds of the registry: a pure value.
//!
//! It changes as a whole or not at all, and within one epoch its revision never goes back. It does no IO and knows
//! neither the stream it came by nor the table it goes to.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use gateway_proto::{Policy, ReplicaId, ServiceName, v1};

use super::{Refusal, parse};
use crate::table::{ReplicaSpec, ServiceSpec};

/// Services and replicas of one epoch and revision. `Default` holds nothing. Clones share the services.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    epoch: String,
    revision: i64,
    services: BTreeMap<ServiceName, Arc<ServiceSpec>>,
}

impl Snapshot {
    /// Services and replicas together that one snapshot may have: memory stays bounded whatever is sent.
    pub const MAX_ENTRIES: usize = 1_000_000;

    /// A snapshot of the given services; of two with one name the later counts.
    pub fn new(epoch: impl Into<String>, revision: i64, services: Vec<ServiceSpec>) -> Self {
        let services = services.into_iter().map(|spec| (spec.name.clone(), Arc::new(spec))).collect();
        Self { epoch: epoch.into(), revision, services }
    }

    /// The incarnation of the store it came from; empty when nothing is held.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The registry's revision it shows; 0 when nothing is held.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether anything was ever received. A registry without services is something.
    pub fn is_held(&self) -> bool {
        !self.epoch.is_empty()
    }

    /// One service.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceSpec>> {
        self.services.get(name)
    }

    /// All services in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceSpec>> {
        self.services.values()
    }

    /// The same content as one message of the stream.
    pub fn to_wire(&self) -> v1::FullSnapshot {
        let services = self.services.values().map(|service| service_to_wire(service)).collect();
        v1::FullSnapshot { services, part_index: 0, last_part: true, ..Default::default() }
    }

    /// Takes over a complete snapshot and yields the services that differ from before.
    ///
    /// # Errors
    /// [`Refusal::BaseMismatch`] when it is older than what is held of the same epoch.
    pub(super) fn replace(
        &mut self,
        epoch: String,
        revision: i64,
        services: BTreeMap<ServiceName, Draft>,
    ) -> Result<BTreeSet<ServiceName>, Refusal> {
        self.check_progress(&epoch, revision)?;
        let services: BTreeMap<_, _> = services
            .into_iter()
            .map(|(name, draft)| {
                let spec = Arc::new(draft.finish(name.clone()));
                // An unchanged service keeps its allocation.
                let spec = self.services.get(&name).filter(|old| **old == spec).cloned().unwrap_or(spec);
                (name, spec)
            })
            .collect();
        let names = self.services.keys().chain(services.keys());
        let changed = names.filter(|name| self.services.get(*name) != services.get(*name)).cloned().collect();
        *self = Self { epoch, revision, services };
        Ok(changed)
    }

    /// Applies what changed since `delta.base_revision` and yields the services it touches.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing has changed.
    pub(super) fn apply(
        &mut self,
        epoch: &str,
        revision: i64,
        delta: &v1::Delta,
    ) -> Result<BTreeSet<ServiceName>, Refusal> {
        if epoch != self.epoch || delta.base_revision != self.revision || revision <= self.revision {
            return Err(Refusal::BaseMismatch(format!(
                "a delta of epoch {epoch:?} from revision {} to {revision} does not continue epoch {:?} revision {}",
                delta.base_revision, self.epoch, self.revision
            )));
        }
        let changes = self.changes(delta)?;
        let entries = changes.values().flatten().map(|draft| 1 + draft.replicas.len()).sum::<usize>();
        let untouched = self.services.iter().filter(|(name, _)| !changes.contains_key(*name));
        check_entries(entries + untouched.map(|(_, spec)| 1 + spec.replicas.len()).sum::<usize>())?;
        let changed = changes.keys().cloned().collect();
        for (name, draft) in changes {
            match draft {
                Some(draft) => self.services.insert(name.clone(), Arc::new(draft.finish(name))),
                None => self.services.remove(&name),
            };
        }
        self.revision = revision;
        Ok(changed)
    }

    /// Moves on to a revision up to which nothing changed.
    ///
    /// # Errors
    /// [`Refusal::BaseMismatch`] when it is of another epoch or goes back.
    pub(super) fn confirm(&mut self, epoch: &str, revision: i64) -> Result<(), Refusal> {
        if epoch != self.epoch {
            return Err(Refusal::BaseMismatch(format!(
                "a bookmark of epoch {epoch:?} does not continue epoch {:?}",
                self.epoch
            )));
        }
        self.check_progress(epoch, revision)?;
        self.revision = revision;
        Ok(())
    }

    fn check_progress(&self, epoch: &str, revision: i64) -> Result<(), Refusal> {
        if epoch == self.epoch && revision < self.revision {
            let held = self.revision;
            return Err(Refusal::BaseMismatch(format!(
                "revision {revision} is behind {held} of the same epoch"
            )));
        }
        Ok(())
    }

    /// Every touched service as it will be; `None` is removed.
    fn changes(&self, delta: &v1::Delta) -> Result<BTreeMap<ServiceName, Option<Draft>>, Refusal> {
        let mut changes: BTreeMap<ServiceName, Option<Draft>> = BTreeMap::new();
        for wire in &delta.upsert_services {
            let name = parse::service_name(&wire.service)?;
            if !wire.replicas.is_empty() {
                let why = format!("service {name}: a delta brings replicas apart from their service");
                return Err(Refusal::InvalidResource(why));
            }
            let policy = parse::policy(&name, wire.policy.as_ref())?;
            let draft = Draft { policy, ..self.draft(&name).unwrap_or_default() };
            if changes.insert(name, Some(draft)).is_some() {
                return Err(Refusal::DuplicateKey(format!("service {}", wire.service)));
            }
        }
        for name in &delta.remove_services {
            if changes.insert(parse::service_name(name)?, None).is_some() {
                return Err(Refusal::DuplicateKey(format!("service {name}")));
            }
        }
        let mut seen = BTreeSet::new();
        for wire in &delta.remove_replicas {
            let key = parse::key(wire)?;
            if let Entry::Vacant(entry) = changes.entry(key.service.clone()) {
                // Unknown here: it came and went between two deltas.
                let Some(draft) = self.draft(&key.service) else { continue };
                entry.insert(Some(draft));
            }
            if let Some(Some(draft)) = changes.get_mut(&key.service) {
                draft.replicas.remove(&key.replica);
            }
            if !seen.insert((key.service.clone(), key.replica.clone())) {
                return Err(Refusal::DuplicateKey(format!("replica {key}")));
            }
        }
        for wire in &delta.upsert_replicas {
            let name = parse::service_name(&wire.service)?;
            let replica = parse::replica(wire)?;
            let described = format!("replica {name}/{}", replica.id);
            if !seen.insert((name.clone(), replica.id.clone())) {
                return Err(Refusal::DuplicateKey(described));
            }
            let draft = match changes.entry(name) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => {
                    let draft = self.draft(entry.key());
                    entry.insert(draft)
                }
            };
            let Some(draft) = draft else {
                return Err(Refusal::InvalidResource(format!("{described}: its service does not exist")));
            };
            draft.replicas.insert(replica.id.clone(), replica);
        }
        Ok(changes)
    }

    fn draft(&self, name: &ServiceName) -> Option<Draft> {
        let spec = self.services.get(name)?;
        let replicas = spec.replicas.iter().map(|replica| (replica.id.clone(), replica.clone())).collect();
        Some(Draft { policy: spec.policy, replicas })
    }
}

/// A service while it is being put together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) policy: Policy,
    pub(super) replicas: BTreeMap<ReplicaId, ReplicaSpec>,
}

impl Draft {
    fn finish(self, name: ServiceName) -> ServiceSpec {
        ServiceSpec { name, policy: self.policy, replicas: self.replicas.into_values().collect() }
    }
}

/// Refuses what would not fit into [`Snapshot::MAX_ENTRIES`].
pub(super) fn check_entries(count: usize) -> Result<(), Refusal> {
    let max = Snapshot::MAX_ENTRIES;
    if count > max {
        let why = format!("{count} services and replicas are more than the {max} this data plane takes");
        return Err(Refusal::InvalidResource(why));
    }
    Ok(())
}

/// One service as the stream carries it.
pub(crate) fn service_to_wire(service: &ServiceSpec) -> v1::ServiceSnapshot {
    let replicas = service.replicas.iter().map(|replica| v1::Replica {
        service: service.name.to_string(),
        replica_id: replica.id.to_string(),
        endpoint: Some(v1::Endpoint { address: replica.address.to_string() }),
        weight: replica.weight.get().into(),
        health: replica.health.to_wire().into(),
        incarnation: replica.incarnation,
        ..Default::default()
    });
    v1::ServiceSnapshot {
        service: service.name.to_string(),
        policy: Some(service.policy.to_wire()),
        replicas: replicas.collect(),
    }
}
