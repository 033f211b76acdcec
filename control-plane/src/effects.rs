//! What follows from a durable change, in memory: the view and its readers, leases, the timeline, counters.
//!
//! The writer is the only one to change these; everybody else reads them through the handles here.

use std::{collections::HashSet, sync::Arc, time::Instant};

use gateway_proto::{LeaseId, ReplicaKey, v1::EventSeverity};

use crate::{
    clock,
    leases::{LeaseTag, Leases},
    metrics::Metrics,
    observe::Observation,
    publish::Publisher,
    registry::{Cause, Change, Committed, Event, LeaseTerms, Record, View},
    store::LeaseNews,
};

/// Who made a change durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// This process.
    Us,
    /// Another control plane on the same store.
    Others,
}

/// What the writer changes beside the store.
#[derive(Debug, Clone)]
pub(crate) struct Effects {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) observation: Arc<Observation>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Effects {
    /// Grants every lease of the view one full time to live: nobody could renew while there was no control plane. Those that
    /// the store keeps last for as long as it does so.
    pub(crate) fn grant_all(&self, kept: &HashSet<LeaseId>) {
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
        kept.iter().for_each(|lease| self.leases.kept(*lease));
    }

    /// Takes in what the store made durable; what others did is counted by them. Yields what people are to be told of it.
    pub(crate) fn apply(&self, committed: Vec<Committed>, by: By) -> Vec<Event> {
        let now = clock::now();
        for write in committed.iter().flat_map(|entry| entry.mutation.writes()) {
            let Some(key) = write.key.as_replica() else { continue };
            self.settle_lease(self.lease_of(key), write.record(), now);
            match write.cause {
                _ if by == By::Others => {}
                Cause::Expired { .. } => self.metrics.lease_expired(),
                Cause::Evicted { .. } => self.metrics.evicted(),
                _ => {}
            }
        }
        self.publisher.apply(committed)
    }

    /// Takes in what the store says of leases, of replicas as they are known now.
    pub(crate) fn hear(&self, news: &[LeaseNews]) {
        let now = clock::now();
        for LeaseNews { key, kept } in news {
            let Some(lease) = self.lease_of(key) else { continue };
            match kept {
                None => self.leases.dropped(lease.id, now),
                Some(tag) if *tag == LeaseTag::of(lease.id) => self.leases.kept(lease.id),
                // Of an earlier registration, or of one that is yet to be heard of.
                Some(_) => {}
            }
        }
    }

    /// Tells people what happened, in the log and in the timeline.
    pub(crate) fn tell(&self, events: &[Event]) {
        log(events);
        self.observation.registry_changed(events, |_| true);
    }

    /// The same of what was known before: whoever has come back since keeps what is seen of him.
    pub(crate) fn tell_late(&self, events: &[Event]) {
        log(events);
        let is_gone = |key: &ReplicaKey| self.publisher.read(|view| view.get(key).is_none());
        self.observation.registry_changed(events, is_gone);
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
        for change in changes.iter().filter_map(Change::as_replica) {
            self.settle_lease(self.lease_of(&change.key), change.record.as_deref(), now);
        }
        if !changes.is_empty() {
            tracing::warn!(
                changes = changes.len(),
                "the store had made changes durable that had not been heard of"
            );
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

fn log(events: &[Event]) {
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
}
