//! Whose turn it is: strict rotation over a fixed list, smooth when weights differ.
//!
//! It is immutable and knows positions, not replicas. The cursor is the caller's.

use gateway_proto::Weight;

/// The order in which the positions of a list take their turns.
///
/// With equal weights it is the list's own order. Otherwise it is the order of smooth weighted round-robin as nginx
/// has it: at each turn every position gains its weight in credit, the richest takes the turn and pays the sum of
/// all weights. Heavy positions come often, and never in a block: weights 5, 1, 1 give `a a b a c a a`.
///
/// Where the list has bands, they take turns first, by their parts of the traffic; those of a band share out its turns. So
/// a band has its part however many it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Of the positions, or of the bands.
    order: Order,
    /// Empty when there are none.
    bands: Box<[Band]>,
    /// For each turn of the bands, how many its band has had before, in this round of all of them.
    ranks: Box<[u32]>,
}

/// The order in which some number of things take turns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    count: usize,
    /// Empty when all shares are equal.
    schedule: Box<[u32]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Band {
    /// In the list.
    positions: Box<[u32]>,
    /// Of these.
    order: Order,
    /// How many it has in each round of all bands.
    turns: u64,
}

impl Rotation {
    /// Weights whose sum, in lowest terms, is above this are scaled down to about this sum, and to 1 at least. Shares
    /// then differ from the weights by rounding: by half a thousandth of all traffic each, or of the band's. It bounds a
    /// schedule to this and one turn for each replica, and the time to make one for a thousand replicas to some
    /// milliseconds.
    pub const MAX_WEIGHT_SUM: u64 = 1024;

    /// Makes the rotation of a list with these weights, see [`Rotation::of_shares`].
    pub fn new(weights: &[Weight]) -> Self {
        let shares: Vec<u64> = weights.iter().map(|weight| u64::from(weight.get())).collect();
        Self::of_shares(&shares)
    }

    /// Makes the rotation of a list with these shares, each above zero, in O(length of the list × length of the
    /// schedule).
    pub fn of_shares(shares: &[u64]) -> Self {
        Self { order: Order::new(shares), bands: Box::default(), ranks: Box::default() }
    }

    /// Makes the rotation of a list each position of which is in one of the bands that `parts` of all turns go to, each part above
    /// zero, and has a share of those of its band.
    ///
    /// # Panics
    /// When a position is in no band, or there is another number of shares than of positions.
    pub fn of_bands(parts: &[f64], band_of: &[usize], shares: &[u64]) -> Self {
        assert_eq!(band_of.len(), shares.len(), "each position has a share");
        if parts.len() <= 1 {
            return Self::of_shares(shares);
        }
        let mut positions = vec![Vec::new(); parts.len()];
        band_of.iter().enumerate().for_each(|(position, band)| positions[*band].push(position as u32));
        // A band that has nobody would take turns from the others.
        let filled = || positions.iter().zip(parts).filter(|(positions, _)| !positions.is_empty());
        let units: Vec<u64> = filled().map(|(_, part)| ((part * UNIT).round() as u64).max(1)).collect();
        let order = Order::new(&units);
        let mut turns = vec![0_u32; units.len()];
        let rank = |turn| {
            let turns = &mut turns[order.index(turn)];
            *turns += 1;
            *turns - 1
        };
        let ranks = (0..order.len() as u64).map(rank).collect();
        let band = |(positions, turns): (&Vec<u32>, &u32)| {
            let shares: Vec<u64> = positions.iter().map(|position| shares[*position as usize]).collect();
            Band {
                positions: positions.as_slice().into(),
                order: Order::new(&shares),
                turns: (*turns).into(),
            }
        };
        let bands = filled().map(|(positions, _)| positions).zip(&turns).map(band).collect();
        Self { order, bands, ranks }
    }

    /// The position that takes turn `turn`. Over any `k` × [`len`](Self::len) successive turns each position gets
    /// exactly its share, and each band exactly its part.
    ///
    /// # Panics
    /// When the list is empty.
    #[inline]
    pub fn index(&self, turn: u64) -> usize {
        let first = self.order.index(turn);
        if self.bands.is_empty() { first } else { self.within(&self.bands[first], turn) }
    }

    fn within(&self, band: &Band, turn: u64) -> usize {
        let round = turn / self.ranks.len() as u64;
        let rank = self.ranks[wrap(turn, self.ranks.len())];
        band.positions[band.order.index(round * band.turns + u64::from(rank))] as usize
    }

    /// Turns until the order repeats, that of the bands where there are some; zero for an empty list.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// The first turn that this position takes; `None` when there is no such position.
    pub fn first_turn_of(&self, position: usize) -> Option<u64> {
        if self.bands.is_empty() {
            return self.order.first_turn_of(position);
        }
        self.bands.iter().enumerate().find_map(|(number, band)| {
            let place = band.positions.binary_search(&(position as u32)).ok()?;
            let turn = band.order.first_turn_of(place)?;
            let (round, rank) = (turn / band.turns, turn % band.turns);
            let is_it = |turn: &u64| {
                self.order.index(*turn) == number && u64::from(self.ranks[*turn as usize]) == rank
            };
            let len = self.ranks.len() as u64;
            (0..len).find(is_it).map(|turn| round * len + turn)
        })
    }

    /// How many take turns.
    pub fn count(&self) -> usize {
        let of_bands: usize = self.bands.iter().map(|band| band.positions.len()).sum();
        if self.bands.is_empty() { self.order.count } else { of_bands }
    }

    /// Whether there is nobody to take a turn.
    pub fn is_empty(&self) -> bool {
        self.order.count == 0
    }
}

/// Parts of the traffic are exact up to this many to one.
const UNIT: f64 = 1_000_000.0;

impl Order {
    fn new(shares: &[u64]) -> Self {
        let shares = turns_of(shares);
        let equal = shares.windows(2).all(|pair| pair[0] == pair[1]);
        let schedule = if equal { Box::default() } else { smooth(&shares) };
        Self { count: shares.len(), schedule }
    }

    #[inline]
    fn index(&self, turn: u64) -> usize {
        if self.schedule.is_empty() {
            return wrap(turn, self.count);
        }
        self.schedule[wrap(turn, self.schedule.len())] as usize
    }

    fn len(&self) -> usize {
        if self.schedule.is_empty() { self.count } else { self.schedule.len() }
    }

    fn first_turn_of(&self, position: usize) -> Option<u64> {
        (0..self.len() as u64).find(|turn| self.index(*turn) == position)
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
        let mut shares = vec![0; rotation.count()];
        turns.for_each(|turn| shares[rotation.index(turn)] += 1);
        shares
    }

    #[test]
    fn equal_weights_take_turns_in_the_order_of_the_list() {
        for weight in [1, 7, 1000] {
            let rotation = rotation(&[weight; 3]);
            assert_eq!(turns(&rotation, 7), [0, 1, 2, 0, 1, 2, 0]);
            assert_eq!((rotation.len(), rotation.order.schedule.len()), (3, 0));
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

    #[test]
    fn a_band_has_its_part_however_many_it_has() {
        let band_of: Vec<usize> = (0..503).map(|position| usize::from(position >= 3)).collect();
        let rotation = Rotation::of_bands(&[0.98, 0.02], &band_of, &[100; 503]);
        assert_eq!(rotation.count(), 503);
        let shares = shares_of(&rotation, 0..50 * 500);
        assert_eq!(shares[..3].iter().sum::<u64>(), 49 * 500);
        assert!(shares[3..].iter().all(|share| *share == 1), "each of the many has its turn");
    }

    #[test]
    fn shares_hold_within_a_band_and_bands_without_anybody_take_nothing() {
        let rotation = Rotation::of_bands(&[0.7, 0.2, 0.1], &[2, 0, 0, 2], &[100, 100, 300, 100]);
        let shares = shares_of(&rotation, 0..64_000);
        assert_eq!(shares, [4000, 14_000, 42_000, 4000]);
        assert_eq!(Rotation::of_bands(&[1.0], &[0, 0], &[1, 2]), Rotation::of_shares(&[1, 2]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn everybody_s_first_turn_is_known_and_parts_hold(
            parts in prop::collection::vec(1..100_u64, 1..5),
            members in prop::collection::vec((any::<prop::sample::Index>(), 1..20_u64), 1..40),
        ) {
            let weights: Vec<f64> = parts.iter().map(|part| *part as f64 / parts.iter().sum::<u64>() as f64).collect();
            let band_of: Vec<usize> = members.iter().map(|(index, _)| index.index(parts.len())).collect();
            let shares: Vec<u64> = members.iter().map(|(_, share)| *share).collect();
            let rotation = Rotation::of_bands(&weights, &band_of, &shares);
            prop_assert_eq!(rotation.count(), members.len());
            let mut first = vec![None; members.len()];
            let mut turn = 0;
            while first.iter().any(Option::is_none) {
                first[rotation.index(turn)].get_or_insert(turn);
                turn += 1;
                prop_assert!(turn < 1_000_000, "somebody has no turn");
            }
            for (position, first) in first.into_iter().enumerate() {
                prop_assert_eq!(rotation.first_turn_of(position), first);
            }
            prop_assert_eq!(rotation.first_turn_of(members.len()), None);
            let round = rotation.len() as u64;
            let taken = shares_of(&rotation, 7 * round..8 * round);
            let used: f64 = (0..parts.len()).filter(|band| band_of.contains(band)).map(|band| weights[band]).sum();
            for band in (0..parts.len()).filter(|band| band_of.contains(band) && parts.len() > 1) {
                let of_band = taken.iter().zip(&band_of).filter(|(_, of)| **of == band).map(|(taken, _)| *taken);
                let part = of_band.sum::<u64>() as f64 / round as f64;
                prop_assert!((part - weights[band] / used).abs() < 0.005, "{part} of {}", weights[band] / used);
            }
        }

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
