//! Whether whoever is waited for moves bytes as fast as it has to. Pure: time comes in as an argument.

use std::time::Duration;

use crate::routing::Tick;

/// How fast somebody has to be, on average over the time for which it was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes in a second; 0 for no such limit.
    pub bytes_per_second: u64,
    /// Time that may pass beside that: a round trip or two, and a pause.
    pub grace: Duration,
}

impl MinRate {
    /// For how long somebody may have been waited for who has moved so many bytes; `None` for ever.
    fn allowance(self, bytes: u64) -> Option<Duration> {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        (self.bytes_per_second > 0).then(|| self.grace.saturating_add(time))
    }
}

/// How long somebody was waited for. Time in which it was not does not count, and nothing of it is looked at.
#[derive(Debug)]
pub(in crate::proxy) struct Pace {
    rate: MinRate,
    waited: Duration,
    since: Option<Tick>,
}

impl Pace {
    pub(in crate::proxy) fn new(rate: MinRate) -> Self {
        Self { rate, waited: Duration::ZERO, since: None }
    }

    /// It is waited for now, who has moved so many bytes by now. Yields from when on it is too slow if it moves no more.
    pub(in crate::proxy) fn waits(&mut self, bytes: u64, now: impl FnOnce() -> Tick) -> Tick {
        let Some(allowance) = self.rate.allowance(bytes) else { return Tick::NEVER };
        let since = *self.since.get_or_insert_with(now);
        since.plus(allowance.saturating_sub(self.waited))
    }

    /// It is not waited for any more.
    pub(in crate::proxy) fn goes_on(&mut self, now: impl FnOnce() -> Tick) {
        if let Some(since) = self.since.take() {
            self.waited += now().since(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RATE: MinRate = MinRate { bytes_per_second: 100, grace: Duration::from_secs(10) };

    fn at(millis: u64) -> Tick {
        Tick::ORIGIN.plus(Duration::from_millis(millis))
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count() {
        let mut pace = Pace::new(RATE);
        assert_eq!(pace.waits(0, || at(1_000)), at(11_000));
        assert_eq!(pace.waits(0, || panic!("it waits already")), at(11_000));
        pace.goes_on(|| at(5_000));
        pace.goes_on(|| panic!("it does not wait"));
        // An hour later, six of ten seconds are left, and one more for a hundred bytes.
        assert_eq!(pace.waits(100, || at(3_600_000)), at(3_607_000));
    }

    #[test]
    fn without_a_rate_nobody_asks_for_the_time() {
        let mut pace = Pace::new(MinRate { bytes_per_second: 0, ..RATE });
        assert_eq!(pace.waits(0, || panic!("who asks?")), Tick::NEVER);
        pace.goes_on(|| panic!("who asks?"));
    }

    proptest! {
        /// Pauses of any length, each with at least as many bytes behind it as the rate asks for.
        #[test]
        fn whoever_keeps_to_the_rate_is_never_too_slow(
            rate in 1..100_000_u64,
            pauses in prop::collection::vec((1..9_999_u64, 0..1000_u64, 0..100_000_u64), 1..100),
        ) {
            let mut pace = Pace::new(MinRate { bytes_per_second: rate, ..RATE });
            let (mut now, mut bytes) = (0, 0);
            for (pause, more, busy) in pauses {
                let due = pace.waits(bytes, || at(now));
                now += pause;
                prop_assert!(at(now) < due, "{now} ms, {bytes} bytes");
                pace.goes_on(|| at(now));
                bytes += (rate * pause).div_ceil(1000) + more;
                // The replica does not read.
                now += busy;
            }
        }

        /// A byte at a time, with any pauses, is found out no later than its bytes and the grace allow.
        #[test]
        fn whoever_drips_is_found_out_in_time(rate in 1..1000_u64, pause in 1..5_000_u64) {
            let mut pace = Pace::new(MinRate { bytes_per_second: rate, ..RATE });
            let (mut now, mut bytes) = (0, 0);
            // Slower than the rate.
            let pause = pause.max(2000 / rate + 1);
            while pace.waits(bytes, || at(now)) > at(now + pause) {
                now += pause;
                pace.goes_on(|| at(now));
                bytes += 1;
                prop_assert!(now <= 10_000 + bytes * 1000 / rate + pause, "{now}");
            }
        }
    }
}
