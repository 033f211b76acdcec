//! The rate at which requests are let through: the generic cell rate algorithm, which remembers one instant.
//!
//! That instant is when the next request would be due if all kept to the rate. Who comes before it borrows from the future, as
//! much as may come at once, and no more.

use std::time::Duration;

use super::{
    Tick,
    sync::{AtomicU64, Ordering::Relaxed},
};

/// So many requests in a second, and so many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Between two requests, in nanoseconds.
    interval: u64,
    /// How much earlier than it is due one may come.
    slack: u64,
}

impl Rate {
    /// `per_second` is above zero; at least one may come at once.
    pub fn new(per_second: f64, at_once: u32) -> Self {
        // A float that is too large becomes the largest there is.
        let interval = ((1e9 / per_second).round() as u64).max(1);
        Self { interval, slack: interval.saturating_mul(u64::from(at_once.max(1)) - 1) }
    }

    /// Between two requests, in nanoseconds.
    pub fn interval(self) -> u64 {
        self.interval
    }

    /// Lets a request through at `now` of which the next was `due` then, [`Tick::ORIGIN`] if there was none before. Yields when the
    /// one behind it is due.
    ///
    /// # Errors
    /// It comes too early: by so much, if no other comes before.
    pub fn take(self, due: Tick, now: Tick) -> Result<Tick, Duration> {
        let early = due.as_nanos().saturating_sub(now.as_nanos());
        match early.saturating_sub(self.slack) {
            0 => Ok(Tick::from_nanos(due.max(now).as_nanos().saturating_add(self.interval))),
            wait => Err(Duration::from_nanos(wait)),
        }
    }
}

/// When the next request of all threads is due.
#[derive(Debug, Default)]
pub struct Pacer(AtomicU64);

impl Pacer {
    /// As [`Rate::take`]. No two take the same place.
    ///
    /// # Errors
    /// As there.
    pub fn take(&self, rate: Rate, now: Tick) -> Result<(), Duration> {
        let mut due = self.0.load(Relaxed);
        loop {
            let next = rate.take(Tick::from_nanos(due), now)?.as_nanos();
            // Nothing else is read by what it says.
            match self.0.compare_exchange_weak(due, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(nanos: u64) -> Tick {
        Tick::from_nanos(nanos)
    }

    #[test]
    fn after_a_pause_so_many_come_at_once_and_then_one_in_each_interval() {
        let (pacer, rate) = (Pacer::default(), Rate::new(10.0, 3));
        let take = |nanos| pacer.take(rate, at(nanos));
        let start = 5 * SECOND;
        assert_eq!([take(start), take(start), take(start)], [Ok(()); 3]);
        assert_eq!(take(start), Err(Duration::from_millis(100)));
        assert_eq!(take(start + SECOND / 20), Err(Duration::from_millis(50)), "who is refused owes nothing");
        assert_eq!(take(start + SECOND / 10), Ok(()));
        assert_eq!(take(start + SECOND / 10), Err(Duration::from_millis(100)));
        assert_eq!([take(start + 60 * SECOND); 1], [Ok(())]);
        assert_eq!(
            [take(start + 60 * SECOND), take(start + 60 * SECOND)],
            [Ok(()); 2],
            "no more than before"
        );
        assert!(take(start + 60 * SECOND).is_err());
    }

    #[test]
    fn the_first_request_is_let_through_whatever_the_rate() {
        for rate in [Rate::new(0.001, 1), Rate::new(1e6, 1_000_000), Rate::new(f64::MIN_POSITIVE, 1)] {
            assert!(Pacer::default().take(rate, Tick::ORIGIN).is_ok(), "{rate:?}");
        }
    }

    #[test]
    fn threads_together_take_as_many_as_there_are() {
        let (pacer, rate) = (Pacer::default(), Rate::new(0.001, 1000));
        let taken: usize = std::thread::scope(|scope| {
            let counting = || (0..1000).filter(|_| pacer.take(rate, at(SECOND)).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(counting)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    proptest! {
        #[test]
        fn in_no_time_come_more_than_the_rate_and_the_burst_and_each_wait_is_exact(
            per_second in 0.5..2000.0_f64,
            at_once in 1..50_u32,
            pauses in proptest::collection::vec(0..50_000_000_u64, 1..200),
        ) {
            let (rate, pacer) = (Rate::new(per_second, at_once), Pacer::default());
            let (mut now, mut passed) = (SECOND, Vec::new());
            for pause in pauses {
                now += pause;
                let due = Tick::from_nanos(pacer.0.load(Relaxed));
                match pacer.take(rate, at(now)) {
                    Ok(()) => passed.push(now),
                    Err(wait) => {
                        let then = now + wait.as_nanos() as u64;
                        prop_assert!(rate.take(due, at(then)).is_ok() && rate.take(due, at(then - 1)).is_err());
                    }
                }
            }
            for (first, from) in passed.iter().enumerate() {
                for (count, to) in (1..).zip(&passed[first..]) {
                    let most = f64::from(at_once) + (to - from) as f64 / rate.interval as f64;
                    prop_assert!(f64::from(count) <= most + 1e-6, "{count} of {most}");
                }
            }
        }

        #[test]
        fn whoever_keeps_to_the_rate_is_never_refused(per_second in 0.5..2000.0_f64, count in 1..200_u32) {
            let (rate, pacer) = (Rate::new(per_second, 1), Pacer::default());
            for number in 0..u64::from(count) {
                prop_assert!(pacer.take(rate, at(SECOND + number * rate.interval)).is_ok());
            }
        }
    }
}
