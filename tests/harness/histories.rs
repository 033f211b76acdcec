//! What the check of histories makes of histories: one that lets everything pass would be none.

use gateway_tests::history::{
    Fact::{self, Finds, FindsAnother, FindsNobody, Registers, Removes},
    Operation, Verdict, judge,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

const LIMIT: usize = 1_000_000;

fn known(called: u64, returned: u64, fact: Fact) -> Operation {
    Operation { called, returned: Some(returned), fact }
}

fn unknown(called: u64, fact: Fact) -> Operation {
    Operation { called, returned: None, fact }
}

fn is_explained(operations: &[Operation]) -> bool {
    match judge(operations, LIMIT) {
        Verdict::Explained => true,
        Verdict::Contradictory { .. } => false,
        Verdict::Undecided => panic!("it is small"),
    }
}

/// One after the other, each done before the next begins.
fn in_turn(facts: &[Fact]) -> Vec<Operation> {
    (0..).zip(facts).map(|(number, fact)| known(2 * number, 2 * number + 1, *fact)).collect()
}

#[test]
fn what_happened_one_after_the_other_is_explained() {
    assert!(is_explained(&[]));
    let all = [
        FindsNobody,
        Registers(1),
        Finds(1),
        Registers(2),
        FindsAnother(1),
        Finds(2),
        Removes(2),
        FindsNobody,
    ];
    assert!(is_explained(&in_turn(&all)));
}

#[test]
fn an_acknowledged_registration_that_is_lost_is_refused() {
    assert!(!is_explained(&in_turn(&[Registers(1), FindsNobody])));
    assert!(!is_explained(&in_turn(&[Registers(1), Registers(2), Finds(1)])));
    assert!(!is_explained(&in_turn(&[Registers(1), FindsAnother(1)])));
}

#[test]
fn a_registration_that_comes_back_from_the_dead_is_refused() {
    assert!(!is_explained(&in_turn(&[Registers(1), Removes(1), Finds(1)])));
    assert!(!is_explained(&in_turn(&[Registers(1), Removes(1), FindsAnother(2)])));
}

#[test]
fn a_registration_that_nobody_made_is_refused() {
    assert!(!is_explained(&in_turn(&[Finds(1)])));
    // Neither can it be seen before somebody asks for it.
    assert!(!is_explained(&[known(0, 1, Finds(1)), known(2, 3, Registers(1))]));
    assert!(!is_explained(&[known(0, 1, Finds(1)), unknown(2, Registers(1))]));
}

#[test]
fn one_registration_is_removed_once_and_a_predecessor_cannot_remove_its_successor() {
    assert!(!is_explained(&in_turn(&[Registers(1), Removes(1), Removes(1)])));
    assert!(!is_explained(&in_turn(&[Registers(1), Registers(2), Removes(1)])));
    // Also at the same time.
    let twice = [known(0, 1, Registers(1)), known(2, 9, Removes(1)), known(2, 9, Removes(1))];
    assert!(!is_explained(&twice));
}

#[test]
fn what_overlaps_may_have_happened_in_either_order_and_not_in_both() {
    let both = [known(0, 9, Registers(1)), known(0, 9, Registers(2))];
    let seen = |first, second| [&both[..], &[known(10, 11, first), known(12, 13, second)]].concat();
    assert!(is_explained(&seen(Finds(1), Finds(1))));
    assert!(is_explained(&seen(Finds(2), FindsAnother(1))));
    assert!(!is_explained(&seen(Finds(1), Finds(2))));
    assert!(!is_explained(&seen(Finds(2), Finds(1))));
    // Looks that overlap with the registrations may have been between them.
    let between = [&both[..], &[known(1, 8, Finds(1)), known(1, 8, Finds(2))]].concat();
    assert!(is_explained(&between));
}

#[test]
fn an_old_answer_is_refused_unless_it_may_be_as_old() {
    let until = |called| [known(0, 1, Registers(1)), known(2, 3, Registers(2)), known(called, 9, Finds(1))];
    assert!(!is_explained(&until(4)));
    assert!(is_explained(&until(3)));
}

#[test]
fn whose_outcome_nobody_knows_may_have_happened_late_or_never() {
    let lost = unknown(0, Registers(1));
    assert!(is_explained(&[lost, known(2, 3, FindsNobody), known(4, 5, FindsNobody)]));
    assert!(is_explained(&[lost, known(2, 3, FindsNobody), known(4, 5, Finds(1))]));
    assert!(!is_explained(&[lost, known(2, 3, Finds(1)), known(4, 5, FindsNobody)]));
    let removed = [known(0, 1, Registers(1)), unknown(2, Removes(1)), known(4, 5, Finds(1))];
    assert!(is_explained(&removed));
    assert!(is_explained(&[&removed[..], &[known(6, 7, FindsNobody)]].concat()));
    // Once, if at all.
    let again = [known(6, 7, FindsNobody), known(8, 9, Finds(1))];
    assert!(!is_explained(&[&removed[..], &again].concat()));
}

#[test]
fn what_could_not_come_next_is_told() {
    let history = in_turn(&[Registers(1), Finds(1), Removes(1), Finds(1), FindsNobody]);
    let expected = Verdict::Contradictory { explained: 3, then: vec![history[3]] };
    assert_eq!(judge(&history, LIMIT), expected);
}

#[test]
fn a_search_that_is_too_large_says_that_nothing_is_known() {
    let all: Vec<_> = (0..20).map(|write| known(0, 9, Registers(write))).collect();
    let history = [&all[..], &[known(10, 11, FindsNobody)]].concat();
    assert_eq!(judge(&history, 1000), Verdict::Undecided);
}

/// Facts of a registry that does one after the other, and does it right.
fn lived(random: &mut StdRng, count: u64) -> Vec<Fact> {
    let (mut state, mut facts) = (None, Vec::new());
    for write in 0..count {
        facts.push(match (random.random_range(0..4), state) {
            (0, _) => {
                state = Some(write);
                Registers(write)
            }
            (1, Some(there)) => {
                state = None;
                Removes(there)
            }
            (2, Some(there)) if there > 0 => FindsAnother(random.random_range(0..there)),
            (_, Some(there)) => Finds(there),
            (_, None) => FindsNobody,
        });
    }
    facts
}

#[test]
fn what_a_registry_did_is_explained_however_long_its_answers_took() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let facts = lived(&mut random, 60);
        let operations: Vec<_> = (0..)
            .zip(facts)
            .map(|(number, fact)| {
                let at = 10 * number + 100;
                let returned = at + random.random_range(0..50);
                let is_known = !matches!(fact, Registers(_) | Removes(_)) || random.random_bool(0.8);
                Operation {
                    called: at - random.random_range(0..50),
                    returned: is_known.then_some(returned),
                    fact,
                }
            })
            .collect();
        assert_eq!(judge(&operations, LIMIT), Verdict::Explained, "seed {seed}: {operations:?}");
    }
}

/// The same by trying every order: too slow for more than a handful, and too simple to be wrong.
fn is_explained_by_some_order(operations: &[Operation], done: &mut Vec<Operation>) -> bool {
    let is_left = |operation: &&Operation| !done.contains(operation);
    let left: Vec<_> = operations.iter().filter(is_left).copied().collect();
    if left.iter().all(|operation| operation.returned.is_none()) {
        return true;
    }
    left.iter().any(|next| {
        let is_late = left.iter().any(|other| other.returned.is_some_and(|returned| returned < next.called));
        done.push(*next);
        let is_explained = !is_late && is_run(done) && is_explained_by_some_order(operations, done);
        done.pop();
        is_explained
    })
}

/// Whether a registry can have done exactly this, in this order.
fn is_run(done: &[Operation]) -> bool {
    let mut there = None;
    done.iter().all(|operation| match operation.fact {
        Registers(write) => {
            there = Some(write);
            true
        }
        Removes(write) => there.take() == Some(write),
        Finds(write) => there == Some(write),
        FindsAnother(write) => there.is_some_and(|other| other != write),
        FindsNobody => there.is_none(),
    })
}

#[test]
fn it_says_of_small_histories_what_trying_every_order_says() {
    let (mut explained, mut refused) = (0, 0);
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(2..=6);
        // Mostly what can be, some of it in each other's place.
        let mut facts = lived(&mut random, count);
        if random.random_bool(0.5) {
            facts.shuffle(&mut random);
        }
        let operations: Vec<_> = (0..)
            .zip(facts)
            .map(|(number, fact)| {
                // No two are the same, so that the slow check can tell them apart.
                let called = 100 * random.random_range(0..6_u64) + number;
                let is_known = random.random_bool(0.8);
                Operation { called, returned: is_known.then(|| called + random.random_range(0..300)), fact }
            })
            .collect();
        let expected = is_explained_by_some_order(&operations, &mut Vec::new());
        assert_eq!(is_explained(&operations), expected, "seed {seed}: {operations:?}");
        *(if expected { &mut explained } else { &mut refused }) += 1;
    }
    assert!(explained > 300 && refused > 300, "{explained} and {refused}");
}
