//! When a program that ended is started again. Pure: time is an argument.
//!
//! ON: it is started again soon, after pauses that double. Too many ends within a sliding window turn it OFF: from then on
//! there is one attempt after each long pause, so that a program that cannot work costs next to nothing and still comes
//! back by itself. Only a run that lasts turns it ON again and refills the budget: one that merely starts proves nothing.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Before the first restart within the window; each one more doubles it...
    pub(crate) first_pause: Duration,
    /// ...up to this, while ON.
    pub(crate) longest_pause: Duration,
    /// So many fast restarts...
    pub(crate) fast_restarts: u32,
    /// ...within this time, whenever it begins.
    pub(crate) window: Duration,
    /// Before the first restart while OFF; each one more doubles it...
    pub(crate) first_slow_pause: Duration,
    /// ...up to this.
    pub(crate) longest_slow_pause: Duration,
    /// A run that is ready for this long turns it ON and refills the budget.
    pub(crate) stable_for: Duration,
    /// Restarts between two refills, fast and slow ones; `None`: without end.
    pub(crate) max_restarts: Option<u32>,
}

/// The restarts of one program.
#[derive(Debug)]
pub(crate) struct Restarts {
    rules: Rules,
    /// When it was started again fast, oldest first; at most `rules.fast_restarts`, none that has left the window.
    fast: VecDeque<Instant>,
    /// Slow restarts since it was turned OFF; `None` while ON.
    slow: Option<u32>,
    /// Restarts since the last refill.
    count: u32,
}

/// What is to be done about an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Start again soon; it is the `number`th fast restart within the window.
    Fast { pause: Duration, number: u32 },
    /// Start again later: it is OFF, since now when `turned`.
    Slow { pause: Duration, turned: bool },
    /// It has been started again as often as is allowed.
    GiveUp,
}

impl Restarts {
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, fast: VecDeque::new(), slow: None, count: 0 }
    }

    /// It has ended at `now`, which is not before any earlier call's. A restart exactly a window ago counts no more.
    pub(crate) fn ended(&mut self, now: Instant) -> Verdict {
        if self.rules.max_restarts.is_some_and(|max| self.count >= max) {
            return Verdict::GiveUp;
        }
        self.count = self.count.saturating_add(1);
        if let Some(number) = self.slow {
            self.slow = Some(number.saturating_add(1));
            return Verdict::Slow { pause: self.slow_pause(number), turned: false };
        }
        let is_over = |at: &Instant| now.saturating_duration_since(*at) >= self.rules.window;
        let over = self.fast.iter().take_while(|at| is_over(at)).count();
        self.fast.drain(..over);
        let before = u32::try_from(self.fast.len()).unwrap_or(u32::MAX);
        if before >= self.rules.fast_restarts {
            self.slow = Some(1);
            return Verdict::Slow { pause: self.slow_pause(0), turned: true };
        }
        self.fast.push_back(now);
        let pause = doubled(self.rules.first_pause, before, self.rules.longest_pause);
        Verdict::Fast { pause, number: before + 1 }
    }

    /// It has been ready for [`Rules::stable_for`]: the budget is full again. True when this turned it ON.
    pub(crate) fn lasted(&mut self) -> bool {
        self.fast.clear();
        self.count = 0;
        self.slow.take().is_some()
    }

    fn slow_pause(&self, number: u32) -> Duration {
        doubled(self.rules.first_slow_pause, number, self.rules.longest_slow_pause)
    }
}

/// `first` doubled so many times, at most `longest`.
fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> Rules {
        Rules {
            first_pause: Duration::from_millis(100),
            longest_pause: SECOND,
            fast_restarts: 10,
            window: 60 * SECOND,
            first_slow_pause: 10 * SECOND,
            longest_slow_pause: 60 * SECOND,
            stable_for: 30 * SECOND,
            max_restarts: None,
        }
    }

    fn fast(millis: u64, number: u32) -> Verdict {
        Verdict::Fast { pause: Duration::from_millis(millis), number }
    }

    fn slow(seconds: u32, turned: bool) -> Verdict {
        Verdict::Slow { pause: seconds * SECOND, turned }
    }

    #[test]
    fn pauses_double_up_to_the_longest_until_the_budget_is_used_up() {
        let mut restarts = Restarts::new(rules());
        let now = Instant::now();
        let verdicts: Vec<_> = (0..10).map(|second| restarts.ended(now + second * SECOND)).collect();
        let pauses = [100, 200, 400, 800, 1000, 1000, 1000, 1000, 1000, 1000];
        let expected: Vec<_> = (1..).zip(pauses).map(|(number, pause)| fast(pause, number)).collect();
        assert_eq!(verdicts, expected);
        assert_eq!(restarts.ended(now + 10 * SECOND), slow(10, true));
    }

    #[test]
    fn while_off_pauses_grow_up_to_the_longest_and_time_alone_does_not_turn_it_on() {
        let mut restarts = Restarts::new(Rules { fast_restarts: 0, ..rules() });
        let now = Instant::now();
        let verdicts: Vec<_> = (0..6).map(|hour| restarts.ended(now + hour * 3600 * SECOND)).collect();
        let expected = [
            slow(10, true),
            slow(20, false),
            slow(40, false),
            slow(60, false),
            slow(60, false),
            slow(60, false),
        ];
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn a_run_that_lasts_turns_it_on_and_refills_the_whole_budget() {
        let mut restarts = Restarts::new(Rules { fast_restarts: 1, ..rules() });
        let now = Instant::now();
        assert_eq!(restarts.ended(now), fast(100, 1));
        assert_eq!(restarts.ended(now), slow(10, true));
        assert_eq!(restarts.ended(now), slow(20, false));
        assert!(restarts.lasted());
        assert_eq!(restarts.ended(now), fast(100, 1));
        // The pauses while OFF are short again, too.
        assert_eq!(restarts.ended(now), slow(10, true));
        restarts.lasted();
        assert!(!restarts.lasted(), "it was ON already");
    }

    #[test]
    fn what_has_left_the_window_counts_no_more() {
        let mut restarts = Restarts::new(Rules { fast_restarts: 2, window: 10 * SECOND, ..rules() });
        let now = Instant::now();
        assert_eq!(restarts.ended(now), fast(100, 1));
        assert_eq!(restarts.ended(now + 9 * SECOND), fast(200, 2));
        // The first one is just out, the second is not.
        assert_eq!(restarts.ended(now + 10 * SECOND), fast(200, 2));
        assert_eq!(restarts.ended(now + 18 * SECOND), slow(10, true));
    }

    #[test]
    fn a_program_that_ends_seldom_enough_is_never_turned_off_and_never_waits_long() {
        let mut restarts = Restarts::new(rules());
        let now = Instant::now();
        for minute in 0..10_000 {
            assert_eq!(restarts.ended(now + minute * 60 * SECOND), fast(100, 1));
        }
        assert_eq!(restarts.fast.len(), 1, "what is remembered is bounded");
    }

    #[test]
    fn restarts_have_a_limit_where_one_is_set_and_a_run_that_lasts_refills_that_too() {
        let mut restarts = Restarts::new(Rules { fast_restarts: 1, max_restarts: Some(2), ..rules() });
        let now = Instant::now();
        assert_eq!(restarts.ended(now), fast(100, 1));
        assert_eq!(restarts.ended(now), slow(10, true));
        assert_eq!(restarts.ended(now), Verdict::GiveUp);
        assert_eq!(restarts.ended(now + 3600 * SECOND), Verdict::GiveUp);
        restarts.lasted();
        assert_eq!(restarts.ended(now), fast(100, 1));
        let mut none = Restarts::new(Rules { max_restarts: Some(0), ..rules() });
        assert_eq!(none.ended(now), Verdict::GiveUp);
    }

    #[test]
    fn no_number_of_ends_overflows_anything() {
        let mut restarts =
            Restarts::new(Rules { fast_restarts: 100, longest_pause: Duration::MAX, ..rules() });
        let now = Instant::now();
        for _ in 0..100_000 {
            restarts.ended(now);
        }
        assert_eq!(restarts.fast.len(), 100);
        assert_eq!(restarts.ended(now), slow(60, false));
    }
}
