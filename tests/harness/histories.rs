//! What the check of histories makes of histories: one that lets everything pass would be none.

use gateway_tests::history::{
    Fact::{self, Finds, FindsAnother, FindsLapsed, FindsNobody, Registers, Removes, Renews},
    Lease, Leases, Operation, Verdict, judge,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};

const LIMIT: usize = 1_000_000;

fn known(called: u64, returned: u64, fact: Fact) -> Operation {
    Operation { called, returned: Some(returned), fact }
}

fn unknown(called: u64, fact: Fact) -> Operation {
    Operation { called, returned: None, fact }
}

/// Where no lease lapses.
fn is_explained(operations: &[Operation]) -> bool {
    lapses(operations, &Leases::new()).is_some()
}

/// How many leases lapse in the order that was found; `None`: there is none.
fn lapses(operations: &[Operation], leases: &Leases) -> Option<usize> {
    match judge(operations, leases, LIMIT) {
        Verdict::Explained { lapsed } => Some(lapsed),
        Verdict::Contradictory { .. } => None,
        Verdict::Undecided => panic!("it is small"),
    }
}

/// The lease of one registration.
fn lease(write: u64, lasts_until: u64, gone_by: u64) -> Leases {
    Leases::from([(write, Lease { lasts_until, gone_by })])
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
fn what_lapsed_goes_by_itself_and_not_before_its_time() {
    let seen = |called, returned| [known(0, 1, Registers(1)), known(called, returned, FindsNobody)];
    assert_eq!(lapses(&seen(20, 21), &lease(1, 10, 99)), Some(1));
    // What is looked at from before until after that moment may have been looked at after it.
    assert_eq!(lapses(&seen(5, 10), &lease(1, 10, 99)), Some(1));
    assert_eq!(lapses(&seen(5, 9), &lease(1, 10, 99)), None);
    assert_eq!(lapses(&seen(20, 21), &lease(2, 10, 99)), None);
    // A refusal of a renewal is such a look, too.
    let refused = |returned| [known(0, 1, Registers(1)), known(5, returned, FindsLapsed(1))];
    assert_eq!(lapses(&refused(10), &lease(1, 10, 99)), Some(1));
    assert_eq!(lapses(&refused(9), &lease(1, 10, 99)), None);
}

#[test]
fn what_was_renewed_does_not_lapse_as_if_it_had_not_been() {
    let renewed = [known(0, 1, Registers(1)), known(8, 9, Renews(1)), known(12, 13, FindsNobody)];
    // Ten from the renewal on, not from the registration on.
    assert_eq!(lapses(&renewed, &lease(1, 18, 99)), None);
    assert_eq!(lapses(&[&renewed[..2], &[known(18, 19, FindsNobody)]].concat(), &lease(1, 18, 99)), Some(1));
}

#[test]
fn what_lapsed_does_not_come_back_from_the_dead() {
    let gone = [known(0, 1, Registers(1)), known(20, 21, FindsNobody)];
    let then = |facts: &[Fact]| {
        let more: Vec<_> = (30..).zip(facts).map(|(at, fact)| known(2 * at, 2 * at + 1, *fact)).collect();
        lapses(&[&gone[..], &more].concat(), &lease(1, 10, 999))
    };
    assert_eq!(then(&[FindsNobody, FindsLapsed(1)]), Some(1));
    assert_eq!(then(&[Finds(1)]), None);
    assert_eq!(then(&[FindsAnother(2)]), None);
    assert_eq!(then(&[Removes(1)]), None);
    // Neither is it renewed, without a registration, or by whoever has the lease of the one before.
    assert_eq!(then(&[Renews(1)]), None);
    assert_eq!(then(&[Registers(2), Renews(1)]), None);
    assert_eq!(then(&[Registers(2), Renews(2), FindsAnother(1)]), Some(1));
}

#[test]
fn what_lapsed_may_be_there_for_a_moment_but_is_not_renewed() {
    let then = |facts: &[Fact]| {
        let refused = [known(0, 1, Registers(1)), known(20, 21, FindsLapsed(1))];
        let more: Vec<_> = (30..).zip(facts).map(|(at, fact)| known(2 * at, 2 * at + 1, *fact)).collect();
        lapses(&[&refused[..], &more].concat(), &lease(1, 10, 999))
    };
    assert_eq!(then(&[Finds(1), FindsNobody]), Some(1));
    assert_eq!(then(&[Removes(1), FindsNobody]), Some(1));
    assert_eq!(then(&[Registers(2), Finds(2)]), Some(1));
    assert_eq!(then(&[Renews(1)]), None);
    assert_eq!(then(&[Finds(1), Renews(1)]), None);
}

#[test]
fn what_lapsed_is_gone_in_time() {
    let seen = |called, fact| [known(0, 1, Registers(1)), known(called, called + 1, fact)];
    assert_eq!(lapses(&seen(50, Finds(1)), &lease(1, 10, 50)), Some(0));
    assert_eq!(lapses(&seen(51, Finds(1)), &lease(1, 10, 50)), None);
    assert_eq!(lapses(&seen(51, Renews(1)), &lease(1, 10, 50)), None);
    assert_eq!(lapses(&seen(51, FindsNobody), &lease(1, 10, 50)), Some(1));
    // Whoever registers after that finds nobody to take the place of, which makes no difference.
    assert_eq!(lapses(&seen(51, Registers(2)), &lease(1, 10, 50)), Some(1));
    assert_eq!(lapses(&[known(0, 1, Registers(1))], &lease(1, 10, 50)), Some(0));
}

#[test]
fn a_removal_of_what_may_have_lapsed_explains_it_as_well() {
    let lost = [known(0, 1, Registers(1)), unknown(2, Removes(1)), known(4, 5, FindsNobody)];
    assert_eq!(lapses(&lost, &lease(1, 10, 99)), Some(0));
    // Somebody removed it, so it cannot have lapsed, nor have been removed twice.
    let removed = [known(0, 1, Registers(1)), known(30, 31, Removes(1))];
    let before = |fact| [&removed[..], &[known(20, 21, fact)]].concat();
    assert_eq!(lapses(&before(Finds(1)), &lease(1, 10, 99)), Some(0));
    assert_eq!(lapses(&before(FindsNobody), &lease(1, 10, 99)), None);
}

#[test]
fn leases_that_may_lapse_make_no_search_longer_than_a_few_times() {
    // Each may have lapsed before the next registration, or not: that is no choice to be made forty times.
    let leases: Leases = (0..40).map(|write| (write, Lease { lasts_until: 0, gone_by: u64::MAX })).collect();
    let mut history = in_turn(&(0..40).map(Registers).collect::<Vec<_>>());
    history.push(known(100, 101, Finds(7)));
    assert!(matches!(judge(&history, &leases, 200), Verdict::Contradictory { .. }));
}

#[test]
fn what_could_not_come_next_is_told() {
    let history = in_turn(&[Registers(1), Finds(1), Removes(1), Finds(1), FindsNobody]);
    let expected = Verdict::Contradictory { explained: 3, then: vec![history[3]] };
    assert_eq!(judge(&history, &Leases::new(), LIMIT), expected);
}

#[test]
fn a_search_that_is_too_large_says_that_nothing_is_known() {
    let all: Vec<_> = (0..20).map(|write| known(0, 9, Registers(write))).collect();
    let history = [&all[..], &[known(10, 11, FindsNobody)]].concat();
    assert_eq!(judge(&history, &Leases::new(), 1000), Verdict::Undecided);
}

/// How long a lease lasts, in a registry that does something each ten.
const TTL: u64 = 60;

/// Facts of a registry that does one after the other, and does it right, and the leases that it has kept to.
fn lived(random: &mut StdRng, count: u64) -> (Vec<Fact>, Leases) {
    // Who is there, when his lease lapses, and when he goes.
    let mut state: Option<(u64, u64, u64)> = None;
    let (mut facts, mut leases) = (Vec::new(), Leases::new());
    for write in 0..count {
        let at = moment(write);
        state = state.filter(|(_, _, goes)| at < *goes);
        let lapses = at + TTL + random.random_range(0..TTL / 2);
        let goes = lapses + random.random_range(0..TTL / 2);
        let mut begins = |write| {
            leases.insert(write, Lease { lasts_until: at + TTL, gone_by: at + 2 * TTL });
            Some((write, lapses, goes))
        };
        facts.push(match (random.random_range(0..6), state) {
            (0, _) => {
                state = begins(write);
                Registers(write)
            }
            (1, Some((there, ..))) => {
                state = None;
                Removes(there)
            }
            (2, Some((there, ..))) if there > 0 => FindsAnother(random.random_range(0..there)),
            (3, Some((there, lapses, _))) if at < lapses => {
                state = begins(there);
                Renews(there)
            }
            (3, Some((there, ..))) => FindsLapsed(there),
            (3, None) => FindsLapsed(random.random_range(0..count)),
            (_, Some((there, ..))) => Finds(there),
            (_, None) => FindsNobody,
        });
    }
    (facts, leases)
}

/// When the registry does what it does as the number of that.
fn moment(number: u64) -> u64 {
    10 * number + 100
}

#[test]
fn what_a_registry_did_is_explained_however_long_its_answers_took() {
    let mut lapsed = 0;
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let (facts, leases) = lived(&mut random, 60);
        let operations: Vec<_> = (0..)
            .zip(facts)
            .map(|(number, fact)| {
                let at = moment(number);
                let returned = at + random.random_range(0..50);
                let is_known = !matches!(fact, Registers(_) | Removes(_)) || random.random_bool(0.8);
                Operation {
                    called: at - random.random_range(0..50),
                    returned: is_known.then_some(returned),
                    fact,
                }
            })
            .collect();
        let found = lapses(&operations, &leases);
        lapsed += found.unwrap_or_else(|| panic!("seed {seed}: {operations:?}, {leases:?}"));
    }
    assert!(lapsed > 100, "{lapsed}");
}

/// A registry, what is left to be explained, and what time it is.
#[derive(Clone)]
struct Tried<'a> {
    left: Vec<Operation>,
    leases: &'a Leases,
    now: u64,
    /// Who is there, and whether his lease has lapsed.
    there: Option<(u64, bool)>,
}

impl Tried<'_> {
    /// The same as the check by trying every order: too slow for more than a handful, and too simple to be wrong.
    fn is_explained_by_some_order(&self) -> bool {
        let is_late = |operation: &Operation| operation.returned.is_some_and(|returned| returned < self.now);
        let lease = self.there.and_then(|(write, _)| self.leases.get(&write));
        if self.left.iter().any(is_late) || lease.is_some_and(|lease| lease.gone_by < self.now) {
            return false;
        }
        if self.left.iter().all(|operation| operation.returned.is_none()) {
            return true;
        }
        if let (Some(lease), Some((write, has_lapsed))) = (lease, self.there) {
            let now = self.now.max(lease.lasts_until);
            let there = (!has_lapsed).then_some((write, true));
            if (Tried { now, there, ..self.clone() }).is_explained_by_some_order() {
                return true;
            }
        }
        (0..self.left.len()).any(|place| {
            let mut then = self.clone();
            let next = then.left.remove(place);
            then.now = then.now.max(next.called);
            // Whoever was to be gone by then is not there to be replaced, either.
            let is_overdue = lease.is_some_and(|lease| lease.gone_by < then.now);
            !is_overdue && then.does(next.fact) && then.is_explained_by_some_order()
        })
    }

    /// Whether a registry can do this now.
    fn does(&mut self, fact: Fact) -> bool {
        let is = |write| self.there.is_some_and(|(there, _)| there == write);
        match fact {
            Registers(write) => {
                self.there = Some((write, false));
                true
            }
            Removes(write) => {
                let is_there = is(write);
                self.there = None;
                is_there
            }
            Finds(write) => is(write),
            Renews(write) => self.there == Some((write, false)),
            FindsLapsed(write) => self.there.is_none() || self.there == Some((write, true)),
            FindsAnother(write) => self.there.is_some() && !is(write),
            FindsNobody => self.there.is_none(),
        }
    }
}

#[test]
fn it_says_of_small_histories_what_trying_every_order_says() {
    let (mut explained, mut refused, mut lapsed) = (0, 0, 0);
    for seed in 0..3000 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(2..=6);
        // Mostly what can be, some of it in each other's place.
        let (mut facts, _) = lived(&mut random, count);
        if random.random_bool(0.5) {
            // One who is there is gone all of a sudden: where his lease has lapsed, that can be.
            let place = random.random_range(0..facts.len());
            facts[place] = FindsNobody;
        }
        if random.random_bool(0.5) {
            facts.shuffle(&mut random);
        }
        let mut leases = Leases::new();
        let operations: Vec<_> = facts
            .into_iter()
            .map(|fact| {
                let called = 100 * random.random_range(0..6_u64);
                let returned = random.random_bool(0.8).then(|| called + random.random_range(0..300));
                if let Registers(write) = fact
                    && random.random_bool(0.8)
                {
                    let lasts_until = called + random.random_range(0..300);
                    let later = random.random_range(0..300);
                    let gone_by = returned.map_or(u64::MAX, |returned| returned.max(lasts_until) + later);
                    leases.insert(write, Lease { lasts_until, gone_by });
                }
                Operation { called, returned, fact }
            })
            .collect();
        let all = Tried { left: operations.clone(), leases: &leases, now: 0, there: None };
        let expected = all.is_explained_by_some_order();
        let found = lapses(&operations, &leases);
        assert_eq!(found.is_some(), expected, "seed {seed}: {operations:?}, {leases:?}");
        *(if expected { &mut explained } else { &mut refused }) += 1;
        lapsed += usize::from(expected && !is_explained(&operations));
    }
    assert!(explained > 300 && refused > 300 && lapsed > 100, "{explained}, {refused}, {lapsed}");
}
