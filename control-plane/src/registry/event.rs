//! What happened in the registry, for people.

use std::time::SystemTime;

use gateway_proto::{NodeId, ReplicaId, ReplicaKey, ServiceName, time::timestamp, v1};

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
    /// Removed because data planes cannot reach it.
    ReplicaEvicted,
    /// The health it reports of itself changed.
    HealthChanged,
    /// Its owner fell silent together with too many others: held.
    ReplicaLost,
    /// A lost one was heard of again.
    ReplicaFound,
    /// It gets no new requests from now on.
    ReplicaDraining,
    /// Nothing is in flight at a draining one any more, or its time is over.
    ReplicaDrained,
    /// It gets requests again.
    ReplicaUndrained,
    /// A policy was set or changed.
    PolicyUpdated,
    /// A policy was removed.
    PolicyDeleted,
    /// A policy began to inject a fault, or another one than before.
    FaultBegan,
    /// It injects none any more.
    FaultEnded,
    /// An explicit route was set or changed.
    RouteUpdated,
    /// An explicit route was removed.
    RouteDeleted,
    /// An operator decided against the rules.
    OverrideSet,
    /// The rules hold again.
    OverrideEnded,
}

/// One step in the registry's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it was.
    pub kind: EventKind,
    /// Of which service; `None`: of all.
    pub service: Option<ServiceName>,
    /// Of which replica of it, if of one.
    pub replica: Option<ReplicaId>,
    /// On which data plane, if on one.
    pub node: Option<NodeId>,
    /// Who did it.
    pub actor: Box<str>,
    /// When, by the wall clock.
    pub at: SystemTime,
    /// One sentence: what happened and by which rule.
    pub message: String,
    /// The numbers in it, for tools.
    pub metadata: Vec<(&'static str, String)>,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::ReplicaRegistered,
        Self::ReplicaReplaced,
        Self::ReplicaDeregistered,
        Self::LeaseExpired,
        Self::ReplicaEvicted,
        Self::HealthChanged,
        Self::ReplicaLost,
        Self::ReplicaFound,
        Self::ReplicaDraining,
        Self::ReplicaDrained,
        Self::ReplicaUndrained,
        Self::PolicyUpdated,
        Self::PolicyDeleted,
        Self::FaultBegan,
        Self::FaultEnded,
        Self::RouteUpdated,
        Self::RouteDeleted,
        Self::OverrideSet,
        Self::OverrideEnded,
    ];

    /// The wire's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReplicaRegistered => "REPLICA_REGISTERED",
            Self::ReplicaReplaced => "REPLICA_REPLACED",
            Self::ReplicaDeregistered => "REPLICA_DEREGISTERED",
            Self::LeaseExpired => "LEASE_EXPIRED",
            Self::ReplicaEvicted => "REPLICA_EVICTED",
            Self::HealthChanged => "HEALTH_CHANGED",
            Self::ReplicaLost => "REPLICA_LOST",
            Self::ReplicaFound => "REPLICA_FOUND",
            Self::ReplicaDraining => "REPLICA_DRAINING",
            Self::ReplicaDrained => "REPLICA_DRAINED",
            Self::ReplicaUndrained => "REPLICA_UNDRAINED",
            Self::PolicyUpdated => "POLICY_UPDATED",
            Self::PolicyDeleted => "POLICY_DELETED",
            Self::FaultBegan => "FAULT_INJECTION_BEGAN",
            Self::FaultEnded => "FAULT_INJECTION_ENDED",
            Self::RouteUpdated => "ROUTE_UPDATED",
            Self::RouteDeleted => "ROUTE_DELETED",
            Self::OverrideSet => "OVERRIDE_SET",
            Self::OverrideEnded => "OVERRIDE_ENDED",
        }
    }

    /// Whether somebody should look.
    pub fn severity(self) -> v1::EventSeverity {
        match self {
            Self::LeaseExpired
            | Self::ReplicaEvicted
            | Self::ReplicaLost
            | Self::FaultBegan
            | Self::OverrideSet => v1::EventSeverity::Warning,
            _ => v1::EventSeverity::Info,
        }
    }
}

impl Event {
    /// The replica that is gone with it, if one is.
    pub fn removed(&self) -> Option<ReplicaKey> {
        let is_removal = matches!(
            self.kind,
            EventKind::ReplicaDeregistered | EventKind::LeaseExpired | EventKind::ReplicaEvicted
        );
        let (service, replica) = (self.service.clone()?, self.replica.clone()?);
        is_removal.then_some(ReplicaKey { service, replica })
    }

    /// The wire's form, still without an id: the timeline numbers it.
    pub fn to_wire(&self) -> v1::Event {
        v1::Event {
            event_time: Some(timestamp(self.at)),
            severity: self.kind.severity().into(),
            event_type: self.kind.name().into(),
            service: self.service.as_ref().map(ServiceName::to_string).unwrap_or_default(),
            replica_id: self.replica.as_ref().map(ReplicaId::to_string).unwrap_or_default(),
            node_id: self.node.as_ref().map(NodeId::to_string).unwrap_or_default(),
            actor: self.actor.to_string(),
            message: self.message.clone(),
            metadata: self.metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            ..Default::default()
        }
    }
}
