//! The last changes, from which any data plane that is not too far behind is brought up to date.

use std::collections::{BTreeMap, VecDeque};

use gateway_proto::{Policy, ReplicaKey, ServiceName, v1};

use crate::registry::{Change, Revision, ServiceStep};

/// A bounded ring of changes in the order of their revisions.
#[derive(Debug)]
pub struct DeltaLog {
    /// The revision before the oldest change kept: deltas reach back to here.
    floor: Revision,
    head: Revision,
    changes: VecDeque<Change>,
    capacity: usize,
}

impl DeltaLog {
    /// A log that begins at `revision` and keeps at most `capacity` changes.
    pub fn new(revision: Revision, capacity: usize) -> Self {
        Self { floor: revision, head: revision, changes: VecDeque::new(), capacity }
    }

    /// The revision of the last change.
    pub fn head(&self) -> Revision {
        self.head
    }

    /// Takes in changes whose revisions are not before any that the log has seen.
    pub fn extend(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.head = change.revision;
            self.changes.push_back(change);
        }
        // Several changes may share a revision after a reload; a base between them must not exist.
        while self.changes.len() > self.capacity
            || self.changes.front().is_some_and(|c| c.revision == self.floor)
        {
            match self.changes.pop_front() {
                Some(change) => self.floor = change.revision,
                None => break,
            }
        }
    }

    /// Whether a delta leads from `base` to the head.
    pub fn reaches(&self, base: Revision) -> bool {
        (self.floor..=self.head).contains(&base)
    }

    /// How many changes lead from `base` to the head, if they are all there.
    pub fn count_since(&self, base: Revision) -> Option<usize> {
        self.reaches(base).then(|| self.changes.len() - self.start(base))
    }

    /// All changes after `base` as one delta, the last state of each key only.
    ///
    /// What came and went in between is not mentioned. A service that is gone takes its replicas with it, so they
    /// are not named one by one. `None` when the log does not reach back to `base`, or `base` is ahead of it.
    pub fn since(&self, base: Revision) -> Option<v1::Delta> {
        if !self.reaches(base) {
            return None;
        }
        let mut services: BTreeMap<&ServiceName, Span<()>> = BTreeMap::new();
        let mut replicas: BTreeMap<&ReplicaKey, Span<&Change>> = BTreeMap::new();
        for change in self.changes.range(self.start(base)..) {
            let service = services
                .entry(&change.key.service)
                .or_insert(Span { existed: change.service != ServiceStep::Appeared, now: None });
            service.now = (change.service != ServiceStep::Vanished).then_some(());
            let replica = replicas.entry(&change.key).or_insert(Span { existed: change.existed, now: None });
            replica.now = change.record.is_some().then_some(change);
        }
        let mut delta = v1::Delta { base_revision: base, ..Default::default() };
        for (name, span) in &services {
            match (span.existed, span.now) {
                (false, Some(())) => delta.upsert_services.push(service_entry(name)),
                (true, None) => delta.remove_services.push(name.to_string()),
                _ => {}
            }
        }
        for (key, span) in &replicas {
            match span.now.and_then(|change| change.record.as_ref()) {
                Some(record) => delta.upsert_replicas.push(record.to_wire()),
                None if span.existed && services[&key.service].now.is_some() => {
                    delta.remove_replicas.push(v1::ReplicaRemoval {
                        service: key.service.to_string(),
                        replica_id: key.replica.to_string(),
                        ..Default::default()
                    });
                }
                None => {}
            }
        }
        Some(delta)
    }

    /// Where the changes after `base` begin.
    fn start(&self, base: Revision) -> usize {
        self.changes.partition_point(|change| change.revision <= base)
    }
}

/// What a key was at the base, and what it is now.
struct Span<T> {
    existed: bool,
    now: Option<T>,
}

/// A service without its replicas, under the policy that data planes are to use.
pub(super) fn service_entry(name: &ServiceName) -> v1::ServiceSnapshot {
    v1::ServiceSnapshot {
        service: name.to_string(),
        policy: Some(Policy::default().to_wire()),
        replicas: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
