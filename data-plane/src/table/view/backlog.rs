//! What must not be sent twice keeps away from replicas where requests pile up.
//!
//! Each worker goes by its own requests, which it counts without looking at what others write: a pick asks for no memory
//! that another core has just written, and a replica that hangs does so for all of them.

use std::sync::Arc;

use super::{Choice, Replica, View};
use crate::{
    routing::{
        Draw, Tick,
        balancing::{Load, MOST_PEERS, has_backlog},
    },
    table::measures::Backlog,
};

impl View {
    /// A permit for one of the eligible, as [`View::admit_eligible`]; unless the request must not be sent twice and others pile up
    /// there.
    #[inline]
    pub(super) fn admit_unless_piled_up(
        &self,
        position: usize,
        worker: usize,
        now: Tick,
        tried: &[Arc<Replica>],
        draw: Draw,
    ) -> Option<Choice<'_>> {
        if draw.is_unrepeatable && self.has_backlog(position, worker) {
            return None;
        }
        self.admit_eligible(&self.eligible_of(worker)[position], now, tried, draw)
    }

    /// Whether far more of this worker's requests wait for an answer there than at those behind it in the list.
    fn has_backlog(&self, position: usize, worker: usize) -> bool {
        let eligible = self.eligible_of(worker);
        let load = |position: usize| Load {
            cost: eligible[position].counts().unanswered_of(worker) as f64,
            share: self.shares[position],
        };
        has_backlog(load(position), self.peers(position).map(load))
    }

    /// Those that one is compared with.
    fn peers(&self, position: usize) -> impl ExactSizeIterator<Item = usize> {
        let count = self.eligible.len();
        (1..count.min(MOST_PEERS + 1)).map(move |step| (position + step) % count)
    }

    /// What has piled up at a replica, over all workers, if one of them keeps away from it for that. For people: it allocates.
    pub(in crate::table) fn backlog(&self, replica: &Replica, workers: usize) -> Option<Backlog> {
        if replica.counts().unanswered() == 0 {
            return None;
        }
        let position = self.eligible.binary_search_by(|other| other.key().cmp(replica.key())).ok()?;
        if !(0..workers).any(|worker| self.has_backlog(position, worker)) {
            return None;
        }
        let unanswered = |position: usize| self.eligible[position].counts().unanswered();
        let mut of_peers: Vec<_> = self.peers(position).map(unanswered).collect();
        of_peers.sort_unstable();
        Some(Backlog { unanswered: unanswered(position), median: of_peers[of_peers.len() / 2] })
    }
}
