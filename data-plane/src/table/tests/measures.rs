//! How slow a replica is, as it is told.

use super::*;
use crate::{routing::Heard, table::Measures};

fn measured(service: &Service, now: Tick, id: &str) -> Measures {
    let replica = service.replica(&ReplicaId::parse(id).unwrap()).unwrap();
    service.measures(&replica, &service.side_by_side(now), now)
}

/// Three answers of each, `c` is slower.
fn answers(service: &Arc<Service>, now: Tick) {
    for _ in 0..9 {
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        let millis = if id_of(&picked.replica) == "c" { 80 } else { 20 };
        let heard = Heard { outcome: Outcome::Success, latency: Some(Duration::from_millis(millis)) };
        service.settle(0, &picked.replica, picked.permit, heard, now, 0.5);
    }
}

#[test]
fn a_replica_is_shown_beside_the_median_of_its_peers_before_it_is_too_slow() {
    let mut spec = balanced(by(Algorithm::RoundRobin), ["a", "b", "c"].map(replica));
    (spec.policy.breaker.peer_latency_factor, spec.policy.breaker.min_request_count) = (100.0, 3);
    let (_table, service) = table_with(&spec, 1);
    assert_eq!(measured(&service, START, "c"), Measures::default(), "nothing has come yet");
    answers(&service, START);
    let (fast, slow) = (measured(&service, START, "a"), measured(&service, START, "c"));
    let (own, peers) = (slow.latency.unwrap(), slow.peers.unwrap());
    assert_eq!((own.count, peers.peers), (3, 2));
    assert_eq!((peers.own, peers.median), (own, fast.latency.unwrap().latency));
    assert!(own.latency >= Duration::from_millis(72) && !peers.is_slow(), "{own:?}");
}

#[test]
fn what_a_policy_does_not_look_at_is_not_measured() {
    let (_table, service) = table_with(&balanced(by(Algorithm::RoundRobin), ["a", "b", "c"].map(replica)), 1);
    answers(&service, START);
    assert_eq!(measured(&service, START, "c"), Measures::default());
}

#[test]
fn a_slow_start_is_told_while_it_lasts() {
    let slow = Duration::from_secs(9);
    let balancing = Balancing { slow_start: slow, ..by(Algorithm::RoundRobin) };
    let with = |ids: &[&str]| balanced(balancing, ids.iter().map(|id| replica(id)));
    let (table, service) = table_with(&with(&["a"]), 1);
    table.apply(&[with(&["a", "b"])], &[], after(1000));
    let whole = Measures::default();
    assert_eq!(measured(&service, START, "a"), whole);
    let grown = |part| Measures { slow_start: Some((part, after(1000).plus(slow))), ..whole };
    assert_eq!(measured(&service, after(1000), "b"), grown(10));
    assert_eq!(measured(&service, after(5000), "b"), grown(50));
    assert_eq!(measured(&service, after(10_000), "b"), whole);
}

#[test]
fn a_breaker_is_out_since_it_opened_first_however_many_probes_have_failed() {
    let (_table, service, _) = table_of(&["a"]);
    let settle = |now, outcome| {
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        service.settle(0, &picked.replica, picked.permit, outcome, now, 0.5);
    };
    let history = || service.replicas()[0].history();
    (0..5).for_each(|_| settle(START, Outcome::Failure(Fault::Reset)));
    assert_eq!((history().out_since, history().changed_at), (Some(START), START));
    let probed = after(60_000);
    settle(probed, Outcome::Failure(Fault::Reset));
    assert_eq!((history().out_since, history().changed_at), (Some(START), probed));
    // What opened it is not lost in the long outages, of all.
    let rules = || {
        let History { trip, failed_probe, .. } = history();
        [trip, failed_probe].map(|trip| trip.and_then(|trip| trip.change.rule()))
    };
    assert_eq!(rules(), [Some(Rule::ConsecutiveFailures), Some(Rule::ProbeFailed)]);
    let mut now = after(600_000);
    for _ in 0..service.policy().breaker.half_open_success_count {
        settle(now, Outcome::Success);
        now = now.plus(Duration::from_secs(1));
    }
    assert_eq!((state_of(&service, now, "a"), history().out_since), (State::Closed, None));
    (0..5).for_each(|_| settle(now, Outcome::Failure(Fault::Reset)));
    assert_eq!(rules(), [Some(Rule::ConsecutiveFailures), None], "another outage");
}

#[test]
fn of_a_new_registration_is_told_how_its_own_probe_failed_and_not_what_opened_its_predecessor() {
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    let anew = ReplicaSpec { incarnation: 7, ..replica("a") };
    table.apply(&[orders([anew, replica("b")])], &[], after(1));
    assert_eq!(ask(&service, after(2), Outcome::Failure(Fault::Reset)), "a");
    let History { trip, failed_probe, .. } = service.replicas()[0].history();
    let trip = trip.unwrap();
    assert_eq!(
        (trip.incarnation, trip.change.rule(), failed_probe.is_none()),
        (7, Some(Rule::ProbeFailed), true)
    );
}

#[test]
fn of_a_replica_that_left_and_is_back_is_told_what_had_opened_its_breaker_and_since_when() {
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    let before = service.replicas()[0].history();
    table.apply(&[orders([replica("b")])], &[], after(1));
    let anew = ReplicaSpec { incarnation: 7, ..replica("a") };
    table.apply(&[orders([anew, replica("b")])], &[], after(2));
    let told = |now| {
        let History { trip, out_since, .. } = service.replicas()[0].history();
        (state_of(&service, now, "a"), trip.map(|trip| (trip.at, trip.incarnation)), out_since)
    };
    let opened = before.trip.map(|trip| (trip.at, trip.incarnation));
    assert!(opened.is_some_and(|(_, incarnation)| incarnation < 7));
    assert_eq!(told(after(2)), (State::Open, opened, before.out_since));
    assert_eq!(ask(&service, after(3), Outcome::Success), "a");
    assert_eq!(told(after(3)), (State::HalfOpen, opened, before.out_since));
}

#[test]
fn a_replica_that_comes_back_closed_is_not_told_to_be_out() {
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    let forced = Forced { state: ForcedState::Open, entry: Arc::default() };
    let forced = ReplicaSpec { forced: Some(forced), ..replica("a") };
    table.apply(&[orders([forced, replica("b")])], &[], after(1));
    table.apply(&[orders([replica("b")])], &[], after(2));
    let anew = ReplicaSpec { incarnation: 7, ..replica("a") };
    table.apply(&[orders([anew, replica("b")])], &[], after(3));
    let out_since = || service.replicas()[0].history().out_since;
    assert_eq!((state_of(&service, after(3), "a"), out_since()), (State::Closed, None));
    trip(&service, after(4), "a");
    assert_eq!(out_since(), Some(after(4)), "by what has opened it now");
}
