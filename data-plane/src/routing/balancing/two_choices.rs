//! The better of two replicas that are drawn at random (Mitzenmacher, "The Power of Two Choices in Randomized Load
//! Balancing", 2001): nearly as good as the best of all, at the cost of two.

use super::mix;
use crate::routing::Rotation;

/// Two positions of a rotation, different ones unless it has one only: the first drawn by weight, the second evenly
/// among the others. `bits` is random. In O(1).
///
/// So when nothing speaks for the second, shares are those of the weights.
///
/// # Panics
/// When the rotation is empty.
pub fn two_of(rotation: &Rotation, bits: u64) -> (usize, usize) {
    let first = rotation.index(bits);
    let others = rotation.count() as u64 - 1;
    if others == 0 {
        return (first, first);
    }
    // Of bits that have nothing to do with who was first.
    let further = 1 + mix(!bits) % others;
    (first, (first + further as usize) % rotation.count())
}

/// What speaks against a replica, and how much of it is its due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests in flight, those of them without an answer, or what waiting behind them costs; zero or more.
    pub cost: f64,
    /// Its share relative to the others; above zero.
    pub share: u64,
}

impl Load {
    /// Whether this one has no more of its due than `other`.
    pub fn is_no_more_than(&self, other: &Self) -> bool {
        // Shares are far below what a float holds exactly.
        self.cost * other.share as f64 <= other.cost * self.share as f64
    }

    /// Whether this one has less of its due than `other` would have with one more.
    ///
    /// So who was drawn by weight gives way only where the other is better off with the request than this one without it. By what
    /// both have now, one that has nothing would get everything, however small its share; by what both would have, nothing
    /// ever came to a small share beside an idle larger one.
    pub fn is_less_than_one_more_at(&self, other: &Self) -> bool {
        self.cost * (other.share as f64) < (other.cost + 1.0) * self.share as f64
    }
}

#[cfg(test)]
mod tests {
    use gateway_proto::Weight;
    use proptest::prelude::*;

    use super::*;
    use crate::routing::balancing::mix;

    fn rotation(weights: &[i32]) -> Rotation {
        let weights: Vec<_> = weights.iter().map(|weight| Weight::parse(*weight).unwrap()).collect();
        Rotation::new(&weights)
    }

    #[test]
    fn of_one_there_is_no_other() {
        assert_eq!(two_of(&rotation(&[100]), 12_345), (0, 0));
    }

    #[test]
    fn the_first_comes_by_weight_and_the_second_evenly() {
        let rotation = rotation(&[100, 200, 100]);
        let (mut firsts, mut seconds) = ([0; 3], [[0; 3]; 3]);
        for number in 0..40_000 {
            let (first, second) = two_of(&rotation, mix(number) >> 11);
            firsts[first] += 1;
            seconds[first][second] += 1;
        }
        assert!(
            firsts.iter().zip([10_000_i32, 20_000, 10_000]).all(|(&got, due)| (got - due).abs() < 500),
            "{firsts:?}"
        );
        for (first, seconds) in seconds.into_iter().enumerate() {
            let half = firsts[first] / 2;
            for (second, count) in seconds.into_iter().enumerate() {
                let due = if first == second { 0 } else { half };
                assert!((count - due).abs() < 400, "{second} after {first}: {count}, {due} are due");
            }
        }
    }

    #[test]
    fn load_is_compared_by_share_and_a_tie_goes_to_the_first() {
        let load = |cost: f64, share| Load { cost, share };
        assert!(load(0.0, 100).is_no_more_than(&load(0.0, 300)));
        assert!(load(0.0, 300).is_no_more_than(&load(0.0, 100)));
        assert!(load(3.0, 300).is_no_more_than(&load(1.0, 100)));
        assert!(!load(4.0, 300).is_no_more_than(&load(1.0, 100)));
    }

    #[test]
    fn who_was_drawn_by_weight_keeps_the_request_unless_the_other_is_better_off_with_it() {
        let load = |cost: f64, share| Load { cost, share };
        for (first, second, keeps) in [
            (load(0.0, 100), load(0.0, 1000), true),
            (load(0.0, 1000), load(0.0, 100), true),
            (load(9.0, 1000), load(0.0, 100), true),
            (load(10.0, 1000), load(0.0, 100), false),
            (load(1.0, 100), load(9.0, 1000), false),
            (load(1.0, 100), load(10.0, 1000), true),
            (load(3.0, 100), load(3.0, 100), true),
            (load(4.0, 100), load(3.0, 100), false),
        ] {
            assert_eq!(first.is_less_than_one_more_at(&second), keeps, "{first:?} {second:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_two_are_never_the_same(weights in prop::collection::vec(1..1000_i32, 2..30), bits in any::<u64>()) {
            let rotation = rotation(&weights);
            let (first, second) = two_of(&rotation, bits >> 11);
            prop_assert!(first != second && first < weights.len() && second < weights.len());
        }
    }
}
