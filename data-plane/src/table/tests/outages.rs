//! How soon a service is back that had nobody to ask.

use gateway_proto::policy::Fallback;

use super::*;

/// Fails every probe at the moment it is due, some times over; yields for how long the breaker of `id` rests then.
fn rests_after_failed_probes(service: &Service, id: &str, times: usize) -> Duration {
    let mut now = START;
    for _ in 0..times {
        let replica = service.replica(&ReplicaId::parse(id).unwrap()).unwrap();
        let due = replica.retry_at(now, &service.policy().breaker);
        now = due;
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        assert!(picked.permit.is_probe());
        service.settle(0, &picked.replica, picked.permit, Outcome::Failure(Fault::ConnectRefused), now, 0.5);
    }
    let replica = service.replica(&ReplicaId::parse(id).unwrap()).unwrap();
    replica.retry_at(now, &service.policy().breaker).since(now)
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
