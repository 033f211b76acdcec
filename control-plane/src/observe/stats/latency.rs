//! Latencies in the contract's buckets, and what can be said of them.

use std::time::Duration;

use gateway_proto::latency::{LATENCY_BUCKETS, middle_of};

/// How many latencies fell into each bucket. Trailing zeros are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latencies {
    counts: Vec<u32>,
}

impl Latencies {
    /// Reads the wire's counts: those below zero count for nothing, those behind the last bucket do not exist.
    pub(super) fn from_wire(counts: &[i64]) -> Self {
        let counts = counts
            .iter()
            .take(LATENCY_BUCKETS)
            .map(|count| u32::try_from((*count).max(0)).unwrap_or(u32::MAX));
        Self { counts: counts.collect() }
    }

    /// As they were read.
    pub(super) fn to_wire(&self) -> Vec<i64> {
        self.counts.iter().map(|count| i64::from(*count)).collect()
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
    }

    /// The latency that this share of all stayed within; `None` without any.
    ///
    /// It is the middle of a bucket on the scale of logarithms, so it is off by a factor of 2^(1/8), 9.1 %, at most.
    pub(super) fn quantile(&self, share: f64) -> Option<Duration> {
        self.quantile_with(&Self::default(), 0.0, share)
    }

    /// The same of these and `others` together, of which each counts as little as `weight` says.
    pub(in crate::observe) fn quantile_with(
        &self,
        others: &Self,
        weight: f64,
        share: f64,
    ) -> Option<Duration> {
        let count = |counts: &[u32], bucket: usize| counts.get(bucket).copied().map_or(0.0, f64::from);
        let in_bucket = |bucket| count(&self.counts, bucket) + weight * count(&others.counts, bucket);
        let buckets = self.counts.len().max(others.counts.len());
        // Added up in the same order as below, so that all of them is exactly reached.
        let total: f64 = (0..buckets).map(in_bucket).sum();
        if total <= 0.0 {
            return None;
        }
        let (rank, mut below) = (share * total, 0.0);
        let bucket = (0..buckets).find(|bucket| {
            below += in_bucket(*bucket);
            below >= rank
        })?;
        Some(middle_of(bucket))
    }
}
