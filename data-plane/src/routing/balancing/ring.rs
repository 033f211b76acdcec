//! Consistent hashing (Karger et al., 1997) with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018).
//!
//! Every member has its points on a circle of hashes, and a key belongs to the first point from its own hash on. When a
//! member joins or leaves, only keys that it gains or had move. A member uses as many of its points, always the same ones
//! first, as its share is of the largest that any member may have: so shares, too, change without moving keys between others,
//! and without making the ring anew.

use super::{hash, mix};

/// Points of members on the circle. Immutable.
#[derive(Debug)]
pub struct Ring {
    /// In the order of their hashes.
    points: Box<[Place]>,
    /// How many each member has.
    each: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    hash: u64,
    point: Point,
}

/// One point of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The member's place in the list that the ring was made of.
    pub member: u32,
    /// Which of the member's points it is, from zero.
    pub order: u16,
}

impl Ring {
    /// Points of each member, at least. Shares of equal members differ by about a twelfth.
    pub const POINTS: u16 = 128;
    /// The largest weight that there is: with one point for each unit, every weight is as exact as points are.
    const MOST: u16 = 1000;
    /// More members than so many have no more points than they need, so that no ring is larger than one of a thousand equal members.
    pub const MANY: usize = 128;

    /// How many points each of so many members has, the heaviest of which has this weight. It goes by no other weight, because
    /// all shares are cut anew when it changes.
    pub fn points_by(heaviest: u16, members: usize) -> u16 {
        let most = if members <= Self::MANY { Self::MOST } else { Self::POINTS };
        heaviest.clamp(Self::POINTS, most)
    }

    /// Makes a ring of members by their names, of which each has so many points, in O(n log n): a thousand take some
    /// milliseconds. The first points of a member are the same however many it has.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, each: u16) -> Self {
        let mut points = Vec::new();
        for (name, member) in names.into_iter().zip(0..) {
            let seed = hash(name.as_bytes());
            let place =
                |order| Place { hash: mix(seed ^ mix(u64::from(order))), point: Point { member, order } };
            points.extend((0..each).map(place));
        }
        points.sort_unstable();
        Self { points: points.into(), each }
    }

    /// All points from that of the key on, once around. The first is found in O(log n).
    pub fn walk(&self, key: u64) -> impl Iterator<Item = Point> {
        let start = self.points.partition_point(|place| place.hash < key);
        let (before, from) = self.points.split_at(start);
        from.iter().chain(before).map(|place| place.point)
    }

    /// How many points each member has.
    pub fn each(&self) -> u16 {
        self.each
    }

    /// How many of its points a member uses, one at least.
    pub fn points_used(&self, share: u64, largest: u64) -> u16 {
        let points = u64::from(self.each);
        let used = (share * points).div_ceil(largest.max(1)).clamp(1, points);
        used as u16
    }
}

/// The most requests that a member with `share` of `sum` may have in flight, the one that comes included, when there are
/// `inflight` without it: `factor` × its share, rounded up. No bound when the factor is zero.
///
/// With a factor of 1.0 or more, some member is always below its bound.
pub fn load_bound(factor: f64, inflight: u64, share: u64, sum: u64) -> u64 {
    if factor == 0.0 {
        return u64::MAX;
    }
    // Counts and shares are far below what a float holds exactly.
    (factor * (inflight + 1) as f64 * share as f64 / sum.max(1) as f64).ceil() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEYS: u64 = 4_000;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("r-{number}")).collect()
    }

    fn ring(names: &[String]) -> Ring {
        Ring::new(names.iter().map(String::as_str), Ring::POINTS)
    }

    fn key(number: u64) -> u64 {
        hash(&number.to_le_bytes())
    }

    /// Whom each key belongs to when all use all of their points.
    fn owners(names: &[String]) -> Vec<&String> {
        let ring = ring(names);
        (0..KEYS).map(|number| &names[ring.walk(key(number)).next().unwrap().member as usize]).collect()
    }

    #[test]
    fn a_walk_passes_every_point_once_and_an_empty_ring_has_none() {
        let ring_of_three = ring(&names(3));
        let mut passed: Vec<_> = ring_of_three.walk(key(1)).collect();
        passed.sort_unstable();
        let all = (0..3).flat_map(|member| (0..Ring::POINTS).map(move |order| Point { member, order }));
        assert!(passed.into_iter().eq(all));
        assert_eq!(ring(&[]).walk(7).next(), None);
    }

    #[test]
    fn equal_members_have_nearly_equal_shares() {
        let ten = names(10);
        let owners = owners(&ten);
        for name in &ten {
            let share = owners.iter().filter(|owner| **owner == name).count();
            assert!((260..=560).contains(&share), "{name} has {share} of {KEYS}");
        }
    }

    #[test]
    fn a_member_uses_points_by_its_share_of_the_largest_and_one_at_least() {
        let ring = ring(&names(1));
        assert_eq!(ring.points_used(100, 100), 128);
        assert_eq!(ring.points_used(50, 100), 64);
        assert_eq!(ring.points_used(1, 1000), 1);
    }

    #[test]
    fn heavy_members_have_a_point_for_each_unit_of_weight_unless_they_are_many() {
        assert_eq!(
            [1, 100, 128, 300, 1000].map(|heaviest| Ring::points_by(heaviest, 3)),
            [128, 128, 128, 300, 1000]
        );
        assert_eq!(Ring::points_by(1000, Ring::MANY), 1000);
        assert_eq!(Ring::points_by(1000, Ring::MANY + 1), 128);
    }

    #[test]
    fn the_first_points_of_a_member_are_the_same_however_many_it_has() {
        let (few, many) = (ring(&names(3)), Ring::new(names(3).iter().map(String::as_str), 300));
        for number in 0..KEYS {
            let first = |ring: &Ring| ring.walk(key(number)).find(|point| point.order < Ring::POINTS);
            assert_eq!(first(&few), first(&many));
        }
    }

    #[test]
    fn a_bound_is_the_share_times_the_factor_rounded_up() {
        assert_eq!(load_bound(1.25, 9, 1, 4), 4);
        assert_eq!(load_bound(1.25, 0, 1, 1000), 1);
        assert_eq!(load_bound(2.0, 9, 300, 400), 15);
        assert_eq!(load_bound(0.0, 9, 1, 4), u64::MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn when_one_leaves_only_its_keys_move_and_when_it_joins_they_come_back(
            count in 2..30_usize,
            gone in any::<prop::sample::Index>(),
        ) {
            let all = names(count);
            let gone = &all[gone.index(count)];
            let rest: Vec<_> = all.iter().filter(|name| *name != gone).cloned().collect();
            let mut moved = 0;
            for (before, after) in owners(&all).into_iter().zip(owners(&rest)) {
                prop_assert!(before == after || before == gone, "{} went from {} to {}", gone, before, after);
                moved += u64::from(before != after);
            }
            prop_assert!(moved <= 2 * KEYS / count as u64, "{} of {} keys moved", moved, KEYS);
        }

        #[test]
        fn a_larger_share_only_gains_keys(count in 2..20_usize, few in 1..=Ring::POINTS, more in 1..=Ring::POINTS) {
            let (few, more) = (few.min(more), few.max(more));
            let all = names(count);
            let ring = ring(&all);
            let owner = |key: u64, of_first: u16| {
                ring.walk(key).find(|point| point.member != 0 || point.order < of_first).unwrap().member
            };
            for number in 0..500 {
                let (before, after) = (owner(key(number), few), owner(key(number), more));
                prop_assert!(before == after || after == 0);
            }
        }
    }
}
