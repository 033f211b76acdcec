//! Counts over a sliding time window, in ten atomic buckets.
//!
//! The breaker counts outcomes with it (marked: failures), the retry budget counts requests (marked: retries).
//! It never needs a timer: a bucket whose time has passed is not counted, and is emptied when it is next used.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use super::tick::{Tick, whole_nanos};

const BUCKET_COUNT: u64 = 10;

/// What was counted in a bucket, and when: the bucket's round says how often its slot had been used before.
///
/// As one word: round (24 bits), total (20), marked (20). Rounds repeat after 2^24 windows, 194 days of one-second
/// windows; a slot that nobody touched for exactly that long would count once more, for the tenth part of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    round: u32,
    total: u32,
    marked: u32,
}

impl Bucket {
    const ROUND_BITS: u32 = 24;
    const COUNT_BITS: u32 = 20;
    const ROUND_MASK: u32 = (1 << Self::ROUND_BITS) - 1;
    const COUNT_MASK: u32 = (1 << Self::COUNT_BITS) - 1;

    fn empty(round: u32) -> Self {
        Self { round, total: 0, marked: 0 }
    }

    fn pack(self) -> u64 {
        u64::from(self.round) << (2 * Self::COUNT_BITS)
            | u64::from(self.total) << Self::COUNT_BITS
            | u64::from(self.marked)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is masked to its bits")]
    fn unpack(word: u64) -> Self {
        Self {
            round: (word >> (2 * Self::COUNT_BITS)) as u32,
            total: (word >> Self::COUNT_BITS) as u32 & Self::COUNT_MASK,
            marked: word as u32 & Self::COUNT_MASK,
        }
    }

    /// Counts one more. A full bucket is halved first, which keeps the ratio that the counts are for.
    fn plus_one(self, marked: bool) -> Self {
        let full = self.total == Self::COUNT_MASK;
        let (total, before) =
            if full { (self.total / 2, self.marked / 2) } else { (self.total, self.marked) };
        Self { round: self.round, total: total + 1, marked: before + u32::from(marked) }
    }

    /// Whether this bucket was used in a round after `round`; the nearer way around the circle of rounds decides.
    fn is_after(self, round: u32) -> bool {
        let ahead = self.round.wrapping_sub(round) & Self::ROUND_MASK;
        ahead != 0 && ahead <= Self::ROUND_MASK / 2
    }
}

/// Which slot a tick falls into, and in which round of the slots.
struct Position {
    slot: usize,
    round: u32,
}

impl Position {
    #[expect(clippy::cast_possible_truncation, reason = "a slot is below ten, a round is masked to its bits")]
    fn of(now: Tick, window: Duration) -> Self {
        let bucket_nanos = (whole_nanos(window) / BUCKET_COUNT).max(1);
        let index = now.as_nanos() / bucket_nanos;
        Self {
            slot: (index % BUCKET_COUNT) as usize,
            round: (index / BUCKET_COUNT) as u32 & Bucket::ROUND_MASK,
        }
    }
}

/// What a window holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// All that was added.
    pub total: u32,
    /// The marked part of it.
    pub marked: u32,
}

/// Counts over the last `window`, which each call passes and which may change: what was counted under another
/// length is then forgotten.
///
/// The window moves in steps of a tenth: it holds the running tenth and the nine before. Within that, the counts
/// are exact up to a million per tenth, beyond which a tenth is scaled down with its ratio kept.
#[derive(Debug, Default)]
pub struct Window {
    /// The length in nanoseconds that the rounds in the buckets are counted in.
    length: AtomicU64,
    buckets: [AtomicU64; BUCKET_COUNT as usize],
}

impl Window {
    /// An empty window.
    pub fn new() -> Self {
        Self { length: AtomicU64::new(0), buckets: array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Counts one event at `now`. One that is older than all of the window is dropped.
    pub fn add(&self, now: Tick, window: Duration, marked: bool) {
        if self.length.load(Relaxed) != whole_nanos(window) {
            self.clear();
            self.length.store(whole_nanos(window), Relaxed);
        }
        let at = Position::of(now, window);
        // Always `Ok` unless the slot has moved on, and then the event is a whole window late.
        let _ = self.buckets[at.slot].fetch_update(Relaxed, Relaxed, |word| {
            let bucket = Bucket::unpack(word);
            let bucket = match bucket.round == at.round {
                true => bucket,
                false if bucket.is_after(at.round) && bucket.total > 0 => return None,
                false => Bucket::empty(at.round),
            };
            Some(bucket.plus_one(marked).pack())
        });
    }

    /// What was counted within the `window` that ends at `now`.
    pub fn totals(&self, now: Tick, window: Duration) -> Totals {
        if self.length.load(Relaxed) != whole_nanos(window) {
            return Totals::default();
        }
        let at = Position::of(now, window);
        let mut totals = Totals::default();
        for (slot, bucket) in self.buckets.iter().enumerate() {
            let bucket = Bucket::unpack(bucket.load(Relaxed));
            let rounds_ago = u32::from(slot > at.slot);
            if bucket.round == at.round.wrapping_sub(rounds_ago) & Bucket::ROUND_MASK {
                totals.total += bucket.total;
                totals.marked += bucket.marked;
            }
        }
        totals
    }

    /// Forgets everything. An event that is added at the same time may be kept or forgotten.
    pub fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
    }
}
