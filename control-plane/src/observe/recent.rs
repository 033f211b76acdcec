//! What happened lately: the sums of two spans of ten seconds, from which those of the last ten seconds are estimated. Pure.
//!
//! Of the span before the present one as much counts as is left of the present one, as if what happened in it had happened
//! evenly. So a figure shows from the first report on, follows within ten seconds, and costs two sums.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::stats::{Name, Sum};

/// How long a span is.
pub(super) const SPAN: Duration = Duration::from_secs(10);
/// Services of which sums are kept, and as many replicas: of a kilobyte each at most. What was quiet for two spans is forgotten.
const MAX_NAMES: usize = 10_000;

/// The number of the span that a moment is in.
pub(super) fn span(at: SystemTime) -> u64 {
    since_epoch(at).as_secs() / SPAN.as_secs()
}

/// How much of the span before the one of `at` is within the last ten seconds, from 1 down to 0.
pub(super) fn rest_of_before(at: SystemTime) -> f64 {
    let into = since_epoch(at).as_secs_f64() % SPAN.as_secs_f64();
    1.0 - into / SPAN.as_secs_f64()
}

fn since_epoch(at: SystemTime) -> Duration {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// Requests or attempts of the last ten seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Lately {
    /// A second.
    pub rate: f64,
    /// The part of them that did not fail.
    pub success: Option<f64>,
    /// Of how long they took; `None`: nobody tells.
    pub p50: Option<Duration>,
    /// Likewise.
    pub p99: Option<Duration>,
}

impl Lately {
    /// By so many in the present span and those of them that failed, and as many in the span before, of which a part counts.
    pub(super) fn of(running: (u64, u64), before: (u64, u64), weight: f64) -> Self {
        let all = running.0 as f64 + before.0 as f64 * weight;
        let failed = running.1 as f64 + before.1 as f64 * weight;
        let success = (all > 0.0).then(|| ((all - failed) / all).clamp(0.0, 1.0));
        // As many digits as anybody reads.
        let rate = (all / SPAN.as_secs_f64() * 1000.0).round() / 1000.0;
        Self { rate, success, ..Self::default() }
    }
}

/// What services were asked, and their replicas while they are told of: however many those are, services have room.
#[derive(Debug, Default)]
pub(super) struct Recent {
    services: Kept,
    replicas: Kept,
}

#[derive(Debug, Default)]
struct Kept {
    sums: HashMap<Name, Sums>,
    /// The span in which room was looked for last: once in each is enough.
    tidied: u64,
}

/// Of one of them.
#[derive(Debug)]
struct Sums {
    /// The number of the present span.
    span: u64,
    running: Sum,
    before: Sum,
}

impl Recent {
    /// Adds what was reported at `at`. What there is no room for is left out: it shows no figures.
    pub(super) fn add(&mut self, name: &Name, sum: &Sum, at: SystemTime) {
        let kept = if name.1.is_none() { &mut self.services } else { &mut self.replicas };
        kept.add(name, sum, at);
    }

    /// What happened at one of them; `None`: nothing, or nobody tells.
    pub(super) fn get(&self, name: &Name, at: SystemTime) -> Option<Lately> {
        let kept = if name.1.is_none() { &self.services } else { &self.replicas };
        kept.sums.get(name)?.lately(at)
    }

    /// Forgets what has been quiet for so long that nothing of it shows.
    pub(super) fn tidy(&mut self, at: SystemTime) {
        self.services.tidy(at);
        self.replicas.tidy(at);
    }
}

impl Kept {
    fn add(&mut self, name: &Name, sum: &Sum, at: SystemTime) {
        let now = span(at);
        if let Some(known) = self.sums.get_mut(name) {
            known.move_on(now);
            known.running.add(sum);
            return;
        }
        // What has something in flight, and no more, has no figures.
        if sum.requests == 0 {
            return;
        }
        if self.sums.len() >= MAX_NAMES && self.tidied != now {
            self.tidy(at);
        }
        if self.sums.len() < MAX_NAMES {
            let sums = Sums { span: now, running: sum.clone(), before: Sum::default() };
            self.sums.insert(name.clone(), sums);
        }
    }

    fn tidy(&mut self, at: SystemTime) {
        self.tidied = span(at);
        let now = self.tidied;
        self.sums.retain(|_, sums| now.checked_sub(sums.span).is_some_and(|age| age < 2));
    }
}

impl Sums {
    fn lately(&self, at: SystemTime) -> Option<Lately> {
        let nothing = Sum::default();
        let (running, before) = match span(at).checked_sub(self.span) {
            Some(0) => (&self.running, &self.before),
            Some(1) => (&nothing, &self.running),
            _ => return None,
        };
        let weight = rest_of_before(at);
        let counts = |sum: &Sum| (sum.requests.unsigned_abs(), sum.failures.unsigned_abs());
        let lately = Lately::of(counts(running), counts(before), weight);
        lately.success?;
        let quantile = |share| running.latencies.quantile_with(&before.latencies, weight, share);
        Some(Lately { p50: quantile(0.50), p99: quantile(0.99), ..lately })
    }

    /// Makes this the present span. By a clock that was set back, all begins anew.
    fn move_on(&mut self, now: u64) {
        if now == self.span {
            return;
        }
        let last = std::mem::take(&mut self.running);
        self.before = if now == self.span + 1 { last } else { Sum::default() };
        self.span = now;
    }
}

#[cfg(test)]
mod tests;
