//! What the registry says of a service: the shape in which discovery and the static file hand it to the table.

use std::{sync::Arc, time::SystemTime};

use gateway_proto::{
    Address, Endpoint, Health, Locality, Mode, Policy, Priority, ReplicaId, ServiceName, Weight, v1,
};

use crate::routing::ForcedState;

/// A service, its policy and all of its replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// How its requests are treated, with nothing left to inherit.
    pub policy: Policy,
    /// All replicas, ready or not, in the order of their ids and without repetition.
    pub replicas: Vec<ReplicaSpec>,
}

/// One replica as the registry knows it, with what operators decided for it on this data plane.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaSpec {
    /// Its id, unique within the service.
    pub id: ReplicaId,
    /// Where it listens, and what it understands there.
    pub endpoint: Endpoint,
    /// Its share of the traffic relative to its peers.
    pub weight: Weight,
    /// Only ready replicas receive requests.
    pub health: Health,
    /// Which registration of this id it is: larger is later.
    pub incarnation: i64,
    /// Its tier: the lowest one that has a replica to ask gets all requests, or as many as it can bear.
    pub priority: Priority,
    /// Where it is.
    pub locality: Locality,
    /// Only serving replicas receive new requests.
    pub mode: Mode,
    /// The registry's revision of its last change.
    pub revision: i64,
    /// When requests in flight are cut, while it is not serving; `None`: never.
    pub drain_deadline: Option<SystemTime>,
    /// Whether no lease would show its end.
    pub is_permanent: bool,
    /// What an operator decided against the rules of its breaker, while that is in force.
    pub forced: Option<Forced>,
    /// The newest order to reset its breaker, while there is one. Each is obeyed once, and one that is older than an
    /// obeyed one never.
    pub reset: Option<Arc<v1::OverrideEntry>>,
}

impl ServiceSpec {
    /// Whether one of its replicas has this id.
    pub fn has(&self, id: &ReplicaId) -> bool {
        self.replicas.binary_search_by(|replica| replica.id.cmp(id)).is_ok()
    }
}

impl ReplicaSpec {
    /// A healthy replica of the usual weight, in the best tier, of which nobody has said anything: as a list has it that no
    /// registry made.
    pub fn listed(id: ReplicaId, address: Address) -> Self {
        Self {
            id,
            endpoint: address.into(),
            weight: Weight::DEFAULT,
            health: Health::Healthy,
            incarnation: 1,
            priority: Priority::default(),
            locality: Locality::default(),
            mode: Mode::Serving,
            revision: 1,
            drain_deadline: None,
            is_permanent: true,
            forced: None,
            reset: None,
        }
    }

    /// Whether new requests may go to it.
    pub fn takes_requests(&self) -> bool {
        self.health.is_ready() && self.is_serving()
    }

    /// Whether it should take requests and does not: it has stopped being ready, and has not been told to leave.
    pub fn is_missed(&self) -> bool {
        self.is_serving() && matches!(self.health, Health::Unhealthy | Health::Lost)
    }

    /// Whether it has not been told to leave.
    pub fn is_serving(&self) -> bool {
        self.mode == Mode::Serving
    }
}

/// A breaker whose state an operator has decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Forced {
    /// The state.
    pub state: ForcedState,
    /// Who decided it, when, why and until when.
    pub entry: Arc<v1::OverrideEntry>,
}
