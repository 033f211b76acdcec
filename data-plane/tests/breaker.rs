//! The breaker's word and the fields beside it, run in every order that the memory model allows (loom).
//!
//! The module is built here a second time, with loom's model of atomics in the place of the real ones. Its windows of counts are
//! the real ones: what they hold decides about nothing here.

#![allow(dead_code, reason = "the module is the library's; what is not modelled here is not called")]
#![allow(unused_imports, reason = "likewise")]
#![allow(unreachable_pub, reason = "likewise")]
#![allow(clippy::unwrap_used, reason = "what fails here fails the test that called it")]

mod routing {
    pub(crate) use data_plane::routing::{
        Comparison, Fault, LatencyWindow, Outcome, Sample, Tick, Totals, Windows,
    };

    pub(crate) mod sync {
        pub(crate) use loom::{
            sync::atomic::{AtomicU64, Ordering},
            thread::yield_now,
        };
    }

    pub(crate) mod peers {
        pub(crate) const QUANTILE: f64 = 0.9;
    }

    pub(crate) mod tick {
        pub(crate) fn whole_nanos(duration: std::time::Duration) -> u64 {
            u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
        }
    }
}

#[path = "../src/routing/breaker.rs"]
mod breaker;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use gateway_proto::policy;
use loom::thread;

use breaker::{Admission, Breaker, Change, ForcedState, Permit, Reason, State};
use routing::{Fault, Outcome, Tick};

const FAILED: Outcome = Outcome::Failure(Fault::Reset);
const LEASE: Duration = Duration::from_secs(3);
const NO_JITTER: f64 = 0.5;

/// Two failures in a row open it for a second, one probe closes it.
fn policy() -> policy::Breaker {
    policy::Breaker {
        consecutive_failure_count: 2,
        min_request_count: 1000,
        half_open_success_count: 1,
        base_open: Duration::from_secs(1),
        ..policy::Breaker::default()
    }
}

fn at(secs: u64) -> Tick {
    Tick::ORIGIN.plus(Duration::from_secs(secs))
}

fn admit(breaker: &Breaker, now: Tick) -> Option<Admission> {
    breaker.admit(now, LEASE).ok()
}

fn record(breaker: &Breaker, permit: Permit, outcome: Outcome, now: Tick) -> Option<Change> {
    breaker.record(permit, outcome, now, &policy(), NO_JITTER)
}

/// One call that ends at once.
fn call(breaker: &Breaker, outcome: Outcome, now: Tick) -> Option<Change> {
    record(breaker, admit(breaker, now)?.permit, outcome, now)
}

/// Opened at 10 s; its probe is due at 11 s.
fn tripped() -> Arc<Breaker> {
    let breaker = Breaker::new();
    assert_eq!(call(&breaker, FAILED, at(10)), None);
    assert_eq!(call(&breaker, FAILED, at(10)).map(|change| change.until), Some(Some(at(11))));
    Arc::new(breaker)
}

/// Runs both at once. `swapped` has the other one begin in the first of the orders, see [`model`].
fn race<A: 'static, B: 'static>(
    swapped: bool,
    breaker: &Arc<Breaker>,
    one: impl FnOnce(&Breaker) -> A + 'static,
    other: impl FnOnce(&Breaker) -> B + 'static,
) -> (A, B) {
    let [first, second] = [Arc::clone(breaker), Arc::clone(breaker)];
    if swapped {
        let other = thread::spawn(move || other(&second));
        let one = thread::spawn(move || one(&first));
        return (one.join().unwrap(), other.join().unwrap());
    }
    let one = thread::spawn(move || one(&first));
    let other = thread::spawn(move || other(&second));
    (one.join().unwrap(), other.join().unwrap())
}

/// Runs it in every order, twice, by who begins: loom looks for another order where an access meets the last one before it, so it
/// misses a thread that only read before another read and wrote, unless that other one goes first.
fn model(run: impl Fn(bool) + Sync + Send + 'static) {
    let run = Arc::new(run);
    let mut orders = 0;
    for swapped in [false, true] {
        let (run, count) = (Arc::clone(&run), Arc::new(AtomicUsize::new(0)));
        let counted = Arc::clone(&count);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(4);
        builder.check(move || {
            counted.fetch_add(1, Relaxed);
            run(swapped);
        });
        orders += count.load(Relaxed);
    }
    assert!(orders > 10, "no more than {orders} orders were tried");
}

#[test]
fn of_two_failures_that_are_too_many_exactly_one_opens_it() {
    model(|swapped| {
        let breaker = Arc::new(Breaker::new());
        let (one, other) = (admit(&breaker, at(10)).unwrap(), admit(&breaker, at(10)).unwrap());
        let changes = race(
            swapped,
            &breaker,
            move |breaker| record(breaker, one.permit, FAILED, at(10)),
            move |breaker| record(breaker, other.permit, FAILED, at(10)),
        );
        let told: Vec<_> = [changes.0, changes.1].into_iter().flatten().collect();
        assert_eq!(told.len(), 1, "{told:?}");
        let view = breaker.view(at(10), &policy());
        assert_eq!((view.state, view.until, view.trip_count), (State::Open, Some(at(11)), 1));
    });
}

#[test]
fn whoever_sees_it_open_sees_when_its_probe_is_due() {
    model(|swapped| {
        let breaker = Arc::new(Breaker::new());
        call(&breaker, FAILED, at(10));
        let (change, (seen, admitted)) = race(
            swapped,
            &breaker,
            |breaker| call(breaker, FAILED, at(10)),
            |breaker| (breaker.next_probe_at(), admit(breaker, at(10))),
        );
        assert!(change.is_some());
        assert!(seen.is_none_or(|due| due == at(11)), "{seen:?}");
        // Closed, or not at all: at that time nobody is its probe.
        assert!(admitted.is_none_or(|admission| !admission.permit.is_probe()));
    });
}

#[test]
fn of_two_who_come_when_a_probe_is_due_one_is_the_probe() {
    model(|swapped| {
        let breaker = tripped();
        let (one, other) =
            race(swapped, &breaker, |breaker| admit(breaker, at(11)), |breaker| admit(breaker, at(11)));
        let sent: Vec<_> = [one, other].into_iter().flatten().collect();
        let [probe] = &sent[..] else { panic!("{sent:?}") };
        assert!(probe.permit.is_probe());
        assert_eq!(probe.change.map(|change| change.reason), Some(Reason::ProbeDue));
        assert_eq!(breaker.next_probe_at(), Some(at(14)), "its lease is over then");
    });
}

#[test]
fn a_probe_that_is_late_and_the_one_that_takes_its_place_never_both_decide() {
    model(|swapped| {
        let breaker = tripped();
        let probe = admit(&breaker, at(11)).unwrap().permit;
        let (change, next) = race(
            swapped,
            &breaker,
            move |breaker| record(breaker, probe, Outcome::Success, at(14)),
            |breaker| admit(breaker, at(14)),
        );
        match next {
            // It was in time, and whoever came next is one of many, or met the transition.
            Some(next) if !next.permit.is_probe() => assert!(change.is_some() && next.change.is_none()),
            None => assert!(change.is_some()),
            Some(next) => {
                assert_eq!(
                    (change, next.change.map(|change| change.reason)),
                    (None, Some(Reason::ProbeLost))
                );
                assert_eq!(breaker.state(), State::HalfOpen);
                let change = record(&breaker, next.permit, FAILED, at(14)).unwrap();
                assert_eq!((change.to, change.trip_count), (State::Open, 2));
            }
        }
    });
}

#[test]
fn a_result_of_before_a_transition_counts_for_nothing_after_it() {
    model(|swapped| {
        let breaker = tripped();
        let probe = admit(&breaker, at(11)).unwrap().permit;
        let (closed, late) = race(
            swapped,
            &breaker,
            move |breaker| record(breaker, probe, Outcome::Success, at(12)),
            |breaker| {
                let permit = admit(breaker, at(12))?.permit;
                record(breaker, permit, FAILED, at(12))
            },
        );
        // One failure is not enough, so it stays closed, with that failure counted if it came after.
        assert_eq!((closed.map(|change| change.to), late), (Some(State::Closed), None));
        assert!(breaker.view(at(12), &policy()).consecutive <= 1);
    });
}

#[test]
fn an_operators_word_and_a_rule_that_meet_are_told_in_one_order() {
    model(|swapped| {
        let breaker = Arc::new(Breaker::new());
        call(&breaker, FAILED, at(10));
        let (tripped, forced) = race(
            swapped,
            &breaker,
            |breaker| call(breaker, FAILED, at(10)),
            |breaker| breaker.force(ForcedState::Open, at(10)).unwrap(),
        );
        assert_eq!(breaker.state(), State::ForcedOpen, "an operator has the last word");
        let from = if tripped.is_some() { State::Open } else { State::Closed };
        assert_eq!(forced.from, from);
        assert!(tripped.is_none_or(|tripped| tripped.generation < forced.generation));
        assert!(admit(&breaker, at(99)).is_none());
    });
}

#[test]
fn a_probe_without_a_verdict_and_a_new_registration_leave_a_place_for_the_next() {
    model(|swapped| {
        let breaker = tripped();
        let probe = admit(&breaker, at(11)).unwrap().permit;
        race(
            swapped,
            &breaker,
            move |breaker| record(breaker, probe, Outcome::Neutral, at(11)),
            |breaker| breaker.reprobe(at(11)),
        );
        assert_eq!((breaker.state(), breaker.next_probe_at()), (State::HalfOpen, Some(Tick::ORIGIN)));
        assert!(admit(&breaker, at(11)).unwrap().permit.is_probe());
    });
}

#[test]
fn a_success_and_a_failure_at_once_leave_a_row_of_at_most_one() {
    model(|swapped| {
        let breaker = Arc::new(Breaker::new());
        call(&breaker, FAILED, at(10));
        let (one, other) = (admit(&breaker, at(10)).unwrap(), admit(&breaker, at(10)).unwrap());
        let (_, failed) = race(
            swapped,
            &breaker,
            move |breaker| record(breaker, one.permit, Outcome::Success, at(10)),
            move |breaker| record(breaker, other.permit, FAILED, at(10)),
        );
        let view = breaker.view(at(10), &policy());
        match failed {
            Some(change) => assert_eq!((change.to, view.state), (State::Open, State::Open)),
            None => assert!(view.state == State::Closed && view.consecutive <= 1, "{view:?}"),
        }
    });
}
