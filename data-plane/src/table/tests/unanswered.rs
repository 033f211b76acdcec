//! Replicas that are waited for in vain, by callers of whom none has as much time as an attempt.

use gateway_proto::Policy;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(seconds: u32) -> Tick {
    START.plus(seconds * SECOND)
}

/// A service whose attempts may take ten seconds, of these replicas.
fn service_of(replicas: impl IntoIterator<Item = ReplicaSpec>) -> ServiceSpec {
    let mut policy = Policy::default();
    policy.timeout.per_try = 10 * SECOND;
    ServiceSpec { policy, ..orders(replicas) }
}

/// The one that is waited for, and a peer.
fn pair(incarnation: i64) -> ServiceSpec {
    service_of([ReplicaSpec { incarnation, ..replica("a") }, replica("b")])
}

/// A caller waits for the first replica from then on, for so long.
fn wait(service: &Service, since: Tick, seconds: u32) -> Option<Duration> {
    service.waited_in_vain(&service.replicas()[0], since, false, since.plus(seconds * SECOND))
}

/// A replica answers somebody.
fn answers(service: &Service, index: usize, now: Tick) {
    service.heard(0, &service.replicas()[index], Outcome::Success, SECOND, now);
}

#[test]
fn when_all_have_waited_for_as_long_as_one_may_each_further_wait_is_a_failure_until_something_is_heard() {
    let (_table, service) = table_with(&pair(1), 2);
    answers(&service, 1, at(5));
    for second in 0..9 {
        assert_eq!(wait(&service, at(second), 1), None, "{second}");
    }
    assert_eq!(wait(&service, at(9), 1), Some(10 * SECOND));
    assert_eq!(wait(&service, at(20), 1), Some(11 * SECOND));
    // By another worker.
    service.heard(1, &service.replicas()[0], Outcome::Success, SECOND, at(22));
    answers(&service, 1, at(23));
    assert_eq!(wait(&service, at(15), 9), None, "two seconds since then");
    assert_eq!(wait(&service, at(24), 8), Some(10 * SECOND));
}

#[test]
fn where_nobody_is_heard_while_they_are_waited_for_nobody_is_blamed() {
    let (_table, service) = table_with(&pair(1), 1);
    answers(&service, 1, at(99));
    assert_eq!(wait(&service, at(100), 60), None, "the peer was heard before that");
    answers(&service, 1, at(161));
    assert_eq!(wait(&service, at(160), 2), Some(62 * SECOND));

    let (_table, service) = table_with(&service_of([replica("a")]), 1);
    assert_eq!(wait(&service, at(0), 60), None, "there is no peer");
}

#[test]
fn a_peer_that_is_not_asked_is_none() {
    let (_table, service) = table_with(&pair(1), 1);
    answers(&service, 1, at(1));
    trip(&service, at(1), "b");
    assert_eq!(wait(&service, at(0), 20), None);
}

#[test]
fn what_a_replica_sends_behind_a_head_is_a_sign_of_life() {
    let (_table, service) = table_with(&pair(1), 2);
    answers(&service, 1, at(1));
    assert_eq!(wait(&service, at(0), 9), None);
    service.replicas()[0].shows_life(1, at(9));
    assert_eq!(wait(&service, at(0), 18), None);
}

#[test]
fn a_crowd_that_waits_at_once_waits_no_longer_than_one_of_them() {
    let (_table, service) = table_with(&pair(1), 1);
    answers(&service, 1, at(1));
    assert!((0..1000).all(|_| wait(&service, at(0), 9).is_none()));
    assert!(wait(&service, at(9), 1).is_some());
}

#[test]
fn silence_is_no_sign_of_life_and_whatever_else_comes_is() {
    for (outcome, is_sign) in [
        (Outcome::Success, true),
        (Outcome::Overloaded, true),
        (Outcome::Failure(Fault::Status(500)), true),
        (Outcome::Failure(Fault::Reset), true),
        (Outcome::Failure(Fault::ResponseTimeout), false),
        (Outcome::Failure(Fault::ConnectTimeout), false),
        (Outcome::Failure(Fault::Unanswered(SECOND)), false),
        (Outcome::Neutral, false),
    ] {
        let (_table, service) = table_with(&pair(1), 1);
        answers(&service, 1, at(1));
        assert_eq!(wait(&service, at(0), 9), None);
        service.heard(0, &service.replicas()[0], outcome, SECOND, at(9));
        assert_eq!(wait(&service, at(9), 1).is_none(), is_sign, "{outcome:?}");
    }
}

#[test]
fn a_new_process_is_not_blamed_for_those_who_waited_for_the_one_before() {
    let (table, service) = table_with(&pair(1), 1);
    assert_eq!(wait(&service, at(0), 9), None);
    table.apply(&[pair(2)], &[], at(9));
    answers(&service, 1, at(10));
    assert_eq!(wait(&service, at(0), 18), None);
    assert!(wait(&service, at(18), 1).is_some());
}

#[test]
fn a_probe_is_not_condemned_by_the_waits_that_opened_its_breaker() {
    let (_table, service) = table_with(&pair(1), 1);
    let a = Arc::clone(&service.replicas()[0]);
    answers(&service, 1, at(1));
    assert_eq!(wait(&service, at(0), 11), Some(11 * SECOND));
    trip(&service, at(11), "a");
    answers(&service, 1, at(12));
    // Its open time is over: the next request is the probe, and is given up after a second, and so are those behind it.
    let mut now = at(40);
    for given_up in 1..=10 {
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        assert!(picked.permit.is_probe(), "{given_up}: its place is free");
        answers(&service, 1, now.plus(SECOND / 2));
        let (since, waited) = (now, wait(&service, now, 1));
        now = since.plus(SECOND);
        let outcome = waited.map_or(Outcome::Neutral, |waited| Outcome::Failure(Fault::Unanswered(waited)));
        service.settle(0, &picked.replica, picked.permit, outcome, now, 0.5);
        let state = if given_up < 10 { State::HalfOpen } else { State::Open };
        assert_eq!(state_of(&service, now, "a"), state, "{given_up}");
    }
    assert_eq!(a.history().failed_probe.map(|trip| trip.at), Some(now));
}

#[test]
fn who_leaves_at_once_does_not_make_a_replica_fast_that_was_never_measured() {
    let (_table, service) = table_with(&balanced(by(Algorithm::PeakEwma), ["a", "b"].map(replica)), 1);
    let a = &service.replicas()[0];
    let known = |now| a.estimate().seconds(now).is_some();
    service.waited_in_vain(a, START, false, after(1));
    assert!(!known(after(1)));
    service.waited_in_vain(a, START, true, after(2));
    assert!(known(after(2)), "another was quicker, so it is slow");
}
