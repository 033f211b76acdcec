//! How long to wait before the next attempt to reach the control plane. Pure.
//!
//! Exponential back-off with full jitter, as in Marc Brooker's "Exponential Backoff And Jitter" (AWS Architecture
//! Blog): a thousand data planes that lost the same control plane at the same moment must not come back together.

use std::time::Duration;

use tokio::time::Instant;

const BASE: Duration = Duration::from_millis(50);
/// A restart takes seconds, and whoever waits for it wants it noticed soon.
const CAP_AT_FIRST: Duration = Duration::from_secs(2);
const AT_FIRST: Duration = Duration::from_secs(60);
/// What has been away for a minute is likely to stay away. It is noticed all the same within seconds of its return.
const CAP_LATER: Duration = Duration::from_secs(5);

/// The pauses of one outage.
#[derive(Debug, Default)]
pub(crate) struct Reconnect {
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    began: Instant,
    failures: u32,
}

impl Reconnect {
    /// Notes a failed attempt at one of `candidates` and yields the pause before the next: between zero and 50 ms × 2ⁿ,
    /// where n counts rounds over all of them, at most 2 s in the first minute of an outage and at most 5 s after it.
    /// `random` is uniform in 0..1.
    pub(crate) fn failed(&mut self, now: Instant, random: f64, candidates: usize) -> Duration {
        let outage = self.outage.get_or_insert(Outage { began: now, failures: 0 });
        let cap = if now.duration_since(outage.began) < AT_FIRST { CAP_AT_FIRST } else { CAP_LATER };
        let rounds = outage.failures / u32::try_from(candidates.max(1)).unwrap_or(u32::MAX);
        let ceiling = BASE.saturating_mul(1 << rounds.min(16)).min(cap);
        outage.failures = outage.failures.saturating_add(1);
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Notes that the control plane answered: the outage is over.
    pub(crate) fn succeeded(&mut self) {
        self.outage = None;
    }

    /// Whether the last attempt failed.
    pub(crate) fn in_outage(&self) -> bool {
        self.outage.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings(reconnect: &mut Reconnect, now: Instant, count: usize) -> Vec<u128> {
        (0..count).map(|_| reconnect.failed(now, 1.0, 1).as_millis()).collect()
    }

    #[test]
    fn the_ceiling_doubles_up_to_two_seconds_and_after_a_minute_up_to_five() {
        let (mut reconnect, start) = (Reconnect::default(), Instant::now());
        assert_eq!(ceilings(&mut reconnect, start, 8), [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(ceilings(&mut reconnect, start + AT_FIRST, 3), [5000, 5000, 5000]);
    }

    #[test]
    fn each_of_several_is_tried_before_pauses_grow() {
        let (mut reconnect, start) = (Reconnect::default(), Instant::now());
        let ceilings: Vec<_> = (0..7).map(|_| reconnect.failed(start, 1.0, 3).as_millis()).collect();
        assert_eq!(ceilings, [50, 50, 50, 100, 100, 100, 200]);
    }

    #[test]
    fn a_success_begins_anew() {
        let (mut reconnect, start) = (Reconnect::default(), Instant::now());
        ceilings(&mut reconnect, start, 5);
        assert!(reconnect.in_outage());
        reconnect.succeeded();
        assert!(!reconnect.in_outage());
        assert_eq!(ceilings(&mut reconnect, start + 10 * AT_FIRST, 1), [50]);
    }

    #[test]
    fn the_pause_is_spread_over_everything_below_the_ceiling() {
        let (mut reconnect, start) = (Reconnect::default(), Instant::now());
        assert_eq!(reconnect.failed(start, 0.0, 1), Duration::ZERO);
        assert_eq!(reconnect.failed(start, 0.5, 1), Duration::from_millis(50));
    }

    #[test]
    fn the_thousandth_failure_waits_no_longer() {
        let (mut reconnect, start) = (Reconnect::default(), Instant::now());
        let last = (0..1000).map(|_| reconnect.failed(start + AT_FIRST, 1.0, 1)).last();
        assert_eq!(last, Some(CAP_AT_FIRST), "the outage began with the first failure");
    }
}
