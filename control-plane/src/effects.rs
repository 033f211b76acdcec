//! What follows from a durable change, in memory: the view and its readers, leases, the timeline, counters.
//!
//! The writer is the only one to change these; everybody else reads them through the handles here.

use std::{sync::Arc, time::Instant};

use gateway_proto::{ReplicaKey, v1::EventSeverity};

use crate::{
    clock,
    leases::Leases,
    metrics::Metrics,
    observe::Observation,
    publish::Publisher,
    registry::{Cause, Change, Committed, Event, LeaseTerms, Record, View},
};

/// What the writer changes beside the store.
#[derive(Debug, Clone)]
pub(crate) struct Effects {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) observation: Arc<Observation>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Effects {
    /// Grants every lease of the view one full time to live: nobody could renew while there was no control plane.
    pub(crate) fn grant_all(&self) {
        let now = clock::now();
        self.publisher.read(|view| {
            for record in view.replicas() {
                match record.lease.filter(|_| record.lost.is_some()) {
                    // What was lost before is not found again by a restart.
                    Some(lease) => self.leases.grant_held(lease.id, record.key.clone(), lease.ttl(), now),
                    None => self.settle_lease(None, Some(record), now),
                }
            }
        });
    }

    /// Takes in what the store made durable. Yields what people are to be told of it.
    pub(crate) fn apply(&self, committed: Vec<Committed>) -> Vec<Event> {
        let now = clock::now();
        for write in committed.iter().flat_map(|entry| entry.mutation.writes()) {
            let Some(key) = write.key.as_replica() else { continue };
            self.settle_lease(self.lease_of(key), write.record(), now);
            match write.cause {
                Cause::Expired { .. } => self.metrics.lease_expired(),
                Cause::Evicted { .. } => self.metrics.evicted(),
                _ => {}
            }
        }
        self.publisher.apply(committed)
    }

    /// Tells people what happened, in the log and in the timeline.
    pub(crate) fn tell(&self, events: &[Event]) {
        for event in events {
            let (kind, actor) = (event.kind.name(), &event.actor);
            let service = event.service.as_ref().map(tracing::field::display);
            let replica = event.replica.as_ref().map(tracing::field::display);
            if event.kind.severity() == EventSeverity::Info {
                tracing::info!(event = kind, service, replica, actor, "{}", event.message);
            } else {
                tracing::warn!(event = kind, service, replica, actor, "{}", event.message);
            }
        }
        self.observation.registry_changed(events);
    }

    /// Puts what the store turned out to hold in the place of what was believed.
    pub(crate) fn correct(&self, next: View) {
        let changes = self.settle_leases(&next);
        self.publisher.correct(next, changes);
    }

    /// As [`Effects::correct`], after a panic: what was believed may be half-changed.
    pub(crate) fn replace(&self, next: View) {
        self.settle_leases(&next);
        self.publisher.replace(next);
    }

    /// Yields what leads to `next`.
    fn settle_leases(&self, next: &View) -> Vec<Change> {
        let now = clock::now();
        let changes = self.publisher.read(|view| view.changes_to(next));
        let mut count = 0;
        for change in changes.iter().filter_map(Change::as_replica) {
            self.settle_lease(self.lease_of(&change.key), change.record.as_deref(), now);
            count += 1;
        }
        if count > 0 {
            tracing::warn!(changes = count, "the store had made changes durable that had not been heard of");
        }
        changes
    }

    /// The lease that is believed to keep a replica.
    fn lease_of(&self, key: &ReplicaKey) -> Option<LeaseTerms> {
        self.publisher.read(|view| view.get(key)?.lease)
    }

    /// Voids the lease before and grants the one after, unless they are the same.
    fn settle_lease(&self, before: Option<LeaseTerms>, after: Option<&Record>, now: Instant) {
        let granted = after.and_then(|record| record.lease.map(|lease| (record, lease)));
        if before == granted.map(|(_, lease)| lease) {
            return;
        }
        if let Some(lease) = before {
            self.leases.forget(lease.id);
        }
        if let Some((record, lease)) = granted {
            self.leases.grant(lease.id, record.key.clone(), lease.ttl(), now);
        }
    }
}
