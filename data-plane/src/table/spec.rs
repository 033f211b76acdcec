//! What the registry says of a service: the shape in which discovery and the static file hand it to the table.

use gateway_proto::{Address, Health, Policy, ReplicaId, ServiceName, Weight};

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

/// One replica as the registry knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// Its id, unique within the service.
    pub id: ReplicaId,
    /// Where it listens.
    pub address: Address,
    /// Its share of the traffic relative to its peers.
    pub weight: Weight,
    /// Only ready replicas receive requests.
    pub health: Health,
    /// Which registration of this id it is: larger is later.
    pub incarnation: i64,
}
