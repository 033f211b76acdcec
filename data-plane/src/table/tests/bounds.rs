//! How many breakers may be open at once, what happens when too many are, and replicas beside their peers.

use proptest::prelude::*;

use super::*;
use crate::routing::{Heard, Withheld};

fn service_of(
    breaker: impl FnOnce(&mut gateway_proto::policy::Breaker),
    ids: &[&str],
) -> (Arc<Table>, Arc<Service>, mpsc::Receiver<Transition>) {
    let mut spec = orders(ids.iter().map(|id| replica(id)));
    breaker(&mut spec.policy.breaker);
    let (table, transitions) = Table::new(4);
    table.apply(&[spec], &[], START);
    let service = table.service("orders").unwrap();
    (table, service, transitions)
}

fn fail_all(service: &Service, now: Tick, requests: usize) {
    for number in 0..requests {
        if let Ok(picked) = service.pick(0, now, &[], draw(number as u64)) {
            service.settle(0, &picked.replica, picked.permit, Outcome::Failure(Fault::Reset), now, 0.5);
        }
    }
}

fn open_count(service: &Service, now: Tick) -> usize {
    let policy = service.policy().breaker;
    let replicas = service.replicas();
    replicas.iter().filter(|replica| replica.breaker_view(now, &policy).state == State::Open).count()
}

#[test]
fn no_more_breakers_open_than_the_policy_allows_and_the_rest_is_told() {
    let (_table, service, mut transitions) =
        service_of(|breaker| breaker.max_open_ratio = 0.5, &["a", "b", "c", "d", "e"]);
    fail_all(&service, START, 100);
    assert_eq!(open_count(&service, START), 2);
    let told = std::iter::from_fn(|| transitions.try_recv().ok()).map(|transition| transition.change);
    let (withheld, opened): (Vec<_>, Vec<_>) = told.partition(|change| change.withheld.is_some());
    assert_eq!((opened.len(), withheld.len()), (2, 3));
    assert!(withheld.iter().all(|change| change.withheld == Some(Withheld::MaxOpenRatio)));
}

#[test]
fn one_of_two_may_open_and_a_lone_one_may_not() {
    let (_table, service, _) = service_of(|breaker| breaker.max_open_ratio = 0.1, &["a", "b"]);
    fail_all(&service, START, 50);
    assert_eq!(open_count(&service, START), 1);
    let (_table, service, _) = service_of(|breaker| breaker.max_open_ratio = 0.9, &["a"]);
    fail_all(&service, START, 50);
    assert_eq!(open_count(&service, START), 0);
    let (_table, service, _) = service_of(|_| {}, &["a"]);
    fail_all(&service, START, 50);
    assert_eq!(open_count(&service, START), 1, "by default all may");
}

#[test]
fn when_one_closes_another_may_open() {
    let (_table, service, _) = service_of(|breaker| breaker.max_open_ratio = 0.4, &["a", "b", "c"]);
    trip(&service, START, "a");
    fail_all(&service, START, 30);
    assert_eq!((open_count(&service, START), state_of(&service, START, "a")), (1, State::Open));
    let due = after(2_000);
    for _ in 0..2 {
        assert_eq!(ask(&service, due, Outcome::Success), "a");
    }
    trip(&service, due, "b");
    assert_eq!((open_count(&service, due), state_of(&service, due, "b")), (1, State::Open));
}

#[test]
fn threads_that_trip_at_once_do_not_exceed_it() {
    for _ in 0..50 {
        let ids = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let (_table, service, _) = service_of(
            |breaker| (breaker.max_open_ratio, breaker.consecutive_failure_count) = (0.25, 1),
            &ids,
        );
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let service = &service;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let picked = service.pick(worker, START, &[], Draw::default()).unwrap();
                        service.settle(
                            worker,
                            &picked.replica,
                            picked.permit,
                            Outcome::Failure(Fault::Reset),
                            START,
                            0.5,
                        );
                        assert!(open_count(service, START) <= 2);
                    }
                });
            }
        });
        assert_eq!(open_count(&service, START), 2);
    }
}

#[test]
fn a_service_that_fails_open_asks_open_replicas_too_and_their_answers_count_for_nothing() {
    let (table, service, _transitions) =
        service_of(|breaker| breaker.fail_open_threshold = 0.5, &["a", "b", "c"]);
    trip(&service, START, "a");
    assert_eq!(service.fail_open(), None);
    assert!(!asked(&service, START, 9).contains(&"a".to_owned()));
    trip(&service, START, "b");
    assert_eq!(
        service.fail_open(),
        Some(FailOpen { letting_through: 1, total: 3, tier: Priority::default() })
    );
    assert_eq!(asked(&service, START, 6), ["c", "b", "a", "c", "b", "a"], "in turn, from who is owed most");
    assert!(service.has_untried(START, &[service.replica(&ReplicaId::parse("c").unwrap()).unwrap()]));
    assert_eq!((state_of(&service, START, "a"), state_of(&service, START, "b")), (State::Open, State::Open));
    let asked_regardless =
        |id: &str| service.asks_regardless(&service.replica(&ReplicaId::parse(id).unwrap()).unwrap());
    assert!(asked_regardless("a") && !asked_regardless("c"));
    // Probes decide, as always, and end it.
    let due = after(1_500);
    for _ in 0..2 {
        assert_eq!(ask(&service, due, Outcome::Success), "a");
    }
    assert_eq!((service.fail_open(), state_of(&service, due, "a")), (None, State::Closed));
    assert!(!asked_regardless("b"));
    let told: Vec<_> =
        table.take_fail_open_changes(10).into_iter().map(|change| change.began.is_some()).collect();
    assert_eq!(told, [true, false]);
}

#[test]
fn failing_open_never_asks_who_is_drained_not_ready_or_forced_open_and_does_not_count_them() {
    let (table, service, _) = service_of(|_| {}, &[]);
    let forced = Forced { state: ForcedState::Open, entry: Arc::default() };
    let mut spec = orders([
        replica("a"),
        replica("b"),
        ReplicaSpec { mode: Mode::Draining, ..replica("c") },
        ReplicaSpec { health: Health::Starting, ..replica("d") },
        ReplicaSpec { forced: Some(forced), ..replica("e") },
    ]);
    spec.policy.breaker.fail_open_threshold = 0.6;
    table.apply(&[spec], &[], START);
    assert_eq!(service.fail_open(), None);
    trip(&service, START, "a");
    assert_eq!(
        service.fail_open(),
        Some(FailOpen { letting_through: 1, total: 2, tier: Priority::default() })
    );
    let mut asked = asked(&service, START, 20);
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked, ["a", "b"]);
}

#[test]
fn with_all_open_a_service_that_fails_open_asks_all_and_any_other_asks_nobody() {
    let (_table, service, _) = service_of(|breaker| breaker.fail_open_threshold = 0.1, &["a", "b"]);
    fail_all(&service, START, 20);
    assert_eq!(asked(&service, START, 4).len(), 4);
    let (_table, service, _) = service_of(|_| {}, &["a", "b"]);
    fail_all(&service, START, 20);
    assert!(matches!(
        service.pick(0, START, &[], Draw::default()),
        Err(Unavailable::AllOpen { resting: 2, .. })
    ));
}

#[test]
fn a_replica_that_is_slow_beside_its_peers_is_taken_out_and_told_with_both_figures() {
    let (_table, service, mut transitions) =
        service_of(|breaker| breaker.peer_latency_factor = 3.0, &["a", "b", "c", "d"]);
    let mut now = START;
    for _ in 0..200 {
        now = now.plus(Duration::from_millis(20));
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        let millis = if id_of(&picked.replica) == "c" { 80 } else { 20 };
        let heard = Heard { outcome: Outcome::Success, latency: Some(Duration::from_millis(millis)) };
        service.settle(0, &picked.replica, picked.permit, heard, now, 0.5);
        if state_of(&service, now, "c") == State::Open {
            break;
        }
    }
    let change = transitions.try_recv().expect("it has opened").change;
    assert_eq!(change.rule(), Some(Rule::PeerLatency));
    let text = change.reason.to_string();
    assert!(
        text.starts_with("peer_latency 4.0x >= 3.0x (p90 ") && text.contains("median of 3 peers"),
        "{text}"
    );
    assert_eq!(open_count(&service, now), 1);
}

#[test]
fn replicas_are_compared_with_those_of_their_tier_and_zone_only() {
    let far =
        gateway_proto::Locality::parse(v1::Locality { region: "us".into(), zone: "us-1".into() }).unwrap();
    let near =
        gateway_proto::Locality::parse(v1::Locality { region: "eu".into(), zone: "eu-1".into() }).unwrap();
    for by_zone in [false, true] {
        let other = |id: &str| match by_zone {
            true => ReplicaSpec { locality: far.clone(), ..replica(id) },
            false => ReplicaSpec { priority: Priority::parse(1).unwrap(), ..replica(id) },
        };
        let here = |id: &str| ReplicaSpec { locality: near.clone(), ..replica(id) };
        let out = |id: &str| ReplicaSpec { health: Health::Unhealthy, ..here(id) };
        let balancing =
            Balancing { overprovisioning_factor: 1.4, prefer_local: by_zone, ..by(Algorithm::RoundRobin) };
        let spec = |others: &[&str]| {
            let replicas = [here("a"), here("b"), here("b1"), out("c"), out("d"), out("d1")].into_iter();
            let mut spec = balanced(balancing, replicas.chain(others.iter().map(|id| other(id))));
            (spec.policy.breaker.peer_latency_factor, spec.policy.breaker.min_request_count) = (3.0, 5);
            spec
        };
        let (table, _transitions) = Table::located(1, near.clone());
        table.apply(&[spec(&["e", "f"])], &[], START);
        let service = table.service("orders").unwrap();
        let mut now = START;
        let mut answer = |requests: usize| {
            for _ in 0..requests {
                now = now.plus(Duration::from_millis(10));
                let picked = service.pick(0, now, &[], Draw::default()).unwrap();
                let millis = match id_of(&picked.replica) {
                    "a" | "b" | "b1" => 10,
                    "h" => 400,
                    _ => 80,
                };
                let heard = Heard { outcome: Outcome::Success, latency: Some(Duration::from_millis(millis)) };
                service.settle(0, &picked.replica, picked.permit, heard, now, 0.5);
            }
            open_count(&service, now)
        };
        assert_eq!(answer(400), 0, "they are slower because they are elsewhere");
        table.apply(&[spec(&["e", "f", "h"])], &[], after(4000));
        assert_eq!(answer(400), 1, "one is slow beside its own");
        assert_eq!(state_of(&service, after(8000), "h"), State::Open);
    }
}

#[test]
fn when_a_whole_service_becomes_slow_nobody_is_taken_out() {
    let (_table, service, _) = service_of(|breaker| breaker.peer_latency_factor = 2.0, &["a", "b", "c"]);
    let mut now = START;
    for number in 0..600 {
        now = now.plus(Duration::from_millis(20));
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        let heard =
            Heard { outcome: Outcome::Success, latency: Some(Duration::from_millis(10 + 2 * number)) };
        service.settle(0, &picked.replica, picked.permit, heard, now, 0.5);
    }
    assert_eq!(open_count(&service, now), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_trip_exceeds_the_bound_and_only_failing_open_asks_who_is_out(
        count in 1..7_usize,
        max_open_ratio in prop::sample::select(vec![0.2, 0.5, 0.8, 1.0]),
        fail_open_threshold in prop::sample::select(vec![0.0, 0.4, 1.0]),
        algorithm in prop::sample::select(&Algorithm::ALL[..]),
        steps in prop::collection::vec((0..100_u32, 0..400_u64), 1..200),
    ) {
        let ids = ["a", "b", "c", "d", "e", "f", "g"];
        let mut spec = balanced(by(algorithm), ids[..count].iter().map(|id| replica(id)));
        let breaker = &mut spec.policy.breaker;
        (breaker.max_open_ratio, breaker.fail_open_threshold) = (max_open_ratio, fail_open_threshold);
        breaker.consecutive_failure_count = 2;
        let policy = *breaker;
        let (table, service) = table_with(&spec, 1);
        let mut now = START;
        let out = |service: &Service| {
            let replicas = service.replicas();
            let states = replicas.iter().map(|replica| replica.breaker().state());
            states.filter(|state| !state.lets_all_through()).count()
        };
        for (number, (lot, pass)) in steps.into_iter().enumerate() {
            now = now.plus(Duration::from_millis(pass));
            let before = out(&service);
            let fails_open = policy.fails_open(count - before, count);
            prop_assert_eq!(service.fail_open().is_some(), fails_open);
            match service.pick(0, now, &[], draw(number as u64)) {
                Ok(picked) => {
                    let is_out = !picked.replica.breaker().state().lets_all_through();
                    prop_assert!(!is_out || picked.permit.is_probe() || fails_open);
                    let outcome = if lot < 60 { Outcome::Failure(Fault::Reset) } else { Outcome::Success };
                    service.settle(0, &picked.replica, picked.permit, outcome, now, 0.5);
                }
                Err(_) => prop_assert!(before == count && !fails_open),
            }
            let after = out(&service);
            prop_assert!(after <= before || after <= policy.max_open_count(count), "{} of {}", after, count);
        }
        drop(table);
    }
}
