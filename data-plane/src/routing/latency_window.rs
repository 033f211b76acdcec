//! How long responses took over a sliding time window, for quantiles.
//!
//! Kept only while a policy compares replicas by latency: it costs a shared addition for each response, and 2.4 kB.

use std::{
    array,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
    time::Duration,
};

use gateway_proto::latency::{LATENCY_BUCKETS, bucket_of, middle_of};

use super::{Tick, tick::whole_nanos};

const SLOTS: u64 = 5;

/// A quantile, and of how many latencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Within a tenth of the exact one.
    pub latency: Duration,
    /// How many the window holds.
    pub count: u32,
}

/// Latencies over the last `window`, which each call passes and which may change: what was recorded under another length is
/// then forgotten. The window moves in steps of a fifth.
///
/// One that is recorded at the very moment at which a fifth begins, or at which all is cleared, may be lost.
#[derive(Debug)]
pub struct LatencyWindow {
    length: AtomicU64,
    slots: [Slot; SLOTS as usize],
}

#[derive(Debug)]
struct Slot {
    /// Which fifth since the origin it holds, plus one.
    fifth: AtomicU64,
    counts: [AtomicU32; LATENCY_BUCKETS],
}

impl Default for LatencyWindow {
    fn default() -> Self {
        let slot = |_| Slot { fifth: AtomicU64::new(0), counts: array::from_fn(|_| AtomicU32::new(0)) };
        Self { length: AtomicU64::new(0), slots: array::from_fn(slot) }
    }
}

impl LatencyWindow {
    /// Records one.
    pub fn add(&self, now: Tick, window: Duration, latency: Duration) {
        if self.length.load(Relaxed) != whole_nanos(window) {
            self.clear();
            self.length.store(whole_nanos(window), Relaxed);
        }
        let fifth = fifth_of(now, window);
        let slot = &self.slots[(fifth % SLOTS) as usize];
        let held = slot.fifth.load(Acquire);
        // Whoever is first in a new fifth empties what the slot held before.
        if held < fifth && slot.fifth.compare_exchange(held, fifth, AcqRel, Acquire).is_ok() {
            slot.empty();
        }
        if held <= fifth {
            slot.counts[bucket_of(latency)].fetch_add(1, Relaxed);
        }
    }

    /// The latency that a share of `quantile` (0.0..=1.0) did not exceed, within the `window` that ends at `now`; `None`
    /// when it holds none.
    pub fn quantile(&self, now: Tick, window: Duration, quantile: f64) -> Option<Sample> {
        if self.length.load(Relaxed) != whole_nanos(window) {
            return None;
        }
        let last = fifth_of(now, window);
        let live = |slot: &&Slot| {
            let fifth = slot.fifth.load(Acquire);
            fifth <= last && fifth + SLOTS > last
        };
        let mut counts = [0_u32; LATENCY_BUCKETS];
        for slot in self.slots.iter().filter(live) {
            for (sum, count) in counts.iter_mut().zip(&slot.counts) {
                *sum = sum.saturating_add(count.load(Relaxed));
            }
        }
        let count: u64 = counts.iter().copied().map(u64::from).sum();
        let rank = ((quantile.clamp(0.0, 1.0) * count as f64).ceil() as u64).max(1);
        let mut passed = 0;
        let bucket = counts.iter().position(|count| {
            passed += u64::from(*count);
            passed >= rank
        })?;
        Some(Sample { latency: middle_of(bucket), count: u32::try_from(count).unwrap_or(u32::MAX) })
    }

    /// Forgets everything.
    pub fn clear(&self) {
        for slot in &self.slots {
            slot.fifth.store(0, Release);
            slot.empty();
        }
    }
}

impl Slot {
    fn empty(&self) {
        self.counts.iter().for_each(|count| count.store(0, Relaxed));
    }
}

fn fifth_of(now: Tick, window: Duration) -> u64 {
    1 + now.as_nanos() / (whole_nanos(window) / SLOTS).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_millis(millis))
    }

    #[test]
    fn what_left_the_window_or_was_recorded_under_another_length_is_forgotten() {
        let latencies = LatencyWindow::default();
        assert_eq!(latencies.quantile(at(0), WINDOW, 0.9), None);
        latencies.add(at(500), WINDOW, Duration::from_secs(1));
        let count = |now| latencies.quantile(at(now), WINDOW, 0.9).map(|sample| sample.count);
        assert_eq!((count(500), count(9_999), count(10_000), count(500_000)), (Some(1), Some(1), None, None));
        latencies.add(at(12_000), WINDOW, Duration::from_secs(1));
        assert_eq!(count(12_000), Some(1));
        assert_eq!(latencies.quantile(at(12_000), WINDOW / 2, 0.9), None);
        latencies.add(at(12_000), WINDOW / 2, Duration::from_secs(1));
        assert_eq!(count(12_000), None);
        latencies.clear();
        assert_eq!(latencies.quantile(at(12_000), WINDOW / 2, 0.9), None);
    }

    #[test]
    fn one_that_is_a_whole_window_late_is_dropped() {
        let latencies = LatencyWindow::default();
        latencies.add(at(20_000), WINDOW, Duration::from_millis(1));
        latencies.add(at(10_000), WINDOW, Duration::from_secs(1));
        assert_eq!(latencies.quantile(at(20_000), WINDOW, 1.0).map(|sample| sample.count), Some(1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_quantile_over_the_window_is_within_a_tenth_of_the_exact_one(
            mut micros in prop::collection::vec(2..10_000_000_u64, 1..200),
            quantile in 0.0..=1.0,
        ) {
            let latencies = LatencyWindow::default();
            for (number, micros) in micros.iter().enumerate() {
                latencies.add(at(number as u64 * 40), WINDOW, Duration::from_micros(*micros));
            }
            let sample = latencies.quantile(at(7_999), WINDOW, quantile).unwrap();
            micros.sort_unstable();
            let rank = ((quantile * micros.len() as f64).ceil() as usize).max(1);
            let exact = micros[rank - 1] as f64 / 1e6;
            prop_assert_eq!(sample.count as usize, micros.len());
            prop_assert!((sample.latency.as_secs_f64() / exact - 1.0).abs() < 0.1, "{:?}, not {}", sample, exact);
        }
    }
}
