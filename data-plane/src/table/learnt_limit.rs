//! A replica's limit as requests read it, and what it is found by.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_proto::policy::{AdaptiveLimit, Concurrency};

use super::{replica::Replica, service::Service, view::View};
use crate::routing::{Bounds, Fault, GradientLimit, LimitSample, Outcome, Tick, balancing::hash};

/// Zero until something is learnt.
#[derive(Debug, Default)]
pub(super) struct LearntLimit {
    limit: AtomicU32,
    /// Boxed, for most services have no use for it.
    gradient: Mutex<Option<Box<GradientLimit>>>,
}

impl LearntLimit {
    pub(super) fn get(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// What was learnt was of another process.
    pub(super) fn forget(&self) {
        if let Ok(mut gradient) = self.gradient.lock() {
            *gradient = None;
            self.limit.store(0, Relaxed);
        }
    }

    /// Learns from a response; yields the limit before and after. A worker that finds another one at it lets it be: one
    /// response more or less tells nothing.
    fn learn(
        &self,
        sample: LimitSample,
        inflight: u64,
        now: Tick,
        bounds: Bounds,
        spread: impl FnOnce() -> f64,
    ) -> Option<(u32, u32)> {
        let mut gradient = self.gradient.try_lock().ok()?;
        let gradient = gradient.get_or_insert_with(|| Box::new(GradientLimit::new(bounds, spread(), now)));
        gradient.observe(sample, inflight, now, bounds);
        Some(self.follow(gradient, bounds))
    }

    /// Ends a measurement that has taken too long; yields the limit before and after.
    fn end_measurement(&self, now: Tick, bounds: Bounds) -> Option<(u32, u32)> {
        let mut gradient = self.gradient.try_lock().ok()?;
        let gradient = gradient.as_deref_mut()?;
        gradient.end_measurement(now);
        Some(self.follow(gradient, bounds))
    }

    fn follow(&self, gradient: &GradientLimit, bounds: Bounds) -> (u32, u32) {
        let after = gradient.limit(bounds);
        (self.limit.swap(after, Relaxed), after)
    }
}

impl Service {
    /// Learns from a response how many requests its replica bears, and offers what that adds to those who wait.
    pub(super) fn learn_limit(
        &self,
        replica: &Replica,
        outcome: Outcome,
        latency: Duration,
        now: Tick,
        policy: &Concurrency,
    ) {
        let sample = match outcome {
            Outcome::Success | Outcome::Failure(Fault::ResponseTimeout) => LimitSample::Latency(latency),
            Outcome::Overloaded => LimitSample::Overloaded,
            // Who fails fast is not fast.
            Outcome::Failure(_) | Outcome::Neutral => return,
        };
        let bounds = bounds(policy);
        // Of the replica, so that no two are measured at the same moment for long.
        let spread = || (hash(replica.key().replica.as_str().as_bytes()) >> 11) as f64 / (1_u64 << 53) as f64;
        let inflight = replica.counts().inflight();
        let learnt = replica.learnt_limit().learn(sample, inflight, now, bounds, spread);
        if let Some((before, after)) = learnt
            && after > before
        {
            self.offer((after - before).into());
        }
    }

    /// Ends the measurements that have taken too long, because nothing was heard: what is measured may be full of
    /// responses that go on for hours. Offers what that adds, and yields whether there is anything.
    pub(super) fn end_measurements(&self, view: &View, now: Tick) -> bool {
        let policy = &view.policy.concurrency;
        if policy.adaptive == AdaptiveLimit::Off {
            return false;
        }
        let ended =
            view.closed().filter_map(|replica| replica.learnt_limit().end_measurement(now, bounds(policy)));
        let more = ended.map(|(before, after)| u64::from(after.saturating_sub(before))).sum();
        self.offer(more);
        more > 0
    }
}

fn bounds(policy: &Concurrency) -> Bounds {
    Bounds { min: policy.adaptive_min, max: policy.adaptive_max.max(policy.adaptive_min) }
}
