//! The breaker under threads that race.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use gateway_proto::policy;

use super::{Breaker, Change, ForcedState, Permit, State};
use crate::routing::{Fault, Outcome, Tick};

const FAILED: Outcome = Outcome::Failure(Fault::Reset);
const THREADS: usize = 8;
const FOREVER: Duration = Duration::MAX;

fn at(secs: u64) -> Tick {
    Tick::ORIGIN.plus(Duration::from_secs(secs))
}

fn fail(breaker: &Breaker, permit: Permit, now: Tick) -> Option<Change> {
    breaker.record(permit, FAILED, now, &policy::Breaker::default(), 0.5)
}

fn tripped() -> Breaker {
    let breaker = Breaker::new();
    while let Ok(admission) = breaker.admit(at(0), FOREVER) {
        fail(&breaker, admission.permit, at(0));
    }
    breaker
}

/// Runs `each` on all threads at once and collects what they return.
fn race<T: Send>(each: impl Fn() -> T + Sync) -> Vec<T> {
    let start = Barrier::new(THREADS);
    let run = || {
        start.wait();
        each()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no thread panics")).collect()
    })
}

#[test]
fn of_a_thousand_calls_that_come_when_the_probe_is_due_exactly_one_is_admitted() {
    for _ in 0..20 {
        let breaker = tripped();
        let admitted =
            race(|| (0..125).filter_map(|_| breaker.admit(at(1), FOREVER).ok()).collect::<Vec<_>>());
        let admitted: Vec<_> = admitted.into_iter().flatten().collect();
        assert_eq!(admitted.len(), 1);
        assert!(admitted[0].permit.is_probe() && admitted[0].change.is_some());
    }
}

#[test]
fn of_a_thousand_calls_between_two_probes_exactly_one_is_admitted() {
    let breaker = tripped();
    let first = breaker.admit(at(1), FOREVER).expect("the first probe").permit;
    breaker.record(first, Outcome::Success, at(1), &policy::Breaker::default(), 0.5);
    let admitted = race(|| (0..125).filter_map(|_| breaker.admit(at(1), FOREVER).ok()).count());
    assert_eq!(admitted.into_iter().sum::<usize>(), 1);
}

#[test]
fn when_many_threads_see_the_last_failure_exactly_one_makes_the_transition() {
    for _ in 0..50 {
        let breaker = Breaker::new();
        let changes = race(|| {
            let permits: Vec<_> = (0..10).filter_map(|_| breaker.admit(at(0), FOREVER).ok()).collect();
            permits.into_iter().filter_map(|admitted| fail(&breaker, admitted.permit, at(0))).count()
        });
        assert_eq!(changes.into_iter().sum::<usize>(), 1);
        assert_eq!(breaker.view(at(0), &policy::Breaker::default()).trip_count, 1);
    }
}

#[test]
fn a_view_never_mixes_two_moments() {
    let breaker = Breaker::new();
    let policy = policy::Breaker { max_open: Duration::from_secs(1), ..policy::Breaker::default() };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // The n-th time it opens is in second 10 n, and the probe is due a second later.
            for trip in 1..=300_000 {
                let now = at(10 * trip);
                while let Ok(admission) = breaker.admit(now, FOREVER) {
                    breaker.record(admission.permit, FAILED, now, &policy, 0.5);
                }
            }
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) {
            let view = breaker.view(at(0), &policy);
            if view.state == State::Open {
                assert_eq!(view.until, Some(at(10 * view.trip_count + 1)));
            }
        }
    });
}

#[test]
fn whatever_the_threads_do_one_probe_is_out_at_a_time_and_the_breaker_recovers() {
    let breaker = Breaker::new();
    let policy = policy::Breaker { half_open_success_count: 3, ..policy::Breaker::default() };
    let (clock, probes_out, calls) = (AtomicU64::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    race(|| {
        for _ in 0..5_000 {
            let now = Tick::from_nanos(clock.fetch_add(1_000_000, SeqCst));
            let Ok(admission) = breaker.admit(now, FOREVER) else { continue };
            let probe = admission.permit.is_probe();
            if probe {
                assert_eq!(probes_out.fetch_add(1, SeqCst), 0, "another probe is out");
            }
            thread::yield_now();
            let outcome = match calls.fetch_add(1, SeqCst) % 7 {
                0 => Outcome::Neutral,
                1..4 => FAILED,
                _ => Outcome::Success,
            };
            if probe {
                probes_out.fetch_sub(1, SeqCst);
            }
            breaker.record(admission.permit, outcome, now, &policy, 0.5);
        }
    });
    let later = Tick::from_nanos(clock.into_inner()).plus(policy.max_open * 2);
    for _ in 0..breaker.view(later, &policy).probe_target {
        let admission = breaker.admit(later, FOREVER).expect("a breaker that is due admits");
        breaker.record(admission.permit, Outcome::Success, later, &policy, 0.5);
    }
    assert_eq!(breaker.view(later, &policy).state, State::Closed);
}

#[test]
fn once_it_is_forced_open_no_thread_is_admitted() {
    for _ in 0..50 {
        let breaker = Breaker::new();
        let forced = AtomicBool::new(false);
        race(|| {
            for call in 0..100 {
                if call == 50 {
                    breaker.force(ForcedState::Open, at(0));
                    forced.store(true, SeqCst);
                }
                let was_forced = forced.load(SeqCst);
                let Ok(admission) = breaker.admit(at(0), FOREVER) else { continue };
                assert!(!was_forced, "admitted after the order");
                fail(&breaker, admission.permit, at(0));
            }
        });
        assert_eq!(breaker.view(at(0), &policy::Breaker::default()).state, State::ForcedOpen);
    }
}

#[test]
fn whatever_the_threads_report_a_breaker_that_is_forced_closed_stays_so() {
    let breaker = tripped();
    breaker.force(ForcedState::Closed, at(0));
    race(|| {
        for _ in 0..1_000 {
            let admission = breaker.admit(at(0), FOREVER).expect("everybody is admitted");
            assert_eq!(fail(&breaker, admission.permit, at(0)), None);
        }
    });
    let view = breaker.view(at(0), &policy::Breaker::default());
    assert_eq!((view.state, view.totals.marked), (State::ForcedClosed, 8_000));
}
