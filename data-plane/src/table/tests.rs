//! What requests may rely on when the table changes under them.

mod backlogs;
mod balancing;
mod bounds;
mod checks;
mod claims;
mod concurrency;
mod departures;
mod drains;
mod holders;
mod localities;
mod measures;
mod orders;
mod outages;
mod properties;
mod slow_start;
mod spill_over;
mod tiers;
mod unanswered;

use std::time::Duration;

use gateway_proto::{
    Address, Health, Mode, Policy, Priority, ReplicaId, Weight,
    policy::{Algorithm, Balancing},
    v1,
};

use super::*;
use crate::routing::{Draw, Fault, Outcome, Permit, Rule, State, balancing::mix};

const START: Tick = Tick::ORIGIN;

fn after(millis: u64) -> Tick {
    START.plus(Duration::from_millis(millis))
}

fn replica(id: &str) -> ReplicaSpec {
    ReplicaSpec::listed(ReplicaId::parse(id).unwrap(), Address::parse(&format!("{id}.example:80")).unwrap())
}

fn orders(replicas: impl IntoIterator<Item = ReplicaSpec>) -> ServiceSpec {
    ServiceSpec {
        name: ServiceName::parse("orders").unwrap(),
        policy: Policy::default(),
        replicas: replicas.into_iter().collect(),
    }
}

fn table_of(ids: &[&str]) -> (Arc<Table>, Arc<Service>, mpsc::Receiver<Transition>) {
    let (table, transitions) = Table::new(1);
    table.apply(&[orders(ids.iter().map(|id| replica(id)))], &[], START);
    let service = table.service("orders").unwrap();
    (table, service, transitions)
}

/// The same service, of which requests are shared out in another way.
fn balanced(balancing: Balancing, replicas: impl IntoIterator<Item = ReplicaSpec>) -> ServiceSpec {
    ServiceSpec { policy: Policy { balancing, ..Policy::default() }, ..orders(replicas) }
}

fn by(algorithm: Algorithm) -> Balancing {
    Balancing { algorithm, ..Balancing::default() }
}

/// A table with one service like that, as its data plane found it when it started.
fn table_with(spec: &ServiceSpec, workers: usize) -> (Arc<Table>, Arc<Service>) {
    let (table, _) = Table::new(workers);
    table.apply(std::slice::from_ref(spec), &[], START);
    let service = table.service("orders").unwrap();
    (table, service)
}

/// The chance and the key of the request of that number.
fn draw(number: u64) -> Draw {
    Draw {
        random: (mix(number) >> 11) as f64 / (1_u64 << 53) as f64,
        key: Some(mix(!number)),
        ..Draw::default()
    }
}

fn id_of(replica: &Replica) -> &str {
    replica.key().replica.as_str()
}

/// How many of so many requests, one after the other, go to each replica.
fn shares_of(service: &Service, now: Tick, requests: std::ops::Range<u64>) -> BTreeMap<String, u64> {
    let mut shares: BTreeMap<_, _> =
        service.replicas().iter().map(|replica| (id_of(replica).to_owned(), 0)).collect();
    for number in requests {
        let picked = service.pick(0, now, &[], draw(number)).unwrap();
        *shares.get_mut(id_of(&picked.replica)).unwrap() += 1;
        service.settle(0, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
    }
    shares
}

/// Picks once, reports `outcome`, and tells who was asked.
fn ask(service: &Service, now: Tick, outcome: Outcome) -> String {
    let picked = service.pick(0, now, &[], Draw::default()).unwrap();
    service.settle(0, &picked.replica, picked.permit, outcome, now, 0.5);
    picked.replica.key().replica.to_string()
}

fn asked(service: &Service, now: Tick, times: usize) -> Vec<String> {
    (0..times).map(|_| ask(service, now, Outcome::Success)).collect()
}

/// Fails every request until `id` is out.
fn trip(service: &Service, now: Tick, id: &str) {
    for _ in 0..1000 {
        let picked = service.pick(0, now, &[], Draw::default()).unwrap();
        let is_it = picked.replica.key().replica.as_str() == id;
        let outcome = if is_it { Outcome::Failure(Fault::ConnectRefused) } else { Outcome::Success };
        service.settle(0, &picked.replica, picked.permit, outcome, now, 0.5);
        if state_of(service, now, id) == State::Open {
            return;
        }
    }
    panic!("{id} did not open");
}

fn state_of(service: &Service, now: Tick, id: &str) -> State {
    let replicas = service.replicas();
    let replica = replicas.iter().find(|replica| replica.key().replica.as_str() == id).unwrap();
    replica.breaker_view(now, &service.policy().breaker).state
}

#[test]
fn replicas_take_turns_in_the_order_of_their_ids() {
    let (_table, service, _) = table_of(&["a", "b", "c"]);
    assert_eq!(asked(&service, START, 7), ["a", "b", "c", "a", "b", "c", "a"]);
}

#[test]
fn weights_are_exact_shares() {
    let (table, _service, _) = table_of(&[]);
    let mut heavy = replica("a");
    heavy.weight = Weight::parse(300).unwrap();
    table.apply(&[orders([heavy, replica("b")])], &[], START);
    let service = table.service("orders").unwrap();
    let all = asked(&service, START, 400);
    assert_eq!(all.iter().filter(|id| *id == "a").count(), 300);
}

#[test]
fn many_threads_share_one_strict_rotation() {
    let (table, _) = Table::new(4);
    table.apply(&[orders(["a", "b", "c", "d"].map(replica))], &[], START);
    let service = table.service("orders").unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let service = &service;
            scope.spawn(move || {
                for _ in 0..200 {
                    let picked = service.pick(worker, START, &[], Draw::default()).unwrap();
                    service.settle(worker, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
                }
            });
        }
    });
    let shares: Vec<_> = service.replicas().iter().map(|replica| replica.counters().attempts).collect();
    assert_eq!(shares, [200; 4]);
}

#[test]
fn a_replica_that_comes_and_goes_does_not_starve_the_others() {
    let (table, service, _) = table_of(&["a", "b", "c"]);
    let mut all = Vec::new();
    for round in 0..100 {
        let ids: &[&str] = if round % 2 == 0 { &["a", "b", "c"] } else { &["a", "b"] };
        table.apply(&[orders(ids.iter().map(|id| replica(id)))], &[], START);
        all.push(ask(&service, START, Outcome::Success));
    }
    for id in ["a", "b"] {
        let share = all.iter().filter(|asked| *asked == id).count();
        assert!(share >= 25, "{id} got {share} of 100");
    }
    assert!(all.iter().any(|asked| asked == "c"));
}

#[test]
fn an_open_replica_gets_nothing_and_its_share_is_spread_over_all_others() {
    let (_table, service, mut transitions) = table_of(&["a", "b", "c"]);
    trip(&service, START, "b");
    let all = asked(&service, START, 100);
    assert_eq!(all.iter().filter(|id| *id == "b").count(), 0);
    assert_eq!(all.iter().filter(|id| *id == "a").count(), 50);
    let transition = transitions.try_recv().unwrap();
    assert_eq!(transition.key.to_string(), "orders/b");
    assert_eq!(
        (transition.change.to, transition.change.rule()),
        (State::Open, Some(Rule::ConsecutiveFailures))
    );
}

#[test]
fn one_request_at_a_time_probes_and_two_successes_close() {
    let (_table, service, mut transitions) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    assert!(asked(&service, after(500), 10).iter().all(|id| id == "a"));

    let due = after(1500);
    let probe = service.pick(0, due, &[], Draw::default()).unwrap();
    assert_eq!((probe.replica.key().replica.as_str(), probe.permit.is_probe()), ("b", true));
    assert!(asked(&service, due, 10).iter().all(|id| id == "a"), "a second probe was let through");
    service.settle(0, &probe.replica, probe.permit, Outcome::Success, due, 0.5);
    assert_eq!(state_of(&service, due, "b"), State::HalfOpen);
    assert_eq!(ask(&service, due, Outcome::Success), "b");
    assert_eq!(state_of(&service, due, "b"), State::Closed);
    assert_eq!(asked(&service, due, 10).iter().filter(|id| *id == "b").count(), 5);

    let steps: Vec<_> = std::iter::from_fn(|| transitions.try_recv().ok()).map(|t| t.change.to).collect();
    assert_eq!(steps, [State::Open, State::HalfOpen, State::Closed]);
}

#[test]
fn the_first_probe_is_a_request_that_may_be_sent_twice_if_one_comes_in_time() {
    let (_table, service, _) = table_of(&["a", "b"]);
    let unrepeatable = Draw { is_unrepeatable: true, ..Draw::default() };
    let ask_once = |now| {
        let picked = service.pick(0, now, &[], unrepeatable).unwrap();
        service.settle(0, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
        picked.replica.key().replica.to_string()
    };
    trip(&service, START, "b");
    // Due at 1000, and left to others for a quarter of that.
    assert!((0..10).all(|millis| ask_once(after(1000 + 25 * millis)) == "a"));
    assert_eq!(state_of(&service, after(1249), "b"), State::Open);
    assert_eq!(
        ask(&service, after(1249), Outcome::Success),
        "b",
        "it was not hidden from who may be sent twice"
    );
    assert_eq!(ask_once(after(1249)), "b", "what has answered is probed by whatever comes");
    assert_eq!(state_of(&service, after(1249), "b"), State::Closed);
}

#[test]
fn what_must_not_be_sent_twice_finds_out_a_registration_as_soon_however_long_its_predecessor_was_out() {
    let (table, service, _) = table_of(&["a", "b"]);
    let unrepeatable = Draw { is_unrepeatable: true, ..Draw::default() };
    trip(&service, START, "b");
    let mut now = START;
    for _ in 0..6 {
        now = now.plus(Duration::from_secs(100));
        assert_eq!(ask(&service, now, Outcome::Failure(Fault::Reset)), "b");
    }
    // A quarter of `base_open`, whatever it has become.
    let probes_at = |now: Tick| {
        let pick = |millis| {
            let at = now.plus(Duration::from_millis(millis));
            service.pick(0, at, &[], unrepeatable).unwrap()
        };
        assert_eq!(pick(249).replica.key().replica.as_str(), "a");
        let picked = pick(250);
        assert_eq!((picked.replica.key().replica.as_str(), picked.permit.is_probe()), ("b", true));
        picked
    };
    let anew = |incarnation| orders([replica("a"), ReplicaSpec { incarnation, ..replica("b") }]);
    table.apply(&[anew(2)], &[], now);
    let picked = probes_at(now);
    // Nor is it for longer once that was given up.
    now = now.plus(Duration::from_secs(1));
    service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, now, 0.5);
    let picked = probes_at(now);
    service.settle(0, &picked.replica, picked.permit, Outcome::Failure(Fault::Reset), now, 0.5);
    // Or once it has left in between.
    table.apply(&[orders([replica("a")])], &[], now);
    now = now.plus(Duration::from_secs(1));
    table.apply(&[anew(3)], &[], now);
    probes_at(now);
}

#[test]
fn an_attempt_beside_another_is_nobodys_probe() {
    let (_table, service, _) = table_of(&["a", "b"]);
    let beside = Draw { is_unrepeatable: true, is_beside: true, ..Draw::default() };
    trip(&service, START, "b");
    let due = after(60_000);
    for _ in 0..3 {
        let picked = service.pick(0, due, &[], beside).unwrap();
        assert_eq!(id_of(&picked.replica), "a");
        service.settle(0, &picked.replica, picked.permit, Outcome::Success, due, 0.5);
    }
    let first = [service.replica(&ReplicaId::parse("a").unwrap()).unwrap()];
    assert!(service.pick(0, due, &first, beside).is_err(), "there is only a probe left");
    assert_eq!(state_of(&service, due, "b"), State::Open);
    assert_eq!(ask(&service, due, Outcome::Success), "b", "others find it due");
}

#[test]
fn a_service_that_gets_nothing_else_is_probed_by_what_must_not_be_sent_twice() {
    let (_table, service, _) = table_of(&["a", "b"]);
    let unrepeatable = Draw { is_unrepeatable: true, ..Draw::default() };
    trip(&service, START, "b");
    let picked = service.pick(0, after(1250), &[], unrepeatable).unwrap();
    assert_eq!((id_of(&picked.replica), picked.permit.is_probe()), ("b", true));
    service.settle(0, &picked.replica, picked.permit, Outcome::Success, after(1250), 0.5);

    trip(&service, after(5000), "a");
    let tried = [Arc::clone(&picked.replica)];
    let other = service.pick(0, after(6000), &tried, unrepeatable).unwrap();
    assert_eq!((id_of(&other.replica), other.permit.is_probe()), ("a", true), "there is nobody else");
}

#[test]
fn a_cancelled_probe_makes_room_for_the_next() {
    let (_table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    let due = after(1500);
    for _ in 0..3 {
        assert_eq!(ask(&service, due, Outcome::Neutral), "b");
    }
    assert_eq!(state_of(&service, due, "b"), State::HalfOpen);
}

#[test]
fn a_failed_probe_waits_twice_as_long() {
    let (_table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    let due = after(1000);
    assert_eq!(ask(&service, due, Outcome::Failure(Fault::ConnectRefused)), "b");
    assert!(asked(&service, after(2900), 10).iter().all(|id| id == "a"));
    assert_eq!(ask(&service, after(3000), Outcome::Success), "b");
}

#[test]
fn a_request_asks_no_replica_twice() {
    let (_table, service, _) = table_of(&["a", "b", "c"]);
    let mut tried: Vec<Arc<Replica>> = Vec::new();
    while let Ok(picked) = service.pick(0, START, &tried, Draw::default()) {
        assert!(service.has_untried(START, &tried));
        assert!(tried.iter().all(|other| other.key() != picked.replica.key()));
        service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
        tried.push(picked.replica);
    }
    assert_eq!(tried.len(), 3);
    assert!(!service.has_untried(START, &tried));
    assert_eq!(service.pick(0, START, &tried, Draw::default()).unwrap_err(), Unavailable::AllTried);
}

#[test]
fn without_a_ready_replica_there_is_nobody_to_ask() {
    let (table, service, _) = table_of(&[]);
    assert_eq!(service.pick(0, START, &[], Draw::default()).unwrap_err(), Unavailable::NoneReady);
    for health in [Health::Starting, Health::Unhealthy] {
        table.apply(&[orders([ReplicaSpec { health, ..replica("a") }])], &[], START);
        assert_eq!(
            service.pick(0, START, &[], Draw::default()).unwrap_err(),
            Unavailable::NoneReady,
            "{health}"
        );
    }
    table.apply(&[orders([ReplicaSpec { health: Health::Degraded, ..replica("a") }])], &[], START);
    assert!(service.pick(0, START, &[], Draw::default()).is_ok());
}

#[test]
fn a_replica_that_was_lost_with_many_others_is_asked() {
    let (table, service, _) = table_of(&[]);
    table.apply(&[orders([ReplicaSpec { health: Health::Lost, ..replica("a") }])], &[], START);
    assert_eq!(ask(&service, START, Outcome::Success), "a");
}

#[test]
fn when_all_rest_the_answer_says_until_when() {
    let (_table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    for _ in 0..5 {
        ask(&service, after(100), Outcome::Failure(Fault::Reset));
    }
    let refused = service.pick(0, after(200), &[], Draw::default()).unwrap_err();
    assert_eq!(refused, Unavailable::AllOpen { resting: 2, retry_at: after(1000) });
}

#[test]
fn while_another_request_probes_the_last_replica_the_answer_is_to_come_back_soon() {
    let (_table, service, _) = table_of(&["a"]);
    trip(&service, START, "a");
    let due = after(1500);
    let _probe = service.pick(0, due, &[], Draw::default()).unwrap();
    let refused = service.pick(0, due, &[], Draw::default()).unwrap_err();
    assert_eq!(refused, Unavailable::AllOpen { resting: 1, retry_at: due });
}

#[test]
fn a_breaker_survives_changes_of_policy_weight_and_other_replicas() {
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    let mut changed = orders([
        replica("a"),
        ReplicaSpec { weight: Weight::parse(7).unwrap(), ..replica("b") },
        replica("c"),
    ]);
    changed.policy.retry.max_retry_count = 0;
    table.apply(&[changed], &[], START);
    assert_eq!(state_of(&service, START, "b"), State::Open);
    assert_eq!(service.policy().retry.max_retry_count, 0);
    assert!(asked(&service, START, 10).iter().all(|id| id != "b"));
}

#[test]
fn a_new_incarnation_of_an_open_replica_is_probed_at_once() {
    let (table, service, _) = table_of(&["a", "b"]);
    trip(&service, START, "b");
    table.apply(&[orders([replica("a"), ReplicaSpec { incarnation: 2, ..replica("b") }])], &[], after(10));
    let probe = service.pick(0, after(10), &[], Draw::default()).unwrap();
    assert_eq!((probe.replica.key().replica.as_str(), probe.permit.is_probe()), ("b", true));
}

#[test]
fn the_result_of_a_former_incarnation_does_not_count() {
    let (table, service, _) = table_of(&["a"]);
    let old: Vec<(Arc<Replica>, Permit)> = (0..5)
        .map(|_| service.pick(0, START, &[], Draw::default()).unwrap())
        .map(|picked| (picked.replica, picked.permit))
        .collect();
    table.apply(&[orders([ReplicaSpec { incarnation: 2, ..replica("a") }])], &[], START);
    for (replica, permit) in old {
        service.settle(0, &replica, permit, Outcome::Failure(Fault::Reset), START, 0.5);
    }
    assert_eq!(state_of(&service, START, "a"), State::Closed);
    let replicas = service.replicas();
    assert_eq!(replicas[0].counters().inflight, 0, "every attempt has ended");
}

#[test]
fn removed_services_are_gone_and_others_stay() {
    let (table, _service, _) = table_of(&["a"]);
    let payments = ServiceSpec { name: ServiceName::parse("payments").unwrap(), ..orders([replica("p")]) };
    table.apply(&[payments], &[], START);
    table.apply(&[], &[ServiceName::parse("orders").unwrap()], START);
    assert!(table.service("orders").is_none());
    assert!(table.service("payments").is_some());
}

#[test]
fn a_request_that_outlives_its_service_asks_nobody_else() {
    let (table, service, _) = table_of(&["a", "b"]);
    let failed = service.pick(0, START, &[], Draw::default()).unwrap().replica;
    table.apply(&[], &[ServiceName::parse("orders").unwrap()], START);
    let tried = [failed];
    assert!(!service.has_untried(START, &tried));
    assert_eq!(service.pick(0, START, &tried, Draw::default()).unwrap_err(), Unavailable::AllTried);
    assert_eq!(service.pick(0, START, &[], Draw::default()).unwrap_err(), Unavailable::NoneReady);
}

#[test]
fn the_attempts_of_a_service_never_go_back_when_a_replica_goes() {
    let (table, service, _) = table_of(&["a", "b"]);
    asked(&service, START, 4);
    ask(&service, START, Outcome::Failure(Fault::Closed));
    let _under_way = service.pick(0, START, &[], Draw::default()).unwrap();
    assert_eq!(service.attempts(), ReplicaCounters { attempts: 6, failures: 1, retries: 0, inflight: 1 });
    table.apply(&[orders([])], &[], START);
    assert_eq!(service.attempts(), ReplicaCounters { attempts: 6, failures: 1, retries: 0, inflight: 0 });
}

#[test]
fn a_table_is_filled_by_the_first_registry_even_by_an_empty_one() {
    let (table, _transitions) = Table::new(1);
    assert!(!table.is_filled());
    table.apply(&[], &[], START);
    assert!(table.is_filled());
}

#[test]
fn no_race_of_cancelled_probes_hides_a_replica_whose_probe_is_welcome() {
    let (table, _service, _) = table_of(&["a", "b"]);
    let service = table.service("orders").unwrap();
    trip(&service, START, "b");
    let due = after(1500);
    let pick_and_cancel = || {
        for _ in 0..50 {
            let picked = service.pick(0, due, &[], Draw::default()).unwrap();
            service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, due, 0.5);
        }
    };
    for round in 0..2000 {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(pick_and_cancel);
            }
        });
        assert_eq!(ask(&service, due, Outcome::Neutral), "b", "after {round} rounds nobody probes");
    }
}
