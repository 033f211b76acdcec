//! The registry as this data plane routes by it: what the registry has, what the guard holds beyond that, and what
//! operators decided for this data plane.
//!
//! Pure. Every message and every end of an override goes through here, and tells which services are routed otherwise
//! from then on.

use std::{collections::BTreeSet, time::SystemTime};

use gateway_proto::{
    NodeId, ReplicaKey, ServiceName,
    time::timestamp,
    v1::{self, stream_snapshots_response::Update},
};

use super::{
    Assembly, Guard, Received, Services, Snapshot,
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
    services: Services,
    extent: Extent,
}

/// Whether the snapshot has all services that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// It has.
    Whole,
    /// They are others than before, and a full snapshot of them is due. What else comes is of those before.
    Due,
    /// A full snapshot has come, which may still be one of those before: then another one follows at once, and else something else.
    Unproven,
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
        Self { node, snapshot, guard, wall, services: Services::All, extent: Extent::Whole }
    }

    /// The same, when all of it is of these services.
    #[must_use]
    pub fn of(self, services: Services) -> Self {
        Self { services, ..self }
    }

    /// The services that are carried.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// Whether the snapshot has all services that are carried, so that what is new since then leads on from it.
    pub fn is_whole(&self) -> bool {
        self.extent == Extent::Whole
    }

    /// Carries these services from now on: what is held of others is dropped, and what is missing comes with the next full
    /// snapshot. Yields the services that are routed no more; `None`: they were these before.
    pub fn carry(&mut self, services: &Services) -> Option<BTreeSet<ServiceName>> {
        if self.services == *services {
            return None;
        }
        (self.services, self.extent) = (services.clone(), Extent::Due);
        let mut gone = self.snapshot.keep_only(|name| services.admits(name));
        gone.extend(self.guard.keep_only(|name| services.admits(name)));
        Some(gone)
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
        let is_full = matches!(message.update, Some(Update::Full(_)));
        if self.extent == Extent::Due && !is_full {
            let (received, judgement) = (Received::Partial, Judgement::default());
            return Outcome { received, touched, routes_changed: false, judgement };
        }
        let (received, mut update) = assembly.receive_update(&mut self.snapshot, message);
        match &received {
            Received::Applied { .. } if is_full && self.extent != Extent::Whole => {
                self.extent = Extent::Unproven;
                let Self { snapshot, services, .. } = self;
                for stranger in snapshot.keep_only(|name| services.admits(name)) {
                    update.before.remove(&stranger);
                }
            }
            Received::Applied { .. } | Received::Unchanged | Received::Disputed(_) => {
                self.extent = Extent::Whole;
            }
            Received::Partial | Received::Refused(_) => {}
        }
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
