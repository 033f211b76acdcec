//! What the guard decided, for routing to follow and for people to read.

use std::{collections::BTreeSet, fmt};

use gateway_proto::{ReplicaKey, ServiceName};

/// What an update, or time, made the guard do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Services that are routed otherwise than before.
    pub touched: BTreeSet<ServiceName>,
    /// Replicas that are held from now on.
    pub held: Vec<ReplicaKey>,
    /// Replicas that are held no more, and why.
    pub let_go: Vec<(ReplicaKey, LetGo)>,
}

/// Why the guard holds a replica no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LetGo {
    /// The registry has it again.
    Returned,
    /// Another replica has its address now.
    AddressTaken,
    /// Somebody removed it.
    Deregistered,
    /// Its lease lapsed, or it was evicted, and not with so many others.
    Expired,
    /// For a minute, as many replicas have taken requests as may remain of those there were.
    Outnumbered,
    /// An operator released the service.
    Released,
    /// The service's policy has no guard any more.
    Disabled,
    /// Its hold time is over.
    Overdue,
    /// More are held than there is memory for; the longest held go first.
    TooMany,
}

impl fmt::Display for LetGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Returned => "the registry has them again",
            Self::AddressTaken => "other replicas have their addresses",
            Self::Deregistered => "they were deregistered",
            Self::Expired => "their leases lapsed, or nobody could reach them",
            Self::Outnumbered => "others have taken their place",
            Self::Released => "an operator released the guard",
            Self::Disabled => "the policy disabled the guard",
            Self::Overdue => "the hold time is over",
            Self::TooMany => "too many are held",
        })
    }
}
