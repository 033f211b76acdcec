//! What is done to a breaker from outside, whatever its rules say: by a new registration, by what its service or its replica's port
//! has come to, and by an operator's orders.
//!
//! None of it is for the request path: each waits for a transition that is being written.

use super::{Breaker, Change, ForcedState, Reason, State, word::Word};
use crate::routing::{
    Tick,
    sync::Ordering::{Acquire, Release},
};

impl Breaker {
    /// The replica registered anew, as a new process: what its predecessor did says little about it.
    ///
    /// While open, the next probe is due at once. While half-open, a probe that is out is void and the count starts
    /// over. While closed or forced, the counts are forgotten. The streak stays, so that a replica which fails after
    /// every start is left alone for longer and longer.
    pub fn reprobe(&self, now: Tick) {
        loop {
            let word = self.word.settled();
            if matches!(word.state, State::Open | State::HalfOpen) {
                if let Some(busy) = self.word.claim(word) {
                    self.until.store(now.as_nanos(), Release);
                    self.clear();
                    self.word.settle(Word { count: 0, probe_out: false, ..busy });
                    return;
                }
                continue;
            }
            // Without a busy phase: nobody may be turned away because a healthy replica registered again.
            let generation = word.next_generation();
            if self.word.swap(word, Word { generation, count: 0, probe_out: false, ..word }) {
                self.clear();
                return;
            }
        }
    }

    /// Has the next probe of an open breaker due at `due` at the latest; whether it was later. Its open time and streak stay: if
    /// the probe fails, it rests for as long as it would have then.
    pub fn hasten(&self, due: Tick) -> bool {
        loop {
            let word = self.word.settled();
            if word.state != State::Open || self.until() <= due {
                return false;
            }
            if let Some(busy) = self.word.claim(word) {
                self.until.store(due.as_nanos(), Release);
                self.word.settle(busy);
                return true;
            }
        }
    }

    /// Takes the decision out of the rules' hands until [`Breaker::release`]; `None` when it is in that state already.
    ///
    /// What a closed breaker has counted stays when it is forced closed. From any other state the counts begin anew.
    /// A probe that is out is void, and so are the results of all requests under way.
    pub fn force(&self, state: ForcedState, now: Tick) -> Option<Change> {
        let to = match state {
            ForcedState::Open => State::ForcedOpen,
            ForcedState::Closed => State::ForcedClosed,
        };
        loop {
            let word = self.word.settled();
            if word.state == to {
                return None;
            }
            let count = if word.state == State::Closed && to == State::ForcedClosed { word.count } else { 0 };
            if let Some(change) = self.order(word, Word { state: to, count, ..word }, Reason::Forced, now) {
                return Some(change);
            }
        }
    }

    /// Hands a forced breaker back to its rules; `None` when it is not forced.
    ///
    /// FORCED_OPEN becomes HALF_OPEN, with a probe welcome at once. FORCED_CLOSED becomes CLOSED with what it has
    /// counted: if that is enough to open it, the next failure does.
    pub fn release(&self, now: Tick) -> Option<Change> {
        loop {
            let word = self.word.settled();
            let to = match word.state {
                State::ForcedOpen => Word { state: State::HalfOpen, count: 0, ..word },
                State::ForcedClosed => Word { state: State::Closed, ..word },
                State::Closed | State::HalfOpen | State::Open => return None,
            };
            if let Some(change) = self.order(word, to, Reason::Released, now) {
                return Some(change);
            }
        }
    }

    /// Forgets counts and streak, and closes it; a forced one forgets as well and stays as it is.
    pub fn reset(&self, now: Tick) -> Change {
        loop {
            let word = self.word.settled();
            let state = if word.state.is_forced() { word.state } else { State::Closed };
            let to = Word { state, count: 0, streak: 0, ..word };
            if let Some(change) = self.order(word, to, Reason::Reset, now) {
                return change;
            }
        }
    }

    /// Active checks have passed `count` times in a row, which the policy takes for enough: an open or half-open one closes. The
    /// streak stays, because only requests show that it is over.
    pub fn close_by_checks(&self, count: u32, now: Tick) -> Option<Change> {
        loop {
            let word = self.word.settled();
            if !matches!(word.state, State::Open | State::HalfOpen) {
                return None;
            }
            let to = Word { state: State::Closed, count: 0, ..word };
            if let Some(change) = self.order(word, to, Reason::ChecksPassed { count }, now) {
                return Some(change);
            }
        }
    }

    /// `from` → `to`, in the next generation and with no probe out. `None` when another thread was faster.
    fn order(&self, from: Word, to: Word, reason: Reason, now: Tick) -> Option<Change> {
        let to = Word { generation: from.next_generation(), probe_out: false, ..to };
        if from.state.lets_all_through() && to.state.lets_all_through() {
            // Without a busy phase, as above.
            if !self.word.swap(from, to) {
                return None;
            }
            if reason == Reason::Reset {
                self.clear();
            }
        } else {
            self.word.claim(from)?;
            self.clear();
            self.disproof.store(0, Release);
            self.until.store(0, Release);
            self.healthy_since.store(now.as_nanos(), Release);
            self.word.settle(to);
        }
        Some(Change {
            from: from.state,
            to: to.state,
            reason,
            generation: to.generation,
            until: None,
            trip_count: self.trip_count.load(Acquire),
            withheld: None,
        })
    }
}
