//! How many requests a replica bears at once, found by its latency.
//!
//! Up to some number of requests at once a replica takes as long for each as for one; beyond it they wait for each other. The
//! limit follows that knee: while the latency is near the least there is, it grows by half its square root, and else it
//! shrinks with the ratio of the two, by half at most. This is the gradient of Netflix's concurrency-limits
//! (`Gradient2Limit`) and of Envoy's adaptive concurrency filter, of which the way to know the least latency differs:
//! a long average, as the former has it, comes to take an overload that lasts for the normal; the smallest mean there was
//! comes to be one that chance made. So the least is measured, as Envoy does: every half a minute with half of the limit
//! (Envoy: with its minimum, which costs more than it tells), or for nothing whenever no more than half of it is used.
//!
//! It learns from responses only: no clock, no timer, no randomness.

use std::time::Duration;

use super::Tick;

/// Latencies up to this × the least are taken for as good.
const TOLERANCE: f64 = 1.25;
/// Nothing makes the limit smaller than this part of it at once.
const LEAST_GRADIENT: f64 = 0.5;
/// Nor does a replica that says it is overloaded leave it larger.
const OVERLOADED_GRADIENT: f64 = 0.9;
/// A window has at least so many latencies ...
const WINDOW_COUNT: u32 = 50;
/// ... and lasts for at least this long, and for twice as long as a request takes at best.
const WINDOW: Duration = Duration::from_millis(100);
/// From one measurement to the next, a quarter more or less.
const MEASURE_INTERVAL: Duration = Duration::from_secs(30);
/// A measurement that has not come to its end by then ends with what it has, if that is enough.
const MEASURE_TIME: Duration = Duration::from_secs(5);
const MEASURE_LEAST_COUNT: u32 = 10;

/// Between which ends a limit may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// At least 1.
    pub min: u32,
    /// At least `min`.
    pub max: u32,
}

/// What a response tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitSample {
    /// It took this long, or was given up after it.
    Latency(Duration),
    /// The replica says that it has too much to do.
    Overloaded,
}

/// The limit of one replica.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientLimit {
    limit: f64,
    /// The mean latency without waiting, in nanoseconds; until it was measured, there is none.
    least: Option<f64>,
    window: Window,
    phase: Phase,
    /// Part of the interval between measurements, so that replicas are not measured all at once.
    spread: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Measures anew from then on.
    Following { until: Tick },
    /// With a smaller limit since then.
    Measuring { began: Tick },
}

/// Responses that came from a moment on. When the limit has just moved, that lies ahead: until the requests of before are
/// through, the quickest of the new ones come first, or the slowest of the old ones last.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Window {
    began: Tick,
    count: u32,
    sum: f64,
    /// The most that was in flight.
    peak: u64,
    is_overloaded: bool,
}

impl Window {
    fn new(began: Tick) -> Self {
        Self { began, count: 0, sum: 0.0, peak: 0, is_overloaded: false }
    }

    /// In nanoseconds, and at least one.
    fn mean(&self) -> f64 {
        (self.sum / f64::from(self.count)).max(1.0)
    }
}

impl GradientLimit {
    /// The limit of a replica that nothing is known of: it begins at the lower end, with a measurement. `spread` from
    /// 0.0..1.0 is the replica's own.
    pub fn new(bounds: Bounds, spread: f64, now: Tick) -> Self {
        Self {
            limit: bounds.min.into(),
            least: None,
            window: Window::new(now),
            phase: Phase::Measuring { began: now },
            spread,
        }
    }

    /// How many requests may be in flight.
    pub fn limit(&self, bounds: Bounds) -> u32 {
        let limit = match self.phase {
            Phase::Following { .. } => self.limit,
            Phase::Measuring { .. } => self.limit / 2.0,
        };
        (limit as u32).clamp(bounds.min, bounds.max)
    }

    /// Learns from a response, while `inflight` others and itself were in flight.
    pub fn observe(&mut self, sample: LimitSample, inflight: u64, now: Tick, bounds: Bounds) {
        if now < self.window.began {
            return;
        }
        self.window.peak = self.window.peak.max(inflight);
        match sample {
            LimitSample::Latency(latency) => {
                self.window.count += 1;
                self.window.sum += latency.as_nanos() as f64;
            }
            LimitSample::Overloaded => self.window.is_overloaded = true,
        }
        match self.phase {
            Phase::Following { until } => self.follow(until, now, bounds),
            Phase::Measuring { began } => self.measure(began, now),
        }
    }

    /// Ends a measurement that has taken too long, though nothing was heard.
    pub fn end_measurement(&mut self, now: Tick) {
        if let Phase::Measuring { began } = self.phase {
            self.measure(began, now);
        }
    }

    fn measure(&mut self, began: Tick, now: Tick) {
        let is_over = now.since(began.max(self.window.began)) >= MEASURE_TIME;
        let count = self.window.count;
        if count < WINDOW_COUNT && !(is_over && (count >= MEASURE_LEAST_COUNT || self.least.is_some())) {
            return;
        }
        if count >= MEASURE_LEAST_COUNT {
            self.least = Some(self.window.mean());
        }
        let settles = Duration::from_nanos((2.0 * self.least.unwrap_or_default()) as u64);
        self.window = Window::new(now.plus(settles));
        self.phase = self.following(now);
    }

    fn follow(&mut self, until: Tick, now: Tick, bounds: Bounds) {
        let (Some(least), window) = (self.least, self.window) else { return };
        let lasts = WINDOW.max(Duration::from_nanos((2.0 * least) as u64));
        if now.since(window.began) < lasts || (window.count < WINDOW_COUNT && !window.is_overloaded) {
            return;
        }
        self.window = Window::new(now);
        let is_used = window.peak as f64 * 2.0 > self.limit;
        if window.count >= WINDOW_COUNT {
            let mean = window.mean();
            if !is_used && !window.is_overloaded {
                // As good as a measurement.
                self.least = Some(mean);
                self.phase = self.following(now);
                return;
            }
            let least = if mean * TOLERANCE < least { mean } else { least };
            self.least = Some(least);
            self.step((least * TOLERANCE / mean).clamp(LEAST_GRADIENT, 1.0), window.is_overloaded, bounds);
            if now >= until {
                self.window = Window::new(now.plus(Duration::from_nanos((2.0 * mean) as u64)));
                self.phase = Phase::Measuring { began: now };
            }
        } else {
            self.step(1.0, true, bounds);
        }
    }

    fn step(&mut self, gradient: f64, is_overloaded: bool, bounds: Bounds) {
        let next = if is_overloaded {
            self.limit * gradient.min(OVERLOADED_GRADIENT)
        } else {
            self.limit * gradient + self.limit.sqrt() / 2.0
        };
        self.limit = next.clamp(bounds.min.into(), bounds.max.into());
    }

    fn following(&self, now: Tick) -> Phase {
        Phase::Following {
            until: now.plus(MEASURE_INTERVAL.mul_f64(0.75 + self.spread.clamp(0.0, 1.0) / 2.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::*;
    use crate::routing::balancing::mix;

    const BOUNDS: Bounds = Bounds { min: 4, max: 1000 };
    const MS: Duration = Duration::from_millis(1);

    /// A replica that works on `knee` requests at once as fast as on one, and shares itself out among more.
    struct Model {
        knee: f64,
        base: Duration,
        limit: GradientLimit,
        now: Tick,
        ends: BinaryHeap<Reverse<(Tick, u64)>>,
        lot: u64,
        served: u64,
    }

    impl Model {
        fn new(knee: f64, base: Duration) -> Self {
            let limit = GradientLimit::new(BOUNDS, 0.3, Tick::ORIGIN);
            Self { knee, base, limit, now: Tick::ORIGIN, ends: BinaryHeap::new(), lot: 7, served: 0 }
        }

        /// From 0.5 to 1.5: no two requests are alike.
        fn factor(&mut self) -> f64 {
            self.lot = mix(self.lot);
            0.5 + (self.lot >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// Has as many requests under way as the limit allows, `demand` at most. Yields the limit's mean.
        fn run(&mut self, time: Duration, demand: usize) -> f64 {
            let (end, mut sum, mut count) = (self.now.plus(time), 0.0, 0);
            while self.now < end {
                let may = (self.limit.limit(BOUNDS) as usize).min(demand);
                while self.ends.len() < may {
                    let load = ((self.ends.len() + 1) as f64 / self.knee).max(1.0);
                    let latency = self.base.mul_f64(load * self.factor());
                    self.ends.push(Reverse((self.now.plus(latency), latency.as_nanos() as u64)));
                }
                let inflight = self.ends.len() as u64;
                let Some(Reverse((at, latency))) = self.ends.pop() else { break };
                self.now = at;
                let sample = LimitSample::Latency(Duration::from_nanos(latency));
                self.limit.observe(sample, inflight, at, BOUNDS);
                self.served += 1;
                sum += f64::from(self.limit.limit(BOUNDS));
                count += 1;
            }
            sum / f64::from(count)
        }
    }

    #[test]
    fn the_limit_comes_to_the_knee_and_stays_there() {
        for knee in [8.0, 50.0, 300.0] {
            let mut model = Model::new(knee, 20 * MS);
            model.run(Duration::from_secs(30), usize::MAX);
            for _ in 0..10 {
                let mean = model.run(Duration::from_secs(20), usize::MAX);
                assert!((knee * 0.9..knee * 1.8).contains(&mean), "{mean} for a knee at {knee}");
            }
        }
    }

    #[test]
    fn a_knee_that_moves_is_followed_both_ways() {
        let mut model = Model::new(100.0, 20 * MS);
        model.run(Duration::from_secs(60), usize::MAX);
        model.knee = 10.0;
        model.run(Duration::from_secs(20), usize::MAX);
        let low = model.run(Duration::from_secs(30), usize::MAX);
        assert!((8.0..20.0).contains(&low), "{low}");
        model.knee = 100.0;
        model.run(Duration::from_secs(60), usize::MAX);
        let high = model.run(Duration::from_secs(30), usize::MAX);
        assert!((90.0..180.0).contains(&high), "{high}");
    }

    #[test]
    fn a_replica_that_is_slow_for_a_while_is_spared_and_has_all_of_it_back_later() {
        let mut model = Model::new(50.0, 20 * MS);
        model.run(Duration::from_secs(60), usize::MAX);
        model.base = 100 * MS;
        let spared = model.run(Duration::from_secs(5), usize::MAX);
        assert!(spared < 45.0, "{spared}");
        // Slow for so long that it is what there is.
        model.run(Duration::from_secs(120), usize::MAX);
        let usual = model.run(Duration::from_secs(30), usize::MAX);
        assert!((45.0..100.0).contains(&usual), "{usual}");
        model.base = 20 * MS;
        model.run(Duration::from_secs(60), usize::MAX);
        let again = model.run(Duration::from_secs(30), usize::MAX);
        assert!((45.0..95.0).contains(&again), "{again}");
    }

    #[test]
    fn measuring_costs_little_of_what_a_replica_can_do() {
        let mut model = Model::new(50.0, 20 * MS);
        model.run(Duration::from_secs(60), usize::MAX);
        let before = model.served;
        model.run(Duration::from_secs(120), usize::MAX);
        let most = 120.0 * 50.0 / 0.020;
        let share = (model.served - before) as f64 / most;
        assert!(share > 0.97, "{share}");
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let mut model = Model::new(1000.0, 20 * MS);
        model.run(Duration::from_secs(60), 10);
        assert!(model.limit.limit(BOUNDS) <= 24, "{}", model.limit.limit(BOUNDS));
    }

    #[test]
    fn a_replica_that_says_it_is_overloaded_is_believed() {
        let mut model = Model::new(50.0, 20 * MS);
        model.run(Duration::from_secs(60), usize::MAX);
        let before = model.limit.limit(BOUNDS);
        for millis in 1..=20 {
            let now = model.now.plus(100 * MS * millis);
            model.limit.observe(LimitSample::Overloaded, 60, now, BOUNDS);
        }
        let after = model.limit.limit(BOUNDS);
        assert!(after < before / 4 && after >= BOUNDS.min, "{before} before, {after} after");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_comes_the_limit_stays_within_its_bounds(
            samples in prop::collection::vec((any::<u64>(), any::<u64>(), 0..10_u8, any::<u32>()), 1..600),
            min in 1..50_u32,
            more in 0..1000_u32,
            spread in any::<f64>(),
        ) {
            let bounds = Bounds { min, max: min + more };
            let mut limit = GradientLimit::new(bounds, spread, Tick::ORIGIN);
            let mut now = Tick::ORIGIN;
            for (latency, inflight, kind, step) in samples {
                now = now.plus(Duration::from_nanos(u64::from(step)));
                let sample = match kind {
                    0 => LimitSample::Overloaded,
                    1 => LimitSample::Latency(Duration::from_nanos(latency)),
                    _ => LimitSample::Latency(Duration::from_nanos(latency % 1_000_000_000)),
                };
                limit.observe(sample, inflight, now, bounds);
                prop_assert!((bounds.min..=bounds.max).contains(&limit.limit(bounds)));
                prop_assert!(limit.limit.is_finite());
            }
        }
    }
}
