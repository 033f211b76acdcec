//! What the registry says a service is: plain values, as the discovery side hands them to the table.
//!
//! Nothing here decides or remembers anything; breakers and counters live with the table's own replicas.

use gateway_proto::{Address, Health, Policy, ReplicaId, ServiceName, Weight};

/// One service as it should be routed to.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    /// Its name, unique in the table.
    pub name: ServiceName,
    /// How its requests are treated, resolved.
    pub policy: Policy,
    /// Its replicas, sorted by id, each id once. Those that are not ready are here too.
    pub replicas: Vec<ReplicaSpec>,
}

/// One replica as it should be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// Its id, unique within the service.
    pub id: ReplicaId,
    /// Where it listens.
    pub address: Address,
    /// Its share of the service's requests, relative to the others.
    pub weight: Weight,
    /// Its health; only ready ones receive requests.
    pub health: Health,
    /// Grows with every registration of the same id: a larger one is another process.
    pub incarnation: i64,
}
