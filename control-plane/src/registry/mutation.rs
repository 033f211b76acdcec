//! What a decided command writes, and what follows from it once it is durable: an answer and an event.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use gateway_proto::{Health, ReplicaKey};

use super::{Event, EventKind, Record, Revision};

/// A write to one record, and what must still hold when it is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// The one record it touches.
    pub key: ReplicaKey,
    /// The record's revision when this was decided; `None`: it was absent.
    pub expected: Option<Revision>,
    /// What becomes of the record.
    pub write: Write,
    /// Why.
    pub cause: Cause,
    /// When it was decided, by the wall clock.
    pub at: SystemTime,
}

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// It is this from now on; the store fills in the revision.
    Put(Box<Record>),
    /// It is gone.
    Remove,
}

/// Why a record changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It registered and was not there.
    Registered,
    /// It registered and was there.
    Replaced {
        /// The incarnation that ends here.
        incarnation: i64,
    },
    /// Somebody asked to remove it.
    Deregistered {
        /// Whether an operator did so, without the lease.
        forced: bool,
        /// For people; may be empty.
        reason: String,
    },
    /// Its lease lapsed.
    Expired {
        /// How long nothing was heard of it.
        silent_for: Duration,
        /// What was granted.
        ttl: Duration,
    },
    /// It reported another health.
    HealthReported {
        /// The health before.
        before: Health,
    },
}

/// What a permitted command is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The replica is registered as this.
    Registered {
        /// As stored.
        record: Arc<Record>,
        /// Whether it was absent before.
        created: bool,
    },
    /// The replica is not registered.
    Deregistered {
        /// Whether this command did it.
        removed: bool,
        /// The registry's revision with that.
        revision: Revision,
    },
    /// The replica has the health it reported.
    HealthReported(Arc<Record>),
    /// The lease is no more.
    Expired {
        /// Whether a replica went with it.
        removed: bool,
    },
}

impl Mutation {
    /// The answer to the command, once this is committed at `revision`.
    pub fn answer(&self, revision: Revision) -> Answer {
        match (&self.write, &self.cause) {
            (Write::Put(record), Cause::HealthReported { .. }) => {
                Answer::HealthReported(Arc::new(Record { revision, ..Record::clone(record) }))
            }
            (Write::Put(record), cause) => Answer::Registered {
                record: Arc::new(Record { revision, ..Record::clone(record) }),
                created: *cause == Cause::Registered,
            },
            (Write::Remove, Cause::Expired { .. }) => Answer::Expired { removed: true },
            (Write::Remove, _) => Answer::Deregistered { removed: true, revision },
        }
    }

    /// What people are told, once this is committed at `revision`.
    pub(super) fn event(&self, revision: Revision) -> Event {
        let (kind, message) = match &self.cause {
            Cause::Registered => (EventKind::ReplicaRegistered, format!("registered {}", self.terms())),
            Cause::Replaced { incarnation } => (
                EventKind::ReplicaReplaced,
                format!("registered anew {}, in the place of incarnation {incarnation}", self.terms()),
            ),
            Cause::Deregistered { forced, reason } => {
                let by = if *forced { "deregistered by an operator" } else { "deregistered" };
                let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                (EventKind::ReplicaDeregistered, format!("{by}{why}"))
            }
            Cause::Expired { silent_for, ttl } => (
                EventKind::LeaseExpired,
                format!("no heartbeat for {:.1}s, ttl {}s", silent_for.as_secs_f64(), ttl.as_secs_f64()),
            ),
            Cause::HealthReported { before } => (EventKind::HealthChanged, self.health_step(*before)),
        };
        let mut metadata = vec![("revision", revision.to_string())];
        if let Write::Put(record) = &self.write {
            metadata.push(("address", record.address.to_string()));
            metadata.push(("incarnation", record.incarnation.to_string()));
        }
        Event { kind, key: self.key.clone(), at: self.at, message, metadata }
    }

    fn terms(&self) -> String {
        let Write::Put(record) = &self.write else { return String::new() };
        match record.lease {
            Some(lease) => format!("at {}, lease of {}s", record.address, lease.ttl.as_secs_f64()),
            None => format!("at {}, permanent", record.address),
        }
    }

    fn health_step(&self, before: Health) -> String {
        let Write::Put(record) = &self.write else { return String::new() };
        let why = if record.health_reason.is_empty() { "" } else { ": " };
        format!("{before} -> {}{why}{}", record.health, record.health_reason)
    }
}
