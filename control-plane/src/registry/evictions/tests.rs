use std::collections::BTreeSet;

use gateway_proto::{Address, Health, v1};
use proptest::prelude::*;

use super::*;
use crate::registry::{Item, StoredPolicy};

const SECOND: Duration = Duration::from_secs(1);
const AFTER: Duration = Duration::from_secs(600);

fn key(number: usize) -> ReplicaKey {
    ReplicaKey::parse("orders", &format!("r-{number}")).unwrap()
}

fn record(number: usize) -> Record {
    let address = Address::parse(&format!("10.0.0.1:{}", 100 + number)).unwrap();
    Record::plain(key(number), address, SystemTime::UNIX_EPOCH)
}

/// A registry of permanent replicas, changed by `change`.
fn view(count: usize, change: impl Fn(&mut Record)) -> View {
    let records = (0..count).map(|number| {
        let mut record = record(number);
        change(&mut record);
        record
    });
    View::new(9, records)
}

fn with_policy(view: &View, wire: v1::Policy) -> View {
    let wire = v1::Policy { service: "orders".into(), revision: 5, ..wire };
    let policy = StoredPolicy::from_wire(&wire).unwrap();
    let records = view.replicas().map(|record| Item::from(Record::clone(record)));
    View::new(9, records.chain([Item::from(policy)]))
}

fn failing(nodes: usize, of: usize) -> Sight {
    Sight {
        incarnation: 1,
        checking: of,
        failing: nodes,
        reporting: of,
        silent: 0,
        doubts: 0,
        failures_in_a_row: 3,
        failure: "connect refused".into(),
    }
}

struct World {
    evictions: Evictions,
    start: Instant,
}

impl World {
    fn new() -> Self {
        Self { evictions: Evictions::default(), start: Instant::now() }
    }

    /// Another one was evicted at the start.
    fn gone(&mut self, number: usize) {
        let why = Why::FailuresInARow { count: 3, threshold: 3 };
        self.evictions.evicted(&Eviction { key: key(number), incarnation: 1, why }, self.start);
    }

    fn judge(&mut self, view: &View, sights: &[(usize, Sight)], at: Duration) -> Vec<Sentence> {
        let sights = sights.iter().map(|(number, sight)| (key(*number), sight.clone())).collect();
        self.evictions.judge(view, &sights, self.start + at, SystemTime::UNIX_EPOCH)
    }

    /// The same sights every second; what comes of them at the end.
    fn judge_all(
        &mut self,
        view: &View,
        sights: &[(usize, Sight)],
        from: Duration,
        until: Duration,
    ) -> Vec<Sentence> {
        let mut at = from;
        while at < until {
            self.judge(view, sights, at);
            at += SECOND;
        }
        self.judge(view, sights, until)
    }
}

fn evicted(sentences: &[Sentence]) -> Vec<ReplicaKey> {
    sentences.iter().flat_map(|sentence| &sentence.evict).map(|eviction| eviction.key.clone()).collect()
}

#[test]
fn a_permanent_replica_that_fails_everywhere_for_as_long_as_the_policy_says_is_evicted() {
    let (view, mut world) = (view(3, |_| {}), World::new());
    assert_eq!(world.judge_all(&view, &[(1, failing(2, 2))], Duration::ZERO, AFTER - SECOND), []);
    let sentences = world.judge(&view, &[(1, failing(2, 2))], AFTER);
    assert_eq!(evicted(&sentences), [key(1)]);
    let why = Why::ChecksFailed { lasted: AFTER, nodes: 2, failure: "connect refused".into() };
    assert_eq!((&sentences[0].evict[0].why, sentences[0].held), (&why, None));
}

#[test]
fn disagreement_silence_and_a_single_pass_start_the_time_over() {
    for break_ in [
        vec![(1, failing(1, 2))],
        vec![],
        vec![(1, Sight { checking: 0, failing: 0, reporting: 0, ..failing(0, 0) })],
        vec![(1, Sight { incarnation: 2, ..failing(2, 2) })],
    ] {
        let (view, mut world) = (view(3, |_| {}), World::new());
        world.judge_all(&view, &[(1, failing(2, 2))], Duration::ZERO, AFTER - SECOND);
        assert_eq!(evicted(&world.judge(&view, &break_, AFTER)), [], "{break_:?}");
        let again = AFTER + SECOND;
        assert_eq!(
            evicted(&world.judge_all(&view, &[(1, failing(2, 2))], again, again + AFTER - SECOND)),
            []
        );
        assert_eq!(evicted(&world.judge(&view, &[(1, failing(2, 2))], again + AFTER)), [key(1)]);
    }
}

#[test]
fn a_data_plane_that_said_otherwise_and_changed_its_mind_between_two_judgements_starts_the_time_over() {
    let (view, mut world) = (view(3, |_| {}), World::new());
    world.judge_all(&view, &[(1, failing(2, 2))], Duration::ZERO, AFTER - SECOND);
    let doubted = Sight { doubts: 1, ..failing(2, 2) };
    assert_eq!(evicted(&world.judge_all(&view, &[(1, doubted.clone())], AFTER, AFTER + AFTER - SECOND)), []);
    assert_eq!(evicted(&world.judge(&view, &[(1, doubted)], AFTER + AFTER)), [key(1)]);
}

#[test]
fn those_that_agree_must_be_more_than_those_that_are_silent() {
    for (agree, silent, is_evicted) in
        [(1, 0, true), (1, 1, false), (2, 1, true), (2, 2, false), (1, 9, false)]
    {
        let (view, mut world) = (view(3, |_| {}), World::new());
        let sight = Sight { silent, ..failing(agree, agree) };
        let sentences = world.judge_all(&view, &[(1, sight)], Duration::ZERO, AFTER);
        assert_eq!(!evicted(&sentences).is_empty(), is_evicted, "{agree} agree, {silent} are silent");
    }
}

#[test]
fn who_is_on_the_way_out_is_told_with_when_and_with_why_not() {
    let (three, mut world) = (view(3, |_| {}), World::new());
    let sights = [(1, failing(1, 1)), (2, failing(1, 2))];
    let sentences = world.judge(&three, &sights, SECOND);
    let prospect = |world: &World| Prospect { key: key(1), due: world.start + SECOND + AFTER, held: None };
    assert_eq!(world.evictions.prospects(&three, &sentences), [prospect(&world)]);
    // It registers anew, drains, or is never to be evicted.
    let anew = view(3, |record| record.incarnation = 2);
    assert_eq!(world.evictions.prospects(&anew, &sentences), []);
    let never = v1::EvictionPolicy {
        after: Some(gateway_proto::time::duration(Duration::ZERO)),
        ..Default::default()
    };
    let never = with_policy(&three, v1::Policy { eviction: Some(never), ..Default::default() });
    assert_eq!(world.evictions.prospects(&never, &sentences), []);
    // The last one: held from when it is due.
    let (alone, mut world) = (
        view(2, |record| {
            if record.key == key(0) {
                record.health = Health::Unhealthy;
            }
        }),
        World::new(),
    );
    let early = world.judge_all(&alone, &sights[..1], SECOND, AFTER);
    assert_eq!(world.evictions.prospects(&alone, &early), [prospect(&world)]);
    let late = world.judge(&alone, &sights[..1], AFTER + SECOND);
    let held = Some(Held::NobodyElse);
    assert_eq!(world.evictions.prospects(&alone, &late), [Prospect { held, ..prospect(&world) }]);
}

#[test]
fn what_was_while_this_process_stood_still_does_not_count() {
    let (view, mut world) = (view(3, |_| {}), World::new());
    world.judge(&view, &[(1, failing(1, 1))], Duration::ZERO);
    assert_eq!(evicted(&world.judge(&view, &[(1, failing(1, 1))], 2 * AFTER)), []);
    let end = 3 * AFTER;
    assert_eq!(evicted(&world.judge_all(&view, &[(1, failing(1, 1))], 2 * AFTER + SECOND, end - SECOND)), []);
    assert_eq!(evicted(&world.judge(&view, &[(1, failing(1, 1))], end)), [key(1)]);
}

#[test]
fn the_last_one_that_passes_stays_and_so_do_all_when_none_does() {
    let mut world = World::new();
    let alone = view(1, |_| {});
    let sentences = world.judge_all(&alone, &[(0, failing(1, 1))], Duration::ZERO, AFTER);
    assert_eq!(sentences[0].held, Some((1, Held::NobodyElse)));
    let both = view(2, |_| {});
    let sights = [(0, failing(1, 1)), (1, failing(1, 1))];
    let sentences = World::new().judge_all(&both, &sights, Duration::ZERO, AFTER);
    assert_eq!((evicted(&sentences), sentences[0].held), (vec![], Some((2, Held::NobodyElse))));
    // Nor does one count that is not ready.
    let other = view(2, |record| {
        if record.key == key(0) {
            record.health = Health::Unhealthy;
        }
    });
    assert_eq!(evicted(&World::new().judge_all(&other, &[(1, failing(1, 1))], Duration::ZERO, AFTER)), []);
}

#[test]
fn too_many_at_once_or_within_an_hour_are_held_by_the_guard() {
    let ten = view(10, |_| {});
    let sights: Vec<_> = (0..4).map(|number| (number, failing(1, 1))).collect();
    let sentences = World::new().judge_all(&ten, &sights, Duration::ZERO, AFTER);
    assert_eq!((evicted(&sentences), sentences[0].held), (vec![], Some((4, Held::TooMany))));
    assert_eq!(evicted(&World::new().judge_all(&ten, &sights[..3], Duration::ZERO, AFTER)).len(), 3);
    // One by one they are as many.
    let mut world = World::new();
    (0..3).for_each(|number| world.gone(20 + number));
    let seven = view(7, |_| {});
    let sentences = world.judge_all(&seven, &sights[..1], Duration::ZERO, AFTER);
    assert_eq!((evicted(&sentences), sentences[0].held), (vec![], Some((1, Held::TooMany))));
    let later = AFTER + SECOND;
    let sentences = world.judge_all(&seven, &sights[..1], later, MEMORY);
    assert_eq!(evicted(&sentences), [key(0)]);
    let off = v1::GuardPolicy { enabled: Some(false), ..Default::default() };
    let off = with_policy(&ten, v1::Policy { guard: Some(off), ..Default::default() });
    let many: Vec<_> = (0..9).map(|number| (number, failing(1, 1))).collect();
    assert_eq!(evicted(&World::new().judge_all(&off, &many, Duration::ZERO, AFTER)).len(), 9);
}

#[test]
fn leased_draining_and_replaced_replicas_are_not_evicted_for_their_checks() {
    let leased = view(2, |record| {
        record.lease = Some(crate::registry::LeaseTerms::new(gateway_proto::LeaseId::from_random(7), SECOND));
    });
    assert_eq!(World::new().judge_all(&leased, &[(1, failing(1, 1))], Duration::ZERO, AFTER), []);
    let newer = view(2, |record| record.incarnation = 2);
    assert_eq!(World::new().judge_all(&newer, &[(1, failing(1, 1))], Duration::ZERO, AFTER), []);
    let never = v1::EvictionPolicy {
        after: Some(gateway_proto::time::duration(Duration::ZERO)),
        failure_count: None,
    };
    let never = with_policy(&view(2, |_| {}), v1::Policy { eviction: Some(never), ..Default::default() });
    assert_eq!(World::new().judge_all(&never, &[(1, failing(1, 1))], Duration::ZERO, 3 * AFTER), []);
}

#[test]
fn a_threshold_of_failures_in_a_row_evicts_at_once_whoever_has_a_lease_or_not() {
    let leased = |record: &mut Record| {
        record.lease = Some(crate::registry::LeaseTerms::new(gateway_proto::LeaseId::from_random(7), SECOND));
    };
    let set = v1::EvictionPolicy { failure_count: Some(3), after: None };
    let set = v1::Policy { eviction: Some(set), ..Default::default() };
    for base in [view(2, leased), view(2, |_| {})] {
        let with = with_policy(&base, set.clone());
        let few = Sight { failures_in_a_row: 2, ..failing(0, 0) };
        let reported = Sight { reporting: 1, ..few.clone() };
        assert_eq!(World::new().judge(&with, &[(1, reported.clone())], SECOND), []);
        let enough = Sight { failures_in_a_row: 3, ..reported };
        let sentences = World::new().judge(&with, &[(1, enough.clone())], SECOND);
        let why = Why::FailuresInARow { count: 3, threshold: 3 };
        assert_eq!(sentences[0].evict, [Eviction { key: key(1), incarnation: 1, why }]);
        assert_eq!(World::new().judge(&base, &[(1, enough)], SECOND), [], "it is off by default");
    }
}

#[test]
fn a_removal_that_the_store_refuses_again_and_again_counts_once() {
    let (view, mut world) = (view(4, |_| {}), World::new());
    let sights = [(1, failing(1, 1))];
    world.judge_all(&view, &sights, Duration::ZERO, AFTER - SECOND);
    for again in 0..20 {
        let sentences = world.judge(&view, &sights, AFTER + again * SECOND);
        assert_eq!(evicted(&sentences), [key(1)]);
        world.evictions.evicted(&sentences[0].evict[0], world.start + AFTER);
    }
}

proptest! {
    /// Whatever data planes say, somebody ready stays, and no more than the guard allows go at once.
    #[test]
    fn a_ready_replica_always_remains_and_no_more_go_than_the_guard_allows(
        count in 1..12_usize,
        sights in proptest::collection::vec((0..12_usize, 0..3_usize, 1..3_usize, 0..6_u64, 0..3_usize), 0..12),
        not_ready in proptest::collection::btree_set(0..12_usize, 0..4),
        gone in 0..4_usize,
        threshold in 0..5_i32,
    ) {
        let base = view(count, |record| {
            if not_ready.iter().any(|number| record.key == key(*number)) {
                record.health = Health::Starting;
            }
        });
        let set = v1::EvictionPolicy { failure_count: Some(threshold), after: None };
        let view = with_policy(&base, v1::Policy { eviction: Some(set), ..Default::default() });
        let sights: Vec<_> = sights
            .into_iter()
            .map(|(number, failing_on, of, run, silent)| {
                (number, Sight { failures_in_a_row: run, silent, ..failing(failing_on.min(of), of) })
            })
            .collect();
        let mut world = World::new();
        (0..gone).for_each(|number| world.gone(20 + number));
        let sentences = world.judge_all(&view, &sights, Duration::ZERO, AFTER);
        let out: BTreeSet<_> = evicted(&sentences).into_iter().collect();
        prop_assert_eq!(out.len(), evicted(&sentences).len());
        if !out.is_empty() {
            let remain = view.replicas().filter(|record| record.is_ready() && !out.contains(&record.key));
            prop_assert!(remain.count() > 0);
            let total = out.len() + gone;
            prop_assert!(total <= 2 || total as f64 <= 0.3 * (count + gone) as f64);
        }
        for Eviction { key: out, why, .. } in sentences.iter().flat_map(|sentence| &sentence.evict) {
            // The last of what was said of it counts.
            let (_, sight) = sights.iter().rev().find(|(number, _)| *out == key(*number)).unwrap();
            match why {
                Why::ChecksFailed { nodes, .. } => {
                    prop_assert!(sight.failing == sight.checking && *nodes > sight.silent);
                }
                Why::FailuresInARow { count, .. } => {
                    prop_assert!(threshold > 0 && *count >= u64::try_from(threshold).unwrap());
                }
            }
        }
        for sentence in &sentences {
            prop_assert!(sentence.held.is_none() || sentence.evict.is_empty());
        }
    }
}
