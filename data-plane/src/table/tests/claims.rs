//! What replicas are owed of the turns when the set of those that take them changes.

use proptest::prelude::*;

use super::*;

fn weighted(id: &str, weight: i32) -> ReplicaSpec {
    ReplicaSpec { weight: Weight::parse(weight).unwrap(), ..replica(id) }
}

#[test]
fn a_neighbour_that_registers_again_and_again_takes_no_turn_from_anybody() {
    let drained = |incarnation| ReplicaSpec { incarnation, mode: Mode::Drained, ..replica("d") };
    let spec = |incarnation| {
        orders([weighted("a", 300), weighted("b", 100), weighted("c", 100), drained(incarnation)])
    };
    let (table, service) = table_with(&spec(1), 1);
    let mut all = Vec::new();
    for round in 0..300 {
        table.apply(&[spec(2 + round)], &[], START);
        all.extend(asked(&service, START, 2));
    }
    let count = |id: &str| all.iter().filter(|asked| *asked == id).count();
    assert_eq!([count("a"), count("b"), count("c")], [360, 120, 120]);
}

#[test]
fn tiers_keep_their_parts_and_replicas_their_shares_while_others_come_and_go() {
    let of_tier =
        |tier: i32, id: &str| ReplicaSpec { priority: Priority::parse(tier).unwrap(), ..replica(id) };
    let out = |id: &str| ReplicaSpec { health: Health::Unhealthy, ..replica(id) };
    let balancing = Balancing { overprovisioning_factor: 1.4, ..by(Algorithm::RoundRobin) };
    let spec = |round: i64| {
        let worst = ReplicaSpec { incarnation: round, ..of_tier(2, "x") };
        let replicas =
            [replica("a"), replica("b"), out("c"), out("d"), of_tier(1, "e"), of_tier(1, "f"), worst];
        balanced(balancing, replicas)
    };
    let (table, service) = table_with(&spec(0), 1);
    for round in 1..=1000 {
        table.apply(&[spec(round)], &[], START);
        asked(&service, START, 1);
    }
    for (id, due) in [("a", 350_u64), ("b", 350), ("e", 150), ("f", 150)] {
        let count = service.replica(&ReplicaId::parse(id).unwrap()).unwrap().counters().attempts;
        assert!(count.abs_diff(due) <= 2, "{id} has {count} of {due}");
    }
}

/// How one that comes and goes does so.
#[derive(Debug, Clone, Copy)]
enum Step {
    Drain,
    Serve,
    Remove,
    Register,
    ForceOpen,
    Weigh(i32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Drain),
        2 => Just(Step::Serve),
        1 => Just(Step::Remove),
        1 => Just(Step::Register),
        1 => Just(Step::ForceOpen),
        1 => (1..=60_i32).prop_map(Step::Weigh),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_comes_and_goes_those_that_stay_share_by_weight_to_two_turns(
        weights in prop::collection::vec(1..=60_i32, 2..5),
        steps in prop::collection::vec((0..3_usize, step(), 0..4_usize), 1..400),
    ) {
        // They stand among the others by their ids.
        let stay: Vec<_> = weights.iter().zip(["b", "d", "f", "h"]).map(|(weight, id)| weighted(id, *weight)).collect();
        let mut others: BTreeMap<&str, ReplicaSpec> = BTreeMap::new();
        let (table, service) = table_with(&orders(stay.clone()), 1);
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (index, step, requests) in steps {
            let id = ["a", "e", "i"][index];
            let other = others.entry(id).or_insert_with(|| replica(id));
            match step {
                Step::Drain => other.mode = Mode::Drained,
                Step::Serve => (other.mode, other.forced) = (Mode::Serving, None),
                Step::Remove => drop(others.remove(id)),
                Step::Register => other.incarnation += 1,
                Step::ForceOpen => {
                    other.forced = Some(Forced { state: ForcedState::Open, entry: Arc::default() });
                }
                Step::Weigh(weight) => other.weight = Weight::parse(weight).unwrap(),
            }
            let mut all: Vec<_> = stay.iter().chain(others.values()).cloned().collect();
            all.sort_by(|one, other| one.id.cmp(&other.id));
            table.apply(&[orders(all)], &[], START);
            for id in asked(&service, START, requests) {
                *counts.entry(id).or_default() += 1;
            }
        }
        let of = |spec: &ReplicaSpec| counts.get(spec.id.as_str()).copied().unwrap_or(0) as f64;
        let all: f64 = stay.iter().map(of).sum();
        let sum = f64::from(weights.iter().sum::<i32>());
        for (spec, weight) in stay.iter().zip(&weights) {
            let due = all * f64::from(*weight) / sum;
            prop_assert!((of(spec) - due).abs() <= 2.0, "{} has {} of {}", spec.id, of(spec), due);
        }
    }
}
