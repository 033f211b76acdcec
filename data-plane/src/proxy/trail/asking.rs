//! How long a request had replicas asked: the time in which an attempt was under way, counted once where several were.

use std::time::Duration;

use crate::routing::Tick;

/// Pure: times are told.
#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Attempts under way.
    open: usize,
    /// What was counted until `since`.
    counted: Duration,
    since: Tick,
}

impl Asking {
    /// An attempt begins.
    pub(super) fn begin(&mut self, now: Tick) {
        if self.open == 0 {
            // An attempt may begin by a clock that was read before the end of the one before.
            self.since = self.since.max(now);
        }
        self.open += 1;
    }

    /// One of them has ended.
    pub(super) fn end(&mut self, now: Tick) {
        self.counted = self.time(now);
        self.since = self.since.max(now);
        self.open = self.open.saturating_sub(1);
    }

    /// The time until now. What has not ended goes on.
    pub(super) fn time(&self, now: Tick) -> Duration {
        let goes_on = if self.open > 0 { now.since(self.since) } else { Duration::ZERO };
        self.counted + goes_on
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    fn millis(asking: &Asking, now: u64) -> u128 {
        asking.time(at(now)).as_millis()
    }

    #[test]
    fn pauses_between_attempts_do_not_count_and_attempts_side_by_side_count_once() {
        let mut asking = Asking::default();
        assert_eq!(millis(&asking, 5), 0);
        asking.begin(at(10));
        asking.begin(at(30));
        assert_eq!(millis(&asking, 40), 30);
        asking.end(at(50));
        asking.end(at(60));
        assert_eq!(millis(&asking, 90), 50);
        asking.begin(at(80));
        asking.end(at(81));
        assert_eq!(millis(&asking, 90), 51);
    }

    #[test]
    fn what_has_not_ended_counts_until_now() {
        let mut asking = Asking::default();
        asking.begin(at(10));
        assert_eq!(millis(&asking, 300), 290);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_the_number_of_moments_in_which_any_is_under_way(
            attempts in prop::collection::vec((0..100_u64, 0..100_u64), 0..6),
            now in 200..210_u64,
        ) {
            let mut events: Vec<_> = attempts
                .iter()
                .flat_map(|(begins, lasts)| [(*begins, false), (begins + lasts, true)])
                .collect();
            events.sort_unstable();
            let mut asking = Asking::default();
            for (time, is_end) in events {
                if is_end { asking.end(at(time)) } else { asking.begin(at(time)) }
            }
            let is_asked = |moment: &u64| {
                attempts.iter().any(|(begins, lasts)| (*begins..begins + lasts).contains(moment))
            };
            prop_assert_eq!(millis(&asking, now), (0..now).filter(is_asked).count() as u128);
        }
    }
}
