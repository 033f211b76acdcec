//! Why the registry refuses a command.

use std::time::Duration;

use gateway_proto::{Address, Invalid, ReplicaId, ReplicaKey, RouteName, ServiceName};

use super::{Scope, SparseText};

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
    /// Somebody removed the replica.
    #[error("replica {key} was removed: {why}; register again if it is to be there")]
    ReplicaRemoved {
        /// Which one.
        key: ReplicaKey,
        /// By whom, and why.
        why: String,
    },
    /// A leased replica, and no proof of ownership.
    #[error("replica {0} has a lease: send its lease_id, or force when you are not its owner")]
    LeaseRequired(ReplicaKey),
    /// Somebody who is no operator wants an operator's drain to end.
    #[error("replica {0} was drained by an operator: it takes the role operator to undrain it")]
    DrainedByOperator(ReplicaKey),
    /// There is no such replica any more, since a short while.
    #[error("replica {key} is not registered any more: {why}")]
    ReplicaGone {
        /// Which one.
        key: ReplicaKey,
        /// By whom it was removed, and why.
        why: String,
    },
    /// There is no such replica.
    #[error("replica {0} is not registered")]
    ReplicaNotFound(ReplicaKey),
    /// There is no such service.
    #[error("service {0} is not registered")]
    ServiceNotFound(ServiceName),
    /// No more are taken.
    #[error("{} has {limit} {of}, and no more are allowed", place(service.as_ref()))]
    QuotaExceeded {
        /// Of this one; `None`: of the registry.
        service: Option<ServiceName>,
        /// `replicas`, `policies`, `overrides` or `routes`.
        of: &'static str,
        /// The limit reached.
        limit: usize,
    },
    /// One identity has as much as it may have.
    #[error(
        "{name} has {count} {of} and may have {limit}: deregister some, or have max-{of} of its entry in the auth file raised"
    )]
    IdentityQuota {
        /// Who.
        name: SparseText,
        /// `replicas` or `services`.
        of: &'static str,
        /// How many he has.
        count: usize,
        /// How many he may have.
        limit: usize,
    },
    /// The id of a request was used for another one.
    #[error("request_id was used before for another registration of replica {0}: draw a new one")]
    RequestIdReused(ReplicaKey),
    /// An operator blocked it.
    #[error("registrations of {what} are blocked for {} more by {by}", humantime::format_duration(*.remaining))]
    RegistrationBlocked {
        /// `orders/r-1` or `10.0.0.1:80 in orders`.
        what: String,
        /// How long still, in whole seconds.
        remaining: Duration,
        /// Who did so, and why.
        by: String,
    },
    /// It has changed since the caller looked.
    #[error("{0} has changed since it was read: read it again")]
    EtagMismatch(String),
    /// Nobody ready would remain.
    #[error("{0} is the last ready replica of its service: set allow_last to drain it all the same")]
    LastReadyReplica(ReplicaKey),
    /// Nothing is stored for this scope.
    #[error("no policy is stored for {0}")]
    PolicyNotFound(Scope),
    /// Not without a word at the start.
    #[error(
        "faults are not injected here: start the control plane, and data planes, with --allow-fault-injection to allow it"
    )]
    FaultInjectionNotAllowed(Scope),
    /// There is no such route.
    #[error("there is no route {0}")]
    RouteNotFound(RouteName),
    /// A field of a route, or of what is to change in it.
    #[error("{0}")]
    InvalidRoute(Invalid),
    /// Nothing would say which of two routes counts.
    #[error(
        "route {route} could match the same requests as route {other} ({conditions}), and neither is more specific: \
         give one of them a higher priority, or one more condition"
    )]
    RouteConflict {
        /// The one that is refused.
        route: RouteName,
        /// The one that is there.
        other: RouteName,
        /// What that matches.
        conditions: String,
    },
    /// A field of a policy, alone or with what it inherits.
    #[error("{0}")]
    Invalid(#[from] Invalid),
}

impl RegistryError {
    /// Whose quota is in the way, if one is.
    pub(crate) fn quota(&self) -> Option<&'static str> {
        match self {
            Self::QuotaExceeded { service: None, .. } => Some("registry"),
            Self::QuotaExceeded { service: Some(_), .. } => Some("service"),
            Self::IdentityQuota { .. } => Some("identity"),
            _ => None,
        }
    }
}

fn place(service: Option<&ServiceName>) -> String {
    service.map_or_else(|| "the registry".into(), |name| format!("service {name}"))
}
