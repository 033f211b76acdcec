//! How soon a service is back that had nobody to ask.

use gateway_proto::policy::{CheckType, Fallback};

use super::*;

/// A registered one, of which the default policy checks nothing.
fn leased(id: &str) -> ReplicaSpec {
    ReplicaSpec { is_permanent: false, ..replica(id) }
}

fn replica_of(service: &Service, id: &str) -> Arc<Replica> {
    service.replica(&ReplicaId::parse(id).unwrap()).unwrap()
}

fn due(service: &Service, id: &str, now: Tick) -> Tick {
    replica_of(service, id).retry_at(now, &service.policy().breaker)
}

/// Fails every probe at the moment it is due, some times over; yields for how long the breaker of `id` rests then.
fn rests_after_failed_probes(service: &Service, id: &str, times: usize) -> Duration {
    let now = fail_probes(service, id, times);
    due(service, id, now).since(now)
}

/// The same; yields when the last of them failed.
fn fail_probes(service: &Service, id: &str, times: usize) -> Tick {
    let mut now = START;
    for _ in 0..times {
        now = due(service, id, now);
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        assert!(picked.permit.is_probe());
        service.settle(0, &picked.replica, picked.permit, Outcome::Failure(Fault::ConnectRefused), now, 0.5);
    }
    now
}

#[test]
fn while_nobody_is_there_no_breaker_rests_longer_than_at_first() {
    let (_table, service, _) = table_of(&["a"]);
    trip(&service, START, "a");
    assert_eq!(rests_after_failed_probes(&service, "a", 6), Duration::from_secs(1));
}

#[test]
fn while_others_or_a_fallback_answer_a_breaker_rests_longer_each_time() {
    let (_table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    assert!(rests_after_failed_probes(&service, "a", 6) > Duration::from_secs(30));

    let fallback = Fallback { static_status: 200, ..Fallback::default() };
    let policy = Policy { fallback, ..Policy::default() };
    let (_table, service) = table_with(&ServiceSpec { policy, ..orders([replica("a")]) }, 1);
    trip(&service, START, "a");
    assert!(rests_after_failed_probes(&service, "a", 6) > Duration::from_secs(30));
}

#[test]
fn when_the_last_that_let_requests_through_goes_those_that_rest_are_tried_soon() {
    let (_table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    let now = fail_probes(&service, "a", 6);
    assert!(due(&service, "a", now).since(now) > Duration::from_secs(30));
    trip(&service, now, "b");
    assert_eq!(due(&service, "a", now).since(now), Duration::from_secs(1));

    // However it goes.
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    let now = fail_probes(&service, "a", 6);
    table.apply(&[orders([replica("a")])], &[], now);
    assert_eq!(due(&service, "a", now).since(now), Duration::from_secs(1));
}

#[test]
fn where_a_fallback_answers_they_rest_on_when_the_last_goes() {
    let fallback = Fallback { static_status: 200, ..Fallback::default() };
    let policy = Policy { fallback, ..Policy::default() };
    let (_table, service) = table_with(&ServiceSpec { policy, ..orders(["a", "b"].map(replica)) }, 1);
    trip(&service, START, "a");
    let now = fail_probes(&service, "a", 6);
    trip(&service, now, "b");
    assert!(due(&service, "a", now).since(now) > Duration::from_secs(30));
}

#[test]
fn a_replica_that_no_connection_reached_is_probed_at_once_when_its_port_accepts() {
    let (_table, service) = table_with(&orders(["a", "b"].map(leased)), 1);
    trip(&service, START, "a");
    let now = fail_probes(&service, "a", 6);
    let a = replica_of(&service, "a");
    assert_eq!(service.port_checked().len(), 1);
    assert!(!service.waits_for_port(&a, now), "it has only just failed");
    let later = now.plus(Duration::from_secs(1));
    assert!(
        service.waits_for_port(&a, later) && due(&service, "a", later) > later.plus(Duration::from_secs(30))
    );
    assert!(!service.port_accepts(&a, a.incarnation() + 1, later), "another process listens there");
    assert!(service.port_accepts(&a, a.incarnation(), later));
    // By that alone it is not believed.
    assert_eq!(state_of(&service, later, "a"), State::Open);
    assert!(!service.waits_for_port(&a, later));
    assert_eq!(ask(&service, later, Outcome::Success), "a");
    assert_eq!(ask(&service, later, Outcome::Success), "a");
    assert_eq!(state_of(&service, later, "a"), State::Closed);
    assert!(service.port_checked().is_empty());
}

#[test]
fn what_must_not_be_sent_twice_waits_for_it_no_longer_than_after_its_first_opening() {
    let (_table, service) = table_with(&orders(["a", "b"].map(leased)), 1);
    trip(&service, START, "a");
    let now = fail_probes(&service, "a", 6).plus(Duration::from_secs(1));
    let a = replica_of(&service, "a");
    assert!(service.port_accepts(&a, a.incarnation(), now));
    let unrepeatable = Draw { is_unrepeatable: true, ..Draw::default() };
    let asked = |now| id_of(&service.pick(0, now, &[], unrepeatable).unwrap().replica).to_owned();
    assert_eq!(asked(now.plus(Duration::from_millis(249))), "b");
    assert_eq!(asked(now.plus(Duration::from_millis(250))), "a");
}

#[test]
fn a_port_that_accepts_and_requests_that_fail_all_the_same_back_off_as_before() {
    let (_table, service) = table_with(&orders(["a", "b"].map(leased)), 1);
    trip(&service, START, "a");
    let now = fail_probes(&service, "a", 6).plus(Duration::from_secs(1));
    let a = replica_of(&service, "a");
    assert!(service.port_accepts(&a, a.incarnation(), now));
    assert_eq!(ask(&service, now, Outcome::Failure(Fault::Status(503))), "a");
    assert!(due(&service, "a", now).since(now) > Duration::from_secs(30));
    let later = now.plus(Duration::from_secs(1));
    assert!(service.port_checked().is_empty() && !service.port_accepts(&a, a.incarnation(), later));
}

#[test]
fn no_port_is_checked_of_who_is_checked_otherwise_or_must_not_be_or_has_been_reached() {
    let off = |policy: &mut Policy| policy.health_check.r#type = CheckType::Off;
    let tcp = |policy: &mut Policy| policy.health_check.r#type = CheckType::Tcp;
    for change in [off, tcp] {
        let mut policy = Policy::default();
        change(&mut policy);
        let (_table, service) = table_with(&ServiceSpec { policy, ..orders(["a", "b"].map(leased)) }, 1);
        trip(&service, START, "a");
        assert!(service.port_checked().is_empty());
    }
    let (_table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "a");
    assert!(service.port_checked().is_empty(), "permanent replicas are checked by TCP");
    let (_table, service) = table_with(&orders(["a", "b"].map(leased)), 1);
    while state_of(&service, START, "a") != State::Open {
        let picked = service.pick(0, START, &[], Draw::default()).unwrap();
        let outcome = if id_of(&picked.replica) == "a" {
            Outcome::Failure(Fault::ResponseTimeout)
        } else {
            Outcome::Success
        };
        service.settle(0, &picked.replica, picked.permit, outcome, START, 0.5);
    }
    assert!(service.port_checked().is_empty());
}
