//! What is still known of replicas that are gone, so that whoever comes late is told what happened.
//!
//! It is kept for twice the time to live, and for as long as the request that had registered it is known. It is kept in
//! memory: after a restart, late callers are told only that they are unknown.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
    time::SystemTime,
};

use gateway_proto::{LeaseId, ReplicaKey, v1::RemovalCause};

use crate::registry::{
    Cause, Record, Registration, RequestMark,
    mutation::{author, because},
};

/// Removed replicas, and requests that had registered such, that are remembered at most: the oldest make room.
const CAPACITY: usize = 10_000;

/// A replica that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The lease that it had.
    pub lease: Option<LeaseId>,
    /// Whether its lease lapsed, and nobody removed it.
    pub has_expired: bool,
    /// The same for data planes.
    pub removal: RemovalCause,
    /// Whether its owner removed it.
    pub by_owner: bool,
    /// How, and by whom, for people.
    pub why: Arc<str>,
    /// When.
    pub at: SystemTime,
    /// Owners that come late are told of it up to then.
    until: SystemTime,
}

/// A request that had registered a replica which was removed, or registered anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::registry) struct Ended {
    /// The replica.
    pub(in crate::registry) key: ReplicaKey,
    /// The request.
    pub(in crate::registry) mark: RequestMark,
    /// How the replica was removed, and by whom, for people.
    pub(in crate::registry) why: Arc<str>,
}

/// The replicas removed last.
#[derive(Debug, Clone, Default)]
pub struct Removals {
    removed: Recent<ReplicaKey, Removed>,
    requests: Recent<u128, Ended>,
}

/// The last entries of a kind.
#[derive(Debug, Clone)]
struct Recent<K, V> {
    entries: HashMap<K, V>,
    /// In the order in which they came.
    order: VecDeque<K>,
}

impl Removed {
    fn new(record: &Record, cause: &Cause, at: SystemTime) -> Self {
        let ttl = record.lease.map_or(Registration::DEFAULT_TTL, |lease| lease.ttl());
        let (has_expired, why) = match cause {
            Cause::Expired { .. } => (true, "its lease lapsed".to_owned()),
            Cause::Superseded { by } => (false, format!("replica {by} registered at its address")),
            Cause::Evicted { why } => (false, format!("evicted: {why}")),
            Cause::Deregistered { forced, said } => {
                let by = if *forced { author(&said.author) } else { "its owner" };
                (false, because(&format!("deregistered by {by}"), &said.reason))
            }
            _ => (false, "removed".to_owned()),
        };
        Self {
            lease: record.lease.map(|lease| lease.id),
            has_expired,
            removal: cause.removal(),
            by_owner: matches!(cause, Cause::Deregistered { forced: false, .. }),
            why: why.into(),
            at,
            until: at + 2 * ttl,
        }
    }

    /// Whether its owner, when it comes late, is still told of it.
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        now < self.until
    }
}

impl Removals {
    pub(super) fn get(&self, key: &ReplicaKey) -> Option<&Removed> {
        self.removed.entries.get(key)
    }

    /// What became of the replica that this request had registered.
    pub(super) fn of_request(&self, id: u128) -> Option<&Ended> {
        self.requests.entries.get(&id)
    }

    /// Remembers the request that a replica was registered by before it was registered anew: come again, it would throw out
    /// who took its place.
    pub(super) fn replaced(&mut self, before: &Record, after: Option<&Record>, now: SystemTime) {
        let mark = |record: &Record| record.request.as_deref().copied();
        let Some(mark) =
            mark(before).filter(|before| after.and_then(mark).is_none_or(|after| after.id != before.id))
        else {
            return;
        };
        let ended =
            Ended { key: before.key.clone(), mark, why: "a later registration has taken its place".into() };
        self.requests.add(mark.id, ended, |ended| ended.mark.is_fresh(now));
    }

    /// Remembers what went at `now`, and forgets what is of no use any more.
    pub(super) fn add(&mut self, record: &Record, cause: &Cause, now: SystemTime) {
        let removed = Removed::new(record, cause, now);
        if let Some(mark) = record.request.as_deref().copied() {
            let ended = Ended { key: record.key.clone(), mark, why: Arc::clone(&removed.why) };
            self.requests.add(mark.id, ended, |ended| ended.mark.is_fresh(now));
        }
        self.removed.add(record.key.clone(), removed, |removed| removed.is_fresh(now));
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn add(&mut self, key: K, value: V, is_of_use: impl Fn(&V) -> bool) {
        if self.entries.remove(&key).is_some() {
            self.order.retain(|known| *known != key);
        }
        let is_spent = |key: &K| self.entries.get(key).is_none_or(|old| !is_of_use(old));
        let mut spent = self.order.iter().take_while(|key| is_spent(key)).count();
        if self.order.len() - spent >= CAPACITY {
            spent += 1;
        }
        for old in self.order.drain(..spent) {
            self.entries.remove(&old);
        }
        self.order.push_back(key.clone());
        self.entries.insert(key, value);
    }
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use gateway_proto::Address;

    use super::*;

    fn record(number: u64) -> Record {
        let key = ReplicaKey::parse("orders", &format!("r-{number}")).unwrap();
        Record::plain(key, Address::parse("10.0.0.1:1").unwrap(), UNIX_EPOCH)
    }

    #[test]
    fn what_is_remembered_is_bounded_by_time_and_by_number() {
        let mut removals = Removals::default();
        let mut add = |number, secs| {
            removals.add(
                &record(number),
                &Cause::Undrained { said: Default::default() },
                UNIX_EPOCH + Duration::from_secs(secs),
            );
            (removals.removed.entries.len(), removals.removed.order.len())
        };
        assert_eq!(add(0, 0), (1, 1));
        assert_eq!(add(0, 10), (1, 1), "the same one again");
        assert_eq!(add(1, 39), (2, 2), "permanent ones are remembered for 30 s");
        assert_eq!(add(2, 40), (2, 2));
        for number in 3..2 * CAPACITY as u64 {
            add(number, 41);
        }
        assert_eq!(add(0, 41), (CAPACITY, CAPACITY));
    }
}
