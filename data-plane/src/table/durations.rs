//! How long requests and attempts took, in the buckets that OpenTelemetry advises for HTTP: what histograms of metrics show.
//!
//! Counts here never run over and their sum is exact, unlike those of [`super::latency`], which are finer and are what control
//! planes are told. Nothing is allocated before the first duration; then two cache lines for each worker.

use std::{sync::OnceLock, time::Duration};

use crate::counts::{Count, PerWorker};

/// Upper bounds of the buckets, in seconds; what exceeds the last one has a bucket of its own.
pub const DURATION_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The same, in microseconds.
const BOUNDS_MICROS: [u64; DURATION_BOUNDS.len()] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];

/// What was counted, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Histogram {
    /// By the first bound that is not exceeded; the last one has the rest.
    pub counts: [u64; DURATION_BOUNDS.len() + 1],
    /// Of all durations, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Both together.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, more)| *sum += more);
        self.sum += other.sum;
        self
    }

    /// How many durations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Durations of one kind, of one service.
#[derive(Debug)]
pub(super) struct Durations {
    cells: OnceLock<PerWorker<Cell>>,
    workers: usize,
}

#[derive(Debug, Default)]
struct Cell {
    counts: [Count; DURATION_BOUNDS.len() + 1],
    nanos: Count,
}

impl Durations {
    pub(super) fn new(workers: usize) -> Self {
        Self { cells: OnceLock::new(), workers }
    }

    /// Counts one: to be called by `worker` only. Two loads and two stores, and for what is quick one comparison.
    pub(super) fn record(&self, worker: usize, duration: Duration) {
        let cell = self.cells.get_or_init(|| PerWorker::new(self.workers)).of(worker);
        // Rounded up, so that what exceeds a bound by less than a microsecond is beyond it.
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let micros = nanos.div_ceil(1000);
        let bucket = BOUNDS_MICROS.iter().position(|bound| micros <= *bound);
        cell.counts[bucket.unwrap_or(BOUNDS_MICROS.len())].add_one();
        cell.nanos.add(nanos);
    }

    pub(super) fn read(&self) -> Histogram {
        let Some(cells) = self.cells.get() else { return Histogram::default() };
        let sum = Duration::from_nanos(cells.sum(|cell| cell.nanos.get())).as_secs_f64();
        let counts = std::array::from_fn(|bucket| cells.sum(|cell| cell.counts[bucket].get()));
        Histogram { counts, sum }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bucket_whose_bound_it_does_not_exceed() {
        let durations = Durations::new(2);
        assert_eq!(durations.read(), Histogram::default());
        assert!(durations.cells.get().is_none(), "nothing is allocated before the first");
        let millis = Duration::from_millis;
        let cases = [
            (Duration::ZERO, 0),
            (millis(5), 0),
            (millis(5) + Duration::from_nanos(1), 1),
            (millis(80), 5),
            (millis(10_000), 13),
            (millis(10_001), 14),
            (Duration::from_secs(86_400), 14),
        ];
        for (worker, (duration, bucket)) in cases.into_iter().enumerate() {
            let before = durations.read();
            durations.record(worker, duration);
            let mut expected = before;
            expected.counts[bucket] += 1;
            assert_eq!(durations.read().counts, expected.counts, "{duration:?}");
            assert!((durations.read().sum - before.sum - duration.as_secs_f64()).abs() < 1e-6);
        }
        let twice = durations.read().plus(&durations.read());
        assert_eq!((durations.read().count(), twice.count()), (7, 14));
    }

    #[test]
    fn the_bounds_are_the_same_in_both_units() {
        for (seconds, micros) in DURATION_BOUNDS.iter().zip(BOUNDS_MICROS) {
            assert_eq!((seconds * 1e6).round() as u64, micros);
        }
    }

    #[test]
    fn the_counts_of_a_worker_fill_two_cache_lines() {
        assert_eq!(size_of::<Cell>(), 128);
    }
}
