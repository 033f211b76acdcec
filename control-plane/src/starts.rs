//! At what pace streams begin.
//!
//! All data planes lose their control plane at the same moment, and come back as soon as it does. Each is told at once that it is
//! heard, and begins in its turn: so what is sent to all of them is spread, and none has to come again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Nobody waits for longer, whatever the pace: a data plane takes a control plane that says nothing for 15 s for dead, of which 5 s may have
/// passed before its turn.
const LONGEST: Duration = Duration::from_secs(8);

/// The turns to begin.
#[derive(Debug)]
pub(crate) struct Starts {
    /// Between two of them.
    interval: Duration,
    /// When the next may begin.
    next: Mutex<Option<Instant>>,
}

impl Starts {
    /// So many in a second, evenly; 0: as they come.
    pub(crate) fn new(per_second: u32) -> Self {
        let interval = Duration::from_secs(1).checked_div(per_second).unwrap_or_default();
        Self { interval, next: Mutex::new(None) }
    }

    /// Takes the next turn, and yields how long it is until then: at most 8 s, beyond which turns are shared.
    pub(crate) fn reserve(&self, now: Instant) -> Duration {
        if self.interval.is_zero() {
            return Duration::ZERO;
        }
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.clamp(now, now + LONGEST));
        *next = Some(turn + self.interval);
        turn.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn who_comes_alone_begins_at_once() {
        let (starts, now) = (Starts::new(20), Instant::now());
        for later in 0..3 {
            assert_eq!(starts.reserve(now + later * SECOND), Duration::ZERO);
        }
    }

    #[test]
    fn a_crowd_begins_evenly_and_in_the_order_in_which_it_came() {
        let (starts, now) = (Starts::new(20), Instant::now());
        let turns: Vec<_> = (0..100).map(|_| starts.reserve(now)).collect();
        let evenly: Vec<_> = (0..100).map(|place| place * SECOND / 20).collect();
        assert_eq!(turns, evenly);
    }

    #[test]
    fn nobody_waits_for_so_long_that_he_would_give_up() {
        let (starts, now) = (Starts::new(1), Instant::now());
        let turns: Vec<_> = (0..100).map(|_| starts.reserve(now)).collect();
        assert_eq!(turns.iter().max(), Some(&LONGEST));
        assert_eq!(starts.reserve(now + 2 * LONGEST), Duration::ZERO);
    }

    #[test]
    fn without_a_pace_all_begin_as_they_come() {
        let (starts, now) = (Starts::new(0), Instant::now());
        assert!((0..1000).all(|_| starts.reserve(now).is_zero()));
    }
}
