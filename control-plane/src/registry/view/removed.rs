//! What is still known of replicas that are gone, so that whoever comes late is told what happened.
//!
//! It is kept for twice the time to live, and for as long as the request that had registered it is known. It is kept in
//! memory: after a restart, late callers are told only that they are unknown.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{LeaseId, ReplicaKey};

use crate::registry::{Cause, Record, Registration, RequestMark};

/// Removed replicas that are remembered at most: the oldest make room.
const CAPACITY: usize = 10_000;

/// A replica that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The lease that it had.
    pub lease: Option<LeaseId>,
    /// The request that had registered it.
    pub request: Option<RequestMark>,
    /// Whether its lease lapsed, and nobody removed it.
    pub has_expired: bool,
    /// How, and by whom, for people.
    pub why: Arc<str>,
    /// Owners that come late are told of it up to then.
    until: SystemTime,
}

/// The replicas removed last.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    removed: HashMap<ReplicaKey, Removed>,
    /// By the request that had registered it.
    requests: HashMap<u128, ReplicaKey>,
    /// In the order in which they went.
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
            request: record.request.as_deref().copied(),
            has_expired,
            why: why.into(),
            until: at + 2 * ttl,
        }
    }

    /// Whether its owner, when it comes late, is still told of it.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.until
    }

    /// Whether it is of use to anybody.
    fn is_of_use(&self, now: SystemTime) -> bool {
        self.is_fresh(now) || self.request.is_some_and(|mark| mark.is_fresh(now))
    }
}

impl Removals {
    pub(super) fn get(&self, key: &ReplicaKey) -> Option<&Removed> {
        self.removed.get(key)
    }

    /// What became of the replica that this request had registered.
    pub(super) fn of_request(&self, id: u128) -> Option<(&ReplicaKey, &Removed)> {
        let removed = self.removed.get_key_value(self.requests.get(&id)?)?;
        removed.1.request.is_some_and(|mark| mark.id == id).then_some(removed)
    }

    /// Remembers what went at `now`, and forgets what is of no use any more.
    pub(super) fn add(&mut self, key: ReplicaKey, removed: Removed, now: SystemTime) {
        let is_of_use = |key: &ReplicaKey| self.removed.get(key).is_some_and(|old| old.is_of_use(now));
        let mut spent = self.order.iter().take_while(|key| !is_of_use(key)).count();
        if self.order.len() - spent >= CAPACITY {
            spent += 1;
        }
        for key in self.order.drain(..spent).collect::<Vec<_>>() {
            self.forget(&key);
        }
        if self.removed.contains_key(&key) {
            self.forget(&key);
            self.order.retain(|old| *old != key);
        }
        if let Some(mark) = removed.request {
            self.requests.insert(mark.id, key.clone());
        }
        self.order.push_back(key.clone());
        self.removed.insert(key, removed);
    }

    fn forget(&mut self, key: &ReplicaKey) {
        let mark = self.removed.remove(key).and_then(|old| old.request);
        if let Some(mark) = mark.filter(|mark| self.requests.get(&mark.id) == Some(key)) {
            self.requests.remove(&mark.id);
        }
    }
}
