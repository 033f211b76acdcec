//! Limits on what is in flight: who is passed over, who waits, who is woken.

use std::{
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll, Wake, Waker},
};

use gateway_proto::policy::{AdaptiveLimit, Concurrency};

use super::*;
use crate::routing::Refused;

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Bell {
    fn rings(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn each(max_per_replica: u32) -> Concurrency {
    Concurrency { max_per_replica, ..Concurrency::default() }
}

fn limited(concurrency: Concurrency, algorithm: Algorithm, ids: &[&str]) -> ServiceSpec {
    let policy = Policy { concurrency, balancing: by(algorithm), ..Policy::default() };
    ServiceSpec { policy, ..orders(ids.iter().map(|id| replica(id))) }
}

fn limited_table(concurrency: Concurrency, ids: &[&str]) -> (Arc<Table>, Arc<Service>) {
    table_with(&limited(concurrency, Algorithm::RoundRobin, ids), 2)
}

/// Picks, and leaves it in flight.
fn take(service: &Service, number: u64) -> Result<Picked, Unavailable> {
    service.pick(0, START, &[], draw(number))
}

fn give_back(service: &Service, picked: Picked) {
    service.settle(0, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
}

/// Waits, and has looked in vain.
fn waiter(service: &Arc<Service>, tried: &[Arc<Replica>]) -> (Waiting, Arc<Bell>) {
    let mut waiting = service.wait(START, Tick::NEVER, tried).unwrap();
    let bell = Arc::new(Bell::default());
    if is_called(&waiting, &bell) {
        assert_eq!(waiting.pick(0, START, tried, Draw::default()).unwrap_err(), Unavailable::AllFull);
        assert!(!is_called(&waiting, &bell));
    }
    (waiting, bell)
}

fn is_called(waiting: &Waiting, bell: &Arc<Bell>) -> bool {
    let waker = Waker::from(Arc::clone(bell));
    waiting.poll_called(&Context::from_waker(&waker)) == Poll::Ready(())
}

#[test]
fn a_full_replica_is_passed_over_by_every_algorithm_until_all_are_full() {
    for algorithm in Algorithm::ALL {
        let (_table, service) = table_with(&limited(each(2), algorithm, &["a", "b", "c"]), 1);
        let mut taken: Vec<_> = (0..6).map(|number| take(&service, number).unwrap()).collect();
        let inflight =
            service.replicas().iter().map(|replica| replica.counters().inflight).collect::<Vec<_>>();
        assert_eq!(inflight, [2, 2, 2], "{algorithm:?}");
        assert_eq!(take(&service, 7).unwrap_err(), Unavailable::AllFull, "{algorithm:?}");
        let freed = taken.remove(3);
        let id = id_of(&freed.replica).to_owned();
        give_back(&service, freed);
        assert_eq!(id_of(&take(&service, 8).unwrap().replica), id, "{algorithm:?}");
    }
}

#[test]
fn those_with_room_take_strict_turns_while_another_is_full() {
    let (table, service) = limited_table(each(1), &["a", "b", "c", "d"]);
    let held = take(&service, 0).unwrap();
    assert_eq!(id_of(&held.replica), "a");
    assert_eq!(asked(&service, START, 6), ["b", "c", "d", "b", "c", "d"]);
    give_back(&service, held);
    assert_eq!(asked(&service, START, 4), ["a", "b", "c", "d"]);
    drop(table);
}

#[test]
fn a_service_has_no_more_in_flight_than_it_may_wherever() {
    let concurrency = Concurrency { max_per_service: 3, ..Concurrency::default() };
    let (_table, service) = limited_table(concurrency, &["a", "b"]);
    let mut taken: Vec<_> = (0..3).map(|number| take(&service, number).unwrap()).collect();
    assert_eq!(take(&service, 3).unwrap_err(), Unavailable::AllFull);
    assert_eq!(service.limit(), Some(3));
    give_back(&service, taken.pop().unwrap());
    assert!(take(&service, 4).is_ok());
}

#[test]
fn a_standby_tier_takes_what_a_better_one_has_no_room_for() {
    let mut spec = limited(each(1), Algorithm::RoundRobin, &["a", "b"]);
    spec.replicas[1].priority = Priority::parse(1).unwrap();
    let (_table, service) = table_with(&spec, 1);
    assert_eq!(id_of(&take(&service, 0).unwrap().replica), "a");
    assert_eq!(id_of(&take(&service, 1).unwrap().replica), "b");
    assert_eq!(take(&service, 2).unwrap_err(), Unavailable::AllFull);
}

#[test]
fn what_was_in_flight_before_there_was_a_limit_counts() {
    let (table, service) = limited_table(Concurrency::default(), &["a"]);
    let taken: Vec<_> = (0..3).map(|number| take(&service, number).unwrap()).collect();
    table.apply(&[limited(each(3), Algorithm::RoundRobin, &["a"])], &[], START);
    assert_eq!(take(&service, 3).unwrap_err(), Unavailable::AllFull);
    let (_waiting, bell) = waiter(&service, &[]);
    taken.into_iter().take(1).for_each(|picked| give_back(&service, picked));
    assert_eq!(bell.rings(), 1);
}

#[test]
fn workers_share_one_limit_and_never_exceed_it() {
    let workers = 4;
    let spec = limited(each(3), Algorithm::RoundRobin, &["a", "b"]);
    let (_table, service) = table_with(&spec, workers);
    let (at_once, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (service, at_once, most) = (&service, &at_once, &most);
            scope.spawn(move || {
                for number in 0..2_000 {
                    let Ok(picked) = service.pick(worker, START, &[], draw(number)) else { continue };
                    most.fetch_max(at_once.fetch_add(1, SeqCst) + 1, SeqCst);
                    at_once.fetch_sub(1, SeqCst);
                    service.settle(worker, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
                }
            });
        }
    });
    assert!(most.load(SeqCst) <= 6);
    assert!(service.replicas().iter().all(|replica| replica.counters().inflight == 0));
}

#[test]
fn a_place_that_becomes_free_wakes_exactly_one_and_newcomers_go_behind_it() {
    let (_table, service) = limited_table(each(1), &["a"]);
    let held = take(&service, 0).unwrap();
    let (mut first, first_bell) = waiter(&service, &[]);
    let (second, second_bell) = waiter(&service, &[]);
    give_back(&service, held);
    assert_eq!((first_bell.rings(), second_bell.rings()), (1, 0));
    assert_eq!(take(&service, 1).unwrap_err(), Unavailable::AllFull, "the place is spoken for");
    let picked = first.pick(0, START, &[], Draw::default()).unwrap();
    assert_eq!(service.pending(), 1);
    drop(second);
    assert_eq!(service.pending(), 0);
    give_back(&service, picked);
    assert!(take(&service, 2).is_ok());
}

#[test]
fn a_waiter_that_is_gone_passes_its_place_on() {
    let (_table, service) = limited_table(each(1), &["a"]);
    let held = take(&service, 0).unwrap();
    let (first, _) = waiter(&service, &[]);
    let (_second, bell) = waiter(&service, &[]);
    give_back(&service, held);
    drop(first);
    assert_eq!(bell.rings(), 1);
}

#[test]
fn a_place_is_not_offered_to_who_has_tried_its_replica() {
    let (_table, service) = limited_table(each(1), &["a", "b"]);
    let [a, b] = [take(&service, 0).unwrap(), take(&service, 1).unwrap()];
    let (_retry, retry_bell) = waiter(&service, std::slice::from_ref(&a.replica));
    let (_other, other_bell) = waiter(&service, &[]);
    give_back(&service, a);
    assert_eq!((retry_bell.rings(), other_bell.rings()), (0, 1));
    give_back(&service, b);
    assert_eq!((retry_bell.rings(), other_bell.rings()), (1, 1));
}

#[test]
fn a_limit_that_is_raised_or_lifted_and_a_replica_that_joins_wake_as_many_as_they_have_room_for() {
    type Change = fn(&Table);
    let raised: Change = |table| table.apply(&[limited(each(3), Algorithm::RoundRobin, &["a"])], &[], START);
    let joined: Change =
        |table| table.apply(&[limited(each(1), Algorithm::RoundRobin, &["a", "b"])], &[], START);
    let lifted: Change = |table| table.apply(&[limited(each(0), Algorithm::RoundRobin, &["a"])], &[], START);
    let lowered: Change = |table| {
        let concurrency = Concurrency { max_per_service: 1, ..each(1) };
        table.apply(&[limited(concurrency, Algorithm::RoundRobin, &["a"])], &[], START);
    };
    for (change, woken) in [(raised, 2), (joined, 1), (lifted, 4), (lowered, 0)] {
        let (table, service) = limited_table(each(1), &["a"]);
        let _held = take(&service, 0).unwrap();
        let waiters: Vec<_> = (0..4).map(|_| waiter(&service, &[])).collect();
        change(&table);
        let rings: Vec<_> = waiters.iter().map(|(_, bell)| bell.rings()).collect();
        assert_eq!(rings, [0, 1, 2, 3].map(|number| usize::from(number < woken)));
    }
}

#[test]
fn who_comes_while_those_look_for_whom_there_is_more_than_room_finds_a_place_too() {
    let (table, service) = limited_table(each(1), &["a"]);
    let _held = take(&service, 0).unwrap();
    let (mut first, first_bell) = waiter(&service, &[]);
    table.apply(&[limited(each(10), Algorithm::RoundRobin, &["a"])], &[], START);
    assert_eq!(first_bell.rings(), 1);
    assert_eq!(take(&service, 1).unwrap_err(), Unavailable::AllFull, "the first goes first");
    let mut second = service.wait(START, Tick::NEVER, &[]).unwrap();
    let second_bell = Arc::new(Bell::default());
    is_called(&second, &second_bell);
    let _taken = first.pick(0, START, &[], draw(2)).unwrap();
    assert!(is_called(&second, &second_bell), "eight places are free, and nobody else waits");
    assert!(second.pick(0, START, &[], draw(3)).is_ok());
}

#[test]
fn a_place_of_the_service_is_told_of_also_when_the_replica_that_it_was_at_has_too_much_yet() {
    let both = |max_per_replica| Concurrency { max_per_service: 2, ..each(max_per_replica) };
    let (table, service) = limited_table(both(2), &["a"]);
    let mut held = [0, 1].map(|number| take(&service, number).unwrap()).into_iter();
    table.apply(&[limited(both(1), Algorithm::RoundRobin, &["a", "b"])], &[], START);
    let (mut waiting, bell) = waiter(&service, &[]);
    held.by_ref().take(1).for_each(|picked| give_back(&service, picked));
    assert_eq!(bell.rings(), 1, "one is in flight, of two, and it is not at b");
    assert_eq!(id_of(&waiting.pick(0, START, &[], draw(3)).unwrap().replica), "b");
}

#[test]
fn waiters_are_told_when_there_is_nobody_left_to_wait_for() {
    let (table, service) = limited_table(each(1), &["a"]);
    let _held = take(&service, 0).unwrap();
    let (mut waiting, bell) = waiter(&service, &[]);
    let mut draining = replica("a");
    draining.mode = Mode::Draining;
    let mut spec = limited(each(1), Algorithm::RoundRobin, &[]);
    spec.replicas.push(draining);
    table.apply(&[spec], &[], START);
    assert_eq!(bell.rings(), 1);
    assert_eq!(waiting.pick(0, START, &[], Draw::default()).unwrap_err(), Unavailable::NoneReady);
    assert_eq!(service.pending(), 0);
}

#[test]
fn waiters_are_told_when_the_breaker_of_all_opens_and_go_on_when_it_closes() {
    let (_table, service) = limited_table(each(6), &["a"]);
    let held: Vec<_> = (0..6).map(|number| take(&service, number).unwrap()).collect();
    let (mut waiting, bell) = waiter(&service, &[]);
    let mut held = held.into_iter();
    for picked in held.by_ref().take(5) {
        let outcome = Outcome::Failure(Fault::Reset);
        service.judge(&picked.replica, picked.permit, outcome, START, START, 0.5);
    }
    assert_eq!(state_of(&service, START, "a"), State::Open);
    assert_eq!(bell.rings(), 1);
    let unavailable = waiting.pick(0, START, &[], Draw::default()).unwrap_err();
    assert!(matches!(unavailable, Unavailable::AllOpen { .. }), "{unavailable:?}");
}

#[test]
fn a_probe_needs_a_place_like_any_other() {
    let (_table, service) = limited_table(each(1), &["a", "b"]);
    trip(&service, START, "a");
    let due = after(5000);
    let probe = service.pick(0, due, &[], Draw::default()).unwrap();
    assert!(probe.permit.is_probe());
    assert_eq!(id_of(&service.pick(0, due, &[], Draw::default()).unwrap().replica), "b");
    assert_eq!(service.pick(0, due, &[], Draw::default()).unwrap_err(), Unavailable::AllFull);
}

#[test]
fn what_may_not_wait_is_refused_and_how_long_others_waited_is_known() {
    let concurrency = Concurrency { max_pending: 1, ..each(1) };
    let (_table, service) = limited_table(concurrency, &["a"]);
    let held = take(&service, 0).unwrap();
    assert!(service.may_wait());
    let (waiting, _) = waiter(&service, &[]);
    assert!(!service.may_wait());
    let refused = service.wait(START, Tick::NEVER, &[]).unwrap_err();
    assert_eq!(refused, Refused::Full { pending: 1 });
    assert_eq!(waiting.until(), after(1000));
    assert_eq!(waiting.give_up(0, after(1000)), Duration::from_secs(1));
    let (mut waiting, _) = waiter(&service, &[]);
    give_back(&service, held);
    assert!(waiting.pick(0, after(3), &[], Draw::default()).is_ok());
    assert_eq!(
        Refusal::ALL.map(|refusal| service.refused(refusal)),
        [0, 0],
        "as long as nobody is answered so"
    );
    assert_eq!(service.queue_times().count(), 2);
    let failures = service.replicas()[0].counters().failures;
    assert_eq!(failures, 0, "no replica is to blame");
}

#[test]
fn nobody_waits_beyond_the_requests_own_deadline() {
    let (_table, service) = limited_table(each(1), &["a"]);
    let _held = take(&service, 0).unwrap();
    assert_eq!(service.wait(START, after(300), &[]).unwrap().until(), after(300));
}

#[test]
fn an_adaptive_limit_begins_low_and_grows_with_good_latencies() {
    let concurrency = Concurrency { adaptive: AdaptiveLimit::Gradient, ..Concurrency::default() };
    let (_table, service) = limited_table(concurrency, &["a"]);
    assert_eq!(service.limit(), Some(4));
    let mut now = START;
    for _ in 0..3_000 {
        now = now.plus(Duration::from_millis(1));
        let mut taken = Vec::new();
        while let Ok(picked) = service.pick(0, now, &[], Draw::default()) {
            taken.push(picked);
        }
        for picked in taken {
            service.heard(0, &picked.replica, Outcome::Success, Duration::from_millis(1), now);
            service.settle(0, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
        }
    }
    let limit = service.limit().unwrap();
    assert!((50..=1000).contains(&limit), "{limit}");
}

#[test]
fn a_measurement_that_hears_of_nothing_ends_in_its_time() {
    let concurrency = Concurrency {
        adaptive: AdaptiveLimit::Gradient,
        adaptive_max: 20,
        max_pending: 0,
        ..Concurrency::default()
    };
    let (_table, service) = limited_table(concurrency, &["a"]);
    let limit = || service.limit().unwrap();
    let mut now = START;
    let all_there_may_be = |now| {
        let picked = std::iter::from_fn(|| service.pick(0, now, &[], Draw::default()).ok());
        picked.collect::<Vec<_>>()
    };
    // At its most, and then less, because it is measured.
    let (mut most, mut steps) = (0, 0);
    while limit() >= most && steps < 10_000 {
        (most, steps) = (limit(), steps + 1);
        now = now.plus(Duration::from_millis(10));
        for picked in all_there_may_be(now) {
            service.heard(0, &picked.replica, Outcome::Success, Duration::from_millis(1), now);
            service.settle(0, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
        }
    }
    assert_eq!((most, limit()), (20, 10));
    // Responses that go on for hours take all of that, and nothing more is heard.
    let streaming = all_there_may_be(now);
    assert_eq!(streaming.len(), 10);
    let pick = |millis| service.pick(0, now.plus(Duration::from_millis(millis)), &[], Draw::default());
    assert_eq!(pick(4_000).unwrap_err(), Unavailable::AllFull);
    assert!(pick(6_000).is_ok());
    assert_eq!(limit(), 20);
}
