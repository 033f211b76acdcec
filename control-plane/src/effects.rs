//! What follows from a durable change, in memory: the view and its readers, leases, the timeline, counters.
//!
//! The writer is the only one to change these; everybody else reads them through the handles here.

use std::{sync::Arc, time::Instant};

use gateway_proto::v1::EventSeverity;

use crate::{
    clock,
    leases::Leases,
    metrics::Metrics,
    observe::Observation,
    publish::Publisher,
    registry::{Cause, Change, Committed, LeaseTerms, Mutation, Record, View, Write},
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
                self.settle_lease(None, Some(record), now);
            }
        });
    }

    /// Takes in what the store made durable.
    pub(crate) fn apply(&self, committed: Vec<Committed>) {
        let now = clock::now();
        let before: Vec<Option<LeaseTerms>> = self.publisher.read(|view| {
            let lease = |entry: &Committed| view.get(&entry.mutation.key).and_then(|record| record.lease);
            committed.iter().map(lease).collect()
        });
        for (Committed { mutation, .. }, before) in committed.iter().zip(before) {
            let Mutation { write, cause, .. } = mutation;
            match write {
                Write::Put(record) => self.settle_lease(before, Some(record), now),
                Write::Remove => self.settle_lease(before, None, now),
            }
            if matches!(cause, Cause::Expired { .. }) {
                self.metrics.lease_expired();
            }
        }
        let events = self.publisher.apply(committed);
        for event in &events {
            let (kind, key) = (event.kind.name(), &event.key);
            if event.kind.severity() == EventSeverity::Info {
                tracing::info!(event = kind, service = %key.service, replica = %key.replica, "{}", event.message);
            } else {
                tracing::warn!(event = kind, service = %key.service, replica = %key.replica, "{}", event.message);
            }
        }
        self.observation.registry_changed(&events);
    }

    /// Puts what the store turned out to hold in the place of what was believed.
    pub(crate) fn correct(&self, next: View) {
        self.settle_leases(&next);
        self.publisher.correct(next);
    }

    /// As [`Effects::correct`], after a panic: what was believed may be half-changed.
    pub(crate) fn replace(&self, next: View) {
        self.settle_leases(&next);
        self.publisher.replace(next);
    }

    fn settle_leases(&self, next: &View) {
        let now = clock::now();
        let changes = self.publisher.read(|view| {
            let with_lease = |change: Change| {
                let before = view.get(&change.key).and_then(|record| record.lease);
                (before, change)
            };
            view.changes_to(next).into_iter().map(with_lease).collect::<Vec<_>>()
        });
        for (before, change) in &changes {
            self.settle_lease(*before, change.record.as_deref(), now);
        }
        if !changes.is_empty() {
            tracing::warn!(
                changes = changes.len(),
                "the store had made changes durable that had not been heard of"
            );
        }
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
            self.leases.grant(lease.id, record.key.clone(), lease.ttl, now);
        }
    }
}
