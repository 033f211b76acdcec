//! What happened in the registry, for people.

use std::time::SystemTime;

use gateway_proto::{ReplicaKey, time::timestamp, v1};

/// The kinds of events that the registry itself raises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A replica that was not there before.
    ReplicaRegistered,
    /// A new registration in the place of an earlier one.
    ReplicaReplaced,
    /// Removed on request.
    ReplicaDeregistered,
    /// Removed because its owner fell silent.
    LeaseExpired,
    /// The health it reports of itself changed.
    HealthChanged,
}

/// One step in a replica's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it was.
    pub kind: EventKind,
    /// Whose life.
    pub key: ReplicaKey,
    /// When, by the wall clock.
    pub at: SystemTime,
    /// One sentence: what happened and by which rule.
    pub message: String,
    /// The numbers in it, for tools.
    pub metadata: Vec<(&'static str, String)>,
}

impl EventKind {
    /// The wire's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReplicaRegistered => "REPLICA_REGISTERED",
            Self::ReplicaReplaced => "REPLICA_REPLACED",
            Self::ReplicaDeregistered => "REPLICA_DEREGISTERED",
            Self::LeaseExpired => "LEASE_EXPIRED",
            Self::HealthChanged => "HEALTH_CHANGED",
        }
    }

    /// Whether somebody should look.
    pub fn severity(self) -> v1::EventSeverity {
        match self {
            Self::LeaseExpired => v1::EventSeverity::Warning,
            _ => v1::EventSeverity::Info,
        }
    }
}

impl Event {
    /// The wire's form, still without an id: the timeline numbers it.
    pub fn to_wire(&self) -> v1::Event {
        v1::Event {
            event_time: Some(timestamp(self.at)),
            severity: self.kind.severity().into(),
            event_type: self.kind.name().into(),
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            message: self.message.clone(),
            metadata: self.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            ..Default::default()
        }
    }
}
