//! The rules that go by latency, and what withholds them.

use super::*;
use crate::routing::{
    Comparison, Sample,
    breaker::{Heard, Withheld},
};

const MS: Duration = Duration::from_millis(1);

fn slow_policy() -> policy::Breaker {
    policy::Breaker { slow_threshold: 300 * MS, ..policy() }
}

fn respond(
    breaker: &Breaker,
    now: u64,
    outcome: Outcome,
    latency: u64,
    policy: &policy::Breaker,
) -> Option<Change> {
    let heard = Heard { outcome, latency: Some(Duration::from_millis(latency)) };
    breaker.record(admit(breaker, now), heard, at(now), policy, NO_JITTER)
}

fn comparison() -> Comparison {
    let own = Sample { latency: 900 * MS, count: 40 };
    Comparison { own, median: 100 * MS, peers: 3, factor: 3.0 }
}

#[test]
fn so_large_a_share_of_slow_responses_opens_it_successes_included() {
    let (breaker, policy) = (Breaker::new(), slow_policy());
    for _ in 0..10 {
        assert_eq!(respond(&breaker, 0, Outcome::Success, 299, &policy), None);
    }
    for _ in 0..9 {
        assert_eq!(respond(&breaker, 0, Outcome::Success, 300, &policy), None);
    }
    let change = respond(&breaker, 0, Outcome::Success, 5_000, &policy).expect("ten of twenty are slow");
    assert_eq!(change.reason.to_string(), "slow_ratio 0.50 >= 0.50 (10 of 20 took 300ms or more)");
    assert_eq!((change.rule(), change.to), (Some(Rule::SlowRatio), State::Open));
}

#[test]
fn who_was_waited_for_as_long_as_is_slow_counts_as_slow_and_who_was_not_counts_for_nothing() {
    let (breaker, policy) = (Breaker::new(), slow_policy());
    for _ in 0..20 {
        assert_eq!(respond(&breaker, 0, Outcome::Neutral, 299, &policy), None);
    }
    assert_eq!(breaker.view(at(0), &policy).slow, Totals::default());
    for _ in 0..19 {
        assert_eq!(respond(&breaker, 0, Outcome::Neutral, 300, &policy), None);
    }
    let change = respond(&breaker, 0, Outcome::Neutral, 900, &policy).expect("all twenty are slow");
    assert_eq!(change.rule(), Some(Rule::SlowRatio));
    assert_eq!(breaker.view(at(0), &policy).totals, Totals::default(), "neither a success nor a failure");
}

#[test]
fn nothing_is_slow_unless_the_policy_says_what_is() {
    let breaker = Breaker::new();
    for _ in 0..100 {
        assert_eq!(respond(&breaker, 0, Outcome::Success, 60_000, &policy()), None);
    }
    assert_eq!(breaker.view(at(0), &policy()).slow, Totals::default());
}

#[test]
fn responses_that_left_the_window_and_replicas_that_refuse_count_neither_as_fast_nor_as_slow() {
    let (breaker, policy) = (Breaker::new(), slow_policy());
    for _ in 0..15 {
        assert_eq!(respond(&breaker, 0, Outcome::Success, 400, &policy), None);
    }
    respond(&breaker, 0, Outcome::Overloaded, 1, &policy);
    assert_eq!(breaker.view(at(0), &policy).slow, Totals { total: 15, marked: 15 });
    assert_eq!(breaker.view(at(10_000), &policy).slow, Totals::default());
}

#[test]
fn a_probe_that_is_slow_fails() {
    let (breaker, policy) = (tripped(), slow_policy());
    let change = respond(&breaker, 1_000, Outcome::Success, 301, &policy).expect("it opens again");
    assert_eq!(change.reason, Reason::ProbeSlow { latency: 301 * MS, limit: 300 * MS });
    assert_eq!((change.to, change.rule()), (State::Open, Some(Rule::ProbeFailed)));
    assert_eq!(respond(&breaker, 3_000, Outcome::Success, 299, &policy), None);
    let change = respond(&breaker, 3_000, Outcome::Success, 299, &policy).expect("two were fast");
    assert_eq!(change.to, State::Closed);
}

#[test]
fn one_that_is_slow_beside_its_peers_opens_with_both_figures() {
    let breaker = Breaker::new();
    let change = breaker.outlier(comparison(), at(0), &policy(), NO_JITTER, || true).expect("it opens");
    assert_eq!(
        change.reason.to_string(),
        "peer_latency 9.0x >= 3.0x (p90 900ms of 40, median of 3 peers 100ms)"
    );
    assert_eq!((change.from, change.to, change.until), (State::Closed, State::Open, Some(at(1_000))));
    assert_eq!(breaker.outlier(comparison(), at(0), &policy(), NO_JITTER, || true), None, "it is open");
    let forced = Breaker::new();
    forced.force(ForcedState::Closed, at(0));
    assert_eq!(forced.outlier(comparison(), at(0), &policy(), NO_JITTER, || true), None);
}

#[test]
fn latencies_are_kept_while_they_are_compared_and_forgotten_when_it_opens() {
    let (breaker, policy) = (Breaker::new(), policy::Breaker { peer_latency_factor: 3.0, ..policy() });
    respond(&breaker, 0, Outcome::Success, 100, &super::policy());
    assert_eq!(breaker.latency(at(0), &policy), None);
    respond(&breaker, 0, Outcome::Success, 100, &policy);
    assert_eq!(breaker.latency(at(0), &policy).map(|sample| sample.count), Some(1));
    breaker.outlier(comparison(), at(0), &policy, NO_JITTER, || true).expect("it opens");
    for _ in 0..2 {
        breaker.record(admit(&breaker, 1_000), Outcome::Success, at(1_000), &policy, NO_JITTER);
    }
    assert_eq!((view(&breaker, 1_000).state, breaker.latency(at(1_000), &policy)), (State::Closed, None));
}

#[test]
fn a_policy_that_observes_tells_what_would_open_it_once_in_a_window_and_opens_nothing() {
    let policy = policy::Breaker { observe_only: true, ..policy() };
    let breaker = Breaker::new();
    let fail = |now| breaker.record(admit(&breaker, now), FAILED, at(now), &policy, NO_JITTER);
    let told: Vec<_> = (0..30).filter_map(|_| fail(0)).collect();
    let [change] = told[..] else { panic!("{told:?}") };
    let reason = Reason::ConsecutiveFailures { count: 5, threshold: 5, fault: Fault::ConnectRefused };
    assert_eq!((change.from, change.to, change.reason), (State::Closed, State::Closed, reason));
    assert_eq!(change.withheld, Some(Withheld::ObserveOnly));
    assert_eq!((view(&breaker, 0).trip_count, view(&breaker, 0).consecutive), (0, 30));
    assert!(fail(9_999).is_none() && fail(10_000).is_some());
}

#[test]
fn what_is_withheld_for_lack_of_room_happens_with_the_next_failure_that_finds_some() {
    let breaker = Breaker::new();
    let fail =
        |room: bool| breaker.record_if(admit(&breaker, 0), FAILED, at(0), &policy(), NO_JITTER, || room);
    for _ in 0..4 {
        assert_eq!(fail(false), None);
    }
    assert_eq!(fail(false).expect("it is told").withheld, Some(Withheld::MaxOpenRatio));
    assert_eq!(fail(false), None);
    let change = fail(true).expect("it opens");
    assert_eq!((change.to, change.withheld), (State::Open, None));
}

#[test]
fn who_is_admitted_regardless_of_an_open_breaker_does_not_count() {
    let breaker = tripped();
    let permit = breaker.admit_regardless().expect("nobody forbids it");
    assert!(!permit.is_probe());
    assert_eq!(breaker.record(permit, FAILED, at(0), &policy(), NO_JITTER), None);
    assert_eq!(view(&breaker, 0), view(&tripped(), 0));
    breaker.force(ForcedState::Open, at(0));
    assert!(breaker.admit_regardless().is_none());
}
