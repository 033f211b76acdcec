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

    fn is_empty(self) -> bool {
        self.total == 0
    }

    fn pack(self) -> u64 {
        u64::from(self.round) << (2 * Self::COUNT_BITS)
            | u64::from(self.total) << Self::COUNT_BITS
            | u64::from(self.marked)
    }

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

    fn minus_one(self, marked: bool) -> Option<Self> {
        let (total, marked) = (self.total.checked_sub(1)?, self.marked.checked_sub(marked.into())?);
        // Halved since, it may have no more of the one kind than of the other.
        (marked <= total).then_some(Self { round: self.round, total, marked })
    }
}

/// Which slot a tick falls into, and in which round of the slots.
struct Position {
    slot: usize,
    round: u32,
}

impl Position {
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
    #[inline]
    pub fn add(&self, now: Tick, window: Duration, marked: bool) {
        if self.length.load(Relaxed) != whole_nanos(window) {
            self.clear();
            self.length.store(whole_nanos(window), Relaxed);
        }
        let at = Position::of(now, window);
        // An error says that the event was dropped, which is what shall happen to one that is a whole window late.
        let _ = self.buckets[at.slot].fetch_update(Relaxed, Relaxed, |word| {
            let bucket = Bucket::unpack(word);
            if bucket.round == at.round {
                return Some(bucket.plus_one(marked).pack());
            }
            // Rounds wrap, so of two the later one is that which is less than half of them ahead.
            let ahead = bucket.round.wrapping_sub(at.round) & Bucket::ROUND_MASK;
            let overtaken = ahead <= Bucket::ROUND_MASK / 2 && !bucket.is_empty();
            (!overtaken).then(|| Bucket::empty(at.round).plus_one(marked).pack())
        });
    }

    /// Takes back one event that was counted at `at`, unless that is forgotten already.
    pub fn take_back(&self, at: Tick, window: Duration, marked: bool) {
        if self.length.load(Relaxed) != whole_nanos(window) {
            return;
        }
        let at = Position::of(at, window);
        // An error says that there is nothing to take back.
        let _ = self.buckets[at.slot].fetch_update(Relaxed, Relaxed, |word| {
            let bucket = Bucket::unpack(word);
            (bucket.round == at.round).then(|| bucket.minus_one(marked)).flatten().map(Bucket::pack)
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

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis * 1_000_000)
    }

    fn totals(total: u32, marked: u32) -> Totals {
        Totals { total, marked }
    }

    #[test]
    fn a_bucket_expires_nine_tenths_after_its_own_without_any_traffic() {
        let window = Window::new();
        window.add(at(5_050), SECOND, true);
        assert_eq!(window.totals(at(5_050), SECOND), totals(1, 1));
        assert_eq!(window.totals(at(5_999), SECOND), totals(1, 1));
        assert_eq!(window.totals(at(6_000), SECOND), totals(0, 0));
        assert_eq!(window.totals(at(3_600_000), SECOND), totals(0, 0));
    }

    #[test]
    fn an_event_that_is_late_by_whole_windows_is_dropped_and_costs_no_other() {
        for late in [4_000, 3_000, 1_000, 0] {
            let window = Window::new();
            window.add(at(5_000), SECOND, false);
            window.add(at(late), SECOND, true);
            assert_eq!(window.totals(at(5_000), SECOND), totals(1, 0), "{late}");
        }
    }

    #[test]
    fn another_length_or_a_clear_forgets_what_was_counted() {
        let window = Window::new();
        window.add(at(0), SECOND, true);
        assert_eq!(window.totals(at(0), 2 * SECOND), totals(0, 0));
        window.add(at(0), 2 * SECOND, false);
        assert_eq!(window.totals(at(0), 2 * SECOND), totals(1, 0));
        window.clear();
        assert_eq!(window.totals(at(0), 2 * SECOND), totals(0, 0));
    }

    #[test]
    fn a_full_bucket_is_halved_and_never_runs_over_into_its_neighbours() {
        let full = Bucket { round: 7, total: Bucket::COUNT_MASK, marked: Bucket::COUNT_MASK };
        let halved = Bucket { round: 7, total: (1 << 19), marked: (1 << 19) };
        assert_eq!(full.plus_one(true), halved);
        assert_eq!(Bucket::unpack(full.pack()), full);
        let unmarked = Bucket { marked: 0, ..full };
        assert_eq!(unmarked.plus_one(false), Bucket { marked: 0, ..halved });
    }

    #[test]
    fn the_rounds_start_anew_after_the_last() {
        let last_round_ends = SECOND * (1 << Bucket::ROUND_BITS);
        let window = Window::new();
        let end = Tick::ORIGIN.plus(last_round_ends);
        window.add(Tick::from_nanos(end.as_nanos() - 1), SECOND, true);
        window.add(end, SECOND, false);
        assert_eq!(window.totals(end, SECOND), totals(2, 1));
    }

    #[test]
    fn no_event_is_lost_between_threads() {
        let window = Window::new();
        thread::scope(|scope| {
            for worker in 0..4 {
                let window = &window;
                scope.spawn(move || (0..10_000).for_each(|_| window.add(at(500), SECOND, worker == 0)));
            }
        });
        assert_eq!(window.totals(at(500), SECOND), totals(40_000, 10_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_totals_are_those_of_a_list_of_events(
            length_ms in 1_000..20_000_u64,
            // The time that passes before each event, and how late its thread comes to add it.
            events in prop::collection::vec((0..3_000_u64, 0..1_000_u64, any::<bool>()), 1..100),
        ) {
            let length = Duration::from_millis(length_ms);
            let bucket_of = |millis: u64| millis * 10 / length_ms;
            let window = Window::new();
            let mut list = Vec::new();
            let mut now = 0_u64;
            for (passed, late, marked) in events {
                now += passed;
                let then = now.saturating_sub(late);
                window.add(at(then), length, marked);
                list.push((then, marked));
                let live = list.iter().filter(|event| bucket_of(event.0) + 10 > bucket_of(now));
                let marks: Vec<bool> = live.map(|event| event.1).collect();
                let counted = window.totals(at(now), length);
                prop_assert_eq!(counted.total as usize, marks.len());
                prop_assert_eq!(counted.marked as usize, marks.iter().filter(|marked| **marked).count());
            }
        }
    }
}
