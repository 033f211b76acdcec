//! Whose turn it is: strict rotation over a fixed list, smooth when weights differ.
//!
//! It is immutable and knows positions, not replicas. The cursor is the caller's.

use gateway_proto::Weight;

/// The order in which the positions of a list take their turns.
///
/// With equal weights it is the list's own order. Otherwise it is the order of smooth weighted round-robin as nginx
/// has it: at each turn every position gains its weight in credit, the richest takes the turn and pays the sum of
/// all weights. Heavy positions come often, and never in a block: weights 5, 1, 1 give `a a b a c a a`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    count: usize,
    /// Empty when all weights are equal.
    schedule: Box<[u32]>,
}

impl Rotation {
    /// Weights whose sum, in lowest terms, is above this are scaled down to about this sum, and to 1 at least. Shares
    /// then differ from the weights by rounding: by half a thousandth of all traffic each. It bounds a schedule to
    /// this and one turn for each replica, and the time to make one for a thousand replicas to some milliseconds.
    pub const MAX_WEIGHT_SUM: u64 = 1024;

    /// Makes the rotation of a list with these weights, see [`Rotation::of_shares`].
    pub fn new(weights: &[Weight]) -> Self {
        let shares: Vec<u64> = weights.iter().map(|weight| u64::from(weight.get())).collect();
        Self::of_shares(&shares)
    }

    /// Makes the rotation of a list with these shares, each above zero, in O(length of the list × length of the
    /// schedule).
    pub fn of_shares(shares: &[u64]) -> Self {
        let shares = turns_of(shares);
        let equal = shares.windows(2).all(|pair| pair[0] == pair[1]);
        let schedule = if equal { Box::default() } else { smooth(&shares) };
        Self { count: shares.len(), schedule }
    }

    /// The position that takes turn `turn`. Over any `k` × [`len`](Self::len) successive turns each position gets
    /// exactly its share.
    ///
    /// # Panics
    /// When the list is empty.
    pub fn index(&self, turn: u64) -> usize {
        if self.schedule.is_empty() {
            return wrap(turn, self.count);
        }
        self.schedule[wrap(turn, self.schedule.len())] as usize
    }

    /// Turns until the order repeats; zero for an empty list.
    pub fn len(&self) -> usize {
        if self.schedule.is_empty() { self.count } else { self.schedule.len() }
    }

    /// How many take turns.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether there is nobody to take a turn.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

fn wrap(turn: u64, len: usize) -> usize {
    (turn % len as u64) as usize
}

/// Turns of each position in one schedule: the shares in lowest terms, scaled down if the sum is too large.
fn turns_of(shares: &[u64]) -> Vec<u64> {
    let divisor = shares.iter().copied().fold(0, greatest_common_divisor);
    let reduced: Vec<u64> = shares.iter().map(|share| share / divisor).collect();
    let sum: u64 = reduced.iter().sum();
    if sum <= Rotation::MAX_WEIGHT_SUM {
        return reduced;
    }
    let scaled = |share: u64| ((share * Rotation::MAX_WEIGHT_SUM + sum / 2) / sum).max(1);
    reduced.into_iter().map(scaled).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn smooth(shares: &[u64]) -> Box<[u32]> {
    let sum: u64 = shares.iter().sum();
    let mut credits = vec![0_i64; shares.len()];
    let turn = |_| {
        let mut richest = 0;
        for (position, share) in shares.iter().enumerate() {
            credits[position] += *share as i64;
            if credits[position] > credits[richest] {
                richest = position;
            }
        }
        credits[richest] -= sum as i64;
        richest as u32
    };
    (0..sum).map(turn).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rotation(weights: &[i32]) -> Rotation {
        let weights: Vec<Weight> =
            weights.iter().map(|&weight| Weight::parse(weight).expect("a valid weight")).collect();
        Rotation::new(&weights)
    }

    fn turns(rotation: &Rotation, count: u64) -> Vec<usize> {
        (0..count).map(|turn| rotation.index(turn)).collect()
    }

    fn shares_of(rotation: &Rotation, turns: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut shares = vec![0; rotation.count];
        turns.for_each(|turn| shares[rotation.index(turn)] += 1);
        shares
    }

    #[test]
    fn equal_weights_take_turns_in_the_order_of_the_list() {
        for weight in [1, 7, 1000] {
            let rotation = rotation(&[weight; 3]);
            assert_eq!(turns(&rotation, 7), [0, 1, 2, 0, 1, 2, 0]);
            assert_eq!((rotation.len(), rotation.schedule.len()), (3, 0));
        }
    }

    #[test]
    fn a_heavy_weight_comes_often_but_not_in_a_block() {
        assert_eq!(turns(&rotation(&[5, 1, 1]), 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&rotation(&[100, 200]), 3), [1, 0, 1]);
    }

    #[test]
    fn one_replica_takes_every_turn_and_an_empty_list_has_none() {
        assert_eq!(turns(&rotation(&[300]), 3), [0, 0, 0]);
        let empty = Rotation::new(&[]);
        assert_eq!((empty.len(), empty.is_empty()), (0, true));
    }

    #[test]
    fn the_last_turn_there_is_belongs_to_somebody() {
        assert!(rotation(&[1, 2, 3]).index(u64::MAX) < 3);
        assert!(rotation(&[1; 3]).index(u64::MAX) < 3);
    }

    #[test]
    fn a_long_schedule_is_scaled_down_and_nobody_loses_all_turns() {
        let mut weights = vec![1000; 99];
        weights.push(1);
        let rotation = rotation(&weights);
        let shares = shares_of(&rotation, 0..rotation.len() as u64);
        assert_eq!((shares[0], shares[99]), (10, 1));
        assert_eq!(rotation.len(), 991);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn over_every_full_round_each_position_gets_exactly_its_share(
            weights in prop::collection::vec(1..50_i32, 1..20),
            start in any::<u32>(),
            rounds in 1..4_u64,
        ) {
            let rotation = rotation(&weights);
            let start = u64::from(start);
            let shares = shares_of(&rotation, start..start + rounds * rotation.len() as u64);
            let sum: i64 = weights.iter().map(|weight| i64::from(*weight)).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let all = i64::try_from(rounds * rotation.len() as u64).expect("few");
                prop_assert_eq!(i64::try_from(*share).expect("few") * sum, i64::from(*weight) * all);
            }
        }

        #[test]
        fn a_scaled_share_is_off_by_a_thousandth_of_the_traffic_at_most(
            weights in prop::collection::vec(1..=1000_i32, 2..20),
        ) {
            let rotation = rotation(&weights);
            let len = rotation.len() as f64;
            prop_assert!(rotation.len() as u64 <= Rotation::MAX_WEIGHT_SUM + weights.len() as u64);
            let sum = f64::from(weights.iter().sum::<i32>());
            for (share, weight) in shares_of(&rotation, 0..rotation.len() as u64).iter().zip(&weights) {
                let off = (*share as f64 / len - f64::from(*weight) / sum).abs();
                prop_assert!(off <= 0.001 * weights.len() as f64, "{off}");
            }
        }
    }
}
