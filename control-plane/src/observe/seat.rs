//! Who speaks for a data plane: of its streams of one kind, the newest.

use std::sync::{Arc, MutexGuard};

use gateway_proto::{NodeId, ReplicaKey, v1};
use tokio_util::sync::CancellationToken;

use super::{Identity, Observation, Observed, Report, TooManyNodes};
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
            observed.nodes.sent(&self.identity.id, revision);
        }
    }

    /// Notes what the data plane uses now.
    pub(crate) fn acked(&self, revision: Revision) {
        if let Some(mut observed) = self.speaking() {
            observed.nodes.acked(&self.identity.id, revision, clock::now());
        }
    }

    /// Notes what the data plane refused.
    pub(crate) fn nacked(&self, nack: v1::Nack) {
        let Some(mut observed) = self.speaking() else { return };
        let message = format!("refused an update: {}: {}", nack.reason, nack.message);
        if observed.nodes.nacked(&self.identity.id, nack) {
            tracing::warn!(node = %self.identity.id, "data plane {message}");
            observed.node_event("NODE_NACKED", v1::EventSeverity::Warning, &self.identity.id, message);
        }
        self.observation.tell(observed);
    }

    /// Takes in a report; rows of replicas that are not `known` are dropped.
    pub(crate) fn reported(&self, mut report: Report, known: impl Fn(&ReplicaKey) -> bool) {
        report.breakers.breakers.retain(|(key, _)| known(key));
        let Some(mut observed) = self.speaking() else { return };
        match observed.nodes.reported(&self.identity, clock::now(), clock::wall()) {
            Ok(forgotten) => observed.forget_rows_of(forgotten),
            // It only reports, and others that are connected have taken its place meanwhile.
            Err(TooManyNodes { limit }) => {
                tracing::warn!(node = %self.identity.id, limit, "no room for the data plane: report dropped");
                return;
            }
        }
        let dropped = observed.matrix.report(&self.identity.id, report.breakers);
        if dropped > 0 {
            tracing::warn!(node = %self.identity.id, rows = dropped, "no room for more breakers: rows dropped");
        }
        for event in report.events {
            observed.timeline.push(event);
        }
        self.observation.tell(observed);
    }

    /// What is observed, unless a newer stream speaks for the data plane.
    fn speaking(&self) -> Option<MutexGuard<'_, Observed>> {
        let observed = self.observation.lock();
        (!self.superseded.is_cancelled()).then_some(observed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(mut observed) = self.speaking() else { return };
        observed.seats.remove(&(self.identity.id.clone(), self.stream));
        if self.stream == Stream::Snapshots {
            observed.nodes.disconnect(&self.identity.id, clock::now());
            let message = "its snapshot stream ended".to_owned();
            let warning = v1::EventSeverity::Warning;
            observed.node_event("NODE_DISCONNECTED", warning, &self.identity.id, message);
        }
        self.observation.tell(observed);
    }
}
