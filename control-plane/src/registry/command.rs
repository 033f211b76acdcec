//! What can be asked of the registry.

use std::time::{Duration, SystemTime};

use gateway_proto::{Address, Health, LeaseId, ReplicaId, ReplicaKey, RouteName, ServiceName, v1};
use prost_types::FieldMask;

use super::{Eviction, OverrideId, OverrideKind, OverrideTarget, Registration, Revision, Scope};

/// One change that somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Add a replica, or put a new registration in the place of an earlier one.
    Register(Registration),
    /// Remove a replica; an absent one is success.
    Deregister {
        /// Which one.
        target: Target,
        /// By what right.
        proof: Proof,
        /// For people.
        said: Said,
        /// Refuse its registrations, and those of its address, for this long. Only with [`Proof::Force`].
        block: Option<Duration>,
    },
    /// Set the health that the replica reports of itself.
    ReportHealth {
        /// Which replica.
        key: ReplicaKey,
        /// Its lease; may be absent for a permanent replica only.
        lease: Option<LeaseId>,
        /// The new health.
        health: Health,
        /// For people.
        reason: String,
    },
    /// Remove a replica whose lease lapsed, unless it has got another lease meanwhile.
    Expire {
        /// Which replica.
        key: ReplicaKey,
        /// The lease that lapsed.
        lease: LeaseId,
        /// How long nothing was heard of its owner.
        silent_for: Duration,
    },
    /// Keep a replica whose lease lapsed, as LOST: the guard against mass removal doubts the registry.
    Hold {
        /// Which replica.
        key: ReplicaKey,
        /// The lease that lapsed.
        lease: LeaseId,
        /// How long nothing was heard of its owner.
        silent_for: Duration,
    },
    /// A LOST replica was heard of again.
    Recover {
        /// Which replica.
        key: ReplicaKey,
        /// The lease that was renewed.
        lease: LeaseId,
    },
    /// Stop new requests to a replica.
    Drain(Box<DrainWish>),
    /// Let a replica have requests again.
    Undrain {
        /// Which replica.
        key: ReplicaKey,
        /// Whose word it is: an operator's drain ends by an operator's.
        proof: Proof,
        /// The replica must not have changed since; empty: whatever state it is in.
        etag: String,
        /// For people.
        said: Said,
    },
    /// Nothing is in flight at a draining replica any more, or its time is over.
    FinishDrain {
        /// Which replica.
        key: ReplicaKey,
        /// Which drain: the one that began then.
        begun: SystemTime,
        /// Whether nothing is in flight.
        is_idle: bool,
    },
    /// Create or change a policy.
    UpdatePolicy(Box<PolicyWish>),
    /// Remove a policy.
    DeletePolicy {
        /// Whose.
        scope: Scope,
        /// The policy must not have changed since; empty: whatever it says.
        etag: String,
        /// For people.
        said: Said,
    },
    /// Change several policies: all of them, or none.
    ApplyPolicies(Vec<PolicyChange>),
    /// Clear what a policy says of faults, because their time is over.
    EndFault {
        /// Whose policy.
        scope: Scope,
        /// The policy must not have changed since.
        revision: Revision,
    },
    /// Create or change an explicit route.
    UpdateRoute(Box<RouteWish>),
    /// Remove an explicit route.
    DeleteRoute {
        /// Which one.
        name: RouteName,
        /// The route must not have changed since; empty: whatever it says.
        etag: String,
        /// For people.
        said: Said,
    },
    /// Remove a replica that data planes cannot reach.
    Evict(Eviction),
    /// Set an override, in the place of one about the same.
    Override(Box<OverrideWish>),
    /// End an override; an absent one is success.
    EndOverride {
        /// Which one.
        id: OverrideId,
        /// Who asks; `None`: its time is over, if it is still the one of this revision.
        by: Result<Said, Revision>,
    },
}

/// What somebody said when he asked for a change: for people, never checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Who asks.
    pub author: Box<str>,
    /// Why.
    pub reason: Box<str>,
}

/// Names a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By its id.
    Key(ReplicaKey),
    /// By where it is reached, for callers that never learnt an id.
    Address(ServiceName, Address),
}

/// The right to remove, drain or undrain a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// That of whoever may register it: enough to remove a permanent one, to drain one, and to undrain what no operator drained.
    None,
    /// The owner's lease.
    Lease(LeaseId),
    /// An operator's word.
    Force,
}

/// A drain that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainWish {
    /// Of which replica.
    pub key: ReplicaKey,
    /// By whose right: the replica's owner's, somebody's who looks after its service, or an operator's.
    pub proof: Proof,
    /// How long requests in flight may take; `None`: as the policy has it.
    pub timeout: Option<Duration>,
    /// The replica must not have changed since; empty: whatever state it is in.
    pub etag: String,
    /// Whether no ready replica may remain.
    pub allow_last: bool,
    /// For people.
    pub said: Said,
}

/// A policy that somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyWish {
    /// Whose.
    pub scope: Scope,
    /// The new values.
    pub change: v1::Policy,
    /// Which fields are to change; `None`: those that are set.
    pub mask: Option<FieldMask>,
    /// The policy must not have changed since; empty: whatever it says.
    pub etag: String,
    /// Whether there need not be one yet.
    pub allow_missing: bool,
    /// Whether there may be none yet: the caller has looked, and knows of none.
    pub must_be_missing: bool,
    /// Whether it may inject a fault that it did not before.
    pub allow_fault: bool,
    /// For people.
    pub said: Said,
}

/// What is to become of one of several policies.
#[derive(Debug, Clone, PartialEq)]
pub enum PolicyChange {
    /// It is created or changed.
    Update(Box<PolicyWish>),
    /// It is removed.
    Delete {
        /// Whose.
        scope: Scope,
        /// It must not have changed since; empty: whatever it says.
        etag: String,
        /// For people.
        said: Said,
    },
}

impl PolicyChange {
    /// Changed together at most, so that one transaction of a store takes them: etcd has 128 operations in one.
    pub const MAX: usize = 100;
    /// Bytes of them together at most, with who says so and why in each: etcd has 1.5 MiB in a transaction, each policy is in there twice,
    /// and with a fault that stays comes who has said that, up to a kilobyte.
    pub const MAX_BYTES: usize = 384 * 1024;

    /// Whose policy it is.
    pub fn scope(&self) -> &Scope {
        match self {
            Self::Update(wish) => &wish.scope,
            Self::Delete { scope, .. } => scope,
        }
    }
}

/// An explicit route that somebody wants.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteWish {
    /// Which one.
    pub name: RouteName,
    /// The new values.
    pub change: v1::Route,
    /// Which fields are to change; `None`: those that are set.
    pub mask: Option<FieldMask>,
    /// The route must not have changed since; empty: whatever it says.
    pub etag: String,
    /// Whether there need not be one yet.
    pub allow_missing: bool,
    /// For people.
    pub said: Said,
}

/// An override that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverrideWish {
    /// About what.
    pub target: OverrideTarget,
    /// Saying what.
    pub kind: OverrideKind,
    /// For how long.
    pub ttl: Duration,
    /// For people.
    pub said: Said,
}

/// Random ids that a registration takes when it needs them: drawn outside, so that deciding is repeatable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidates {
    /// For a replica without an id.
    pub replica: ReplicaId,
    /// For its lease.
    pub lease: LeaseId,
}

impl Said {
    /// A reason alone, of somebody who needs no name.
    pub fn because(reason: impl Into<Box<str>>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }
}

impl Candidates {
    /// Makes ids of random bits: `r-` and eight characters of base 32, and a lease id of 128 bits.
    pub fn from_random(replica: u64, lease: u128) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let digit = |place: u32| char::from(ALPHABET[(replica >> (5 * place)) as usize % 32]);
        let id: String = ['r', '-'].into_iter().chain((0..8).map(digit)).collect();
        let replica = ReplicaId::parse(&id).expect("letters, digits and one '-' inside make a label");
        Self { replica, lease: LeaseId::from_random(lease) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_a_short_label_that_depends_on_the_bits() {
        let id = |bits| Candidates::from_random(bits, 0).replica.to_string();
        assert_eq!(id(0), "r-aaaaaaaa");
        assert_eq!(id(31), "r-7aaaaaaa");
        assert_eq!(id(u64::MAX), "r-77777777");
    }
}
