//! The breaker's behaviour as seen by one caller.

mod latency;

use std::time::Duration;

use gateway_proto::policy;

use super::{Admission, Breaker, Change, ForcedState, Permit, Reason, Rejected, Rule, State, View, Withheld};
use crate::routing::{Fault, Outcome, Tick, Totals};

const FAILED: Outcome = Outcome::Failure(Fault::ConnectRefused);
const LEASE: Duration = Duration::from_secs(20);
/// Leaves the open time as the policy has it.
const NO_JITTER: f64 = 0.5;

fn at(millis: u64) -> Tick {
    Tick::from_nanos(millis * 1_000_000)
}

/// Five failures in a row open it for one second, doubling to eight; two probes close it.
fn policy() -> policy::Breaker {
    policy::Breaker { max_open: Duration::from_secs(8), ..policy::Breaker::default() }
}

fn admit(breaker: &Breaker, millis: u64) -> Permit {
    breaker.admit(at(millis), LEASE).expect("the call is admitted").permit
}

/// One call that is admitted and ends at once.
fn call(breaker: &Breaker, millis: u64, outcome: Outcome) -> Option<Change> {
    breaker.record(admit(breaker, millis), outcome, at(millis), &policy(), NO_JITTER)
}

/// Failures in a row until it opens.
fn trip(breaker: &Breaker, millis: u64) -> Change {
    (0..5).find_map(|_| call(breaker, millis, FAILED)).expect("five failures open it")
}

/// Opened at 0; its probe is due at 1000.
fn tripped() -> Breaker {
    let breaker = Breaker::new();
    trip(&breaker, 0);
    breaker
}

fn rejection(breaker: &Breaker, millis: u64) -> Tick {
    breaker.admit(at(millis), LEASE).expect_err("the call is rejected").retry_at
}

fn view(breaker: &Breaker, millis: u64) -> View {
    breaker.view(at(millis), &policy())
}

#[test]
fn as_many_failures_in_a_row_as_the_policy_says_open_it() {
    let breaker = Breaker::new();
    for _ in 0..4 {
        assert_eq!(call(&breaker, 7, FAILED), None);
    }
    assert_eq!(view(&breaker, 7).consecutive, 4);
    let change = call(&breaker, 7, FAILED).expect("the fifth opens it");
    let reason = Reason::ConsecutiveFailures { count: 5, threshold: 5, fault: Fault::ConnectRefused };
    let until = Some(at(1007));
    assert_eq!(
        change,
        Change {
            from: State::Closed,
            to: State::Open,
            reason,
            generation: 1,
            until,
            trip_count: 1,
            withheld: None
        }
    );
    assert_eq!(change.rule(), Some(Rule::ConsecutiveFailures));
    assert_eq!(
        view(&breaker, 8),
        View {
            state: State::Open,
            generation: 1,
            until,
            consecutive: 0,
            totals: Totals::default(),
            slow: Totals::default(),
            trip_count: 1,
            probe_successes: 0,
            probe_target: 2,
            streak: 1,
        }
    );
}

#[test]
fn a_success_interrupts_the_row_and_overload_or_a_neutral_result_does_not() {
    let breaker = Breaker::new();
    for outcome in [FAILED, FAILED, FAILED, FAILED, Outcome::Success] {
        call(&breaker, 0, outcome);
    }
    assert_eq!(view(&breaker, 0).consecutive, 0);
    for outcome in [FAILED, FAILED, Outcome::Overloaded, FAILED, Outcome::Neutral, FAILED] {
        assert_eq!(call(&breaker, 0, outcome), None);
    }
    assert_eq!(view(&breaker, 0).consecutive, 4);
    assert!(call(&breaker, 0, FAILED).is_some());
}

#[test]
fn the_ratio_opens_it_as_soon_as_the_window_holds_enough_outcomes() {
    let breaker = Breaker::new();
    for _ in 0..9 {
        assert_eq!(call(&breaker, 0, FAILED), None);
        assert_eq!(call(&breaker, 0, Outcome::Success), None);
    }
    assert_eq!(call(&breaker, 0, Outcome::Success), None);
    let change = call(&breaker, 0, FAILED).expect("the twentieth outcome makes it ten of twenty");
    assert_eq!(change.reason.to_string(), "failure_ratio 0.50 >= 0.50 (10 of 20)");
    assert_eq!(change.rule(), Some(Rule::FailureRatio));
}

/// A replica that fails one of three passes two probes in four of nine tries.
#[test]
fn a_breaker_that_a_ratio_opened_closes_after_as_many_probes_as_disprove_that_ratio() {
    let breaker = Breaker::new();
    let policy = policy::Breaker { failure_ratio: 0.15, min_request_count: 20, ..policy() };
    let call =
        |millis, outcome| breaker.record(admit(&breaker, millis), outcome, at(millis), &policy, NO_JITTER);
    (0..17).for_each(|_| assert_eq!(call(0, Outcome::Success), None));
    let opened = (0..3).find_map(|_| call(0, FAILED)).expect("three of twenty open it");
    assert_eq!(opened.rule(), Some(Rule::FailureRatio));
    // 0.85¹⁵ = 0.087, 0.85¹⁴ = 0.103.
    assert_eq!(breaker.view(at(1), &policy).probe_target, 15);
    (0..14).for_each(|_| assert_eq!(call(1_000, Outcome::Success), None));
    assert_eq!(call(1_000, FAILED).map(|change| change.to), Some(State::Open));
    // What opened it is still to be disproved.
    assert_eq!(breaker.view(at(1_001), &policy).probe_target, 15);
    (0..14).for_each(|_| assert_eq!(call(3_000, Outcome::Success), None));
    let closed = call(3_000, Outcome::Success).expect("the fifteenth closes it");
    assert_eq!(closed.reason, Reason::ProbesSucceeded { count: 15 });
}

#[test]
fn more_probes_than_the_rule_wants_requests_or_than_a_hundred_are_never_asked_for() {
    for (failure_ratio, min_request_count, target) in
        [(1.0, 20, 2), (0.5, 20, 4), (0.5, 3, 3), (0.5, 1, 2), (0.01, 20, 20), (0.01, 1_000, 100)]
    {
        let breaker = Breaker::new();
        let policy = policy::Breaker {
            consecutive_failure_count: 10_000,
            failure_ratio,
            min_request_count,
            ..policy()
        };
        while breaker.state() == State::Closed {
            breaker.record(admit(&breaker, 0), FAILED, at(0), &policy, NO_JITTER);
        }
        assert_eq!(
            breaker.view(at(0), &policy).probe_target,
            target,
            "{failure_ratio} of {min_request_count}"
        );
    }
}

#[test]
fn an_operators_word_takes_the_place_of_the_ratio() {
    let breaker = Breaker::new();
    (0..20).for_each(|_| {
        assert_ne!(call(&breaker, 0, Outcome::Overloaded).is_some(), breaker.state() == State::Closed)
    });
    assert_eq!(view(&breaker, 0).probe_target, 4);
    breaker.force(ForcedState::Open, at(1));
    breaker.release(at(2));
    assert_eq!((view(&breaker, 2).state, view(&breaker, 2).probe_target), (State::HalfOpen, 2));
}

#[test]
fn outcomes_that_left_the_window_do_not_count_for_the_ratio() {
    let breaker = Breaker::new();
    for _ in 0..9 {
        call(&breaker, 0, FAILED);
        call(&breaker, 0, Outcome::Success);
    }
    assert_eq!(view(&breaker, 9_999).totals, Totals { total: 18, marked: 9 });
    assert_eq!(view(&breaker, 10_000).totals, Totals::default());
    for _ in 0..4 {
        assert_eq!(call(&breaker, 10_000, FAILED), None);
    }
}

#[test]
fn overload_counts_as_failure_in_the_ratio_only() {
    let breaker = Breaker::new();
    for _ in 0..19 {
        assert_eq!(call(&breaker, 0, Outcome::Overloaded), None);
    }
    let change = call(&breaker, 0, Outcome::Overloaded).expect("twenty of twenty");
    assert_eq!(change.reason, Reason::FailureRatio { failed: 20, total: 20, threshold: 0.5 });
}

#[test]
fn results_of_requests_that_started_before_it_opened_are_discarded() {
    let breaker = Breaker::new();
    let early: Vec<Permit> = (0..3).map(|_| admit(&breaker, 0)).collect();
    trip(&breaker, 0);
    let probe = admit(&breaker, 1_000);
    let shown = view(&breaker, 1_000);
    for (permit, outcome) in early.into_iter().zip([Outcome::Success, FAILED, Outcome::Neutral]) {
        assert_eq!(breaker.record(permit, outcome, at(1_000), &policy(), NO_JITTER), None);
    }
    assert_eq!(view(&breaker, 1_000), shown);
    assert!(probe.is_probe());
}

#[test]
fn an_open_breaker_says_when_its_probe_is_due_and_admits_it_at_that_very_tick() {
    let breaker = tripped();
    assert_eq!(rejection(&breaker, 0), at(1_000));
    assert_eq!(breaker.next_probe_at(), Some(at(1_000)));
    let last = Tick::from_nanos(at(1_000).as_nanos() - 1);
    assert_eq!(breaker.admit(last, LEASE).unwrap_err(), Rejected { retry_at: at(1_000) });
    let Admission { permit, change } = breaker.admit(at(1_000), LEASE).unwrap();
    assert!(permit.is_probe());
    let change = change.expect("it is half-open now");
    assert_eq!((change.from, change.to, change.reason), (State::Open, State::HalfOpen, Reason::ProbeDue));
    assert_eq!((change.rule(), change.until, change.trip_count), (None, None, 1));
}

#[test]
fn while_a_probe_is_out_nobody_else_is_admitted() {
    let breaker = tripped();
    let probe = admit(&breaker, 1_000);
    assert_eq!(rejection(&breaker, 1_500), at(1_500));
    assert_eq!(breaker.next_probe_at(), Some(at(21_000)));
    assert_eq!(breaker.record(probe, Outcome::Success, at(1_600), &policy(), NO_JITTER), None);
    assert_eq!(breaker.next_probe_at(), Some(Tick::ORIGIN));
    assert!(admit(&breaker, 1_600).is_probe());
}

#[test]
fn as_many_successful_probes_as_the_policy_says_close_it() {
    let breaker = tripped();
    assert_eq!(call(&breaker, 1_000, Outcome::Success), None);
    assert_eq!(view(&breaker, 1_000).probe_successes, 1);
    let change = call(&breaker, 1_001, Outcome::Success).expect("the second closes it");
    assert_eq!((change.from, change.to), (State::HalfOpen, State::Closed));
    assert_eq!(change.reason.to_string(), "2 probes succeeded");
    assert!(!admit(&breaker, 1_001).is_probe());
    assert_eq!(breaker.next_probe_at(), None);
    assert_eq!(view(&breaker, 1_001).totals, Totals::default());
}

#[test]
fn a_failed_or_overloaded_probe_opens_it_again_for_twice_as_long() {
    for (outcome, text) in
        [(FAILED, "probe failed: connect refused"), (Outcome::Overloaded, "probe failed: replica overloaded")]
    {
        let breaker = tripped();
        call(&breaker, 1_000, Outcome::Success);
        let change = call(&breaker, 1_000, outcome).expect("it opens");
        assert_eq!((change.from, change.to), (State::HalfOpen, State::Open));
        assert_eq!((change.until, change.trip_count), (Some(at(3_000)), 2));
        assert_eq!((change.reason.to_string().as_str(), change.rule()), (text, Some(Rule::ProbeFailed)));
        // The success before the failure is forgotten.
        assert_eq!(call(&breaker, 3_000, Outcome::Success), None);
        assert_eq!(view(&breaker, 3_000).probe_successes, 1);
    }
}

#[test]
fn where_rules_are_only_observed_a_probe_that_fails_keeps_nobody_out() {
    let breaker = Breaker::new();
    breaker.force(ForcedState::Open, at(0));
    breaker.release(at(1));
    let observing = policy::Breaker { observe_only: true, ..policy() };
    let change =
        breaker.record(admit(&breaker, 2), FAILED, at(2), &observing, NO_JITTER).expect("it is told");
    assert_eq!(
        (change.from, change.to, change.withheld),
        (State::HalfOpen, State::Closed, Some(Withheld::ObserveOnly))
    );
    assert_eq!((change.reason.to_string().as_str(), change.trip_count), ("probe failed: connect refused", 0));
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_neutral_probe_frees_its_place_and_changes_nothing_else() {
    let breaker = tripped();
    call(&breaker, 1_000, Outcome::Success);
    assert_eq!(call(&breaker, 1_000, Outcome::Neutral), None);
    assert_eq!(view(&breaker, 1_000).probe_successes, 1);
    assert!(call(&breaker, 1_000, Outcome::Success).is_some());
}

#[test]
fn a_probe_that_is_given_up_or_lost_leaves_the_next_to_what_may_be_sent_twice() {
    let breaker = tripped();
    assert_eq!(breaker.spares_until(&policy()), at(1250));
    let probe = admit(&breaker, 1000);
    breaker.record(probe, Outcome::Neutral, at(1300), &policy(), NO_JITTER);
    assert_eq!(breaker.spares_until(&policy()), at(1550));
    drop(admit(&breaker, 1300));
    assert_eq!(breaker.spares_until(&policy()), at(21_550), "a quarter after its lease");
    call(&breaker, 21_300, Outcome::Success);
    assert_eq!(breaker.spares_until(&policy()), Tick::ORIGIN, "it has answered");
}

#[test]
fn a_probe_can_be_had_sooner_and_if_it_fails_the_breaker_rests_as_long_as_it_would_have() {
    let breaker = tripped();
    let due = at(300);
    assert!(breaker.hasten(due));
    assert!(!breaker.hasten(due) && !breaker.hasten(at(900)), "never later");
    assert_eq!((breaker.next_probe_at(), breaker.spares_until(&policy())), (Some(due), at(550)));
    let change = call(&breaker, 300, FAILED).expect("the probe fails");
    assert_eq!((change.trip_count, change.until), (2, Some(at(2300))));
    for breaker in [Breaker::new(), tripped()] {
        let _probe = admit(&breaker, 1000);
        assert!(!breaker.hasten(at(1000)), "{:?}", breaker.state());
    }
}

#[test]
fn a_probe_that_never_reports_loses_its_place_and_its_say_after_the_lease() {
    let breaker = tripped();
    let lost = admit(&breaker, 1_000);
    assert_eq!(rejection(&breaker, 20_999), at(20_999));
    let Admission { permit, change } = breaker.admit(at(21_000), LEASE).unwrap();
    let change = change.expect("the loss is told");
    assert_eq!(
        (change.from, change.to, change.reason),
        (State::HalfOpen, State::HalfOpen, Reason::ProbeLost)
    );
    assert_eq!(breaker.record(lost, FAILED, at(21_000), &policy(), NO_JITTER), None);
    assert_eq!(view(&breaker, 21_000).state, State::HalfOpen);
    assert_eq!(breaker.record(permit, Outcome::Success, at(21_000), &policy(), NO_JITTER), None);
    assert_eq!(view(&breaker, 21_000).probe_successes, 1);
}

#[test]
fn a_probe_that_reports_late_counts_as_long_as_nobody_took_its_place() {
    let breaker = tripped();
    let late = admit(&breaker, 1_000);
    assert_eq!(breaker.record(late, Outcome::Success, at(60_000), &policy(), NO_JITTER), None);
    assert_eq!(view(&breaker, 60_000).probe_successes, 1);
}

#[test]
fn the_open_time_doubles_up_to_its_maximum_and_stays_there() {
    let breaker = tripped();
    let mut now = 1_000;
    for open_for in [2_000, 4_000, 8_000, 8_000, 8_000] {
        let change = call(&breaker, now, FAILED).expect("the probe fails");
        now += open_for;
        assert_eq!(change.until, Some(at(now)));
    }
    assert_eq!(view(&breaker, now).streak, 3);
}

#[test]
fn jitter_moves_the_open_time_by_a_fifth_at_most() {
    for (jitter, millis) in [(0.0, 800), (0.5, 1_000), (1.0, 1_200)] {
        let breaker = Breaker::new();
        let fail = || breaker.record(admit(&breaker, 0), FAILED, at(0), &policy(), jitter);
        let change = (0..5).find_map(|_| fail()).expect("it opens");
        assert_eq!(change.until, Some(at(millis)), "{jitter}");
    }
}

#[test]
fn one_that_opens_again_without_a_healthy_interval_stays_open_for_longer() {
    let breaker = tripped();
    call(&breaker, 1_000, Outcome::Success);
    call(&breaker, 1_000, Outcome::Success);
    assert_eq!(trip(&breaker, 1_500).until, Some(at(3_500)));
}

#[test]
fn the_streak_decays_by_one_for_each_healthy_interval_that_ends_with_a_success() {
    let breaker = tripped();
    call(&breaker, 1_000, FAILED);
    call(&breaker, 3_000, Outcome::Success);
    call(&breaker, 3_000, Outcome::Success);
    // Closed at 3 s with a streak of two; it was open for two seconds last.
    let streak_after = |millis, outcome| {
        call(&breaker, millis, outcome);
        view(&breaker, millis).streak
    };
    assert_eq!(streak_after(4_999, Outcome::Success), 2);
    assert_eq!(streak_after(5_000, Outcome::Neutral), 2);
    assert_eq!(streak_after(5_000, Outcome::Success), 1);
    // A failure starts the interval anew.
    assert_eq!(streak_after(6_000, FAILED), 1);
    assert_eq!(streak_after(7_999, Outcome::Success), 1);
    assert_eq!(streak_after(8_000, Outcome::Success), 0);
}

#[test]
fn time_without_traffic_counts_as_one_healthy_interval_at_most() {
    let breaker = tripped();
    call(&breaker, 1_000, FAILED);
    call(&breaker, 3_000, Outcome::Success);
    call(&breaker, 3_000, Outcome::Success);
    assert_eq!(view(&breaker, 3_600_000).streak, 2);
    call(&breaker, 3_600_000, Outcome::Success);
    call(&breaker, 3_600_000, Outcome::Success);
    assert_eq!(view(&breaker, 3_600_000).streak, 1);
}

#[test]
fn when_the_replica_registers_anew_an_open_breaker_is_probed_at_once() {
    let breaker = tripped();
    breaker.reprobe(at(200));
    assert_eq!(breaker.next_probe_at(), Some(at(200)));
    assert!(admit(&breaker, 200).is_probe());
}

#[test]
fn when_the_replica_registers_anew_the_probe_of_its_predecessor_is_void() {
    let breaker = tripped();
    call(&breaker, 1_000, Outcome::Success);
    let old = admit(&breaker, 1_000);
    breaker.reprobe(at(1_100));
    assert_eq!(breaker.record(old, Outcome::Success, at(1_200), &policy(), NO_JITTER), None);
    assert_eq!(view(&breaker, 1_200).probe_successes, 0);
    assert!(admit(&breaker, 1_200).is_probe());
}

#[test]
fn when_the_replica_registers_anew_a_closed_breaker_forgets_its_counts() {
    let breaker = Breaker::new();
    let old = admit(&breaker, 0);
    for _ in 0..4 {
        call(&breaker, 0, FAILED);
    }
    breaker.reprobe(at(0));
    assert_eq!(breaker.record(old, FAILED, at(0), &policy(), NO_JITTER), None);
    let shown = view(&breaker, 0);
    assert_eq!((shown.state, shown.consecutive, shown.totals), (State::Closed, 0, Totals::default()));
}

#[test]
fn a_policy_that_became_stricter_holds_from_the_next_failure_on() {
    let breaker = Breaker::new();
    call(&breaker, 0, FAILED);
    call(&breaker, 0, FAILED);
    let stricter = policy::Breaker { consecutive_failure_count: 1, ..policy() };
    let change = breaker.record(admit(&breaker, 0), FAILED, at(0), &stricter, NO_JITTER);
    let reason = change.expect("it opens").reason;
    assert_eq!(reason.to_string(), "consecutive_failures 3 >= 1: connect refused");
}

#[test]
fn forced_open_nobody_is_admitted_and_nobody_probes() {
    let breaker = Breaker::new();
    let under_way = admit(&breaker, 0);
    let change = breaker.force(ForcedState::Open, at(0)).expect("it was closed");
    assert_eq!((change.from, change.to, change.reason), (State::Closed, State::ForcedOpen, Reason::Forced));
    assert_eq!((change.generation, change.until, change.rule()), (1, None, None));
    assert_eq!(rejection(&breaker, 3_600_000), Tick::NEVER);
    assert_eq!(breaker.next_probe_at(), None);
    assert_eq!(breaker.record(under_way, FAILED, at(0), &policy(), NO_JITTER), None);
    assert_eq!(breaker.force(ForcedState::Open, at(1)), None, "it is so already");
    let shown = view(&breaker, 1);
    assert_eq!((shown.state, shown.until, shown.trip_count), (State::ForcedOpen, None, 0));
}

#[test]
fn forced_closed_everybody_is_admitted_and_counted_and_nothing_opens_it() {
    let breaker = tripped();
    assert!(breaker.force(ForcedState::Closed, at(0)).is_some());
    for _ in 0..100 {
        assert_eq!(call(&breaker, 0, FAILED), None);
    }
    let shown = view(&breaker, 0);
    assert_eq!((shown.state, shown.consecutive, shown.trip_count), (State::ForcedClosed, 100, 1));
    assert_eq!(shown.totals, Totals { total: 100, marked: 100 });
    assert!(!admit(&breaker, 0).is_probe());
}

#[test]
fn forced_closed_goes_on_with_what_was_counted_and_back() {
    let breaker = Breaker::new();
    (0..3).for_each(|_| assert_eq!(call(&breaker, 0, FAILED), None));
    breaker.force(ForcedState::Closed, at(0));
    assert_eq!((view(&breaker, 0).consecutive, view(&breaker, 0).totals.marked), (3, 3));
    (0..3).for_each(|_| assert_eq!(call(&breaker, 0, FAILED), None));
    let change = breaker.release(at(0)).expect("it was forced");
    assert_eq!(
        (change.from, change.to, change.reason),
        (State::ForcedClosed, State::Closed, Reason::Released)
    );
    assert_eq!(view(&breaker, 0).consecutive, 6);
    let opened = call(&breaker, 0, FAILED).expect("the rules hold again");
    assert_eq!(opened.reason.to_string(), "consecutive_failures 7 >= 5: connect refused");
}

#[test]
fn what_was_forced_open_proves_itself_when_it_is_handed_back() {
    let breaker = Breaker::new();
    breaker.force(ForcedState::Open, at(0));
    let change = breaker.release(at(10)).expect("it was forced");
    assert_eq!((change.from, change.to), (State::ForcedOpen, State::HalfOpen));
    assert_eq!(breaker.next_probe_at(), Some(Tick::ORIGIN));
    assert_eq!(call(&breaker, 10, Outcome::Success), None);
    assert_eq!(call(&breaker, 10, Outcome::Success).expect("two probes close it").to, State::Closed);
    assert_eq!(breaker.release(at(10)), None, "nobody forces it");
}

#[test]
fn an_order_voids_the_probe_that_is_out() {
    let breaker = tripped();
    let probe = admit(&breaker, 1_000);
    breaker.force(ForcedState::Closed, at(1_000));
    assert_eq!(breaker.record(probe, FAILED, at(1_000), &policy(), NO_JITTER), None);
    assert_eq!(view(&breaker, 1_000).state, State::ForcedClosed);
}

#[test]
fn a_reset_forgets_counts_and_streak_and_closes() {
    let breaker = tripped();
    call(&breaker, 1_000, FAILED);
    let change = breaker.reset(at(1_500));
    assert_eq!((change.from, change.to, change.reason), (State::Open, State::Closed, Reason::Reset));
    let shown = view(&breaker, 1_500);
    assert_eq!((shown.state, shown.streak, shown.consecutive, shown.trip_count), (State::Closed, 0, 0, 2));
    assert_eq!(trip(&breaker, 1_500).until, Some(at(2_500)), "as short as the first time");

    let closed = Breaker::new();
    let under_way = admit(&closed, 0);
    (0..4).for_each(|_| assert_eq!(call(&closed, 0, FAILED), None));
    assert_eq!(closed.reset(at(0)).from, State::Closed);
    assert_eq!(closed.record(under_way, FAILED, at(0), &policy(), NO_JITTER), None);
    assert_eq!((view(&closed, 0).consecutive, view(&closed, 0).totals), (0, Totals::default()));
}

#[test]
fn a_reset_leaves_a_forced_breaker_forced() {
    for (state, shown) in [(ForcedState::Open, State::ForcedOpen), (ForcedState::Closed, State::ForcedClosed)]
    {
        let breaker = tripped();
        breaker.force(state, at(0));
        let change = breaker.reset(at(0));
        assert_eq!((change.from, change.to), (shown, shown));
        assert_eq!(view(&breaker, 0).streak, 0);
    }
}

#[test]
fn a_forced_breaker_stays_so_when_the_replica_registers_anew() {
    let breaker = Breaker::new();
    breaker.force(ForcedState::Open, at(0));
    breaker.reprobe(at(0));
    assert_eq!((rejection(&breaker, 0), view(&breaker, 0).state), (Tick::NEVER, State::ForcedOpen));
}

#[test]
fn what_several_workers_have_seen_counts_together() {
    let breaker = Breaker::shared_by(2);
    let policy = policy::Breaker {
        consecutive_failure_count: 1_000,
        min_request_count: 10,
        failure_ratio: 0.5,
        ..policy()
    };
    let call = |worker: usize, outcome| {
        let permit = admit(&breaker, 0).of(worker);
        breaker.record(permit, outcome, at(0), &policy, NO_JITTER)
    };
    for worker in [0, 1, 0, 1, 0] {
        assert_eq!(call(worker, Outcome::Success), None);
    }
    for worker in [0, 1, 1, 0] {
        assert_eq!(call(worker, FAILED), None);
    }
    let change = call(1, FAILED).expect("half of ten have failed, and no worker has seen as many");
    assert_eq!(change.reason, Reason::FailureRatio { failed: 5, total: 10, threshold: 0.5 });
    assert_eq!(breaker.view(at(0), &policy).totals, Totals::default(), "they are forgotten together");
}
