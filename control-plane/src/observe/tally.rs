//! What becomes of one replica over time, over all data planes: failures in a row, and those of the last minute. Pure.
//!
//! Data planes report sums; what happened is the difference between two reports. The first report of a data plane, or of a
//! registration, has none to compare with, so it adds nothing. That of one which comes back tells whether a run of failures went
//! on, but not when it was: what happened while it was away is in no rate.

mod run;

use std::time::SystemTime;

use gateway_proto::NodeId;

use self::run::Run;
use super::{
    recent::{Lately, rest_of_before, span},
    row::Row,
};

/// Parts of the minute, each a span of [`super::recent`].
const PARTS: usize = 6;

/// What was heard of one registration of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    incarnation: i64,
    /// Attempts that failed since one last ended otherwise.
    failed_attempts: Run,
    /// Checks that failed since one last passed.
    failed_checks: Run,
    /// Attempts and failures, in the part of time of their place.
    parts: [(u64, u64); PARTS],
    /// The number of the newest part.
    newest: u64,
}

/// What one report adds to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Step {
    attempts: u64,
    failures: u64,
    /// Whether an attempt ended without a failure.
    went_well: bool,
    failed_checks: u64,
    passed_checks: u64,
}

impl Tally {
    /// Takes a row of `node` in that follows `before` of the same data plane. `most_done` is how many attempts had ended otherwise than by a
    /// failure, at most, by what that data plane reported of this registration; yields the same with this row. With `came_back`, it
    /// is the first after nobody knows how long.
    pub(super) fn hear(
        &mut self,
        node: &NodeId,
        before: Option<(&Row, i64)>,
        row: &Row,
        came_back: bool,
        at: SystemTime,
    ) -> i64 {
        if row.incarnation > self.incarnation {
            *self = Self { incarnation: row.incarnation, ..Self::default() };
        }
        let done = ended_otherwise(row);
        let Some((before, most_done)) = before.filter(|(before, _)| before.incarnation == row.incarnation)
        else {
            return done;
        };
        if row.incarnation == self.incarnation {
            let step = Step::between(before, row, done > most_done);
            self.go_on(node, step);
            if !came_back {
                self.count(step, at);
            }
        }
        done.max(most_done)
    }

    fn go_on(&mut self, node: &NodeId, step: Step) {
        // Within one report nobody knows what came first: the doubt is in the replica's favour.
        self.failed_attempts.hear(node, step.failures, step.went_well);
        self.failed_checks.hear(node, step.failed_checks, step.passed_checks > 0);
    }

    fn count(&mut self, step: Step, at: SystemTime) {
        if step.attempts > 0 || step.failures > 0 {
            self.move_on(at);
            let part = &mut self.parts[place(self.newest)];
            *part = (part.0.saturating_add(step.attempts), part.1.saturating_add(step.failures));
        }
    }

    /// Makes the part of `at` the newest. A clock that goes back a little adds to what is newest; by more than all parts, it begins
    /// anew.
    fn move_on(&mut self, at: SystemTime) {
        let now = span(at);
        if self.newest.saturating_sub(now) >= PARTS as u64 {
            (self.parts, self.newest) = (Default::default(), now);
        }
        let passed = now.saturating_sub(self.newest).min(PARTS as u64);
        (0..passed).for_each(|ago| self.parts[place(now - ago)] = (0, 0));
        self.newest = self.newest.max(now);
    }

    /// Attempts and failures of the last minute before `at`, to a part of it.
    pub(super) fn minute(&self, at: SystemTime) -> (u64, u64) {
        let age = span(at).saturating_sub(self.newest);
        let live = (0..(PARTS as u64).saturating_sub(age)).map(|ago| self.newest.saturating_sub(ago));
        live.map(|number| self.parts[place(number)])
            .fold((0_u64, 0_u64), |sum, part| (sum.0.saturating_add(part.0), sum.1.saturating_add(part.1)))
    }

    /// Attempts of the last ten seconds before `at`, and what part of them went well.
    pub(super) fn lately(&self, at: SystemTime) -> Lately {
        let now = span(at);
        let of = |number: Option<u64>| number.map_or((0, 0), |number| self.parts[place(number)]);
        let is_kept = |number: &u64| *number <= self.newest && self.newest - *number < PARTS as u64;
        let (running, before) = (Some(now).filter(is_kept), now.checked_sub(1).filter(is_kept));
        Lately::of(of(running), of(before), rest_of_before(at))
    }

    /// Whether there are failures in a row, of attempts or of checks.
    pub(super) fn has_failures(&self) -> bool {
        !self.failed_attempts.is_empty() || !self.failed_checks.is_empty()
    }

    /// Failures in a row: of attempts, or of checks, whichever are more.
    pub(super) fn failures_in_a_row(&self) -> u64 {
        self.failed_attempts.total().max(self.failed_checks.total())
    }

    /// Those of them that do not hang on the word of one data plane, see [`Run::borne_out`].
    pub(super) fn failures_borne_out(&self) -> u64 {
        self.failed_attempts.borne_out().max(self.failed_checks.borne_out())
    }

    /// What this data plane said counts no more.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.failed_attempts.forget(node);
        self.failed_checks.forget(node);
    }
}

impl Step {
    fn between(before: &Row, row: &Row, went_well: bool) -> Self {
        let grown = |before: i64, now: i64| u64::try_from(now.saturating_sub(before)).unwrap_or(0);
        let failed = |row: &Row| row.check.as_deref().map_or(0, |check| check.failure_count);
        let passed = |row: &Row| {
            row.check.as_deref().map_or(0, |check| check.check_count.saturating_sub(check.failure_count))
        };
        Self {
            attempts: grown(before.attempt_count, row.attempt_count),
            failures: grown(before.failure_count, row.failure_count),
            went_well,
            failed_checks: grown(failed(before), failed(row)),
            passed_checks: grown(passed(before), passed(row)),
        }
    }
}

/// Attempts that have ended, and not by a failure. One whose failure is counted may still be in flight for a moment.
fn ended_otherwise(row: &Row) -> i64 {
    row.attempt_count.saturating_sub(row.failure_count).saturating_sub(row.inflight_count.into())
}

fn place(number: u64) -> usize {
    (number % PARTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gateway_proto::{NodeId, v1};
    use proptest::prelude::*;

    use super::*;
    use crate::observe::report::Report;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    /// Attempts, failures, in flight; checks and failed checks.
    fn row(incarnation: i64, counts: (i64, i64, i32), checks: (i64, i64)) -> Row {
        let wire = v1::Breaker {
            service: "orders".into(),
            replica_id: "r-1".into(),
            state: v1::BreakerState::Closed.into(),
            incarnation,
            attempt_count: counts.0,
            failure_count: counts.1,
            inflight_count: counts.2,
            health_check: Some(v1::HealthCheck {
                state: v1::HealthCheckState::Passing.into(),
                check_count: checks.0,
                failure_count: checks.1,
                ..Default::default()
            }),
            ..Default::default()
        };
        let node = NodeId::parse("dp-1").unwrap();
        let request = v1::ReportNodeStatusRequest { breakers: vec![wire], ..Default::default() };
        Report::parse(&node, request, at(0)).unwrap().breakers.breakers.remove(0).1
    }

    #[derive(Default)]
    struct Heard {
        tally: Tally,
        rows: std::collections::BTreeMap<u8, (Row, i64)>,
    }

    impl Heard {
        fn hear(&mut self, node: u8, row: Row, seconds: u64) -> u64 {
            self.take(node, row, false, seconds)
        }

        fn take(&mut self, node: u8, row: Row, came_back: bool, seconds: u64) -> u64 {
            let before = self.rows.get(&node);
            let before = before.map(|(row, done)| (row, *done));
            let name = NodeId::parse(&format!("dp-{node}")).unwrap();
            let done = self.tally.hear(&name, before, &row, came_back, at(seconds));
            self.rows.insert(node, (row, done));
            self.tally.failures_in_a_row()
        }
    }

    #[test]
    fn failures_of_all_data_planes_add_up_until_one_hears_of_anything_else() {
        let mut heard = Heard::default();
        assert_eq!(heard.hear(1, row(1, (10, 10, 0), (0, 0)), 0), 0, "nobody knows what came before");
        assert_eq!(heard.hear(1, row(1, (13, 13, 0), (0, 0)), 1), 3);
        assert_eq!(heard.hear(2, row(1, (5, 0, 0), (0, 0)), 1), 3);
        assert_eq!(heard.hear(2, row(1, (7, 2, 0), (0, 0)), 2), 5);
        assert_eq!(heard.hear(2, row(1, (9, 2, 2), (0, 0)), 3), 5, "two are in flight");
        assert_eq!(heard.hear(2, row(1, (9, 3, 0), (0, 0)), 4), 0, "one of them went well");
        assert_eq!(heard.hear(1, row(1, (14, 14, 0), (0, 0)), 5), 1);
    }

    #[test]
    fn a_clock_that_is_set_far_back_begins_the_minute_anew() {
        let mut heard = Heard::default();
        heard.hear(1, row(1, (0, 0, 0), (0, 0)), 10_000);
        heard.hear(1, row(1, (500, 500, 0), (0, 0)), 10_001);
        heard.hear(1, row(1, (510, 502, 0), (0, 0)), 2_800);
        assert_eq!(heard.tally.minute(at(2_801)), (10, 2));
        let lately = heard.tally.lately(at(2_801));
        assert_ne!(lately, Lately::of((0, 0), (0, 0), rest_of_before(at(2_801))));
    }

    #[test]
    fn a_failure_that_is_counted_before_its_attempt_has_ended_is_no_success() {
        let mut heard = Heard::default();
        heard.hear(1, row(1, (4, 0, 1), (0, 0)), 0);
        assert_eq!(heard.hear(1, row(1, (4, 1, 1), (0, 0)), 1), 1);
        assert_eq!(heard.hear(1, row(1, (4, 1, 0), (0, 0)), 2), 1);
    }

    #[test]
    fn a_new_registration_starts_over_and_its_predecessor_is_heard_no_more() {
        let mut heard = Heard::default();
        heard.hear(1, row(1, (0, 0, 0), (0, 0)), 0);
        heard.hear(2, row(1, (0, 0, 0), (0, 0)), 0);
        assert_eq!(heard.hear(1, row(1, (4, 4, 0), (0, 0)), 1), 4);
        assert_eq!(heard.hear(1, row(2, (4, 4, 0), (0, 0)), 2), 0);
        assert_eq!(heard.hear(2, row(1, (4, 4, 0), (0, 0)), 3), 0);
        assert_eq!(heard.hear(1, row(2, (6, 6, 0), (0, 0)), 4), 2);
    }

    #[test]
    fn checks_have_a_row_of_their_own_which_requests_do_not_break() {
        let mut heard = Heard::default();
        heard.hear(1, row(1, (0, 0, 0), (0, 0)), 0);
        assert_eq!(heard.hear(1, row(1, (0, 0, 0), (3, 3)), 1), 3);
        assert_eq!(heard.hear(1, row(1, (2, 0, 0), (4, 4)), 2), 4);
        assert_eq!(heard.hear(1, row(1, (3, 1, 0), (5, 4)), 3), 1, "one passed");
    }

    #[test]
    fn what_one_data_plane_says_weighs_no_more_than_all_others_together() {
        let mut heard = Heard::default();
        for node in 1..=3 {
            heard.hear(node, row(1, (0, 0, 0), (0, 0)), 0);
        }
        assert_eq!(heard.hear(1, row(1, (1_000_000, 1_000_000, 0), (0, 0)), 1), 1_000_000);
        assert_eq!(heard.tally.failures_borne_out(), 0);
        heard.hear(2, row(1, (2, 2, 0), (0, 0)), 1);
        assert_eq!(heard.tally.failures_borne_out(), 4);
        heard.hear(3, row(1, (3, 3, 0), (0, 0)), 1);
        assert_eq!(heard.tally.failures_borne_out(), 10);
        heard.tally.forget(&NodeId::parse("dp-1").unwrap());
        assert_eq!((heard.tally.failures_in_a_row(), heard.tally.failures_borne_out()), (5, 4));
    }

    #[test]
    fn what_happened_while_a_data_plane_was_away_is_in_no_rate_and_ends_or_prolongs_a_run() {
        let mut heard = Heard::default();
        heard.hear(1, row(1, (0, 0, 0), (0, 0)), 0);
        assert_eq!(heard.hear(1, row(1, (10, 10, 0), (0, 0)), 1), 10);
        assert_eq!(heard.take(1, row(1, (500, 500, 0), (0, 0)), true, 600), 500);
        assert_eq!(heard.tally.minute(at(600)), (0, 0));
        assert_eq!(heard.take(1, row(1, (90_000, 500, 0), (0, 0)), true, 900), 0);
        assert_eq!((heard.tally.minute(at(900)), heard.tally.lately(at(900)).rate), ((0, 0), 0.0));
        heard.hear(1, row(1, (90_020, 500, 0), (0, 0)), 901);
        assert_eq!(heard.tally.minute(at(901)), (20, 0));
    }

    #[test]
    fn a_minute_is_forgotten_by_and_by() {
        let mut heard = Heard::default();
        heard.hear(1, row(1, (0, 0, 0), (0, 0)), 0);
        heard.hear(1, row(1, (10, 4, 0), (0, 0)), 5);
        heard.hear(1, row(1, (13, 5, 0), (0, 0)), 25);
        assert_eq!(heard.tally.minute(at(29)), (13, 5));
        assert_eq!(heard.tally.minute(at(59)), (13, 5));
        assert_eq!(heard.tally.minute(at(69)), (3, 1));
        assert_eq!(heard.tally.minute(at(89)), (0, 0));
        heard.hear(1, row(1, (14, 5, 0), (0, 0)), 600);
        assert_eq!(heard.tally.minute(at(600)), (1, 0));
    }

    #[test]
    fn the_last_ten_seconds_are_what_is_left_of_the_span_before_and_the_present_one() {
        let mut heard = Heard::default();
        let shown = |heard: &Heard, seconds| {
            let lately = heard.tally.lately(at(seconds));
            (lately.rate, lately.success)
        };
        heard.hear(1, row(1, (0, 0, 0), (0, 0)), 0);
        assert_eq!(shown(&heard, 0), (0.0, None));
        heard.hear(1, row(1, (100, 10, 0), (0, 0)), 5);
        assert_eq!(shown(&heard, 5), (10.0, Some(0.9)), "at once");
        assert_eq!(shown(&heard, 15), (5.0, Some(0.9)), "half of them");
        heard.hear(1, row(1, (150, 60, 0), (0, 0)), 15);
        assert_eq!(shown(&heard, 15), (10.0, Some(0.45)));
        assert_eq!(shown(&heard, 30), (0.0, None));
        assert_eq!(shown(&heard, 2), (10.0, Some(0.9)), "by a clock that was set back");
    }

    proptest! {
        /// The model: a run of outcomes, reported one by one.
        #[test]
        fn reported_one_by_one_the_run_is_that_of_the_outcomes(outcomes in proptest::collection::vec((0..3_u8, any::<bool>()), 1..60)) {
            let mut heard = Heard::default();
            let mut sums = [(0, 0); 3];
            for node in 0..3 {
                heard.hear(node, row(1, (0, 0, 0), (0, 0)), 0);
            }
            let mut run = 0;
            for (node, failed) in outcomes {
                let sum = &mut sums[usize::from(node)];
                *sum = (sum.0 + 1, sum.1 + i64::from(failed));
                run = if failed { run + 1 } else { 0 };
                prop_assert_eq!(heard.hear(node, row(1, (sum.0, sum.1, 0), (0, 0)), 1), run);
            }
        }
    }
}
