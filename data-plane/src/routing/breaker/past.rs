//! What a breaker leaves to the one that its replica has when it comes back under its name.

use super::{Breaker, State, word::Word};
use crate::routing::{
    Tick,
    sync::Ordering::{Acquire, Release},
};

/// That a replica was out when it left, and how often it had been without recovering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    is_out: bool,
    streak: u32,
    open_time: u64,
}

impl Breaker {
    /// What is to be remembered of it; `None` if it is as good as new. What an operator has forced is his to remember.
    pub fn past(&self) -> Option<Past> {
        let word = self.word.settled();
        let is_out = matches!(word.state, State::Open | State::HalfOpen);
        let open_time = self.open_time.load(Acquire);
        (is_out || word.streak > 0).then_some(Past { is_out, streak: word.streak, open_time })
    }

    /// Has a new breaker, which nobody shares yet, go on as the one of before would after [`Breaker::reprobe`]: if that was
    /// out, this is open, and the next request is its probe.
    #[must_use]
    pub fn following(self, past: Past, now: Tick) -> Self {
        let Past { is_out, streak, open_time } = past;
        self.open_time.store(open_time, Release);
        self.healthy_since.store(now.as_nanos(), Release);
        self.until.store(now.as_nanos(), Release);
        let state = if is_out { State::Open } else { State::Closed };
        self.word.settle(Word { state, streak, ..self.word.load() });
        self
    }
}
