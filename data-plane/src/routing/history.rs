//! The last outcomes of a replica, for the question what its breaker would have done by other rules.
//!
//! Sixteen bytes each, in a ring that all workers write: an outcome costs one addition that is shared and two stores. It is
//! kept only where somebody asked for it.

mod replay;

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

pub use self::replay::{Replayed, replay, span};
use super::{Heard, Outcome, Tick};

/// An attempt's outcome as it was recorded: from when to when is known to 66 µs, and its latency to 1 in 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// When its breaker let it through. Its latency does not tell: that ends at the response's head, the verdict may come with
    /// the end of the body, and it begins when the replica has all of the request.
    pub began: Tick,
    /// When its verdict came.
    pub at: Tick,
    /// What became of it.
    pub kind: Kind,
    /// How long it took to the response's head, if that says anything.
    pub latency: Option<Duration>,
}

/// What became of an attempt, as far as breakers go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It went well.
    Success,
    /// It failed by the replica's fault.
    Failure,
    /// The replica had no capacity for it.
    Overloaded,
    /// It says nothing, but how slow the replica was.
    Neutral,
    /// None at all: the replica registered anew, as another process.
    Renewal,
    /// None at all: an operator had its breaker begin anew.
    Reset,
}

impl Kind {
    /// Whether it is something that was done, and no attempt.
    fn is_deed(self) -> bool {
        matches!(self, Self::Renewal | Self::Reset)
    }
}

/// The ring.
#[derive(Debug)]
pub struct History {
    entries: Box<[Entry]>,
    next: AtomicU64,
}

/// A place in the ring. Both words have the [round](round_of) in which they were written: who reads them while they are written
/// sees two of different rounds, and leaves them out.
#[derive(Debug, Default)]
struct Entry {
    /// When it ended, what it was, the round.
    end: AtomicU64,
    /// When it began, its latency, the round.
    beginning: AtomicU64,
}

/// Bits of a time: in units of 2^16 ns, for two years.
const TIME_BITS: u32 = 40;
const TIME_UNIT: u32 = 16;
/// Bits of a latency's mantissa and exponent, of microseconds.
const MANTISSA_BITS: u32 = 10;
const LATENCY_BITS: u32 = 16;
/// Where the round is, in both words.
const ROUND: u32 = TIME_BITS + LATENCY_BITS;

impl History {
    /// A ring for so many outcomes, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { entries: (0..capacity.max(1)).map(|_| Entry::default()).collect(), next: AtomicU64::new(0) }
    }

    /// Records the outcome, as of now, of an attempt that its breaker let through at `began`; one that says nothing, not even how
    /// slow the replica was, is left out.
    pub fn record(&self, heard: Heard, began: Tick, now: Tick) {
        let kind = match heard.outcome {
            Outcome::Success => Kind::Success,
            Outcome::Failure(_) => Kind::Failure,
            Outcome::Overloaded => Kind::Overloaded,
            Outcome::Neutral if heard.latency.is_some() => Kind::Neutral,
            Outcome::Neutral => return,
        };
        self.write(Recorded { began, at: now, kind, latency: heard.latency });
    }

    /// Records that the replica registered anew.
    pub fn renewed(&self, now: Tick) {
        self.write(Recorded { began: now, at: now, kind: Kind::Renewal, latency: None });
    }

    /// Records that an operator has reset its breaker.
    pub fn reset(&self, now: Tick) {
        self.write(Recorded { began: now, at: now, kind: Kind::Reset, latency: None });
    }

    fn write(&self, recorded: Recorded) {
        let (turn, places) = (self.next.fetch_add(1, Relaxed), self.entries.len() as u64);
        self.entries[(turn % places) as usize].write(recorded, round_of(turn / places));
    }

    /// What it holds, oldest first.
    pub fn read(&self) -> Vec<Recorded> {
        let oldest = (self.next.load(Acquire) % self.entries.len() as u64) as usize;
        let (newer, older) = self.entries.split_at(oldest);
        let mut recorded: Vec<_> = older.iter().chain(newer).filter_map(Entry::read).collect();
        // Those of one instant stay in the order of the ring.
        recorded.sort_by_key(|entry| entry.at);
        recorded
    }
}

/// What a round of the ring is known by, in eight bits: zero is none.
fn round_of(number: u64) -> u64 {
    1 + number % 255
}

impl Entry {
    fn write(&self, recorded: Recorded, round: u64) {
        let Recorded { began, at, kind, latency } = recorded;
        let kind = match kind {
            Kind::Success => 0,
            Kind::Failure => 1,
            Kind::Overloaded => 2,
            Kind::Neutral => 3,
            Kind::Renewal => 4,
            Kind::Reset => 5,
        };
        self.end.store(round << ROUND | kind << TIME_BITS | pack_time(at), Release);
        self.beginning.store(round << ROUND | pack_latency(latency) << TIME_BITS | pack_time(began), Release);
    }

    /// `None` of one that was never written, or is being written now.
    fn read(&self) -> Option<Recorded> {
        let (end, beginning) = (self.end.load(Acquire), self.beginning.load(Acquire));
        let round = end >> ROUND;
        (round != 0 && round == beginning >> ROUND).then(|| Recorded {
            began: unpack_time(beginning),
            at: unpack_time(end),
            kind: match end >> TIME_BITS & 0b111 {
                0 => Kind::Success,
                1 => Kind::Failure,
                2 => Kind::Overloaded,
                3 => Kind::Neutral,
                4 => Kind::Renewal,
                _ => Kind::Reset,
            },
            latency: unpack_latency(beginning >> TIME_BITS & ((1 << LATENCY_BITS) - 1)),
        })
    }
}

fn pack_time(time: Tick) -> u64 {
    time.as_nanos() >> TIME_UNIT & ((1 << TIME_BITS) - 1)
}

fn unpack_time(word: u64) -> Tick {
    Tick::from_nanos((word & ((1 << TIME_BITS) - 1)) << TIME_UNIT)
}

/// A small floating-point number of microseconds, rounded down; zero is none.
fn pack_latency(latency: Option<Duration>) -> u64 {
    let Some(latency) = latency else { return 0 };
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
    let exponent = u64::from((64 - micros.leading_zeros()).saturating_sub(MANTISSA_BITS));
    exponent << MANTISSA_BITS | micros >> exponent
}

fn unpack_latency(packed: u64) -> Option<Duration> {
    let mantissa = packed & ((1 << MANTISSA_BITS) - 1);
    let micros = mantissa << (packed >> MANTISSA_BITS);
    micros.checked_sub(1).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::Fault;

    fn success(latency: Option<Duration>) -> Heard {
        Heard { outcome: Outcome::Success, latency }
    }

    fn at(millis: u64) -> Tick {
        Tick::from_nanos(millis << 20)
    }

    #[test]
    fn the_ring_keeps_the_newest_in_their_order() {
        let history = History::new(3);
        assert_eq!(history.read(), []);
        let record = |heard, millis| history.record(heard, at(millis), at(millis));
        record(success(None), 1);
        record(Outcome::Failure(Fault::Reset).into(), 2);
        record(Outcome::Neutral.into(), 3);
        let waited = Heard { outcome: Outcome::Neutral, latency: Some(Duration::from_millis(7)) };
        record(waited, 3);
        history.renewed(at(3));
        let kinds = |history: &History| history.read().iter().map(|entry| entry.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&history), [Kind::Failure, Kind::Neutral, Kind::Renewal]);
        record(Outcome::Overloaded.into(), 4);
        record(success(None), 4);
        assert_eq!(kinds(&history), [Kind::Renewal, Kind::Overloaded, Kind::Success]);
    }

    #[test]
    fn what_is_being_written_is_left_out_and_the_others_stay_in_their_order() {
        let history = History::new(3);
        (1..=5).for_each(|millis| history.record(success(None), at(millis), at(millis)));
        let times = || history.read().iter().map(|entry| entry.at).collect::<Vec<_>>();
        assert_eq!(times(), [3, 4, 5].map(at));
        // The fourth has the first place again; of the next round there, one word is written.
        history.entries[0].end.store(round_of(2) << ROUND | pack_time(at(7)), Release);
        assert_eq!(times(), [3, 5].map(at));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_outcome_is_read_as_it_was_recorded_within_the_stated_error(
            nanos in 0..1_u64 << 56,
            lasted in 0..1_u64 << 40,
            micros in prop::option::of(0..10_000_000_000_u64),
        ) {
            let history = History::new(1);
            let latency = micros.map(Duration::from_micros);
            let began = nanos.saturating_sub(lasted);
            history.record(success(latency), Tick::from_nanos(began), Tick::from_nanos(nanos));
            let read = history.read()[0];
            prop_assert!(nanos - read.at.as_nanos() < 1 << TIME_UNIT);
            prop_assert!(began - read.began.as_nanos() < 1 << TIME_UNIT);
            prop_assert_eq!(read.latency.is_some(), latency.is_some());
            if let (Some(read), Some(latency)) = (read.latency, latency) {
                prop_assert!(read <= latency);
                prop_assert!((latency - read).as_micros() <= latency.as_micros() / 500);
            }
        }
    }
}
