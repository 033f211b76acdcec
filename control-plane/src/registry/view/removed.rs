//! What is still known of replicas that are gone, so that whoever comes late is told what happened.
//!
//! It is kept for twice the time to live, in memory: after a restart, late callers are told only that they are unknown.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{LeaseId, ReplicaKey};

use crate::registry::{Cause, Record, Registration};

/// Removed replicas that are remembered at most: the oldest make room.
const CAPACITY: usize = 10_000;

/// A replica that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The lease that it had.
    pub lease: Option<LeaseId>,
    /// The request that had registered it.
    pub request: Option<u128>,
    /// Whether its lease lapsed, and nobody removed it.
    pub has_expired: bool,
    /// How, and by whom, for people.
    pub why: Arc<str>,
    /// Remembered up to then.
    until: SystemTime,
}

/// The replicas removed last.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    removed: HashMap<ReplicaKey, Removed>,
    /// In the order in which they went; a key may be there twice.
    order: VecDeque<ReplicaKey>,
}

impl Removed {
    pub(super) fn new(record: &Record, cause: &Cause, at: SystemTime) -> Self {
        let ttl = record.lease.map_or(Registration::DEFAULT_TTL, |lease| lease.ttl);
        let (has_expired, why) = match cause {
            Cause::Expired { .. } => (true, "its lease lapsed".to_owned()),
            Cause::Superseded { by } => (false, format!("replica {by} registered at its address")),
            Cause::Deregistered { forced, said } => {
                let by = match (forced, &*said.author) {
                    (false, _) => "deregistered by its owner".to_owned(),
                    (true, "") => "deregistered by an operator".to_owned(),
                    (true, author) => format!("deregistered by {author}"),
                };
                (false, if said.reason.is_empty() { by } else { format!("{by}: {}", said.reason) })
            }
            _ => (false, "removed".to_owned()),
        };
        Self {
            lease: record.lease.map(|lease| lease.id),
            request: record.request.as_deref().map(|mark| mark.id),
            has_expired,
            why: why.into(),
            until: at + 2 * ttl,
        }
    }

    /// Whether it is still to be remembered.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.until
    }
}

impl Removals {
    pub(super) fn get(&self, key: &ReplicaKey) -> Option<&Removed> {
        self.removed.get(key)
    }

    /// Remembers what went at `now`, and forgets what needs no more.
    pub(super) fn add(&mut self, key: ReplicaKey, removed: Removed, now: SystemTime) {
        while self.order.len() >= CAPACITY
            || self
                .order
                .front()
                .is_some_and(|old| self.removed.get(old).is_none_or(|old| !old.is_fresh(now)))
        {
            match self.order.pop_front() {
                Some(old) => self.removed.remove(&old),
                None => break,
            };
        }
        self.order.push_back(key.clone());
        self.removed.insert(key, removed);
    }
}
