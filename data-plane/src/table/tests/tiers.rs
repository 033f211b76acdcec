//! Which tier is asked: the best one that has a replica to ask.

use super::*;

fn of_tier(tier: i32, id: &str) -> ReplicaSpec {
    ReplicaSpec { priority: Priority::parse(tier).unwrap(), ..replica(id) }
}

/// Two replicas in the primary tier, two in the next, one in the last.
fn tiered() -> (Arc<Table>, Arc<Service>) {
    let (table, service, _) = table_of(&[]);
    let replicas = [of_tier(1, "a1"), of_tier(0, "b0"), of_tier(2, "c2"), of_tier(0, "d0"), of_tier(1, "e1")];
    table.apply(&[orders(replicas)], &[], START);
    (table, service)
}

#[test]
fn the_best_tier_gets_all_requests_in_strict_turns() {
    let (_table, service) = tiered();
    assert_eq!(asked(&service, START, 5), ["b0", "d0", "b0", "d0", "b0"]);
}

#[test]
fn the_next_tier_takes_over_when_the_best_has_nobody_to_ask() {
    let (_table, service) = tiered();
    trip(&service, START, "b0");
    assert_eq!(asked(&service, START, 3), ["d0"; 3]);
    trip(&service, START, "d0");
    assert_eq!(asked(&service, START, 4), ["a1", "e1", "a1", "e1"]);
}

#[test]
fn a_better_tier_that_comes_back_takes_over_after_its_probes() {
    let (_table, service) = tiered();
    for id in ["b0", "d0"] {
        trip(&service, START, id);
    }
    let due = after(1500);
    // Two probes close each; the rest of the traffic stays where it is until then.
    let probe = service.pick(0, due, &[], Draw::default()).unwrap();
    assert_eq!((probe.replica.key().replica.as_str(), probe.permit.is_probe()), ("b0", true));
    let other = service.pick(0, due, &[], Draw::default()).unwrap();
    assert_eq!((other.replica.key().replica.as_str(), other.permit.is_probe()), ("d0", true));
    assert_eq!(asked(&service, due, 2), ["a1", "e1"]);
    for picked in [probe, other] {
        service.settle(0, &picked.replica, picked.permit, Outcome::Success, due, 0.5);
    }
    assert_eq!(asked(&service, due, 2), ["b0", "d0"], "the last probes");
    assert_eq!(asked(&service, due, 4), ["b0", "d0", "b0", "d0"]);
}

#[test]
fn a_worse_tier_is_not_probed_while_a_better_one_is_there() {
    let (table, service) = tiered();
    let down = |id: &str| ReplicaSpec { health: Health::Unhealthy, ..of_tier(0, id) };
    table.apply(&[orders([of_tier(1, "a1"), down("b0"), down("d0"), of_tier(1, "e1")])], &[], START);
    trip(&service, START, "a1");
    table.apply(
        &[orders([of_tier(1, "a1"), of_tier(0, "b0"), of_tier(0, "d0"), of_tier(1, "e1")])],
        &[],
        START,
    );
    assert_eq!(asked(&service, after(60_000), 4), ["b0", "d0", "b0", "d0"]);
    assert_eq!(state_of(&service, after(60_000), "a1"), State::Open);
}

#[test]
fn when_everybody_rests_every_tier_is_probed_the_best_one_first() {
    let (_table, service) = tiered();
    for id in ["b0", "d0", "a1", "e1", "c2"] {
        trip(&service, START, id);
    }
    let due = after(1500);
    let probes =
        (0..5).map(|_| service.pick(0, due, &[], Draw::default()).unwrap().replica.key().replica.to_string());
    assert_eq!(probes.collect::<Vec<_>>(), ["b0", "d0", "a1", "e1", "c2"]);
    let refused = service.pick(0, due, &[], Draw::default()).unwrap_err();
    assert_eq!(refused, Unavailable::AllOpen { resting: 5, retry_at: due });
}

#[test]
fn a_request_that_a_whole_tier_has_failed_goes_on_to_the_next() {
    let (_table, service) = tiered();
    let mut order = Vec::new();
    for _ in 0..2 {
        let mut tried: Vec<Arc<Replica>> = Vec::new();
        while let Ok(picked) = service.pick(0, START, &tried, Draw::default()) {
            service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
            tried.push(picked.replica);
            assert_eq!(service.has_untried(START, &tried), tried.len() < 5);
        }
        order.push(tried.iter().map(|replica| replica.key().replica.to_string()).collect::<Vec<_>>());
    }
    let tiers: Vec<_> = order[0].iter().map(|id| &id[1..]).collect();
    assert_eq!(tiers, ["0", "0", "1", "1", "2"]);
    assert_ne!(order[0][2], order[1][2], "those of the next tier take turns, too");
}

#[test]
fn tiers_that_alternate_starve_nobody() {
    let (table, service, _) = table_of(&[]);
    let best = |health| ["a", "b", "c"].map(|id| ReplicaSpec { health, ..of_tier(0, id) });
    let mut all = Vec::new();
    for round in 0..60 {
        let health = if round % 2 == 0 { Health::Healthy } else { Health::Unhealthy };
        let next = ["b1", "d1"].map(|id| of_tier(1, id));
        let mut replicas: Vec<_> = best(health).into_iter().chain(next).collect();
        replicas.sort_by(|one, other| one.id.cmp(&other.id));
        table.apply(&[orders(replicas)], &[], START);
        all.push(ask(&service, START, Outcome::Success));
    }
    for (id, share) in [("a", 10), ("b", 10), ("c", 10), ("b1", 15), ("d1", 15)] {
        assert_eq!(all.iter().filter(|asked| *asked == id).count(), share, "{id}");
    }
}

#[test]
fn weights_are_exact_shares_within_a_tier() {
    let (table, service, _) = table_of(&[]);
    let heavy = ReplicaSpec { weight: Weight::parse(300).unwrap(), ..of_tier(0, "a") };
    table.apply(&[orders([heavy, of_tier(0, "b"), of_tier(1, "c")])], &[], START);
    let all = asked(&service, START, 400);
    assert_eq!(all.iter().filter(|id| *id == "a").count(), 300);
    assert_eq!(all.iter().filter(|id| *id == "b").count(), 100);
}
