//! The last outcomes of a replica, for the question what its breaker would have done by other rules.
//!
//! Eight bytes each, in a ring that all workers write: an outcome costs one addition that is shared and one store. It is
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

/// An attempt's outcome as it was recorded: when is known to 66 µs, and how long it took to 1 in 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// When its verdict came.
    pub at: Tick,
    /// What became of it.
    pub kind: Kind,
    /// How long it took, if that says anything.
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
}

/// The ring.
#[derive(Debug)]
pub struct History {
    /// Zero where nothing was written yet.
    entries: Box<[AtomicU64]>,
    next: AtomicU64,
}

/// Bits of a time: in units of 2^16 ns, for two years.
const TIME_BITS: u32 = 40;
const TIME_UNIT: u32 = 16;
/// Bits of a latency's mantissa and exponent, of microseconds.
const MANTISSA_BITS: u32 = 10;
const LATENCY_BITS: u32 = 16;
/// Written in every entry, so that none is zero.
const IS_WRITTEN: u64 = 1 << 63;

impl History {
    /// A ring for so many outcomes, at least one.
    pub fn new(capacity: usize) -> Self {
        Self { entries: (0..capacity.max(1)).map(|_| AtomicU64::new(0)).collect(), next: AtomicU64::new(0) }
    }

    /// Records an outcome; one that says nothing, not even how slow the replica was, is left out.
    pub fn record(&self, heard: Heard, at: Tick) {
        let kind = match heard.outcome {
            Outcome::Success => Kind::Success,
            Outcome::Failure(_) => Kind::Failure,
            Outcome::Overloaded => Kind::Overloaded,
            Outcome::Neutral if heard.latency.is_some() => Kind::Neutral,
            Outcome::Neutral => return,
        };
        self.write(Recorded { at, kind, latency: heard.latency });
    }

    /// Records that the replica registered anew.
    pub fn renewed(&self, at: Tick) {
        self.write(Recorded { at, kind: Kind::Renewal, latency: None });
    }

    fn write(&self, entry: Recorded) {
        let place = self.next.fetch_add(1, Relaxed) % self.entries.len() as u64;
        self.entries[place as usize].store(entry.pack(), Release);
    }

    /// What it holds, oldest first.
    pub fn read(&self) -> Vec<Recorded> {
        let entries = self.entries.iter().map(|entry| entry.load(Acquire));
        let mut recorded: Vec<_> = entries.filter(|entry| *entry != 0).map(Recorded::unpack).collect();
        // In the order of the ring, those of one instant stay in theirs.
        let oldest = self.next.load(Acquire) % self.entries.len() as u64;
        if recorded.len() == self.entries.len() {
            recorded.rotate_left(oldest as usize);
        }
        recorded.sort_by_key(|entry| entry.at);
        recorded
    }
}

impl Recorded {
    /// When its attempt began, as far as that is known: its replica had all of its request by then.
    fn began(&self) -> Tick {
        Tick::from_nanos(self.at.as_nanos().saturating_sub(nanos(self.latency.unwrap_or_default())))
    }

    fn pack(self) -> u64 {
        let time = (self.at.as_nanos() >> TIME_UNIT) & ((1 << TIME_BITS) - 1);
        let kind = match self.kind {
            Kind::Success => 0,
            Kind::Failure => 1,
            Kind::Overloaded => 2,
            Kind::Neutral => 3,
            Kind::Renewal => 4,
        };
        IS_WRITTEN | kind << (TIME_BITS + LATENCY_BITS) | pack_latency(self.latency) << TIME_BITS | time
    }

    fn unpack(entry: u64) -> Self {
        Self {
            at: Tick::from_nanos((entry & ((1 << TIME_BITS) - 1)) << TIME_UNIT),
            kind: match entry >> (TIME_BITS + LATENCY_BITS) & 0b111 {
                0 => Kind::Success,
                1 => Kind::Failure,
                2 => Kind::Overloaded,
                3 => Kind::Neutral,
                _ => Kind::Renewal,
            },
            latency: unpack_latency(entry >> TIME_BITS & ((1 << LATENCY_BITS) - 1)),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
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
        history.record(success(None), at(1));
        history.record(Outcome::Failure(Fault::Reset).into(), at(2));
        history.record(Outcome::Neutral.into(), at(3));
        let waited = Heard { outcome: Outcome::Neutral, latency: Some(Duration::from_millis(7)) };
        history.record(waited, at(3));
        history.renewed(at(3));
        let kinds = |history: &History| history.read().iter().map(|entry| entry.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&history), [Kind::Failure, Kind::Neutral, Kind::Renewal]);
        history.record(Outcome::Overloaded.into(), at(4));
        history.record(success(None), at(4));
        assert_eq!(kinds(&history), [Kind::Renewal, Kind::Overloaded, Kind::Success]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_outcome_is_read_as_it_was_recorded_within_the_stated_error(
            nanos in 0..1_u64 << 56,
            micros in prop::option::of(0..10_000_000_000_u64),
        ) {
            let history = History::new(1);
            let latency = micros.map(Duration::from_micros);
            history.record(success(latency), Tick::from_nanos(nanos));
            let read = history.read()[0];
            prop_assert!(nanos - read.at.as_nanos() < 1 << TIME_UNIT);
            prop_assert_eq!(read.latency.is_some(), latency.is_some());
            if let (Some(read), Some(latency)) = (read.latency, latency) {
                prop_assert!(read <= latency);
                prop_assert!((latency - read).as_micros() <= latency.as_micros() / 500);
            }
        }
    }
}
