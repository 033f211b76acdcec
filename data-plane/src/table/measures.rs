//! How slow replicas are, for people: what the rules of a service go by beside counts.

use std::{sync::Arc, time::Duration};

use gateway_proto::Policy;

use super::{replica::Replica, service::Service, view::Band};
use crate::routing::{Comparison, Sample, Tick, balancing::FULL_SHARE, compare};

/// What is measured of one replica at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measures {
    /// Its 90th percentile; while the policy compares peers by latency.
    pub latency: Option<Sample>,
    /// The same beside its peers, when enough of them have had enough responses.
    pub peers: Option<Comparison>,
    /// While it starts slowly: its part of its weight in hundredths, and when it has all of it.
    pub slow_start: Option<(u64, Tick)>,
    /// While what must not be sent twice keeps away from it for that.
    pub backlog: Option<Backlog>,
}

/// Requests that have piled up at a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backlog {
    /// How many wait for its answer.
    pub unanswered: u64,
    /// The median of the same of its peers.
    pub median: u64,
}

/// The replicas of a service side by side, as they were at one moment. Costs nothing while the policy compares none.
#[derive(Debug)]
pub struct SideBySide {
    replicas: Arc<[Arc<Replica>]>,
    /// By place.
    samples: Vec<(Band, Option<Sample>)>,
    /// By place.
    peers: Vec<Option<Comparison>>,
}

impl Service {
    /// Looks at all of its replicas' latencies. In O(n log n), with a microsecond for each replica.
    pub fn side_by_side(&self, now: Tick) -> SideBySide {
        let policy = self.policy();
        let replicas = self.replicas();
        if policy.breaker.peer_latency_factor <= 0.0 {
            return SideBySide { replicas, samples: Vec::new(), peers: Vec::new() };
        }
        let samples = latencies(&replicas, now, &policy);
        let mut peers = vec![None; replicas.len()];
        let policy = &policy.breaker;
        for (place, comparison) in compare(&samples, policy.min_request_count, policy.peer_latency_factor) {
            peers[place] = Some(comparison);
        }
        SideBySide { replicas, samples, peers }
    }

    /// What is measured of a replica, which stands `beside` others.
    pub fn measures(&self, replica: &Replica, beside: &SideBySide, now: Tick) -> Measures {
        let view = self.view.load();
        let place = beside.replicas.binary_search_by(|other| other.key().replica.cmp(&replica.key().replica));
        let place = place.unwrap_or(usize::MAX);
        Measures {
            latency: beside.samples.get(place).and_then(|(_, sample)| *sample),
            peers: beside.peers.get(place).copied().flatten(),
            slow_start: slow_start(replica, view.policy.balancing.slow_start, now),
            backlog: view.backlog(replica, self.workers),
        }
    }
}

/// Of those that may be asked, as the rule looks at them: beside others of their tier, and of their distance where the nearest
/// go first. What is elsewhere takes longer without being slow.
pub(super) fn latencies(
    replicas: &[Arc<Replica>],
    now: Tick,
    policy: &Policy,
) -> Vec<(Band, Option<Sample>)> {
    let sample = |replica: &Arc<Replica>| {
        let latency = replica.takes_requests().then(|| replica.breaker().latency(now, &policy.breaker));
        (Band::of(replica, &policy.balancing), latency.flatten())
    };
    replicas.iter().map(sample).collect()
}

fn slow_start(replica: &Replica, slow_start: Duration, now: Tick) -> Option<(u64, Tick)> {
    let part = replica.part(now, slow_start);
    let began = replica.began_at().filter(|_| part < FULL_SHARE && replica.takes_requests())?;
    Some((part, began.plus(slow_start)))
}
