//! Latencies in the contract's buckets, and what can be said of them.

use std::time::Duration;

/// The contract's number of buckets: bucket `i` holds `[2^(i/4), 2^((i+1)/4))` microseconds.
const BUCKETS: usize = 120;

/// How many latencies fell into each bucket. Trailing zeros are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Latencies {
    counts: Vec<u32>,
}

impl Latencies {
    /// Reads the wire's counts: those below zero count for nothing, those behind the last bucket do not exist.
    pub(super) fn from_wire(counts: &[i64]) -> Self {
        let counts =
            counts.iter().take(BUCKETS).map(|count| u32::try_from((*count).max(0)).unwrap_or(u32::MAX));
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
        let total = self.counts.iter().fold(0_u64, |sum, count| sum + u64::from(*count));
        if total == 0 {
            return None;
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an estimate, and a share of a count is no larger than the count"
        )]
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total);
        let mut below = 0_u64;
        let bucket = self.counts.iter().position(|count| {
            below += u64::from(*count);
            below >= rank
        })?;
        let bucket = u32::try_from(bucket).expect("there are 120 buckets");
        Some(Duration::from_secs_f64(2_f64.powf((f64::from(bucket) + 0.5) / 4.0) / 1e6))
    }
}
