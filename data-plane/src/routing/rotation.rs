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
    /// A schedule longer than this is made of weights scaled down to fit, each at least 1, which moves a share by a
    /// thousandth of the traffic at most as long as the replicas are few. A power of two far above usual sums, that
    /// keeps a rebuild in the range of a millisecond for a thousand replicas.
    pub const MAX_WEIGHT_SUM: u64 = 1024;

    /// Makes the rotation of a list with these weights. Takes time in O(length of the list × length of the schedule).
    pub fn new(weights: &[Weight]) -> Self {
        let shares = shares(weights);
        let equal = shares.windows(2).all(|pair| pair[0] == pair[1]);
        let schedule = if equal { Box::default() } else { smooth(&shares) };
        Self { count: weights.len(), schedule }
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

    /// Whether there is nobody to take a turn.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below a usize")]
fn wrap(turn: u64, len: usize) -> usize {
    (turn % len as u64) as usize
}

/// Turns of each position in one schedule: the weights in lowest terms, scaled down if the sum is too large.
fn shares(weights: &[Weight]) -> Vec<u64> {
    let divisor = weights.iter().map(|weight| u64::from(weight.get())).fold(0, greatest_common_divisor);
    let reduced: Vec<u64> = weights.iter().map(|weight| u64::from(weight.get()) / divisor).collect();
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

#[expect(clippy::cast_possible_wrap, reason = "shares are at most a thousand each")]
#[expect(clippy::cast_possible_truncation, reason = "a list of replicas has fewer than four billion entries")]
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
