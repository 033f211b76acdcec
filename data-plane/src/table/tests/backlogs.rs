//! What must not be sent twice, and replicas that take requests and do not answer them.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    routing::balancing::{Load, MOST_PEERS, has_backlog},
    table::measures::Backlog,
};

const ABC: [&str; 3] = ["a", "b", "c"];

/// A request that must not be sent twice, with the chance of that number.
fn once(number: u64) -> Draw {
    Draw { key: None, is_unrepeatable: true, ..draw(number) }
}

fn weighted(id: &str, weight: i32) -> ReplicaSpec {
    ReplicaSpec { weight: Weight::parse(weight).unwrap(), ..replica(id) }
}

/// Has `count` requests of a worker wait at `id`.
fn pile_up(service: &Service, worker: usize, id: &str, count: usize) -> Vec<Picked> {
    let others: Vec<_> = service.replicas().iter().filter(|replica| id_of(replica) != id).cloned().collect();
    (0..count).map(|_| service.pick(worker, START, &others, Draw::default()).unwrap()).collect()
}

/// Whom so many requests go to, one after the other, that must not be sent twice.
fn asked_once(service: &Service, worker: usize, requests: std::ops::Range<u64>) -> Vec<String> {
    requests
        .map(|number| {
            let picked = service.pick(worker, START, &[], once(number)).unwrap();
            service.settle(worker, &picked.replica, picked.permit, Outcome::Neutral, START, 0.5);
            id_of(&picked.replica).to_owned()
        })
        .collect()
}

#[test]
fn what_must_not_be_sent_twice_keeps_away_from_where_requests_pile_up_and_all_else_takes_turns() {
    let (_table, service, _) = table_of(&ABC);
    let mut waiting = pile_up(&service, 0, "b", 8);
    assert!(asked_once(&service, 0, 0..3).contains(&"b".to_owned()), "eight may be chance");
    waiting.extend(pile_up(&service, 0, "b", 1));
    let asked_then = asked_once(&service, 0, 0..300);
    for (id, due) in [("a", 150), ("b", 0), ("c", 150)] {
        assert_eq!(asked_then.iter().filter(|asked| *asked == id).count(), due, "{id}");
    }
    let turns = asked(&service, START, 300);
    assert!(ABC.iter().all(|id| turns.iter().filter(|asked| asked == id).count() == 100), "{turns:?}");

    let first = waiting.remove(0);
    service.settle(0, &first.replica, first.permit, Outcome::Success, START, 0.5);
    assert!(asked_once(&service, 0, 0..3).contains(&"b".to_owned()), "it has answered one");
}

#[test]
fn a_stream_that_goes_on_for_long_is_answered_and_piles_up_nowhere() {
    let (_table, service, _) = table_of(&ABC);
    for picked in pile_up(&service, 0, "b", 100) {
        service.heard(0, &picked.replica, Outcome::Success, Duration::from_millis(1), START);
    }
    assert_eq!(service.replicas()[1].counters().inflight, 100);
    assert_eq!(asked_once(&service, 0, 0..300).iter().filter(|id| *id == "b").count(), 100);
}

#[test]
fn each_worker_goes_by_its_own_requests() {
    let (_table, service) = table_with(&orders(ABC.map(replica)), 2);
    let _waiting = pile_up(&service, 1, "b", 9);
    assert!(!asked_once(&service, 1, 0..30).contains(&"b".to_owned()));
    assert_eq!(asked_once(&service, 0, 0..30).iter().filter(|id| *id == "b").count(), 10);
}

#[test]
fn when_nobody_else_takes_it_it_goes_where_others_wait() {
    let (_table, service, _) = table_of(&ABC);
    let _waiting = pile_up(&service, 0, "b", 50);
    let tried: Vec<_> = service.replicas().iter().filter(|other| id_of(other) != "b").cloned().collect();
    assert_eq!(id_of(&service.pick(0, START, &tried, once(1)).unwrap().replica), "b");
    for id in ["a", "c"] {
        trip(&service, START, id);
    }
    assert_eq!(asked_once(&service, 0, 0..3), ["b"; 3]);
}

#[test]
fn a_replica_that_has_most_of_the_turns_and_answers_none_keeps_them_from_others_no_more() {
    for algorithm in [Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequest, Algorithm::PeakEwma]
    {
        let replicas = [weighted("a", 1), weighted("b", 1000), weighted("c", 2)];
        let (_table, service) = table_with(&balanced(by(algorithm), replicas), 1);
        let _waiting = pile_up(&service, 0, "b", 8001);
        let asked = asked_once(&service, 0, 0..3000);
        assert!(!asked.contains(&"b".to_owned()), "{algorithm:?}");
        assert!(
            ["a", "c"].iter().all(|id| asked.iter().filter(|asked| asked == id).count() > 500),
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_key_stays_with_its_replica_as_far_as_the_bound_on_loads_lets_it() {
    for (factor, stays) in [(0.0, true), (1.25, false)] {
        let balancing = Balancing { hash_load_factor: factor, ..by(Algorithm::ConsistentHash) };
        let (_table, service) = table_with(&balanced(balancing, ABC.map(replica)), 1);
        let keyed = Draw { is_unrepeatable: true, ..draw(7) };
        let owner = || id_of(&service.pick(0, START, &[], keyed).unwrap().replica).to_owned();
        let first = owner();
        let _waiting = pile_up(&service, 0, &first, 50);
        assert_eq!(owner() == first, stays, "{factor}");
    }
}

#[test]
fn what_keeps_away_from_a_backlog_does_not_wait_for_those_that_are_full() {
    let mut spec = orders(ABC.map(replica));
    spec.policy.concurrency.max_per_replica = 20;
    let (_table, service) = table_with(&spec, 1);
    let _waiting = pile_up(&service, 0, "b", 15);
    assert!(!asked_once(&service, 0, 0..30).contains(&"b".to_owned()));
    for picked in ["a", "c"].map(|id| pile_up(&service, 0, id, 20)).into_iter().flatten() {
        service.heard(0, &picked.replica, Outcome::Success, Duration::from_millis(1), START);
    }
    assert_eq!(
        asked_once(&service, 0, 0..3),
        ["b"; 3],
        "the others have answered, and are full all the same"
    );
}

#[test]
fn what_has_piled_up_is_told_while_it_has_beside_what_its_peers_have() {
    let (_table, service) = table_with(&orders(["a", "b", "c", "d"].map(replica)), 2);
    let told = |id: &str| {
        let replica = service.replica(&ReplicaId::parse(id).unwrap()).unwrap();
        service.measures(&replica, &service.side_by_side(START), START).backlog
    };
    let _others = [pile_up(&service, 0, "a", 2), pile_up(&service, 1, "c", 1)];
    let mut waiting = pile_up(&service, 0, "b", 8);
    assert_eq!(told("b"), None);
    waiting.extend(pile_up(&service, 0, "b", 4));
    waiting.extend(pile_up(&service, 1, "b", 1));
    assert_eq!(told("b"), Some(Backlog { unanswered: 13, median: 1 }));
    assert_eq!(told("a"), None);
    for picked in waiting {
        service.heard(0, &picked.replica, Outcome::Success, Duration::from_millis(1), START);
    }
    assert_eq!(told("b"), None);
}

/// What happens next to a service: a request begins, or one of those under way is answered.
#[derive(Debug, Clone)]
enum Step {
    Begin { worker: usize, is_unrepeatable: bool },
    Answer(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..2_usize, any::<bool>()).prop_map(|(worker, is_unrepeatable)| Step::Begin { worker, is_unrepeatable }),
        1 => any::<prop::sample::Index>().prop_map(Step::Answer),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_answers_and_whoever_does_not_nothing_is_sent_once_to_where_requests_pile_up(
        weights in prop::collection::vec(1..20_i32, 2..14),
        hangs in prop::collection::vec(any::<bool>(), 14),
        steps in prop::collection::vec(step(), 1..600),
        algorithm in prop::sample::select(vec![
            Algorithm::RoundRobin, Algorithm::Random, Algorithm::LeastRequest, Algorithm::PeakEwma,
        ]),
    ) {
        let ids: Vec<_> = (0..weights.len()).map(|number| format!("r-{number:02}")).collect();
        let specs = ids.iter().zip(&weights).map(|(id, weight)| weighted(id, *weight));
        let (_table, service) = table_with(&balanced(by(algorithm), specs), 2);
        let mut waiting = [vec![0_u32; ids.len()], vec![0; ids.len()]];
        let mut under_way: Vec<(usize, usize, Picked)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Begin { worker, is_unrepeatable } => {
                    let counts = waiting[worker].iter().zip(&weights);
                    let load = |(count, weight): (&u32, &i32)| Load {
                        cost: f64::from(*count),
                        share: u64::try_from(*weight).unwrap(),
                    };
                    let loads: Vec<_> = counts.map(load).collect();
                    let is_piled_up = |place: &usize| {
                        let peers = 1..loads.len().min(MOST_PEERS + 1);
                        has_backlog(loads[*place], peers.map(|step| loads[(place + step) % loads.len()]))
                    };
                    let piled_up: BTreeSet<_> = (0..ids.len()).filter(is_piled_up).collect();
                    let draw = Draw { is_unrepeatable, ..once(number as u64) };
                    let picked = service.pick(worker, START, &[], draw).unwrap();
                    let place = ids.iter().position(|id| id == id_of(&picked.replica)).unwrap();
                    prop_assert!(piled_up.len() < ids.len(), "somebody is always left");
                    prop_assert!(!is_unrepeatable || !piled_up.contains(&place), "{place} of {piled_up:?}");
                    waiting[worker][place] += 1;
                    under_way.push((worker, place, picked));
                }
                Step::Answer(index) if !under_way.is_empty() => {
                    let index = index.index(under_way.len());
                    if !hangs[under_way[index].1] {
                        let (worker, place, picked) = under_way.swap_remove(index);
                        service.settle(worker, &picked.replica, picked.permit, Outcome::Success, START, 0.5);
                        waiting[worker][place] -= 1;
                    }
                }
                Step::Answer(_) => {}
            }
        }
    }
}
