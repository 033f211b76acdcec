//! What each algorithm promises, on the whole service.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const TEN: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

fn weighted(id: &str, weight: i32) -> ReplicaSpec {
    ReplicaSpec { weight: Weight::parse(weight).unwrap(), ..replica(id) }
}

/// Requests that are under way at each replica.
fn inflight(service: &Service) -> BTreeMap<String, u64> {
    let replicas = service.replicas();
    replicas.iter().map(|replica| (id_of(replica).to_owned(), replica.counters().inflight)).collect()
}

/// Whose the keys are, one request after the other.
fn owners(service: &Service, now: Tick, keys: std::ops::Range<u64>) -> Vec<String> {
    keys.map(|number| {
        let picked = service.pick(0, now, &[], draw(number)).unwrap();
        service.settle(0, &picked.replica, picked.permit, Outcome::Success, now, 0.5);
        id_of(&picked.replica).to_owned()
    })
    .collect()
}

#[test]
fn by_chance_shares_are_those_of_the_weights() {
    let replicas = [weighted("a", 100), weighted("b", 300), weighted("c", 200)];
    let (_table, service) = table_with(&balanced(by(Algorithm::Random), replicas), 1);
    let shares = shares_of(&service, START, 0..60_000);
    for (id, due) in [("a", 10_000_u64), ("b", 30_000), ("c", 20_000)] {
        assert!(shares[id].abs_diff(due) < 600, "{shares:?}");
    }
}

#[test]
fn while_nothing_is_in_flight_the_better_of_two_is_by_weight() {
    for algorithm in [Algorithm::LeastRequest, Algorithm::PeakEwma] {
        let spec = balanced(by(algorithm), [weighted("a", 100), weighted("b", 300)]);
        let (_table, service) = table_with(&spec, 1);
        let shares = shares_of(&service, START, 0..40_000);
        assert!(shares["b"].abs_diff(30_000) < 600, "{algorithm:?}: {shares:?}");
    }
}

#[test]
fn however_few_are_under_way_the_better_of_two_is_so_by_weight() {
    for clients in [1, 2, 3, 4, 12] {
        let spec = balanced(by(Algorithm::LeastRequest), [weighted("a", 1000), weighted("b", 100)]);
        let (_table, service) = table_with(&spec, 1);
        let mut under_way = std::collections::VecDeque::new();
        let mut of_light = 0_u64;
        for number in 0..11_000 {
            // All take equally long, so that the oldest is answered first.
            if under_way.len() == clients {
                let Picked { replica, permit } = under_way.pop_front().unwrap();
                service.settle(0, &replica, permit, Outcome::Success, START, 0.5);
            }
            let picked = service.pick(0, START, &[], draw(number)).unwrap();
            of_light += u64::from(id_of(&picked.replica) == "b");
            under_way.push_back(picked);
        }
        assert!(of_light.abs_diff(1000) < 300, "{of_light} of 11000 with {clients} clients");
    }
}

#[test]
fn requests_that_stay_in_flight_are_spread_evenly_by_weight() {
    let replicas = TEN.iter().enumerate().map(|(index, id)| weighted(id, if index < 5 { 100 } else { 200 }));
    let (_table, service) = table_with(&balanced(by(Algorithm::LeastRequest), replicas), 1);
    let under_way: Vec<_> =
        (0..1_500).map(|number| service.pick(0, START, &[], draw(number)).unwrap()).collect();
    for (id, count) in inflight(&service) {
        let due: u64 = if id.as_str() < "f" { 100 } else { 200 };
        assert!(count.abs_diff(due) <= 5, "{id} has {count} of {}", under_way.len());
    }
}

#[test]
fn of_two_the_one_with_fewer_requests_in_flight_is_asked() {
    let (_table, service) = table_with(&balanced(by(Algorithm::LeastRequest), ["a", "b"].map(replica)), 2);
    let first = service.pick(0, START, &[], draw(1)).unwrap();
    let other = if id_of(&first.replica) == "a" { "b" } else { "a" };
    for number in 0..50 {
        // Another worker sees them, too.
        let picked = service.pick(1, START, &[], draw(number)).unwrap();
        assert_eq!(id_of(&picked.replica), other);
        service.settle(1, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
    }
}

/// Requests, one after the other, to replicas that take as long as `latency` says; their shares.
fn shares_by_latency(service: &Service, outcome: impl Fn(&str) -> (Outcome, u64)) -> BTreeMap<String, u64> {
    let mut shares = BTreeMap::new();
    let mut now = START;
    for number in 0..2_000 {
        let picked = service.pick(0, now, &[], draw(number)).unwrap();
        let id = id_of(&picked.replica).to_owned();
        let (outcome, millis) = outcome(&id);
        let latency = Duration::from_millis(millis);
        now = now.plus(Duration::from_millis(2));
        service.heard(0, &picked.replica, outcome, latency, now);
        service.judge(&picked.replica, picked.permit, Outcome::Success, now, now, 0.5);
        service.end(0, &picked.replica, true);
        *shares.entry(id).or_default() += 1;
    }
    shares
}

#[test]
fn a_slow_replica_is_asked_seldom_and_one_that_fails_fast_is_not_fast() {
    let ids = ["a", "b", "c"];
    for (outcome, millis) in
        [(Outcome::Success, 300), (Outcome::Failure(Fault::Reset), 0), (Outcome::Overloaded, 0)]
    {
        let (_table, service) = table_with(&balanced(by(Algorithm::PeakEwma), ids.map(replica)), 1);
        let shares =
            shares_by_latency(
                &service,
                |id| if id == "b" { (outcome, millis) } else { (Outcome::Success, 10) },
            );
        assert!(shares["b"] <= 20, "{outcome:?}: {shares:?}");
        assert!(shares["a"] > 600 && shares["c"] > 600, "{shares:?}");
    }
}

/// How often each was asked first, and how often it was asked after `failing` had failed the request.
fn asked_first_and_again(service: &Service, failing: &str, requests: u64) -> [BTreeMap<String, u64>; 2] {
    let mut counts = [BTreeMap::new(), BTreeMap::new()];
    for number in 0..requests {
        let mut tried = Vec::new();
        loop {
            let picked = service.pick(0, START, &tried, draw(number)).unwrap();
            let id = id_of(&picked.replica).to_owned();
            // Nothing that its breaker counts.
            service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
            *counts[tried.len()].entry(id.clone()).or_default() += 1;
            if id != failing {
                break;
            }
            tried.push(picked.replica);
        }
    }
    counts
}

#[test]
fn who_fails_requests_is_asked_first_in_its_turn_only_and_the_others_share_what_follows() {
    for (weights, first, again) in [
        (&[("a", 100), ("b", 100)][..], &[("a", 30), ("b", 30)][..], &[("a", 30)][..]),
        (&[("a", 100), ("b", 100), ("c", 100)], &[("a", 20), ("b", 20), ("c", 20)], &[("a", 10), ("c", 10)]),
        (&[("a", 200), ("b", 100), ("c", 300)], &[("a", 20), ("b", 10), ("c", 30)], &[("a", 4), ("c", 6)]),
    ] {
        let replicas = weights.iter().map(|(id, weight)| weighted(id, *weight));
        let (_table, service) = table_with(&balanced(by(Algorithm::RoundRobin), replicas), 1);
        let due = |of: &[(&str, u64)]| of.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect();
        assert_eq!(asked_first_and_again(&service, "b", 60), [due(first), due(again)], "{weights:?}");
    }
}

#[test]
fn what_follows_a_failure_goes_to_others_each_time_however_often_something_changes() {
    let spec =
        |weight: i32| balanced(by(Algorithm::RoundRobin), ["a", "b", "c"].map(|id| weighted(id, weight)));
    let (table, service) = table_with(&spec(100), 1);
    let tried = [service.replica(&ReplicaId::parse("b").unwrap()).unwrap()];
    let mut again: BTreeMap<String, u32> = BTreeMap::new();
    for round in 0..40 {
        table.apply(&[spec(100 + round % 2)], &[], START);
        let picked = service.pick(0, START, &tried, Draw::default()).unwrap();
        *again.entry(id_of(&picked.replica).to_owned()).or_default() += 1;
        service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
    }
    assert!(again.len() == 2 && again.values().all(|count| (10..=30).contains(count)), "{again:?}");
}

#[test]
fn latencies_are_estimated_only_while_the_policy_goes_by_them() {
    let (_table, service) = table_with(&balanced(by(Algorithm::LeastRequest), ["a"].map(replica)), 1);
    let replica = service.replicas()[0].clone();
    service.heard(0, &replica, Outcome::Success, Duration::from_secs(1), START);
    assert_eq!(replica.estimate().seconds(START), None);
}

#[test]
fn a_key_stays_with_its_replica_and_without_one_replicas_take_turns() {
    let (_table, service) = table_with(&balanced(by(Algorithm::ConsistentHash), TEN.map(replica)), 1);
    let once = owners(&service, START, 0..500);
    assert_eq!(once, owners(&service, START, 0..500));
    assert_eq!(once.iter().collect::<BTreeSet<_>>().len(), 10, "keys are spread");
    assert_eq!(asked(&service, START, 12), ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "a", "b"]);
}

#[test]
fn an_ejected_replica_s_keys_go_to_many_others_and_come_back() {
    let (_table, service) = table_with(&balanced(by(Algorithm::ConsistentHash), TEN.map(replica)), 1);
    let before = owners(&service, START, 0..2_000);
    trip(&service, START, "d");
    let meanwhile = owners(&service, START, 0..2_000);
    let mut heirs = BTreeSet::new();
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(before == meanwhile || before == "d");
        if before == "d" {
            heirs.insert(meanwhile);
        }
    }
    assert!(heirs.len() >= 7 && !heirs.iter().any(|id| *id == "d"), "{heirs:?}");
    let due = after(5_000);
    for _ in 0..2 {
        ask(&service, due, Outcome::Success);
    }
    assert_eq!(state_of(&service, due, "d"), State::Closed);
    assert_eq!(before, owners(&service, due, 0..2_000));
}

fn forced_out(spec: ReplicaSpec) -> ReplicaSpec {
    ReplicaSpec { forced: Some(Forced { state: ForcedState::Open, entry: Arc::default() }), ..spec }
}

#[test]
fn keys_of_others_stay_while_the_heaviest_is_out_and_while_it_starts_slowly() {
    let slow = Duration::from_secs(9);
    let balancing = Balancing { hash_load_factor: 0.0, slow_start: slow, ..by(Algorithm::ConsistentHash) };
    let members = || [weighted("a", 100), weighted("b", 100), weighted("c", 300), weighted("d", 100)];
    let (table, service) = table_with(&balanced(balancing, members()), 1);
    let before = owners(&service, START, 0..900);
    let [a, b, c, d] = members();
    table.apply(&[balanced(balancing, [a, b, forced_out(c), d])], &[], START);
    let meanwhile = owners(&service, START, 0..900);
    for (before, meanwhile) in before.iter().zip(&meanwhile) {
        assert!(before == meanwhile || before == "c", "from {before} to {meanwhile}");
    }
    // A new process of it takes over its keys bit by bit.
    let [a, b, mut c, d] = members();
    c.incarnation += 1;
    table.apply(&[balanced(balancing, [a, b, c, d])], &[], after(1_000));
    // Among them its probes, which go before all keys.
    asked(&service, after(1_000), 10);
    let mut last = meanwhile;
    for step in 0..=10 {
        let now = owners(&service, after(1_000 * (step + 1)), 0..900);
        for (last, now) in last.iter().zip(&now) {
            assert!(last == now || now == "c", "from {last} to {now} in step {step}");
        }
        last = now;
    }
    assert_eq!(last, before);
}

#[test]
fn keys_stay_where_all_start_slowly_together() {
    let slow = Duration::from_secs(9);
    let balancing = Balancing { hash_load_factor: 0.0, slow_start: slow, ..by(Algorithm::ConsistentHash) };
    let (table, service) = table_with(&balanced(balancing, []), 1);
    table.apply(
        &[balanced(balancing, [weighted("a", 100), weighted("b", 100), weighted("c", 300)])],
        &[],
        START,
    );
    let first = owners(&service, START, 0..500);
    for step in 1..=10 {
        assert_eq!(owners(&service, after(1_000 * step), 0..500), first, "step {step}");
    }
}

#[test]
fn keys_of_others_stay_when_one_goes_out_beside_which_they_start_slowly() {
    let slow = Duration::from_secs(100);
    let balancing = Balancing { hash_load_factor: 0.0, slow_start: slow, ..by(Algorithm::ConsistentHash) };
    let spec = |members: &[ReplicaSpec]| [balanced(balancing, members.to_vec())];
    let [a, b, c] = ["a", "b", "c"].map(replica);
    let (table, service) = table_with(&spec(std::slice::from_ref(&c))[0], 1);
    table.apply(&spec(&[a.clone(), c.clone()]), &[], START);
    table.apply(&spec(&[a.clone(), b.clone(), c.clone()]), &[], after(20_000));
    let now = after(50_000);
    let before = owners(&service, now, 0..900);
    table.apply(&spec(&[a, b, forced_out(c)]), &[], now);
    for (before, meanwhile) in before.iter().zip(&owners(&service, now, 0..900)) {
        assert!(before == meanwhile || before == "c", "from {before} to {meanwhile}");
    }
}

#[test]
fn weights_hold_among_those_that_are_left_however_heavy_the_one_is_that_is_out() {
    let balancing = Balancing { hash_load_factor: 0.0, ..by(Algorithm::ConsistentHash) };
    let members = [weighted("a", 1), weighted("b", 7), forced_out(weighted("c", 1000))];
    let (_table, service) = table_with(&balanced(balancing, members), 1);
    let owners = owners(&service, START, 0..4_000);
    let of_b = owners.iter().filter(|owner| *owner == "b").count();
    assert!((3_000..4_000).contains(&of_b), "{of_b} of 4000");
}

#[test]
fn keys_go_to_the_next_tier_as_it_helps_out_and_not_to_neighbours() {
    let balancing =
        Balancing { hash_load_factor: 0.0, overprovisioning_factor: 1.4, ..by(Algorithm::ConsistentHash) };
    let spare = |id, weight| ReplicaSpec { priority: Priority::parse(1).unwrap(), ..weighted(id, weight) };
    let rest = || [weighted("c", 100), spare("x", 100), spare("y", 300)];
    let spec = |b| balanced(balancing, [weighted("a", 100), b].into_iter().chain(rest()));
    let (table, service) = table_with(&spec(weighted("b", 300)), 1);
    let before = owners(&service, START, 0..900);
    table.apply(&[spec(forced_out(weighted("b", 300)))], &[], START);
    let meanwhile = owners(&service, START, 0..900);
    for (before, now) in before.iter().zip(&meanwhile) {
        assert!(before == now || before == "b" || now == "x" || now == "y", "from {before} to {now}");
    }
    assert!(meanwhile.iter().any(|owner| owner == "a") && meanwhile.iter().any(|owner| owner == "y"));
}

#[test]
fn a_retry_of_a_keyed_request_goes_to_the_same_second_replica_each_time() {
    let (_table, service) = table_with(&balanced(by(Algorithm::ConsistentHash), TEN.map(replica)), 1);
    let ways = [0, 1].map(|_| {
        let mut tried = Vec::new();
        while let Ok(picked) = service.pick(0, START, &tried, draw(7)) {
            service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
            tried.push(picked.replica);
        }
        tried.iter().map(|replica| id_of(replica).to_owned()).collect::<Vec<_>>()
    });
    assert_eq!(ways[0], ways[1]);
    assert_eq!(ways[0].iter().collect::<BTreeSet<_>>().len(), 10, "everybody is asked once");
}

#[test]
fn one_hot_key_overloads_nobody_unless_that_is_allowed() {
    for factor in [1.0, 1.25, 2.0, 0.0] {
        let balancing = Balancing { hash_load_factor: factor, ..by(Algorithm::ConsistentHash) };
        let replicas = [weighted("a", 100), weighted("b", 300), weighted("c", 100), weighted("d", 100)];
        let (_table, service) = table_with(&balanced(balancing, replicas), 1);
        let hot = Draw { random: 0.5, key: Some(42), ..Draw::default() };
        let mut under_way = Vec::new();
        for count in 1..=300_u32 {
            under_way.push(service.pick(0, START, &[], hot).unwrap());
            let largest = |id: &str| {
                let share = if id == "b" { 0.5 } else { 1.0 / 6.0 };
                if factor == 0.0 { count.into() } else { (factor * f64::from(count) * share).ceil() as u64 }
            };
            for (id, has) in inflight(&service) {
                assert!(has <= largest(&id), "{id} has {has} of {count} with {factor}");
            }
        }
        let used = inflight(&service).values().filter(|count| **count > 0).count();
        assert_eq!(used == 1, factor == 0.0, "{factor}: {:?}", inflight(&service));
    }
}

#[test]
fn what_is_under_way_at_those_that_are_not_asked_loosens_no_bound() {
    let forced = Forced { state: ForcedState::Open, entry: Arc::default() };
    let ways = [
        Some(ReplicaSpec { mode: Mode::Draining, ..replica("x") }),
        Some(ReplicaSpec { forced: Some(forced), ..replica("x") }),
        Some(ReplicaSpec { priority: Priority::parse(1).unwrap(), ..replica("x") }),
        None,
    ];
    for x in ways {
        let said = format!("{:?}", x.as_ref().map(|x| (x.mode, x.priority)));
        let balancing = by(Algorithm::ConsistentHash);
        let (table, service) = table_with(&balanced(balancing, [replica("x")]), 1);
        let hot = Draw { random: 0.5, key: Some(42), ..Draw::default() };
        let stuck: Vec<_> = (0..90).map(|_| service.pick(0, START, &[], hot).unwrap()).collect();
        // Twice, because what is known of them outlives another view.
        for _ in 0..2 {
            let replicas = ["y", "z"].map(replica).into_iter().chain(x.clone());
            let mut spec = balanced(balancing, replicas);
            spec.replicas.sort_by(|one, other| one.id.cmp(&other.id));
            table.apply(&[spec], &[], START);
        }
        for count in 1..=20_u64 {
            service.pick(0, START, &[], hot).unwrap();
            // 1.25 of a half.
            let bound = (5 * count).div_ceil(8);
            let inflight = inflight(&service);
            assert!(inflight["y"].max(inflight["z"]) <= bound, "{inflight:?} of {count}, {said}");
        }
        for Picked { replica, permit } in stuck {
            service.settle(0, &replica, permit, Outcome::Success, START, 0.5);
        }
    }
}

#[test]
fn many_workers_together_spread_what_stays_in_flight_evenly() {
    let (_table, service) = table_with(&balanced(by(Algorithm::LeastRequest), TEN.map(replica)), 4);
    std::thread::scope(|scope| {
        for worker in 0..4_u64 {
            let service = &service;
            scope.spawn(move || {
                for number in 0..500 {
                    let picked = service.pick(worker as usize, START, &[], draw(worker * 1_000 + number));
                    // It stays in flight.
                    drop(picked.unwrap());
                }
            });
        }
    });
    for (id, count) in inflight(&service) {
        assert!(count.abs_diff(200) <= 12, "{id} has {count} of 2000");
    }
}

#[test]
fn every_worker_and_every_data_plane_sends_a_key_to_the_same_replica_whatever_they_have_seen() {
    let spec = balanced(by(Algorithm::ConsistentHash), TEN.map(replica));
    let (_one, first) = table_with(&spec, 2);
    let (table, second) = table_with(&balanced(by(Algorithm::Random), ["c", "x", "y"].map(replica)), 1);
    table.apply(&[balanced(by(Algorithm::ConsistentHash), ["a", "c", "x"].map(replica))], &[], START);
    table.apply(&[spec], &[], START);
    let owners_of = |worker: usize, service: &Service| {
        let owner = |number| {
            let picked = service.pick(worker, START, &[], draw(number)).unwrap();
            service.settle(worker, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
            id_of(&picked.replica).to_owned()
        };
        (0..500).map(owner).collect::<Vec<_>>()
    };
    let expected = owners_of(0, &first);
    assert_eq!(expected, owners_of(1, &first));
    assert_eq!(expected, owners_of(0, &second));
}

#[test]
fn whatever_the_workers_and_the_registry_do_every_request_has_one_replica_and_an_end() {
    for algorithm in Algorithm::ALL {
        let (table, service) = table_with(&balanced(by(algorithm), TEN.map(replica)), 4);
        std::thread::scope(|scope| {
            for worker in 0..4_u64 {
                let service = &service;
                scope.spawn(move || {
                    let mut under_way = std::collections::VecDeque::new();
                    for number in 0..2_000 {
                        let draw = draw(worker * 10_000 + number);
                        under_way.push_back(service.pick(worker as usize, START, &[], draw).unwrap());
                        while under_way.len() > 3 {
                            let old: Picked = under_way.pop_front().unwrap();
                            let outcome = if number % 9 == 0 {
                                Outcome::Failure(Fault::Reset)
                            } else {
                                Outcome::Success
                            };
                            service.settle(worker as usize, &old.replica, old.permit, outcome, START, 0.5);
                        }
                    }
                    for old in under_way {
                        service.settle(
                            worker as usize,
                            &old.replica,
                            old.permit,
                            Outcome::Neutral,
                            START,
                            0.5,
                        );
                    }
                });
            }
            for round in 0..200_usize {
                let there = TEN
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| *index == 0 || !(round + index).is_multiple_of(3));
                let replicas = there
                    .map(|(index, id)| weighted(id, if round % 2 == 0 { 100 } else { 1 + index as i32 }));
                table.apply(&[balanced(by(algorithm), replicas)], &[], START);
            }
        });
        assert_eq!((service.inflight.read(), service.attempts().inflight), (0, 0), "{algorithm:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_change_of_members_moves_the_keys_of_those_that_came_or_went_only(
        steps in prop::collection::vec((0..TEN.len(), prop::sample::select(vec![0, 50, 100])), 1..12),
    ) {
        let balancing = Balancing { hash_load_factor: 0.0, ..by(Algorithm::ConsistentHash) };
        let mut members: BTreeMap<&str, i32> = TEN[..5].iter().map(|id| (*id, 100)).collect();
        // It keeps the largest share the same.
        members.insert("z", 100);
        let spec = |members: &BTreeMap<&str, i32>| {
            balanced(balancing, members.iter().map(|(id, weight)| weighted(id, *weight)))
        };
        let (table, service) = table_with(&spec(&members), 1);
        let mut before = owners(&service, START, 0..600);
        for (index, weight) in steps {
            let id = TEN[index];
            match weight {
                0 => members.remove(id),
                weight => members.insert(id, weight),
            };
            table.apply(&[spec(&members)], &[], START);
            let after = owners(&service, START, 0..600);
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(before == after || before == id || after == id, "{} for {}: {}", after, before, id);
            }
            before = after;
        }
    }

    #[test]
    fn whoever_is_out_or_comes_back_moves_no_keys_between_others_whatever_the_weights(
        weights in prop::collection::vec(1..=1000_i32, 2..8),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 1..10),
    ) {
        let balancing = Balancing { hash_load_factor: 0.0, ..by(Algorithm::ConsistentHash) };
        let mut out = vec![false; weights.len()];
        let spec = |out: &[bool]| {
            let members = TEN.iter().zip(&weights).map(|(id, weight)| weighted(id, *weight)).zip(out);
            balanced(balancing, members.map(|(member, out)| if *out { forced_out(member) } else { member }))
        };
        let (table, service) = table_with(&spec(&out), 1);
        let mut before = owners(&service, START, 0..300);
        for turn in turns {
            let place = turn.index(weights.len());
            out[place] = !out[place];
            if out.iter().all(|out| *out) {
                out[place] = false;
            }
            table.apply(&[spec(&out)], &[], START);
            // Among them probes of who comes back, which go before all keys.
            asked(&service, START, 10);
            let after = owners(&service, START, 0..300);
            let id = TEN[place];
            for (before, after) in before.iter().zip(&after) {
                prop_assert!(before == after || before == id || after == id, "{} for {}: {}", after, before, id);
            }
            before = after;
        }
    }

    #[test]
    fn a_request_asks_everybody_once_by_any_algorithm(
        algorithm in prop::sample::select(&Algorithm::ALL[..]),
        weights in prop::collection::vec(1..=1000_i32, 1..10),
        number in any::<u32>(),
    ) {
        let replicas: Vec<_> = TEN.iter().zip(&weights).map(|(id, weight)| weighted(id, *weight)).collect();
        let (_table, service) = table_with(&balanced(by(algorithm), replicas), 1);
        let mut tried: Vec<Arc<Replica>> = Vec::new();
        while let Ok(picked) = service.pick(0, START, &tried, draw(number.into())) {
            prop_assert!(!tried.iter().any(|one| one.key() == picked.replica.key()), "asked twice");
            service.settle(0, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
            tried.push(picked.replica);
        }
        prop_assert_eq!(tried.len(), weights.len());
    }
}
