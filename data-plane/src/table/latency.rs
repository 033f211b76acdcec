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

use gateway_proto::latency::{LATENCY_BUCKETS, bucket_of};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
