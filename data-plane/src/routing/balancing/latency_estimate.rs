//! A replica's latency as a moving average that jumps up with each peak and forgets it slowly (peak EWMA, as Finagle has
//! it): a replica that becomes slow is noticed with its first slow response.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::routing::Tick;

/// The estimate, shared by all workers.
///
/// One word: the upper half says when it was made, in units of 2^20 ns (about a millisecond; they run over after 52
/// days, of which an estimate may then lose its age once), the lower half has seconds as an `f32`. Zero: nothing was seen.
#[derive(Debug, Default)]
pub struct LatencyEstimate(AtomicU64);

impl LatencyEstimate {
    /// After so long, what is left of an earlier latency is 1/e of it. Finagle's default.
    pub const DECAY: Duration = Duration::from_secs(10);
    /// What a failure counts as, if it did not take longer: one that comes fast must not attract requests. Also what a
    /// replica counts as whose first response is awaited.
    pub const PENALTY: Duration = Duration::from_secs(1);

    const UNIT_BITS: u32 = 20;

    /// Takes a latency into account. Lock-free.
    pub fn observe(&self, latency: Duration, now: Tick) {
        // Nothing is faster than a microsecond, and zero means that nothing was seen.
        let sample = latency.as_secs_f32().max(1e-6);
        let stamp = stamp(now);
        let next = |word| {
            let Some((seconds, before)) = unpack(word) else { return Some(pack(sample, stamp)) };
            let age = age(before, stamp);
            let kept = seconds.max(0.0) - sample;
            let seconds = if kept > 0.0 { sample + kept * decay(age) } else { sample };
            // A thread that read the time earlier does not set it back.
            let stamp = if age == 0 { before } else { stamp };
            Some(pack(seconds, stamp))
        };
        // Never an error: there is always a next word.
        let _ = self.0.fetch_update(Relaxed, Relaxed, next);
    }

    /// Seconds, or `None` before the first response. Without responses it sinks towards zero, so that a replica which had
    /// a peak is tried again.
    pub fn seconds(&self, now: Tick) -> Option<f64> {
        let (seconds, before) = unpack(self.0.load(Relaxed))?;
        Some(f64::from(seconds * decay(age(before, stamp(now)))))
    }

    /// What one more request would cost beside `inflight` others.
    ///
    /// A replica of which nothing is known costs nothing for the first request, and the penalty for each that comes
    /// before its response: so it is tried, and not flooded.
    pub fn cost(&self, inflight: u64, now: Tick) -> f64 {
        let seconds = self.seconds(now);
        let unknown = if inflight == 0 { 0.0 } else { Self::PENALTY.as_secs_f64() };
        seconds.unwrap_or(unknown) * (inflight + 1) as f64
    }
}

fn stamp(now: Tick) -> u32 {
    (now.as_nanos() >> LatencyEstimate::UNIT_BITS) as u32
}

/// Units from one stamp to another; zero when it is not later.
fn age(from: u32, to: u32) -> u32 {
    let age = to.wrapping_sub(from);
    if age > u32::MAX / 2 { 0 } else { age }
}

/// What is left of a latency after that many units.
fn decay(age: u32) -> f32 {
    if age == 0 {
        return 1.0;
    }
    let units = LatencyEstimate::DECAY.as_nanos() as f32 / (1_u32 << LatencyEstimate::UNIT_BITS) as f32;
    (-(age as f32) / units).exp()
}

fn pack(seconds: f32, stamp: u32) -> u64 {
    u64::from(stamp) << 32 | u64::from(seconds.to_bits())
}

fn unpack(word: u64) -> Option<(f32, u32)> {
    (word != 0).then(|| (f32::from_bits(word as u32), (word >> 32) as u32))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Tick {
        Tick::ORIGIN.plus(MS * u32::try_from(millis).unwrap())
    }

    fn near(estimate: &LatencyEstimate, now: u64, seconds: f64) -> bool {
        (estimate.seconds(at(now)).unwrap() - seconds).abs() < 0.01 * seconds
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let estimate = LatencyEstimate::default();
        assert_eq!(estimate.seconds(at(0)), None);
        estimate.observe(10 * MS, at(0));
        assert!(near(&estimate, 0, 0.010));
        estimate.observe(500 * MS, at(0));
        assert!(near(&estimate, 0, 0.5));
        estimate.observe(10 * MS, at(0));
        assert!(near(&estimate, 0, 0.5), "no time has passed");
        estimate.observe(10 * MS, at(10_000));
        assert!(near(&estimate, 10_000, 0.010 + 0.490 / std::f64::consts::E));
    }

    #[test]
    fn many_responses_within_a_moment_forget_no_faster_than_few() {
        let (often, seldom) = (LatencyEstimate::default(), LatencyEstimate::default());
        often.observe(500 * MS, at(0));
        seldom.observe(500 * MS, at(0));
        for number in 1..=100_000 {
            often.observe(10 * MS, Tick::from_nanos(number * 100_000));
        }
        seldom.observe(10 * MS, at(10_000));
        let (often, seldom) = (often.seconds(at(10_000)).unwrap(), seldom.seconds(at(10_000)).unwrap());
        assert!((often - seldom).abs() < 0.02 * seldom, "{often} and {seldom}");
    }

    #[test]
    fn who_gets_no_requests_is_tried_again_in_time() {
        let estimate = LatencyEstimate::default();
        estimate.observe(LatencyEstimate::PENALTY, at(0));
        assert!(near(&estimate, 10_000, 1.0 / std::f64::consts::E));
        assert!(estimate.seconds(at(100_000)).unwrap() < 0.000_1);
    }

    #[test]
    fn an_unknown_replica_is_tried_and_not_flooded() {
        let estimate = LatencyEstimate::default();
        assert_eq!(estimate.cost(0, at(0)), 0.0);
        assert_eq!(estimate.cost(1, at(0)), 2.0);
        estimate.observe(10 * MS, at(0));
        assert!((estimate.cost(4, at(0)) - 0.05).abs() < 1e-6);
    }

    #[test]
    fn time_that_is_read_early_or_runs_over_does_no_harm() {
        let estimate = LatencyEstimate::default();
        estimate.observe(100 * MS, at(5_000));
        estimate.observe(50 * MS, at(4_000));
        assert!(near(&estimate, 4_000, 0.1));
        let last = Tick::from_nanos(u64::from(u32::MAX) << 20);
        let estimate = LatencyEstimate::default();
        estimate.observe(100 * MS, last);
        assert!((estimate.seconds(last.plus(LatencyEstimate::DECAY)).unwrap() - 0.0368).abs() < 0.001);
    }

    #[test]
    fn no_peak_is_lost_when_threads_race() {
        let estimate = LatencyEstimate::default();
        thread::scope(|scope| {
            for thread in 1..=4 {
                let estimate = &estimate;
                scope.spawn(move || {
                    (1..=1000).for_each(|millis| estimate.observe(thread * millis * MS, at(7)))
                });
            }
        });
        assert!(near(&estimate, 7, 4.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_estimate_lies_between_the_last_latency_and_the_largest(
            samples in prop::collection::vec((1..5_000_u32, 0..20_000_u64), 1..50),
        ) {
            let estimate = LatencyEstimate::default();
            let (mut now, mut largest) = (0, 0.0_f64);
            for (millis, later) in samples {
                now += later;
                estimate.observe(millis * MS, at(now));
                let last = f64::from(millis) / 1000.0;
                largest = largest.max(last);
                let seconds = estimate.seconds(at(now)).unwrap();
                prop_assert!(seconds >= last * 0.9999 && seconds <= largest * 1.0001, "{}", seconds);
            }
        }
    }
}
