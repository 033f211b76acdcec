//! Whose turn it is: strict rotation over a fixed list, smooth when weights differ.
//!
//! It is immutable and knows positions, not replicas. The cursor is the caller's.

use std::cmp::Reverse;

use gateway_proto::Weight;

/// The order in which the positions of a list take their turns.
///
/// With equal weights it is the list's own order. Otherwise it is the order of smooth weighted round-robin as nginx
/// has it: at each turn every position gains its weight in credit, the richest takes the turn and pays the sum of
/// all weights. Heavy positions come often, and never in a block: weights 5, 1, 1 give `a a b a c a a`.
///
/// Where the list has bands, they take turns first, by their parts of the traffic; those of a band share out its turns. So
/// a band has its part however many it has.
///
/// A list that changes gets another rotation, which begins with what everybody is owed by the one before ([`Claims`]): whoever
/// would be next comes first. So nobody loses turns, however often that happens.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    /// Of the positions, or of the bands.
    order: Order,
    /// Empty when there are none.
    bands: Box<[Band]>,
    /// For each turn of the bands, how many its band has had before, in this round of all of them.
    ranks: Box<[u32]>,
}

/// What is owed at one moment, in turns: what each would have had by its share less what it has had. Negative when it was
/// ahead. Empty: nothing to anybody.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claims {
    /// To each position of a list, of the turns of its band.
    pub positions: Vec<f64>,
    /// To each band.
    pub bands: Vec<f64>,
}

/// The order in which some number of things take turns.
#[derive(Debug, Clone, PartialEq)]
struct Order {
    count: usize,
    /// Empty when all shares are equal, and nobody is owed more than those behind it.
    schedule: Box<[u32]>,
    /// What each is owed when it begins, nothing in all.
    owed: Box<[f64]>,
}

#[derive(Debug, Clone, PartialEq)]
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
        Self::of_shares(&shares, &Claims::default())
    }

    /// Makes the rotation of a list with these shares, each above zero, in O(length of the list × length of the
    /// schedule).
    pub fn of_shares(shares: &[u64], claims: &Claims) -> Self {
        let order = Order::new(shares, &claims.positions);
        Self { order, bands: Box::default(), ranks: Box::default() }
    }

    /// Makes the rotation of a list each position of which is in one of the bands that `parts` of all turns go to, each part above
    /// zero, and has a share of those of its band.
    ///
    /// # Panics
    /// When a position is in no band, or there is another number of shares than of positions.
    pub fn of_bands(parts: &[f64], band_of: &[usize], shares: &[u64], claims: &Claims) -> Self {
        assert_eq!(band_of.len(), shares.len(), "each position has a share");
        if parts.len() <= 1 {
            return Self::of_shares(shares, claims);
        }
        let claim = |claims: &[f64], index: usize| claims.get(index).copied().unwrap_or(0.0);
        let mut positions = vec![Vec::new(); parts.len()];
        band_of.iter().enumerate().for_each(|(position, band)| positions[*band].push(position as u32));
        // A band that has nobody would take turns from the others.
        let filled = || (0..parts.len()).filter(|band| !positions[*band].is_empty());
        let units: Vec<u64> = filled().map(|band| ((parts[band] * UNIT).round() as u64).max(1)).collect();
        let owed: Vec<f64> = filled().map(|band| claim(&claims.bands, band)).collect();
        let order = Order::new(&units, &owed);
        let mut turns = vec![0_u32; units.len()];
        let rank = |turn| {
            let turns = &mut turns[order.index(turn)];
            *turns += 1;
            *turns - 1
        };
        let ranks = (0..order.len() as u64).map(rank).collect();
        let band = |(band, turns): (usize, &u32)| {
            let positions = positions[band].as_slice();
            let members = || positions.iter().map(|position| *position as usize);
            let shares: Vec<u64> = members().map(|position| shares[position]).collect();
            let owed: Vec<f64> = members().map(|position| claim(&claims.positions, position)).collect();
            Band { positions: positions.into(), order: Order::new(&shares, &owed), turns: (*turns).into() }
        };
        let bands = filled().zip(&turns).map(band).collect();
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

    /// What is owed before turn `turn`: to each position, and to each of the bands that have somebody, in their order. In
    /// O(length of the list + length of the schedule).
    pub fn claims(&self, turn: u64) -> Claims {
        let of_order = self.order.claims(turn);
        if self.bands.is_empty() {
            return Claims { positions: of_order, bands: Vec::new() };
        }
        let mut positions = vec![0.0; self.count()];
        let len = self.ranks.len() as u64;
        let had = self.order.counts(wrap(turn, self.ranks.len()));
        for (band, had) in self.bands.iter().zip(had) {
            let of_band = band.order.claims(turn / len * band.turns + had);
            for (position, claim) in band.positions.iter().zip(of_band) {
                positions[*position as usize] = claim;
            }
        }
        Claims { positions, bands: of_order }
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
    /// With the claims of all, or of nobody.
    fn new(shares: &[u64], claims: &[f64]) -> Self {
        let turns = turns_of(shares);
        let owed = settled(&turns, claims);
        let equal = turns.windows(2).all(|pair| pair[0] == pair[1]);
        let schedule = if equal { by_claim(&owed) } else { smooth(&turns, &owed) };
        Self { count: turns.len(), schedule, owed }
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

    /// How many of so many turns, at most a round of them, each has.
    fn counts(&self, turns: usize) -> Vec<u64> {
        let mut counts = vec![0; self.count];
        (0..turns as u64).for_each(|turn| counts[self.index(turn)] += 1);
        counts
    }

    fn claims(&self, turn: u64) -> Vec<f64> {
        if self.count == 0 {
            return Vec::new();
        }
        // A whole round changes nothing.
        let (had, of_round) = (wrap(turn, self.len()), self.counts(self.len()));
        let part = had as f64 / self.len() as f64;
        let counts = self.counts(had).into_iter().zip(of_round);
        counts.zip(&self.owed).map(|((had, all), owed)| owed + part * all as f64 - had as f64).collect()
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

/// Of claims, as much as is nothing in all: whoever comes or goes with one has the others share it by their turns. Nobody
/// keeps more than two turns, which no rotation comes to owe: what is left of a past when others were there.
fn settled(turns: &[u64], claims: &[f64]) -> Box<[f64]> {
    if claims.iter().all(|claim| *claim == 0.0) {
        return vec![0.0; turns.len()].into();
    }
    let claims = claims.iter().map(|claim| claim.clamp(-2.0, 2.0));
    let each = claims.clone().sum::<f64>() / turns.iter().sum::<u64>() as f64;
    claims.zip(turns).map(|(claim, turns)| claim - each * *turns as f64).collect()
}

/// A claim in these parts of a turn: equal ones stay so, however they came about.
const FINE: f64 = 1_048_576.0;

/// The order of things with equal shares: those go first that are owed most. Empty when it is that of the list.
fn by_claim(owed: &[f64]) -> Box<[u32]> {
    let claim = |position: &u32| (owed[*position as usize] * FINE).round() as i64;
    let mut order: Vec<u32> = (0..owed.len() as u32).collect();
    if order.is_sorted_by_key(|position| Reverse(claim(position))) {
        return Box::default();
    }
    // Stable, and fast where claims come in runs, as they do after a part of a round.
    order.sort_by_key(|position| Reverse(claim(position)));
    order.into()
}

/// A round in which each has as many turns as it is to have, in the order that its credit leads to, which begins with its
/// claim.
fn smooth(turns: &[u64], owed: &[f64]) -> Box<[u32]> {
    let sum: u64 = turns.iter().sum();
    let unit = FINE as i64;
    let mut credits: Vec<i64> = owed.iter().map(|owed| (owed * sum as f64 * FINE).round() as i64).collect();
    let mut left = turns.to_vec();
    let turn = |_| {
        let mut richest = None;
        for (position, turns) in turns.iter().enumerate() {
            credits[position] += *turns as i64 * unit;
            if left[position] > 0 && richest.is_none_or(|richest| credits[position] > credits[richest]) {
                richest = Some(position);
            }
        }
        let richest = richest.unwrap_or_default();
        credits[richest] -= sum as i64 * unit;
        left[richest] -= 1;
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
        let rotation = Rotation::of_bands(&[0.98, 0.02], &band_of, &[100; 503], &Claims::default());
        assert_eq!(rotation.count(), 503);
        let shares = shares_of(&rotation, 0..50 * 500);
        assert_eq!(shares[..3].iter().sum::<u64>(), 49 * 500);
        assert!(shares[3..].iter().all(|share| *share == 1), "each of the many has its turn");
    }

    #[test]
    fn shares_hold_within_a_band_and_bands_without_anybody_take_nothing() {
        let nothing = Claims::default();
        let rotation = Rotation::of_bands(&[0.7, 0.2, 0.1], &[2, 0, 0, 2], &[100, 100, 300, 100], &nothing);
        let shares = shares_of(&rotation, 0..64_000);
        assert_eq!(shares, [4000, 14_000, 42_000, 4000]);
        let of_one = Rotation::of_bands(&[1.0], &[0, 0], &[1, 2], &nothing);
        assert_eq!(of_one, Rotation::of_shares(&[1, 2], &nothing));
    }

    #[test]
    fn what_is_owed_comes_first_and_every_round_is_exact_all_the_same() {
        let owing = |positions: &[f64], shares: &[u64]| {
            Rotation::of_shares(shares, &Claims { positions: positions.to_vec(), bands: Vec::new() })
        };
        assert_eq!(turns(&owing(&[-0.6, 0.3, 0.3], &[1; 3]), 6), [1, 2, 0, 1, 2, 0]);
        assert_eq!(turns(&owing(&[0.0, 0.0, 1.5], &[1; 3]), 6), [2, 0, 1, 2, 0, 1]);
        assert_eq!(turns(&owing(&[-0.5, 1.5, -1.0], &[3, 1, 1]), 5), [1, 0, 0, 0, 2]);
        // What is not paid within a round is owed still.
        let claims = owing(&[0.0, 0.0, 1.5], &[1; 3]).claims(3000).positions;
        assert!(
            claims.iter().zip([-0.5, -0.5, 1.0]).all(|(claim, due)| (claim - due).abs() < 1e-9),
            "{claims:?}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_rotation_that_takes_another_up_goes_on_where_it_stands_and_parts_hold(
            parts in prop::collection::vec(1..100_u64, 1..5),
            members in prop::collection::vec((any::<prop::sample::Index>(), 1..20_u64), 1..40),
            stand in 0..100_000_u64,
        ) {
            let weights: Vec<f64> = parts.iter().map(|part| *part as f64 / parts.iter().sum::<u64>() as f64).collect();
            let band_of: Vec<usize> = members.iter().map(|(index, _)| index.index(parts.len())).collect();
            let shares: Vec<u64> = members.iter().map(|(_, share)| *share).collect();
            let rotation = Rotation::of_bands(&weights, &band_of, &shares, &Claims::default());
            prop_assert_eq!(rotation.count(), members.len());
            let claims = rotation.claims(stand);
            // Of bands that have nobody nothing is said, nor owed.
            let mut of_filled = claims.bands.iter().copied();
            let bands = (0..parts.len()).map(|band| if band_of.contains(&band) { of_filled.next().unwrap_or(0.0) } else { 0.0 });
            let claims = Claims { bands: bands.collect(), ..claims };
            prop_assert!(claims.positions.iter().all(|claim| claim.abs() < 2.0), "{:?}", claims);
            let next = Rotation::of_bands(&weights, &band_of, &shares, &claims);
            for turn in 0..500 {
                prop_assert_eq!(next.index(turn), rotation.index(stand + turn), "turn {}", turn);
            }
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
