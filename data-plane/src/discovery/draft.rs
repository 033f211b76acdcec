//! One service of the snapshot, finished or while it is being put together. Pure.

use std::{collections::BTreeMap, sync::Arc};

use gateway_proto::{Policy, ReplicaId, ReplicaKey, ServiceName, content::ContentHash, v1};

use crate::table::{ReplicaSpec, ServiceSpec};

/// A service as the registry has it. Clones share what it consists of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// With the policy in force, its own or the default one; no override is in it.
    pub(super) spec: Arc<ServiceSpec>,
    /// The revision of its own policy; `None`: it follows the default one.
    pub(super) own_policy: Option<i64>,
    /// Its share of the content hash.
    pub(super) hash: ContentHash,
}

/// A policy and the registry's revision of its last change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RevisedPolicy {
    pub(super) policy: Policy,
    pub(super) revision: i64,
}

/// A service while it is being put together. It keeps its share of the content hash up to date.
#[derive(Debug)]
pub(super) struct Draft {
    name: ServiceName,
    own_policy: Option<RevisedPolicy>,
    replicas: BTreeMap<ReplicaId, ReplicaSpec>,
    hash: ContentHash,
}

impl Entry {
    /// The same service under another default policy; `None` when that changes nothing.
    pub(super) fn under(&self, default: &Policy) -> Option<Self> {
        let follows = self.own_policy.is_none() && self.spec.policy != *default;
        let spec = || ServiceSpec { policy: *default, ..(*self.spec).clone() };
        follows.then(|| Self { spec: Arc::new(spec()), ..self.clone() })
    }

    /// The service as the stream carries it.
    pub(super) fn to_wire(&self) -> v1::ServiceSnapshot {
        let own_policy = self.own_policy.map(|revision| RevisedPolicy { policy: self.spec.policy, revision });
        let replicas = self.spec.replicas.iter();
        v1::ServiceSnapshot {
            service: self.spec.name.to_string(),
            policy: own_policy.map(|policy| policy.to_wire()),
            replicas: replicas.map(|replica| replica_to_wire(&self.spec.name, replica)).collect(),
        }
    }
}

impl RevisedPolicy {
    /// As the stream carries it.
    pub(super) fn to_wire(self) -> v1::Policy {
        v1::Policy { revision: self.revision, ..self.policy.to_wire() }
    }
}

impl Draft {
    /// A service without replicas that follows the default policy.
    pub(super) fn new(name: ServiceName) -> Self {
        Self { name, own_policy: None, replicas: BTreeMap::new(), hash: ContentHash::default() }
    }

    /// A service that is to be changed.
    pub(super) fn of(entry: &Entry) -> Self {
        let Entry { spec, own_policy, hash } = entry;
        let own_policy = own_policy.map(|revision| RevisedPolicy { policy: spec.policy, revision });
        let replicas = spec.replicas.iter().map(|replica| (replica.id.clone(), replica.clone()));
        Self { name: spec.name.clone(), own_policy, replicas: replicas.collect(), hash: *hash }
    }

    /// Gives it a policy of its own, or, with `None`, takes that away.
    pub(super) fn set_policy(&mut self, own_policy: Option<RevisedPolicy>) {
        if let Some(before) = self.own_policy {
            self.hash.remove_policy(Some(&self.name), before.revision);
        }
        if let Some(after) = own_policy {
            self.hash.add_policy(Some(&self.name), after.revision);
        }
        self.own_policy = own_policy;
    }

    /// Takes a replica in, and yields the one whose place it takes.
    pub(super) fn put(&mut self, replica: ReplicaSpec) -> Option<ReplicaSpec> {
        let before = self.take(&replica.id);
        self.hash.add_replica(&self.key(&replica.id), replica.revision);
        self.replicas.insert(replica.id.clone(), replica);
        before
    }

    /// Takes a replica out, if it is there.
    pub(super) fn take(&mut self, id: &ReplicaId) -> Option<ReplicaSpec> {
        let replica = self.replicas.remove(id)?;
        self.hash.remove_replica(&self.key(id), replica.revision);
        Some(replica)
    }

    /// How many replicas it has.
    pub(super) fn replica_count(&self) -> usize {
        self.replicas.len()
    }

    /// The service, which uses `default` unless it has a policy of its own.
    pub(super) fn finish(self, default: &Policy) -> Entry {
        let Self { name, own_policy, replicas, hash } = self;
        let policy = own_policy.map_or(*default, |own| own.policy);
        let spec = ServiceSpec { name, policy, replicas: replicas.into_values().collect() };
        Entry { spec: Arc::new(spec), own_policy: own_policy.map(|own| own.revision), hash }
    }

    fn key(&self, id: &ReplicaId) -> ReplicaKey {
        ReplicaKey { service: self.name.clone(), replica: id.clone() }
    }
}

/// One replica as the stream carries it, as far as data planes go by it.
pub(super) fn replica_to_wire(service: &ServiceName, replica: &ReplicaSpec) -> v1::Replica {
    let drain = replica.drain_deadline.map(|deadline| v1::Drain {
        deadline_time: Some(gateway_proto::time::timestamp(deadline)),
        ..Default::default()
    });
    v1::Replica {
        service: service.to_string(),
        replica_id: replica.id.to_string(),
        endpoint: Some(replica.endpoint.to_wire()),
        weight: replica.weight.get().into(),
        priority: replica.priority.get().into(),
        locality: replica.locality.to_wire(),
        health: replica.health.to_wire().into(),
        mode: replica.mode.to_wire().into(),
        incarnation: replica.incarnation,
        revision: replica.revision,
        drain,
        lease: replica.is_permanent.then(|| v1::Lease { permanent: true, ..Default::default() }),
        ..Default::default()
    }
}
