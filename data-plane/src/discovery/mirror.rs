//! The registry as this data plane routes by it: what the registry has, what the guard holds beyond that, and what
//! operators decided for this data plane.
//!
//! Pure. Every message and every end of an override goes through here, and tells which services are routed otherwise
//! from then on.

use std::{collections::BTreeSet, time::SystemTime};

use gateway_proto::{NodeId, ReplicaKey, ServiceName, time::timestamp, v1};

use super::{
    Assembly, Guard, Received, Snapshot,
    draft::replica_to_wire,
    guard::{Judgement, Scene},
};
use crate::{clock::Moment, table::ServiceSpec};

/// What one data plane routes by.
#[derive(Debug, Clone, PartialEq)]
pub struct Mirror {
    node: NodeId,
    snapshot: Snapshot,
    guard: Guard,
    /// The wall clock's reading by which overrides are judged.
    wall: SystemTime,
}

/// What a message did.
#[derive(Debug)]
pub struct Outcome {
    /// What became of it.
    pub received: Received,
    /// Services that are routed otherwise than before.
    pub touched: BTreeSet<ServiceName>,
    /// Whether explicit routes are others than before.
    pub routes_changed: bool,
    /// What the guard decided.
    pub judgement: Judgement,
}

impl Mirror {
    /// What the data plane `node` routes by, when `snapshot` and `guard` were kept for it. Overrides act if `wall` is
    /// before their ends.
    pub fn new(node: NodeId, snapshot: Snapshot, guard: Guard, wall: SystemTime) -> Self {
        Self { node, snapshot, guard, wall }
    }

    /// What the registry has.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What is routed to beyond that.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Every service there is, in the order of their names.
    pub fn names(&self) -> BTreeSet<ServiceName> {
        let registered = self.snapshot.services().map(|spec| &spec.name);
        registered.chain(self.guard.services()).cloned().collect()
    }

    /// How a service is routed; `None` when it has no replica, neither in the registry nor held.
    pub fn service(&self, name: &ServiceName) -> Option<ServiceSpec> {
        let held = self.guard.service(name);
        let mut spec = match (self.snapshot.service(name), held) {
            (Some(spec), _) => (**spec).clone(),
            (None, Some(held)) => {
                ServiceSpec { name: name.clone(), policy: held.policy, replicas: Vec::new() }
            }
            (None, None) => return None,
        };
        if let Some(held) = held {
            spec.replicas.extend(held.replicas.values().map(|replica| replica.spec.clone()));
            spec.replicas.sort_by(|a, b| a.id.cmp(&b.id));
        }
        self.snapshot.decided().resolve(&mut spec, &self.node, self.wall);
        Some(spec)
    }

    /// A replica as it is routed by, in the contract's words: LOST while the guard holds it. `None` when there is none.
    pub fn replica_to_wire(&self, key: &ReplicaKey) -> Option<v1::Replica> {
        let spec = self.service(&key.service)?;
        let replica = spec.replicas.iter().find(|replica| replica.id == key.replica)?;
        let mut wire = replica_to_wire(&key.service, replica);
        let held = self.guard.service(&key.service).and_then(|held| held.replicas.get(&key.replica));
        if let Some(held) = held {
            wire.health = v1::HealthStatus::Lost.into();
            wire.state_change_time = Some(timestamp(held.missing_since));
        }
        Some(wire)
    }

    /// Since when the guard holds a replica, if it does.
    pub fn held_since(&self, key: &ReplicaKey) -> Option<SystemTime> {
        Some(self.guard.service(&key.service)?.replicas.get(&key.replica)?.missing_since)
    }

    /// The held replicas as reports name them, at most `limit` of them.
    pub fn held_to_wire(&self, limit: usize) -> v1::HeldReplicas {
        let replicas = self.guard.replicas().take(limit).map(|(service, held)| v1::HeldReplica {
            service: service.to_string(),
            replica_id: held.spec.id.to_string(),
            missing_time: Some(timestamp(held.missing_since)),
        });
        v1::HeldReplicas {
            replicas: replicas.collect(),
            total_count: i32::try_from(self.guard.len()).unwrap_or(i32::MAX),
        }
    }

    /// Applies one message, wholly or not at all. To be called in the order in which messages come.
    pub fn receive(
        &mut self,
        assembly: &mut Assembly,
        message: v1::StreamSnapshotsResponse,
        now: Moment,
    ) -> Outcome {
        let mut touched = self.pass_time(now.wall);
        let (received, update) = assembly.receive_update(&mut self.snapshot, message);
        let scene = Scene { snapshot: &self.snapshot, node: &self.node, now };
        let judgement = match &received {
            Received::Applied { .. } => self.guard.update(&update, scene),
            Received::Unchanged | Received::Disputed(_) => self.guard.confirm(scene),
            Received::Partial | Received::Refused(_) => Judgement::default(),
        };
        let routes_changed = update.routes_changed;
        touched.extend(update.before.into_keys());
        touched.extend(update.overridden);
        touched.extend(judgement.touched.iter().cloned());
        Outcome { received, touched, routes_changed, judgement }
    }

    /// Moves the wall clock on, or back, and yields the services on which overrides begin or cease to act by that.
    pub fn pass_time(&mut self, wall: SystemTime) -> BTreeSet<ServiceName> {
        let before = std::mem::replace(&mut self.wall, wall);
        self.snapshot.decided().turned_between(before, wall)
    }

    /// When the next override ends.
    pub fn next_end(&self) -> Option<SystemTime> {
        self.snapshot.decided().next_end(self.wall)
    }
}

#[cfg(test)]
impl Mirror {
    /// Takes in a message that has nothing wrong, as a stream's first.
    pub(crate) fn tell(&mut self, message: v1::StreamSnapshotsResponse, wall: SystemTime) {
        let now = Moment { tick: crate::routing::Tick::ORIGIN, wall };
        let outcome = self.receive(&mut Assembly::default(), message, now);
        assert!(!matches!(outcome.received, Received::Refused(_)), "{:?}", outcome.received);
    }
}
