//! Whether requests pile up at a replica: far more of them wait for an answer there than at its peers.
//!
//! A process that hangs takes requests and answers none. Its breaker hears of that when the first of them has used up its time;
//! what piles up tells it much sooner. It proves nothing, so nobody is out for it: only what must not be sent twice, whose
//! client would see it fail, keeps away meanwhile.

use super::Load;

/// A backlog is so many times what its peers have. A slow replica has more under way than a fast one, by as much as it is slower
/// (Little, 1961), and machines of several generations in one service differ by two or three times.
const FACTOR: f64 = 4.0;

/// And so many more, of the larger share of the two. Among a few requests, chance alone makes ratios of any size: of
/// replicas that are equally fast and get requests independently of one another, one pick in 1800 meets a backlog by chance
/// at the worst load for it when they are two, and one in 30,000 when they are more. Turns are more even than that.
const FLOOR: f64 = 8.0;

/// So many peers are looked at: a pick costs the same however many there are.
pub const MOST_PEERS: usize = 8;

/// Whether requests pile up at a replica that has `own` of them without an answer, beside what these peers have: far more than
/// at more than half of them.
///
/// So that is true of no more than half of a group, however loads differ, and never of all: whoever keeps away from some
/// doubles the load of others at most. In O(number of peers), without an allocation.
pub fn has_backlog(own: Load, peers: impl ExactSizeIterator<Item = Load>) -> bool {
    let majority = peers.len() / 2 + 1;
    own.cost > FLOOR && peers.filter(|peer| is_far_more(own, *peer)).take(majority).count() == majority
}

/// By share: who is to have twice the requests may have twice as many waiting.
fn is_far_more(own: Load, peer: Load) -> bool {
    // Shares and counts are far below what a float holds exactly.
    let (own_share, peer_share) = (own.share as f64, peer.share as f64);
    let limit = FACTOR * peer.cost * own_share + FLOOR * own_share.max(peer_share);
    own.cost * peer_share > limit
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOWHERE: [usize; 0] = [];

    fn load((count, share): (u32, u64)) -> Load {
        Load { cost: count.into(), share }
    }

    /// Those of these replicas, with their counts and shares, at which requests pile up.
    fn backlogs(group: &[(u32, u64)]) -> Vec<usize> {
        let peers_of =
            |place: usize| (1..group.len()).map(move |step| load(group[(place + step) % group.len()]));
        (0..group.len()).filter(|place| has_backlog(load(group[*place]), peers_of(*place))).collect()
    }

    fn of(counts: &[u32]) -> Vec<usize> {
        backlogs(&counts.iter().map(|count| (*count, 100)).collect::<Vec<_>>())
    }

    #[test]
    fn a_replica_that_answers_nothing_is_known_by_its_ninth_request() {
        assert_eq!(of(&[8, 0, 0]), NOWHERE);
        assert_eq!(of(&[9, 0, 0]), [0]);
        assert_eq!(of(&[0, 0, 9]), [2]);
    }

    #[test]
    fn one_that_is_four_times_as_slow_as_its_peers_has_no_backlog_at_any_load() {
        for load in [1, 10, 1000] {
            assert_eq!(of(&[4 * load, load, load]), NOWHERE);
        }
        assert_eq!(of(&[409, 100, 100]), [0]);
    }

    #[test]
    fn most_of_its_peers_decide() {
        assert_eq!(of(&[50, 50, 0, 0, 0]), [0, 1], "two of five hang");
        assert_eq!(of(&[50, 50, 0]), NOWHERE, "who is right, when two of three are alike?");
        assert_eq!(of(&[50, 0]), [0]);
        assert_eq!(of(&[50; 7]), NOWHERE, "when all are slow, all are alike");
        assert_eq!(of(&[50]), NOWHERE, "there is nobody else");
    }

    #[test]
    fn who_has_more_of_the_traffic_may_have_more_that_waits() {
        assert_eq!(backlogs(&[(80, 1000), (0, 100), (1, 100)]), NOWHERE);
        assert_eq!(backlogs(&[(81, 1000), (0, 100), (0, 100)]), [0]);
        assert_eq!(backlogs(&[(9, 10), (4, 100), (4, 100)]), NOWHERE);
        assert_eq!(backlogs(&[(10, 10), (4, 100), (4, 100)]), [0]);
    }

    /// Of replicas that are equally fast and have independent arrivals, so that what waits is distributed after Poisson, the
    /// chance that a pick meets a backlog: the largest of those at many loads.
    fn by_chance(replicas: usize) -> f64 {
        let chance_at = |mean: f64| {
            let mut chances = vec![(-mean).exp()];
            while chances.len() < 100 {
                chances.push(chances[chances.len() - 1] * mean / chances.len() as f64);
            }
            let is_far_more =
                |own: usize, peer: usize| is_far_more(load((own as u32, 1)), load((peer as u32, 1)));
            let of_own = |own: usize| {
                let far_less: f64 =
                    (0..100).filter(|peer| is_far_more(own, *peer)).map(|peer| chances[peer]).sum();
                chances[own] * at_least(replicas - 1, (replicas - 1) / 2 + 1, far_less)
            };
            (0..100).map(of_own).sum::<f64>()
        };
        (1..80).map(|step| chance_at(f64::from(step) / 4.0)).fold(0.0, f64::max)
    }

    /// The chance that of so many at least so many do what each does with this chance.
    fn at_least(of: usize, least: usize, chance: f64) -> f64 {
        if least == 0 {
            return 1.0;
        }
        if of < least {
            return 0.0;
        }
        chance * at_least(of - 1, least - 1, chance) + (1.0 - chance) * at_least(of - 1, least, chance)
    }

    #[test]
    fn chance_alone_makes_a_backlog_as_seldom_as_is_said() {
        assert!(by_chance(2) < 1.0 / 1800.0, "{}", by_chance(2));
        for replicas in 3..=MOST_PEERS + 1 {
            assert!(by_chance(replicas) < 1.0 / 30_000.0, "{replicas}: {}", by_chance(replicas));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn at_least_half_of_a_group_has_no_backlog_whatever_its_loads_and_shares(
            group in prop::collection::vec((0..100_000_u32, 1..1000_u64), 1..=MOST_PEERS + 1),
        ) {
            let found = backlogs(&group);
            prop_assert!(2 * found.len() <= group.len(), "{found:?}");
            // Whoever has the least of its due is never among them.
            let due = |place: &usize| f64::from(group[*place].0) / group[*place].1 as f64;
            let least = (0..group.len()).min_by(|one, other| due(one).total_cmp(&due(other)));
            prop_assert!(!found.contains(&least.expect("it is not empty")));
        }

        #[test]
        fn one_more_that_waits_only_adds_to_a_backlog_and_one_more_at_a_peer_only_lessens_it(
            mut group in prop::collection::vec((0..60_u32, 1..20_u64), 2..=MOST_PEERS + 1),
            more in 1..50_u32,
            peer in any::<prop::sample::Index>(),
        ) {
            let had = backlogs(&group).contains(&0);
            let mut with_more = group.clone();
            with_more[0].0 += more;
            prop_assert!(!had || backlogs(&with_more).contains(&0));
            let peer = 1 + peer.index(group.len() - 1);
            group[peer].0 += more;
            prop_assert!(had || !backlogs(&group).contains(&0));
        }
    }
}
