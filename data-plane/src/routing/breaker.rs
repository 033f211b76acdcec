//! One replica's circuit breaker on this proxy: closed while it works, open while it is left alone, half-open while
//! single requests try it.
//!
//! ```text
//!                N failures in a row, or ratio ≥ T of ≥ M outcomes
//!      ┌────────┐ ───────────────────────────────────────────────▶ ┌──────┐
//!      │ CLOSED │                                                  │ OPEN │ ◀───────────┐
//!      └────────┘                                                  └──────┘             │
//!          ▲                                   open time has passed    │                │
//!          │                                       and a caller came   ▼                │
//!          │       S probes succeeded                            ┌───────────┐   probe  │
//!          └──────────────────────────────────────────────────── │ HALF_OPEN │ ─────────┘
//!                                                                └───────────┘   failed
//!                                                                   │     ▲
//!                                                                   └─────┘ next probe; the last is back, or lost
//! ```
//!
//! Beside these, an operator can force it ([`Breaker::force`]): FORCED_OPEN nobody is let through and nobody probes;
//! FORCED_CLOSED everybody is, and outcomes are counted by the rules of CLOSED, but none opens it. Handed back
//! ([`Breaker::release`]), it goes on by its rules: what was forced open proves itself in HALF_OPEN, for nobody knows how
//! the replica is; what was forced closed is CLOSED with the counts it has, so that a replica which is broken by
//! the rules is out with its next failure.
//!
//! Each arrow is taken by exactly one thread: it swaps the word for a busy one of the next generation, writes the
//! fields beside it, and stores the final word. A busy breaker admits nobody, and who reads several fields reads the
//! word again to know that they belong together. A permit names the generation it was given in, so the result
//! of a request that started before a transition is void after it.
//!
//! The breaker has no timer: whoever asks when a probe is due becomes the probe. It owns its counts and nothing
//! else; it never decides who is asked, and publishes nothing.

mod change;
mod orders;
mod transitions;
mod view;
mod word;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads;

use std::{
    sync::atomic::{AtomicU64, Ordering::Acquire},
    time::Duration,
};

use gateway_proto::policy;

use self::word::SharedWord;
pub use self::{
    change::{Change, Reason, Rule},
    view::View,
};
use super::{Outcome, Tick, Window};

/// Whether and how traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Traffic flows.
    Closed,
    /// One probe at a time decides.
    HalfOpen,
    /// No traffic until the next probe is due.
    Open,
    /// No traffic and no probe, by an operator's word.
    ForcedOpen,
    /// Traffic flows and is counted, by an operator's word: no rule opens it.
    ForcedClosed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Closed, Self::HalfOpen, Self::Open, Self::ForcedOpen, Self::ForcedClosed];

    /// Whether every request is let through.
    pub fn lets_all_through(self) -> bool {
        matches!(self, Self::Closed | Self::ForcedClosed)
    }

    /// Whether an operator decided on it, not the rules.
    pub fn is_forced(self) -> bool {
        matches!(self, Self::ForcedOpen | Self::ForcedClosed)
    }
}

/// A state that an operator can decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForcedState {
    /// [`State::ForcedOpen`].
    Open,
    /// [`State::ForcedClosed`].
    Closed,
}

/// Leave to send one request, to be given back with its outcome to [`Breaker::record`] on every path.
///
/// One that is dropped instead costs nothing unless it is a probe's, and then its lease: see [`Breaker::admit`].
#[derive(Debug)]
#[must_use = "record its outcome"]
pub struct Permit {
    generation: u64,
    probe: bool,
}

impl Permit {
    /// Whether this request decides over a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

/// A call was admitted.
#[derive(Debug)]
pub struct Admission {
    /// For [`Breaker::record`].
    pub permit: Permit,
    /// The transition that this call made.
    pub change: Option<Change>,
}

/// A call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// When asking again may help: an open breaker's next probe, or now when a probe is out and may end any time;
    /// [`Tick::NEVER`] while it is forced open.
    pub retry_at: Tick,
}

/// The breaker of one replica, shared by all workers.
///
/// Closed, an admission is one load, and a success one load and one addition to the window.
#[derive(Debug)]
pub struct Breaker {
    word: SharedWord,
    /// The tick at which somebody has to look: OPEN, the next probe; HALF_OPEN, the end of the probe's lease.
    until: AtomicU64,
    /// Nanoseconds that it was open for last, jitter included; the streak decays by one in as long.
    open_time: AtomicU64,
    /// Start of the running healthy interval: the tick of closing, of the last failure, or of the last decay.
    healthy_since: AtomicU64,
    trip_count: AtomicU64,
    window: Window,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl Breaker {
    /// A closed breaker that has seen nothing.
    pub fn new() -> Self {
        Self {
            word: SharedWord::new(),
            until: AtomicU64::new(0),
            open_time: AtomicU64::new(0),
            healthy_since: AtomicU64::new(0),
            trip_count: AtomicU64::new(0),
            window: Window::new(),
        }
    }

    /// Admits one call, or says when to ask again.
    ///
    /// An open breaker whose open time has passed becomes half-open here: at `now` equal to the due tick the call is
    /// admitted as its probe. One probe is out at a time. One whose outcome is not recorded within `probe_lease`
    /// counts as lost, and the next caller takes its place: so the lease must be longer than an attempt may take.
    ///
    /// # Errors
    /// [`Rejected`] while open or forced open, and while another call is the probe.
    #[inline]
    pub fn admit(&self, now: Tick, probe_lease: Duration) -> Result<Admission, Rejected> {
        loop {
            let word = self.word.load();
            if word.busy {
                return Err(Rejected { retry_at: now });
            }
            let reason = match word.state {
                State::Closed | State::ForcedClosed => {
                    let permit = Permit { generation: word.generation, probe: false };
                    return Ok(Admission { permit, change: None });
                }
                State::Open => {
                    let until = self.until();
                    if now < until {
                        return Err(Rejected { retry_at: until });
                    }
                    Some(Reason::ProbeDue)
                }
                State::ForcedOpen => return Err(Rejected { retry_at: Tick::NEVER }),
                State::HalfOpen if !word.probe_out => None,
                State::HalfOpen if now < self.until() => return Err(Rejected { retry_at: now }),
                State::HalfOpen => Some(Reason::ProbeLost),
            };
            if let Some(admission) = self.send_probe(word, reason, now, probe_lease) {
                return Ok(admission);
            }
        }
    }

    /// Takes a permit back with what became of its request, and returns the transition that this made.
    ///
    /// `jitter` (0.0..1.0) sizes the open time if it opens. Results of another generation are discarded. In CLOSED and
    /// FORCED_CLOSED, failures count for both rules and overload for the ratio only. In HALF_OPEN only the probe's result counts:
    /// overload fails it, and a neutral one just frees its place.
    pub fn record(
        &self,
        permit: Permit,
        outcome: Outcome,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        let Permit { generation, probe } = permit;
        let fault = match outcome {
            Outcome::Success if probe => return self.pass_probe(generation, now, policy),
            Outcome::Success => {
                self.count_success(generation, now, policy);
                return None;
            }
            Outcome::Neutral => {
                if probe {
                    self.release_probe(generation);
                }
                return None;
            }
            Outcome::Failure(fault) => Some(fault),
            Outcome::Overloaded => None,
        };
        if probe {
            self.fail_probe(generation, fault, now, policy, jitter)
        } else {
            self.count_failure(generation, fault, now, policy, jitter)
        }
    }

    fn until(&self) -> Tick {
        Tick::from_nanos(self.until.load(Acquire))
    }
}
