//! Which replica is slow beside its peers: the rule that a single replica's counts cannot decide.
//!
//! A service may be slow as a whole, by day or by load, and no fixed threshold tells that from one bad replica. The
//! median of the others does.

use std::{collections::BTreeMap, time::Duration};

use super::Sample;

/// The quantile that is compared.
pub(super) const QUANTILE: f64 = 0.9;
/// Fewer peers than this have no opinion: of two replicas, either could be the odd one.
pub(super) const MIN_PEERS: usize = 2;
/// A replica that is slower than the median by less than this is not slow, whatever the factor: what a scheduler does to
/// anybody now and then. It is also what the estimates of short latencies cannot tell apart.
pub(super) const MARGIN: Duration = Duration::from_millis(5);

/// One replica beside its peers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Its own 90th percentile.
    pub own: Sample,
    /// The median of the same of its peers.
    pub median: Duration,
    /// How many those are.
    pub peers: u32,
    /// How many times the median it may be.
    pub factor: f64,
}

impl Comparison {
    /// Whether it is at least so many times as slow as they are.
    pub fn is_slow(&self) -> bool {
        self.own.latency >= self.median.mul_f64(self.factor) && self.own.latency >= self.median + MARGIN
    }
}

/// Each beside its peers, those of the same group, by its place in the list; fastest first within a group.
///
/// Only those with at least `min_count` responses are compared, and are peers. Of a group, at most half are
/// [slow](Comparison::is_slow), for a median is no slower than half. In O(n log n).
pub fn compare<G: Ord>(
    samples: &[(G, Option<Sample>)],
    min_count: u32,
    factor: f64,
) -> Vec<(usize, Comparison)> {
    let mut groups = BTreeMap::<&G, Vec<(usize, Sample)>>::new();
    for (place, (group, sample)) in samples.iter().enumerate() {
        if let Some(sample) = sample.filter(|sample| sample.count >= min_count) {
            groups.entry(group).or_default().push((place, sample));
        }
    }
    groups.into_values().flat_map(|group| compare_group(group, factor)).collect()
}

fn compare_group(mut known: Vec<(usize, Sample)>, factor: f64) -> Vec<(usize, Comparison)> {
    if known.len() <= MIN_PEERS {
        return Vec::new();
    }
    known.sort_by_key(|(place, sample)| (sample.latency, *place));
    let peers = known.len() - 1;
    let compared = known.iter().enumerate().map(|(rank, (place, own))| {
        // In the sorted list without itself.
        let peer = |index: usize| known[index + usize::from(index >= rank)].1.latency;
        let median = (peer((peers - 1) / 2) + peer(peers / 2)) / 2;
        let peers = u32::try_from(peers).unwrap_or(u32::MAX);
        (*place, Comparison { own: *own, median, peers, factor })
    });
    compared.collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample(millis: u64, count: u32) -> Option<Sample> {
        Some(Sample { latency: Duration::from_millis(millis), count })
    }

    /// Those of one group that are slow.
    fn outliers(samples: &[Option<Sample>], min_count: u32, factor: f64) -> Vec<(usize, Comparison)> {
        let samples: Vec<_> = samples.iter().map(|sample| ((), *sample)).collect();
        let mut compared = compare(&samples, min_count, factor);
        compared.retain(|(_, comparison)| comparison.is_slow());
        compared
    }

    fn found(millis: &[u64], factor: f64) -> Vec<usize> {
        let samples: Vec<_> = millis.iter().map(|millis| sample(*millis, 20)).collect();
        outliers(&samples, 20, factor).into_iter().map(|(place, _)| place).collect()
    }

    #[test]
    fn one_that_is_so_many_times_slower_than_the_median_of_the_others_is_found() {
        let samples = [sample(10, 50), sample(20, 50), sample(60, 33), sample(20, 50)];
        let comparison = Comparison {
            own: Sample { latency: Duration::from_millis(60), count: 33 },
            median: Duration::from_millis(20),
            peers: 3,
            factor: 3.0,
        };
        assert_eq!(outliers(&samples, 20, 3.0), [(2, comparison)]);
        assert_eq!(outliers(&samples, 20, 3.1), []);
    }

    #[test]
    fn two_have_no_odd_one_among_them_and_who_has_too_few_responses_is_no_peer() {
        assert!(found(&[10, 1000], 3.0).is_empty());
        assert_eq!(found(&[10, 1000, 10], 3.0), [1]);
        let samples = [sample(10, 20), sample(1000, 20), sample(10, 19), None];
        assert_eq!(outliers(&samples, 20, 3.0), []);
    }

    #[test]
    fn each_is_compared_with_its_own_group_only() {
        let of = |group, millis| (group, sample(millis, 20));
        let samples =
            [of('a', 10), of('b', 80), of('a', 10), of('b', 80), of('a', 50), of('b', 90), of('c', 900)];
        let compared = compare(&samples, 20, 3.0);
        let medians: Vec<_> = compared.iter().map(|(place, one)| (*place, one.median.as_millis())).collect();
        assert_eq!(medians, [(0, 30), (2, 30), (4, 10), (1, 85), (3, 85), (5, 80)]);
        assert!(compared.iter().all(|(place, one)| one.is_slow() == (*place == 4)));
    }

    #[test]
    fn a_few_milliseconds_are_nothing() {
        assert!(found(&[1, 5, 1], 3.0).is_empty());
        assert_eq!(found(&[1, 6, 1], 3.0), [1]);
    }

    #[test]
    fn when_all_become_slow_nobody_is_odd() {
        assert!(found(&[900, 1000, 1100, 1200], 3.0).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn at_most_half_are_found_and_all_of_them_are_slower_than_those_that_are_not(
            millis in prop::collection::vec(1..5_000_u64, 0..40),
            factor in 2.0..10.0,
        ) {
            let found = found(&millis, factor);
            prop_assert!(found.len() * 2 <= millis.len());
            let least = found.iter().map(|place| millis[*place]).min().unwrap_or(u64::MAX);
            for (place, millis) in millis.iter().enumerate() {
                prop_assert!(found.contains(&place) || *millis <= least);
            }
        }
    }
}
