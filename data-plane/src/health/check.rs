//! What checks have shown of one replica: a verdict that takes several of them to change. Pure.

use std::{sync::Arc, time::Duration};

use gateway_proto::policy::{CheckMethod, HealthCheck};

use crate::routing::Tick;

/// A replica that has passed everything for so long is checked less often, and so is one that has failed for so long.
const STEADY_AFTER: Duration = Duration::from_secs(600);

/// What is made of a replica's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Verdict {
    /// None has ended yet.
    #[default]
    Pending,
    /// It passes.
    Passing,
    /// It fails.
    Failing,
}

/// A check that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Result {
    /// What the check was.
    pub method: CheckMethod,
    /// When it began.
    pub began: Tick,
    /// When it ended.
    pub ended: Tick,
    /// Why it failed, in words for people, e.g. `status 503, expected 200..=399`; `None`: it passed.
    pub failure: Option<Arc<str>>,
}

/// The checks of one registration of a replica. `Default` has seen none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    verdict: Verdict,
    /// When the verdict became what it is.
    since: Tick,
    /// Checks in a row that ended like the last one.
    streak: u32,
    /// When one failed last.
    failed_at: Option<Tick>,
    last: Option<Result>,
    passed: u64,
    failed: u64,
    /// When the next one begins.
    due: Option<Tick>,
}

/// A verdict that has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// What it was.
    pub from: Verdict,
    /// What it is.
    pub to: Verdict,
    /// How many checks in a row led to it.
    pub streak: u32,
    /// The last of them.
    pub last: Result,
    /// Whether the replica is asked otherwise from now on.
    pub counts: bool,
}

impl Check {
    /// Takes a result in, and yields what it changed. The first one decides alone; after that it takes `rise` or `fall` of
    /// them in a row.
    pub fn record(&mut self, result: Result, policy: &HealthCheck) -> Option<Turn> {
        let has_passed = result.failure.is_none();
        let goes_on = self.last.as_ref().is_some_and(|last| last.failure.is_none() == has_passed);
        self.streak = if goes_on { self.streak.saturating_add(1) } else { 1 };
        if has_passed {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.failed_at = Some(result.ended);
        }
        let to = match (self.verdict, has_passed) {
            (Verdict::Pending, true) => Verdict::Passing,
            (Verdict::Pending, false) => Verdict::Failing,
            (Verdict::Passing, false) if self.streak >= policy.fall.into() => Verdict::Failing,
            (Verdict::Failing, true) if self.streak >= policy.rise.into() => Verdict::Passing,
            (verdict, _) => verdict,
        };
        self.last = Some(result.clone());
        if to == self.verdict {
            return None;
        }
        let from = std::mem::replace(&mut self.verdict, to);
        self.since = result.ended;
        let counts = !policy.observe_only && (to == Verdict::Failing || from == Verdict::Failing);
        Some(Turn { from, to, streak: self.streak, last: result, counts })
    }

    /// How long to wait before the next check, after the last one ended at `now`. `chance` is drawn from 0.0..1.0.
    pub fn pause(&self, now: Tick, policy: &HealthCheck, chance: f64) -> Duration {
        let pause = if self.is_in_doubt(policy) || self.may_be_back(now) {
            policy.fast_interval.min(policy.interval)
        } else if self.is_steady(now) {
            policy.slow_interval.max(policy.interval)
        } else {
            policy.interval
        };
        pause.mul_f64(1.0 + policy.jitter * (2.0 * chance - 1.0))
    }

    /// Says when the next check begins.
    pub fn schedule(&mut self, due: Option<Tick>) {
        self.due = due;
    }

    /// Whether the last results are too few, or contradict the verdict.
    fn is_in_doubt(&self, policy: &HealthCheck) -> bool {
        let has_passed = self.last.as_ref().is_some_and(|last| last.failure.is_none());
        match self.verdict {
            Verdict::Pending => true,
            Verdict::Passing => !has_passed || self.streak < policy.rise.into(),
            Verdict::Failing => has_passed || self.streak < policy.fall.into(),
        }
    }

    /// Whether it has failed for a short while only: most outages are restarts, and whoever is back is wanted.
    fn may_be_back(&self, now: Tick) -> bool {
        self.verdict == Verdict::Failing && now.since(self.since) < STEADY_AFTER
    }

    fn is_steady(&self, now: Tick) -> bool {
        let since = self.failed_at.unwrap_or(self.since).max(self.since);
        self.verdict == Verdict::Passing && now.since(since) >= STEADY_AFTER
    }

    /// What is made of them.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Since when; of a pending one, the origin.
    pub fn since(&self) -> Tick {
        self.since
    }

    /// Checks in a row that ended like the last one.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// The last one that has ended.
    pub fn last(&self) -> Option<&Result> {
        self.last.as_ref()
    }

    /// How many passed, and how many failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.passed, self.failed)
    }

    /// When the next one begins; `None` while one is under way.
    pub fn due(&self) -> Option<Tick> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Tick {
        Tick::ORIGIN.plus(SECOND * u32::try_from(seconds).unwrap())
    }

    fn result(seconds: u64, has_passed: bool) -> Result {
        let failure = (!has_passed).then(|| "connect refused".into());
        Result { method: CheckMethod::Tcp, began: at(seconds), ended: at(seconds), failure }
    }

    /// Verdicts after each of the results, one a second.
    fn verdicts(policy: &HealthCheck, results: &str) -> String {
        let mut check = Check::default();
        let shown = results.chars().zip(1..).map(|(written, second)| {
            check.record(result(second, written == '+'), policy);
            match check.verdict() {
                Verdict::Pending => '?',
                Verdict::Passing => 'P',
                Verdict::Failing => 'F',
            }
        });
        shown.collect()
    }

    #[test]
    fn the_first_result_decides_alone_and_then_it_takes_as_many_in_a_row_as_the_policy_says() {
        let policy = HealthCheck::default();
        assert_eq!(verdicts(&policy, "+--+---++-++"), "PPPPPPFFPPPP");
        assert_eq!(verdicts(&policy, "-+-++"), "FFFFP");
        let strict = HealthCheck { rise: 1, fall: 1, ..policy };
        assert_eq!(verdicts(&strict, "+-+-"), "PFPF");
    }

    #[test]
    fn a_turn_says_what_led_to_it_and_whether_it_counts() {
        let policy = HealthCheck { fall: 2, ..HealthCheck::default() };
        let mut check = Check::default();
        let first = check.record(result(1, true), &policy).unwrap();
        assert_eq!((first.from, first.to, first.counts), (Verdict::Pending, Verdict::Passing, false));
        assert_eq!(check.record(result(2, false), &policy), None);
        let turn = check.record(result(3, false), &policy).unwrap();
        assert_eq!(
            (turn.from, turn.to, turn.streak, turn.counts),
            (Verdict::Passing, Verdict::Failing, 2, true)
        );
        assert_eq!((turn.last.failure.as_deref(), check.since()), (Some("connect refused"), at(3)));
        assert_eq!(check.counts(), (1, 2));
        let observing = HealthCheck { observe_only: true, rise: 1, ..policy };
        assert!(!check.record(result(4, true), &observing).unwrap().counts);
    }

    #[test]
    fn a_new_or_doubtful_replica_is_checked_often_and_one_that_has_long_passed_seldom() {
        let policy = HealthCheck { jitter: 0.0, ..HealthCheck::default() };
        let mut check = Check::default();
        let mut pause_after = |seconds, has_passed| {
            check.record(result(seconds, has_passed), &policy);
            check.pause(at(seconds), &policy, 0.9)
        };
        let (fast, usual, slow) = (policy.fast_interval, policy.interval, policy.slow_interval);
        assert_eq!([pause_after(1, true), pause_after(2, true)], [fast, usual]);
        assert_eq!([pause_after(600, true), pause_after(601, true)], [usual, slow]);
        assert_eq!(
            [pause_after(602, false), pause_after(603, true), pause_after(604, true)],
            [fast, fast, usual]
        );
        assert_eq!([pause_after(1201, true), pause_after(1202, true)], [usual, slow]);
        assert_eq!([pause_after(1203, false), pause_after(1204, false)], [fast, fast]);
        assert_eq!([pause_after(1205, false), pause_after(1206, true)], [fast, fast]);
        assert_eq!(
            [pause_after(1207, true), pause_after(1806, true), pause_after(1807, true)],
            [usual, usual, slow]
        );
    }

    #[test]
    fn a_replica_that_fails_is_checked_often_for_ten_minutes_so_that_it_is_soon_seen_to_be_back() {
        let policy = HealthCheck { jitter: 0.0, ..HealthCheck::default() };
        let mut check = Check::default();
        let mut pause_after = |seconds, has_passed| {
            check.record(result(seconds, has_passed), &policy);
            check.pause(at(seconds), &policy, 0.9)
        };
        let (fast, usual) = (policy.fast_interval, policy.interval);
        assert_eq!(
            [1, 2, 3, 4, 600, 601].map(|second| pause_after(second, false)),
            [fast, fast, fast, fast, fast, usual]
        );
        assert_eq!([pause_after(610, true), pause_after(611, true)], [fast, usual]);
    }

    #[test]
    fn intervals_that_are_the_wrong_way_round_do_no_harm() {
        let policy = HealthCheck {
            jitter: 0.0,
            interval: 2 * SECOND,
            fast_interval: 9 * SECOND,
            slow_interval: SECOND,
            ..HealthCheck::default()
        };
        let mut check = Check::default();
        assert_eq!(check.pause(at(0), &policy, 0.5), 2 * SECOND);
        check.record(result(0, true), &policy);
        check.record(result(700, true), &policy);
        assert_eq!(check.pause(at(700), &policy, 0.5), 2 * SECOND);
    }

    proptest! {
        /// The model: the verdict is what the last `rise` or `fall` results, since the beginning, agree on.
        #[test]
        fn the_verdict_is_that_of_the_last_run_that_was_long_enough(
            results in proptest::collection::vec(any::<bool>(), 1..60),
            rise in 1..5_u8,
            fall in 1..5_u8,
        ) {
            let policy = HealthCheck { rise, fall, ..HealthCheck::default() };
            let mut check = Check::default();
            let mut model: Option<bool> = None;
            for (index, has_passed) in results.iter().copied().enumerate() {
                let turn = check.record(result(index as u64, has_passed), &policy);
                let seen = &results[..=index];
                let run = seen.iter().rev().take_while(|one| **one == has_passed).count();
                let needed = if has_passed { rise } else { fall };
                let before = model;
                if model.is_none() || run >= needed.into() {
                    model = Some(has_passed);
                }
                let expected = if model == Some(true) { Verdict::Passing } else { Verdict::Failing };
                prop_assert_eq!(check.verdict(), expected);
                prop_assert_eq!(turn.is_some(), before != model);
                prop_assert_eq!(check.streak() as usize, run);
            }
        }

        #[test]
        fn every_pause_is_within_the_jitter_of_one_of_the_three_intervals(
            results in proptest::collection::vec((any::<bool>(), 1..900_u64), 0..20),
            jitter in 0.0..=1.0,
            chance in 0.0..1.0,
        ) {
            let policy = HealthCheck { jitter, ..HealthCheck::default() };
            let (mut check, mut now) = (Check::default(), 0);
            for (has_passed, later) in results {
                now += later;
                check.record(result(now, has_passed), &policy);
                let pause = check.pause(at(now), &policy, chance).as_secs_f64();
                let near = |interval: Duration| {
                    let interval = interval.as_secs_f64();
                    (pause - interval).abs() <= interval * jitter + 1e-6
                };
                prop_assert!([policy.interval, policy.fast_interval, policy.slow_interval].into_iter().any(near));
            }
        }
    }
}
