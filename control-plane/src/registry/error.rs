//! Why the registry refuses a command.

use gateway_proto::{Address, ReplicaId, ReplicaKey, ServiceName};

/// A refusal that changed nothing. A retry of the same command meets the same answer until somebody else acts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// Another replica of the service owns the address.
    #[error(
        "address {address} belongs to replica {owner} of service {service}: deregister it first or use its id"
    )]
    AddressInUse {
        /// The service both are in.
        service: ServiceName,
        /// The address both want.
        address: Address,
        /// Who has it.
        owner: ReplicaId,
    },
    /// The replica is registered under another lease: its owner was replaced.
    #[error("replica {0} is registered under another lease: a later registration has taken its place")]
    LeaseMismatch(ReplicaKey),
    /// The lease's replica is gone.
    #[error("the lease of replica {0} has ended and the replica is gone: register again")]
    LeaseExpired(ReplicaKey),
    /// A leased replica, and no proof of ownership.
    #[error("replica {0} has a lease: send its lease_id, or force when you are not its owner")]
    LeaseRequired(ReplicaKey),
    /// There is no such replica.
    #[error("replica {0} is not registered")]
    ReplicaNotFound(ReplicaKey),
    /// No more replicas are taken.
    #[error("{what} has {limit} replicas, and no more are allowed")]
    QuotaExceeded {
        /// `the registry` or `service NAME`.
        what: String,
        /// The limit reached.
        limit: usize,
    },
}
