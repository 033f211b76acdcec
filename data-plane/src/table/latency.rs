//! How long things took, in counts by quarter powers of two from a microsecond: what percentiles are estimated from.
//!
//! Nothing is allocated before the first latency is recorded; then a histogram for each worker, so that no two write
//! to one cache line. Whoever reads subtracts what was read before.

use std::{
    array,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// How many buckets there are: bucket `i` holds [2^(i/4), 2^((i+1)/4)) µs, the first one what is shorter, too, the
/// last one what is longer.
pub const LATENCY_BUCKETS: usize = 120;

/// Counts by bucket. They run over at 2^32; differences of less than that are exact.
pub type Buckets = [u32; LATENCY_BUCKETS];

/// Latencies of one replica or one service.
#[derive(Debug)]
pub(super) struct Latencies {
    by_worker: OnceLock<Box<[Histogram]>>,
    workers: usize,
}

/// One worker's counts, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Histogram {
    buckets: [AtomicU32; LATENCY_BUCKETS],
    /// How often anything was counted, so that readers may skip what has not changed.
    recorded: AtomicU32,
}

impl Latencies {
    pub(super) fn new(workers: usize) -> Self {
        Self { by_worker: OnceLock::new(), workers }
    }

    /// Counts one: to be called by `worker` only.
    pub(super) fn record(&self, worker: usize, latency: Duration) {
        let by_worker =
            self.by_worker.get_or_init(|| (0..self.workers.max(1)).map(|_| Histogram::new()).collect());
        let histogram = &by_worker[worker % by_worker.len()];
        add_one(&histogram.buckets[bucket_of(latency)]);
        add_one(&histogram.recorded);
    }

    /// How often anything was recorded, modulo 2^32.
    pub(super) fn recorded(&self) -> u32 {
        self.sum(|histogram| histogram.recorded.load(Relaxed))
    }

    /// All counts; zeros when nothing was recorded.
    pub(super) fn read(&self) -> Buckets {
        array::from_fn(|bucket| self.sum(|histogram| histogram.buckets[bucket].load(Relaxed)))
    }

    fn sum(&self, read: impl Fn(&Histogram) -> u32) -> u32 {
        self.by_worker.get().map_or(0, |by_worker| by_worker.iter().map(read).fold(0, u32::wrapping_add))
    }
}

impl Histogram {
    fn new() -> Self {
        Self { buckets: array::from_fn(|_| AtomicU32::new(0)), recorded: AtomicU32::new(0) }
    }
}

/// With one writer, a load and a store.
fn add_one(count: &AtomicU32) {
    count.store(count.load(Relaxed).wrapping_add(1), Relaxed);
}

/// The bucket of a latency, without floating point.
fn bucket_of(latency: Duration) -> usize {
    /// Bits behind the point of a number of microseconds.
    const POINT: u32 = 20;
    /// 2^(1/4), 2^(2/4) and 2^(3/4), rounded up: an integer is at or above them exactly when it is at or above the root.
    const QUARTERS: [u64; 3] = [1_246_975, 1_482_911, 1_763_488];
    /// Beyond the last bucket, and far from where the shift runs over.
    const LONGEST: u64 = 1 << 41;
    let nanos = u64::try_from(latency.as_nanos()).unwrap_or(LONGEST).min(LONGEST);
    let micros = (nanos << POINT) / 1000;
    let Some(octave) = micros.checked_ilog2().and_then(|log| log.checked_sub(POINT)) else { return 0 };
    // Between 1 and 2, with as many bits behind the point.
    let mantissa = micros >> octave;
    let quarter = QUARTERS.iter().filter(|least| mantissa >= **least).count();
    (4 * octave as usize + quarter).min(LATENCY_BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bucket_begins_at_a_quarter_power_of_two() {
        let micros = Duration::from_micros;
        let cases = [
            (Duration::ZERO, 0),
            (Duration::from_nanos(999), 0),
            (micros(1), 0),
            (Duration::from_nanos(1189), 0),
            (Duration::from_nanos(1190), 1),
            (micros(2), 4),
            (micros(1024), 40),
            (micros(1 << 29), 116),
            (Duration::from_secs(1000), 119),
            (Duration::from_secs(86_400), 119),
            (Duration::MAX, 119),
        ];
        for (latency, bucket) in cases {
            assert_eq!(bucket_of(latency), bucket, "{latency:?}");
        }
    }

    #[test]
    fn counts_of_all_workers_add_up_and_nothing_is_there_before_the_first() {
        let latencies = Latencies::new(2);
        assert_eq!((latencies.recorded(), latencies.read()), (0, [0; LATENCY_BUCKETS]));
        assert!(latencies.by_worker.get().is_none());
        for worker in [0, 1, 1] {
            latencies.record(worker, Duration::from_micros(2));
        }
        assert_eq!((latencies.recorded(), latencies.read()[4]), (3, 3));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_latency_lies_within_its_bucket(nanos in 1_000..(1000_u64 << 30)) {
            let bucket = bucket_of(Duration::from_nanos(nanos)) as f64;
            let micros = nanos as f64 / 1000.0;
            let (from, to) = (2_f64.powf(bucket / 4.0), 2_f64.powf((bucket + 1.0) / 4.0));
            // Within what the representation rounds.
            prop_assert!(micros >= from * 0.999_998 && micros < to * 1.000_002, "{} in {}..{}", micros, from, to);
        }
    }
}
