//! A stream's right to speak for its data plane: the newest one has it.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use gateway_proto::{NodeId, ReplicaKey, v1};
use tokio_util::sync::CancellationToken;

use super::{
    Identity, Observation, Observed, Report, TooManyNodes, events,
    report::{Held, cut_nack},
};
use crate::{clock, registry::Revision};

/// The two streams of a data plane. Of each it has one: the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Stream {
    Snapshots,
    Reports,
}

/// One stream's claim to speak for its data plane. Dropping it ends the claim, and tells so.
#[derive(Debug)]
pub struct Seat {
    pub(super) observation: Arc<Observation>,
    pub(super) identity: Identity,
    pub(super) stream: Stream,
    pub(super) superseded: CancellationToken,
}

impl Seat {
    /// Who sits here.
    pub(crate) fn node(&self) -> &NodeId {
        &self.identity.id
    }

    /// Completes when a newer stream of the same data plane has come. Cancel safe.
    pub(crate) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }

    /// Notes what was sent.
    pub(crate) fn sent(&self, revision: Revision) {
        if let Some(mut observed) = self.speaking() {
            observed.nodes.sent(self.node(), revision);
        }
    }

    /// Notes what the data plane uses now.
    pub(crate) fn acked(&self, revision: Revision) {
        let Some(mut observed) = self.speaking() else { return };
        observed.nodes.acked(self.node(), revision, clock::now());
        self.observation.tell(observed);
    }

    /// Notes that nothing which the data plane follows has changed since what it acked, up to `revision`.
    pub(crate) fn unaffected(&self, revision: Revision) {
        let Some(mut observed) = self.speaking() else { return };
        observed.nodes.unaffected(self.node(), revision);
        self.observation.tell(observed);
    }

    /// Notes what the data plane refused.
    pub(crate) fn nacked(&self, nack: v1::Nack) {
        let Some(mut observed) = self.speaking() else { return };
        let nack = cut_nack(nack);
        let is_news = observed.nodes.nacked(self.node(), nack.clone());
        self.observation.tell(observed);
        if is_news {
            tracing::warn!(node = %self.node(), reason = nack.reason, "data plane refused an update: {}", nack.message);
            self.observation.record([events::nacked(self.node(), &nack)]);
        }
    }

    /// Takes in a report to the control plane of this `epoch`; rows of replicas that are not `known` are dropped.
    pub(crate) fn reported(&self, mut report: Report, epoch: &str, known: impl Fn(&ReplicaKey) -> bool) {
        report.breakers.breakers.retain(|(key, _)| known(key));
        let (node, wall) = (self.node(), clock::wall());
        let Some(mut observed) = self.speaking() else { return };
        match observed.nodes.reported(&self.identity, clock::now(), wall) {
            Ok(forgotten) => observed.forget_rows_of(forgotten),
            // It only reports, and others that are connected have taken its place meanwhile.
            Err(TooManyNodes { limit }) => {
                tracing::warn!(%node, limit, "no room for the data plane: report dropped");
                return;
            }
        }
        let is_full = report.breakers.full;
        if !observed.nodes.takes_batch(node, &self.identity.process, report.batch) {
            report.events.clear();
            report.lost_events = 0;
        }
        if is_full {
            // Until all of it is here, which its last message says by naming the revision.
            observed.nodes.reports_anew(node);
        }
        let dropped = observed.matrix.report(node, report.breakers, wall);
        if let Some((of, revision)) = report.routed_by {
            observed.nodes.reported_at(node, (of == epoch).then_some(revision));
        }
        let held = report.held.or_else(|| is_full.then(Held::default));
        let guard = held.and_then(|held| {
            let before = observed.nodes.holds(node, held.clone(), report.held_as_told);
            events::guard(node, before, &held)
        });
        if let Some(late) = report.checks_late.or_else(|| is_full.then_some(Duration::ZERO)) {
            observed.nodes.checks_late_by(node, late);
        }
        let has_left = report.is_leaving && observed.nodes.leave(node, &self.identity.process);
        if has_left {
            observed.matrix.forget_node(node);
        }
        self.observation.tell(observed);
        if let Some(answered) = report.answered {
            self.observation.questions.answer(answered);
        }
        if dropped > 0 {
            tracing::warn!(%node, rows = dropped, "no room for more breakers: rows dropped");
        }
        let lost = (report.lost_events > 0).then(|| events::lost(node, report.lost_events));
        let left = has_left.then(|| events::left(node));
        self.observation.record(report.events.into_iter().chain(guard).chain(lost).chain(left));
        if let Some(stats) = report.stats {
            let dropped = stats.cut + self.observation.add_stats(&stats, false);
            if dropped > 0 {
                tracing::debug!(%node, rows = dropped, "no room for more counts: rows dropped");
            }
        }
    }

    /// What is observed, unless a newer stream speaks for the data plane, here or at another control plane.
    fn speaking(&self) -> Option<MutexGuard<'_, Observed>> {
        let observed = self.observation.lock();
        let is_newest = !self.superseded.is_cancelled() && !observed.is_elsewhere(self.node());
        is_newest.then_some(observed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut observed = self.observation.lock();
        if self.superseded.is_cancelled() {
            return;
        }
        observed.seats.remove(&(self.node().clone(), self.stream));
        if observed.is_elsewhere(self.node()) {
            return;
        }
        // One that has left for good has said so itself.
        let is_known = observed.nodes.contains(self.node());
        match self.stream {
            Stream::Reports => observed.nodes.reports_anew(self.node()),
            Stream::Snapshots => observed.nodes.disconnect(self.node(), clock::now()),
        }
        self.observation.tell(observed);
        if self.stream == Stream::Snapshots && is_known {
            self.observation.record([events::disconnected(self.node())]);
        }
    }
}
