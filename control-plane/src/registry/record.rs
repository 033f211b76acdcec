//! One registered replica, as the store keeps it.

use std::time::{Duration, SystemTime};

use gateway_proto::{
    Address, Health, Labels, LeaseId, ReplicaKey, Weight,
    time::{duration, timestamp},
    v1,
};

/// Counts committed mutations; 0 before the first. Two revisions compare only within one epoch of the store.
pub type Revision = i64;

/// Everything durable about one replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its service and its id there.
    pub key: ReplicaKey,
    /// Where requests reach it. No other replica of the service has the same.
    pub address: Address,
    /// Its share of the service's traffic.
    pub weight: Weight,
    /// Free text for people, at most 63 characters.
    pub version: String,
    /// What its owner says of it.
    pub labels: Labels,
    /// Health as its owner reported it last.
    pub health: Health,
    /// Why, in its owner's words; empty when nothing was said.
    pub health_reason: String,
    /// Since when, by the wall clock.
    pub health_since: SystemTime,
    /// The claim that keeps it here; `None` for a permanent replica.
    pub lease: Option<LeaseTerms>,
    /// Grows with every registration of this key, also across removal.
    pub incarnation: i64,
    /// When this key was registered first since it was last absent.
    pub created_at: SystemTime,
    /// When anything of it changed last.
    pub updated_at: SystemTime,
    /// The revision of that change.
    pub revision: Revision,
}

/// Whose claim it is and how long it lasts without a renewal.
///
/// The deadline is no part of it: renewals are not durable, so that they cost no commit and change no revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseTerms {
    /// Proof of ownership.
    pub id: LeaseId,
    /// Granted time to live, 1 s..=1 h.
    pub ttl: Duration,
}

impl Record {
    /// The wire's form, without the secret lease id and without the lease's deadline.
    pub fn to_wire(&self) -> v1::Replica {
        v1::Replica {
            service: self.key.service.to_string(),
            replica_id: self.key.replica.to_string(),
            endpoint: Some(v1::Endpoint { address: self.address.to_string() }),
            weight: self.weight.get().into(),
            version: self.version.clone(),
            labels: self.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            health: self.health.to_wire().into(),
            state_change_time: Some(timestamp(self.health_since)),
            state_reason: self.health_reason.clone(),
            lease: Some(v1::Lease {
                ttl: self.lease.map(|lease| duration(lease.ttl)),
                permanent: self.lease.is_none(),
                ..Default::default()
            }),
            incarnation: self.incarnation,
            create_time: Some(timestamp(self.created_at)),
            update_time: Some(timestamp(self.updated_at)),
            revision: self.revision,
            ..Default::default()
        }
    }
}
