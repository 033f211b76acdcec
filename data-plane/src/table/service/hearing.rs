//! How long requests and attempts take, and what that tells of a replica.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use gateway_proto::{
    Policy,
    policy::{AdaptiveLimit, Algorithm},
};

use super::Service;
use crate::{
    routing::{Fault, Outcome, Silence, Tick, balancing::LatencyEstimate},
    table::replica::Replica,
};

/// Whether a policy goes by how long attempts take.
pub(super) fn learns_latency(policy: &Policy) -> bool {
    policy.concurrency.adaptive != AdaptiveLimit::Off || policy.balancing.algorithm == Algorithm::PeakEwma
}

impl Service {
    /// Whether somebody wants to know how long attempts at each replica take.
    pub fn is_detailed(&self) -> bool {
        self.outlets.is_detailed()
    }

    /// Records how long a request took to its answer's head. To be called by `worker` only.
    pub fn record_latency(&self, worker: usize, latency: Duration) {
        self.latencies.record(worker, latency);
    }

    /// An attempt's response head has come after `latency`, or it failed so late without one. To be called by `worker`
    /// only, once for an attempt; `outcome` is what is known of it then.
    pub fn heard(&self, worker: usize, replica: &Replica, outcome: Outcome, latency: Duration, now: Tick) {
        replica.counts().answered(worker);
        match outcome {
            // Silence, and that a caller's time is over.
            Outcome::Failure(Fault::ResponseTimeout | Fault::ConnectTimeout | Fault::Unanswered(_))
            | Outcome::Neutral => {}
            _ => replica.counts().heard(worker, now),
        }
        self.attempt_durations.record(worker, latency);
        if self.is_detailed() {
            replica.record_latency(worker, latency);
        }
        // Asked first, because most policies do not, and a look at the policy costs as much as a pick.
        if !self.learns_latency.load(Relaxed) {
            return;
        }
        let view = self.view.load();
        if view.policy.concurrency.adaptive != AdaptiveLimit::Off {
            self.learn_limit(replica, outcome, latency, now, &view.policy.concurrency);
        }
        if view.policy.balancing.algorithm == Algorithm::PeakEwma {
            let least = match outcome {
                Outcome::Success => Duration::ZERO,
                // One that refuses fast is not fast.
                Outcome::Failure(_) | Outcome::Overloaded => LatencyEstimate::PENALTY,
                Outcome::Neutral => return,
            };
            replica.estimate().observe(latency.max(least), now);
        }
    }

    /// An attempt has waited for a replica since then, and does so no longer: it is at least as slow, which says something of one
    /// that has not been measured yet only if it `is_outrun`: a caller that leaves at once does not make it fast.
    ///
    /// If requests have waited for as long as one attempt may take, one after the other, and nothing was heard of it meanwhile,
    /// but of a peer that may be asked, then it hangs, as far as anybody can tell: yields for how long they have. Where nobody is
    /// heard, their calls may wait on purpose, and it would help nobody to take one of them out.
    pub fn waited_in_vain(
        &self,
        replica: &Replica,
        since: Tick,
        is_outrun: bool,
        now: Tick,
    ) -> Option<Duration> {
        let view = self.view.load();
        if view.policy.balancing.algorithm == Algorithm::PeakEwma
            && (is_outrun || replica.estimate().seconds(now).is_some())
        {
            replica.estimate().observe(now.since(since), now);
        }
        let Silence { since, waited } = replica.waited_in_vain(since, now);
        let is_heard = |peer: &Arc<Replica>| peer.key() != replica.key() && peer.counts().heard_at() > since;
        (waited >= view.policy.timeout.per_try && view.closed().any(is_heard)).then_some(waited)
    }
}
