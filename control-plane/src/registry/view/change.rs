//! The steps from one revision to the next, as data planes and people are told of them.

use std::sync::Arc;

use gateway_proto::{ReplicaKey, RouteName, v1::RemovalCause};

use crate::registry::{Event, Mutation, OverrideId, Record, Revision, Scope};

/// A mutation that the store has made durable.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// The revision the store gave it.
    pub revision: Revision,
    /// What it does.
    pub mutation: Mutation,
}

impl Committed {
    /// What people are told of it.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.mutation.events(self.revision)
    }
}

/// What applying a committed mutation brought about.
#[derive(Debug, Clone)]
pub struct Applied {
    /// For data planes, all at the mutation's revision.
    pub changes: Vec<Change>,
    /// For people.
    pub events: Vec<Event>,
}

/// One record's step. What it is now is in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Of a replica.
    Replica(ReplicaChange),
    /// Of a stored policy.
    Policy {
        /// The revision it leads to.
        revision: Revision,
        /// Whose policy.
        scope: Scope,
    },
    /// Of an override.
    Override {
        /// The revision it leads to.
        revision: Revision,
        /// Which one.
        id: OverrideId,
        /// Whether it was there before.
        existed: bool,
    },
    /// Of an explicit route.
    Route {
        /// The revision it leads to.
        revision: Revision,
        /// Which one.
        name: RouteName,
        /// Whether it was there before.
        existed: bool,
    },
}

/// One replica's step from one revision to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaChange {
    /// The revision it leads to.
    pub revision: Revision,
    /// Whose step.
    pub key: ReplicaKey,
    /// What it is now; `None`: gone.
    pub record: Option<Arc<Record>>,
    /// Whether it was there before.
    pub existed: bool,
    /// If it is gone: why.
    pub removal: RemovalCause,
    /// What this meant for its service.
    pub service: ServiceStep,
}

/// What a replica's step meant for its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceStep {
    /// It was there and still is.
    Stayed,
    /// This was its first replica.
    Appeared,
    /// This was its last one.
    Vanished,
}

impl Change {
    /// The revision it leads to.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Replica(change) => change.revision,
            Self::Policy { revision, .. }
            | Self::Override { revision, .. }
            | Self::Route { revision, .. } => *revision,
        }
    }

    /// The replica's step, if it is one.
    pub fn as_replica(&self) -> Option<&ReplicaChange> {
        match self {
            Self::Replica(change) => Some(change),
            Self::Policy { .. } | Self::Override { .. } | Self::Route { .. } => None,
        }
    }

    pub(super) fn set_revision(&mut self, to: Revision) {
        match self {
            Self::Replica(change) => change.revision = to,
            Self::Policy { revision, .. }
            | Self::Override { revision, .. }
            | Self::Route { revision, .. } => {
                *revision = to;
            }
        }
    }
}
