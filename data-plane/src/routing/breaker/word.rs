//! The breaker's state in one word, so that one compare-and-swap decides every race.

use super::State;
use crate::routing::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
    yield_now,
};

/// All of the breaker that a request has to know.
///
/// As a `u64`, from the top: generation (39 bits), count (14), streak (6), busy (1), probe out (1), state (3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word {
    /// Grows with every transition and with every probe; permits of another generation are void.
    pub(super) generation: u64,
    /// CLOSED and FORCED_CLOSED: failures in a row. HALF_OPEN: probes that succeeded.
    pub(super) count: u32,
    /// Times it opened, less the full healthy intervals since.
    pub(super) streak: u32,
    /// One thread is writing the side fields and will store the next word.
    pub(super) busy: bool,
    /// HALF_OPEN: somebody holds the probe's permit.
    pub(super) probe_out: bool,
    pub(super) state: State,
}

impl Word {
    const GENERATION_SHIFT: u32 = 25;
    const COUNT_SHIFT: u32 = 11;
    const STREAK_SHIFT: u32 = 5;
    const BUSY_BIT: u64 = 1 << 4;
    const PROBE_BIT: u64 = 1 << 3;
    const STATE_MASK: u64 = 0b111;

    const GENERATION_MASK: u64 = (1 << 39) - 1;
    /// Above the largest threshold a policy can have.
    pub(super) const MAX_COUNT: u32 = (1 << 14) - 1;
    pub(super) const MAX_STREAK: u32 = (1 << 6) - 1;

    const INITIAL: Self =
        Self { generation: 0, count: 0, streak: 0, busy: false, probe_out: false, state: State::Closed };

    fn pack(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
            State::ForcedClosed => 3,
            State::ForcedOpen => 4,
        };
        self.generation << Self::GENERATION_SHIFT
            | u64::from(self.count) << Self::COUNT_SHIFT
            | u64::from(self.streak) << Self::STREAK_SHIFT
            | if self.busy { Self::BUSY_BIT } else { 0 }
            | if self.probe_out { Self::PROBE_BIT } else { 0 }
            | state
    }

    fn unpack(word: u64) -> Self {
        Self {
            generation: word >> Self::GENERATION_SHIFT,
            count: (word >> Self::COUNT_SHIFT) as u32 & Self::MAX_COUNT,
            streak: (word >> Self::STREAK_SHIFT) as u32 & Self::MAX_STREAK,
            busy: word & Self::BUSY_BIT != 0,
            probe_out: word & Self::PROBE_BIT != 0,
            state: match word & Self::STATE_MASK {
                0 => State::Closed,
                1 => State::HalfOpen,
                2 => State::Open,
                3 => State::ForcedClosed,
                _ => State::ForcedOpen,
            },
        }
    }

    /// The generation after this one.
    pub(super) fn next_generation(self) -> u64 {
        (self.generation + 1) & Self::GENERATION_MASK
    }
}

/// The word as the workers share it.
///
/// Fields beside it are stored with release and loaded with acquire: who sees a new value of one also sees, when it
/// reads the word again, that the generation has moved on.
#[derive(Debug)]
pub(super) struct SharedWord(AtomicU64);

impl SharedWord {
    pub(super) fn new() -> Self {
        Self(AtomicU64::new(Word::INITIAL.pack()))
    }

    pub(super) fn load(&self) -> Word {
        Word::unpack(self.0.load(Acquire))
    }

    /// The word, if it is still of this generation.
    pub(super) fn of_generation(&self, generation: u64) -> Option<Word> {
        Some(self.load()).filter(|word| word.generation == generation)
    }

    /// The word, after waiting for a transition that is being written; that takes nanoseconds unless the writing
    /// thread lost its core. Not for the request path.
    pub(super) fn settled(&self) -> Word {
        loop {
            let word = self.load();
            if !word.busy {
                return word;
            }
            yield_now();
        }
    }

    /// Replaces a word, unless another thread was faster.
    pub(super) fn swap(&self, from: Word, to: Word) -> bool {
        self.0.compare_exchange(from.pack(), to.pack(), AcqRel, Acquire).is_ok()
    }

    /// Begins a transition: the winner gets the busy word. Nobody else changes the breaker until it stores the next
    /// one with [`settle`](Self::settle), so nothing between the two may fail.
    pub(super) fn claim(&self, from: Word) -> Option<Word> {
        let busy = Word { busy: true, generation: from.next_generation(), ..from };
        self.swap(from, busy).then_some(busy)
    }

    /// Ends a transition.
    pub(super) fn settle(&self, word: Word) {
        self.0.store(Word { busy: false, ..word }.pack(), Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_the_largest_value_of_every_part() {
        for state in State::ALL {
            for flag in [false, true] {
                let word = Word {
                    generation: Word::GENERATION_MASK,
                    count: Word::MAX_COUNT,
                    streak: Word::MAX_STREAK,
                    busy: flag,
                    probe_out: !flag,
                    state,
                };
                assert_eq!(Word::unpack(word.pack()), word);
                let empty = Word { generation: 0, count: 0, streak: 0, ..word };
                assert_eq!(Word::unpack(empty.pack()), empty);
            }
        }
    }

    #[test]
    fn generations_start_anew_after_the_last() {
        let last = Word { generation: Word::GENERATION_MASK, ..Word::INITIAL };
        assert_eq!(last.next_generation(), 0);
    }
}
