//! How long requests took, in a fixed number of counters.

use std::time::Duration;

/// Upper bounds grow by a quarter, from 50 µs to beyond a minute: a quantile is at most that much too high.
const BUCKETS: usize = 64;
const FIRST: f64 = 50e-6;
const GROWTH: f64 = 1.25;

/// Counts of durations by size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Latencies {
    counts: [u64; BUCKETS],
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Latencies {
    /// Counts one duration; those beyond the last bound count as it.
    pub(crate) fn record(&mut self, took: Duration) {
        let bucket = (0..BUCKETS - 1).find(|bucket| took <= bound(*bucket)).unwrap_or(BUCKETS - 1);
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// The bound under which at least this share of the durations lies; `share` is in 0.0..=1.0. `None` without any.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let mut seen = 0;
        let reached = |count: &u64| {
            seen += count;
            seen > 0 && seen as f64 >= share * self.total as f64
        };
        self.counts.iter().position(reached).map(bound)
    }
}

fn bound(bucket: usize) -> Duration {
    let exponent = i32::try_from(bucket).expect("there are few buckets");
    Duration::from_secs_f64(FIRST * GROWTH.powi(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_at_most_a_quarter_too_high() {
        let mut latencies = Latencies::default();
        for millis in 1..=1000 {
            latencies.record(Duration::from_millis(millis));
        }
        for (share, exact) in [(0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let found = latencies.quantile(share).unwrap().as_secs_f64();
            assert!((exact..=exact * GROWTH).contains(&found), "{share}: {found}");
        }
    }

    #[test]
    fn the_smallest_and_the_largest_durations_have_a_place() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile(0.5), None);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.quantile(1.0), Some(bound(0)));
        latencies.record(Duration::from_secs(86_400));
        assert_eq!(latencies.quantile(1.0), Some(bound(BUCKETS - 1)));
    }
}
