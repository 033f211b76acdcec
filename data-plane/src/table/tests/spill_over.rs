//! How much of the traffic goes to the next tier when a part of the best one is out.

use super::*;

/// Of a hundred requests each: how many go to which tier, by the first letter of the ids.
fn parts(service: &Service, now: Tick, requests: u64) -> BTreeMap<char, u64> {
    let mut parts = BTreeMap::new();
    for (id, share) in shares_of(service, now, 0..requests) {
        *parts.entry(id.chars().next().unwrap()).or_default() += share;
    }
    parts
}

fn of_tier(tier: i32, id: &str) -> ReplicaSpec {
    ReplicaSpec { priority: Priority::parse(tier).unwrap(), ..replica(id) }
}

/// Four replicas in the best tier, two in the next, one in the last.
fn replicas() -> Vec<ReplicaSpec> {
    let best = ["a1", "a2", "a3", "a4"].map(|id| of_tier(0, id));
    let next = ["b1", "b2"].map(|id| of_tier(1, id));
    best.into_iter().chain(next).chain([of_tier(2, "c1")]).collect()
}

fn spilling(algorithm: Algorithm) -> Balancing {
    Balancing { overprovisioning_factor: 1.4, ..by(algorithm) }
}

fn with_health(health: Health, ids: &[&str]) -> Vec<ReplicaSpec> {
    let mut replicas = replicas();
    for replica in &mut replicas {
        if ids.contains(&replica.id.as_str()) {
            replica.health = health;
        }
    }
    replicas
}

#[test]
fn a_tier_keeps_all_traffic_while_enough_of_it_lets_traffic_through() {
    let (table, service) = table_with(&balanced(spilling(Algorithm::RoundRobin), replicas()), 1);
    assert_eq!(parts(&service, START, 120), [('a', 120), ('b', 0), ('c', 0)].into());
    let spec = balanced(spilling(Algorithm::RoundRobin), with_health(Health::Unhealthy, &["a2"]));
    table.apply(&[spec], &[], START);
    assert_eq!(parts(&service, START, 120), [('a', 120), ('b', 0), ('c', 0)].into(), "three of four");
}

#[test]
fn the_next_tier_takes_exactly_what_the_best_one_cannot_bear() {
    let out = with_health(Health::Unhealthy, &["a2", "a4"]);
    let (_table, service) = table_with(&balanced(spilling(Algorithm::RoundRobin), out), 1);
    // 2 of 4, x 1.4.
    assert_eq!(parts(&service, START, 1000), [('a', 700), ('b', 300), ('c', 0)].into());
    let shares = shares_of(&service, START, 0..1000);
    assert_eq!((shares["a1"], shares["a3"], shares["b1"], shares["b2"]), (350, 350, 150, 150));
}

#[test]
fn a_tier_that_is_out_as_a_whole_leaves_all_to_those_behind_it() {
    let out = with_health(Health::Unhealthy, &["a1", "a2", "a3", "a4", "b2"]);
    let (_table, service) = table_with(&balanced(spilling(Algorithm::RoundRobin), out), 1);
    assert_eq!(parts(&service, START, 1000), [('a', 0), ('b', 700), ('c', 300)].into());
}

#[test]
fn who_rests_by_its_breaker_is_missed_and_comes_back_by_its_probes() {
    let spec = balanced(spilling(Algorithm::RoundRobin), replicas());
    let (_table, service) = table_with(&spec, 1);
    for id in ["a1", "a2"] {
        trip(&service, START, id);
    }
    assert_eq!(parts(&service, START, 1000), [('a', 700), ('b', 300), ('c', 0)].into());
    // Two probes each.
    asked(&service, after(1500), 4);
    assert_eq!(parts(&service, after(1500), 100), [('a', 100), ('b', 0), ('c', 0)].into());
}

#[test]
fn who_drains_or_was_never_ready_is_not_missed() {
    for health in [Health::Starting, Health::Healthy] {
        let mut replicas = with_health(health, &["a2", "a4"]);
        if health == Health::Healthy {
            for replica in replicas.iter_mut().filter(|replica| ["a2", "a4"].contains(&replica.id.as_str())) {
                replica.mode = Mode::Draining;
            }
        }
        let (_table, service) = table_with(&balanced(spilling(Algorithm::RoundRobin), replicas), 1);
        assert_eq!(parts(&service, START, 100)[&'a'], 100, "{health:?}");
    }
}

#[test]
fn every_algorithm_keeps_to_the_parts() {
    for algorithm in Algorithm::ALL {
        let out = with_health(Health::Unhealthy, &["a2", "a4"]);
        let mut balancing = spilling(algorithm);
        balancing.hash_load_factor = 0.0;
        let (_table, service) = table_with(&balanced(balancing, out), 1);
        let parts = parts(&service, START, 20_000);
        // Points on a ring are lots: of few replicas, some have more.
        let tolerance = if algorithm == Algorithm::ConsistentHash { 2000 } else { 600 };
        assert!(parts[&'a'].abs_diff(14_000) <= tolerance, "{algorithm:?}: {parts:?}");
        assert_eq!(parts[&'a'] + parts[&'b'], 20_000, "{algorithm:?}");
    }
}

#[test]
fn a_retry_goes_to_whoever_is_left_in_any_tier() {
    let out = with_health(Health::Unhealthy, &["a2", "a4"]);
    let (_table, service) = table_with(&balanced(spilling(Algorithm::RoundRobin), out), 1);
    let mut tried: Vec<Arc<Replica>> = Vec::new();
    while let Ok(picked) = service.pick(0, START, &tried, Draw::default()) {
        service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
        tried.push(picked.replica);
    }
    let mut ids: Vec<_> = tried.iter().map(|replica| id_of(replica)).collect();
    assert_eq!(ids.last(), Some(&"c1"), "what is not in use goes last");
    ids.sort_unstable();
    assert_eq!(ids, ["a1", "a3", "b1", "b2", "c1"]);
}

#[test]
fn the_weights_of_those_that_are_out_count_and_not_their_number() {
    let mut replicas = with_health(Health::Unhealthy, &["a1"]);
    replicas[0].weight = Weight::parse(300).unwrap();
    let (_table, service) = table_with(&balanced(spilling(Algorithm::RoundRobin), replicas), 1);
    // 300 of 600, x 1.4.
    let parts = parts(&service, START, 1000);
    // Thirds are rounded to a thousandth.
    assert!(parts[&'a'].abs_diff(700) <= 2 && parts[&'a'] + parts[&'b'] == 1000, "{parts:?}");
}

/// Three in the best tier, of which two are out, and two in the next, with a threshold below which tiers fail open.
fn mostly_out(overprovisioning_factor: f64) -> (Arc<Table>, Arc<Service>) {
    let balancing = Balancing { overprovisioning_factor, ..by(Algorithm::RoundRobin) };
    let replicas = ["a1", "a2", "a3"].map(|id| of_tier(0, id)).into_iter();
    let spec = balanced(balancing, replicas.chain(["b1", "b2"].map(|id| of_tier(1, id))));
    let (table, service) = table_with(&spec, 1);
    for id in ["a2", "a3"] {
        trip(&service, START, id);
    }
    let mut failing_open = spec;
    failing_open.policy.breaker.fail_open_threshold = 0.5;
    table.apply(&[failing_open], &[], START);
    (table, service)
}

#[test]
fn no_tier_fails_open_while_all_together_bear_everything() {
    let (table, service) = mostly_out(1.4);
    assert_eq!(service.fail_open(), None);
    // 1 of 3, x 1.4.
    let shares = shares_of(&service, START, 0..1500);
    assert!(
        shares["a1"].abs_diff(700) <= 2 && shares["a1"] + shares["b1"] + shares["b2"] == 1500,
        "{shares:?}"
    );
    for id in ["b1", "b2"] {
        trip(&service, START, id);
    }
    let left = FailOpen { letting_through: 1, total: 3, tier: Priority::default() };
    assert_eq!(service.fail_open(), Some(left), "nobody else bears the rest");
    drop(table);
}

#[test]
fn without_a_factor_no_tier_fails_open_while_another_is_above_the_threshold() {
    let (table, service) = mostly_out(0.0);
    assert_eq!(service.fail_open(), None);
    assert_eq!(asked(&service, START, 3), ["a1"; 3]);
    let mut alone = balanced(by(Algorithm::RoundRobin), ["a1", "a2", "a3"].map(|id| of_tier(0, id)));
    alone.policy.breaker.fail_open_threshold = 0.5;
    table.apply(&[alone], &[], START);
    assert!(service.fail_open().is_some());
}
