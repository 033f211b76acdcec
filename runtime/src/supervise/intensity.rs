//! How often a task may be started again, and after which pause. Pure: time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Before the first restart; each one more within the same time doubles it.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest of them.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);

/// How many restarts are taken for bad luck. More are a defect that no restart heals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// So many restarts...
    pub restarts: u32,
    /// ...within this time, whenever it begins.
    pub within: Duration,
}

impl Default for Intensity {
    /// Five within a minute: a task that panics as soon as it starts has them behind it after three seconds.
    fn default() -> Self {
        Self { restarts: 5, within: Duration::from_secs(60) }
    }
}

/// The restarts of one task.
#[derive(Debug)]
pub(super) struct Restarts {
    intensity: Intensity,
    /// When the task panicked and was started again, oldest first; none that is out of the time by the last look.
    past: VecDeque<Instant>,
}

/// What is to be done about a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Start again after a pause; `left` more restarts are within the intensity.
    Restart { pause: Duration, left: u32 },
    /// It would be one restart too many.
    TooMany,
}

impl Restarts {
    pub(super) fn new(intensity: Intensity) -> Self {
        Self { intensity, past: VecDeque::new() }
    }

    /// The task has panicked at `now`, which is not before any earlier call's. A panic exactly [`Intensity::within`] ago
    /// counts no more.
    pub(super) fn panicked(&mut self, now: Instant) -> Verdict {
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= self.intensity.within;
        let over = self.past.iter().take_while(|at| is_over(at)).count();
        self.past.drain(..over);
        let count = u32::try_from(self.past.len()).unwrap_or(u32::MAX);
        let Some(left) = self.intensity.restarts.checked_sub(count + 1) else { return Verdict::TooMany };
        self.past.push_back(now);
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(count)).min(MAX_PAUSE);
        Verdict::Restart { pause, left }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn restarts(restarts: u32, within: u32) -> (Restarts, Instant) {
        (Restarts::new(Intensity { restarts, within: within * SECOND }), Instant::now())
    }

    fn restart(pause_millis: u64, left: u32) -> Verdict {
        Verdict::Restart { pause: Duration::from_millis(pause_millis), left }
    }

    #[test]
    fn pauses_grow_until_there_are_too_many_restarts() {
        let (mut restarts, now) = restarts(3, 60);
        let verdicts = [0, 1, 2, 3].map(|second| restarts.panicked(now + second * SECOND));
        assert_eq!(verdicts, [restart(100, 2), restart(200, 1), restart(400, 0), Verdict::TooMany]);
    }

    #[test]
    fn what_is_long_ago_counts_no_more_and_pauses_are_short_again() {
        let (mut restarts, now) = restarts(2, 10);
        assert_eq!(restarts.panicked(now), restart(100, 1));
        assert_eq!(restarts.panicked(now + 9 * SECOND), restart(200, 0));
        // The first one is just out, the second is not.
        assert_eq!(restarts.panicked(now + 10 * SECOND), restart(200, 0));
        assert_eq!(restarts.panicked(now + 18 * SECOND), Verdict::TooMany);
        assert_eq!(restarts.panicked(now + 30 * SECOND), restart(100, 1));
    }

    #[test]
    fn a_panic_that_was_too_much_takes_no_place() {
        let (mut restarts, now) = restarts(1, 10);
        assert_eq!(restarts.panicked(now), restart(100, 0));
        assert_eq!(restarts.panicked(now + 9 * SECOND), Verdict::TooMany);
        assert_eq!(restarts.panicked(now + 10 * SECOND), restart(100, 0));
    }

    #[test]
    fn an_intensity_of_none_allows_none() {
        let (mut restarts, now) = restarts(0, 10);
        assert_eq!(restarts.panicked(now), Verdict::TooMany);
    }

    #[test]
    fn pauses_have_an_end_and_so_has_what_is_remembered() {
        let (mut restarts, now) = restarts(100, 10);
        let verdicts: Vec<_> = (0..200).map(|_| restarts.panicked(now)).collect();
        assert_eq!(verdicts[99], restart(30_000, 0));
        assert_eq!((verdicts[100], restarts.past.len()), (Verdict::TooMany, 100));
    }

    #[test]
    fn a_defect_that_shows_at_every_start_is_given_up_on_within_seconds() {
        let (mut restarts, mut now) = (Restarts::new(Intensity::default()), Instant::now());
        let began = now;
        while let Verdict::Restart { pause, .. } = restarts.panicked(now) {
            now += pause;
        }
        assert_eq!(now - began, Duration::from_millis(3100));
    }
}
