//! What a breaker shows of itself to those who do not send requests.

use gateway_proto::policy;

use super::{Breaker, State};
use crate::routing::{Tick, Totals, sync::Ordering::Acquire};

/// A breaker at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether and how traffic flows.
    pub state: State,
    /// Grows with every transition and with every probe.
    pub generation: u64,
    /// OPEN: when the next probe is due. HALF_OPEN with a probe out: when it counts as lost. Otherwise `None`.
    pub until: Option<Tick>,
    /// CLOSED and FORCED_CLOSED: failures in a row.
    pub consecutive: u32,
    /// Outcomes in the window; none unless CLOSED or FORCED_CLOSED.
    pub totals: Totals,
    /// Responses in the window, marked: slow ones; none while the policy does not say what is slow.
    pub slow: Totals,
    /// Times it has opened.
    pub trip_count: u64,
    /// HALF_OPEN: probes that succeeded so far.
    pub probe_successes: u32,
    /// HALF_OPEN: probes that must succeed for it to close.
    pub probe_target: u32,
    /// Times it opened, less the healthy intervals since: the next open time is `base_open` × 2^`streak`.
    pub streak: u32,
}

impl Breaker {
    /// What the breaker shows at `now`. Waits for a transition that is being written.
    pub fn view(&self, now: Tick, policy: &policy::Breaker) -> View {
        loop {
            let word = self.word.settled();
            let waits = word.state == State::Open || word.probe_out;
            let count_if = |holds| if holds { word.count } else { 0 };
            let view = View {
                state: word.state,
                generation: word.generation,
                until: waits.then(|| self.until()),
                consecutive: count_if(word.state.lets_all_through()),
                totals: self.window.totals(now, policy.window),
                slow: self.slow.totals(now, policy.window),
                trip_count: self.trip_count.load(Acquire),
                probe_successes: count_if(word.state == State::HalfOpen),
                probe_target: self.probe_target(policy),
                streak: word.streak,
            };
            if self.word.of_generation(word.generation).is_some() {
                return view;
            }
        }
    }

    /// Its state. Waits for a transition that is being written.
    pub fn state(&self) -> State {
        self.word.settled().state
    }

    /// Until when its first probe is left to requests that may be sent twice: a quarter of `base_open` after it is due, or
    /// after a probe before it was given up or lost, of which nobody knows how it would have ended. However long it was open: where nothing
    /// comes but what must not be sent twice, that is how much longer its replica waits. [`Tick::ORIGIN`]
    /// while it is closed or forced, and once a probe has succeeded: what has answered is not expected to swallow the next
    /// request. Waits for a transition that is being written.
    pub fn spares_until(&self, policy: &policy::Breaker) -> Tick {
        loop {
            let word = self.word.settled();
            let until = match word.state {
                State::HalfOpen if word.count > 0 => Tick::ORIGIN,
                State::Open | State::HalfOpen => self.until().plus(policy.base_open / 4),
                State::Closed | State::ForcedOpen | State::ForcedClosed => Tick::ORIGIN,
            };
            if self.word.of_generation(word.generation).is_some() {
                return until;
            }
        }
    }

    /// When somebody has to look at this breaker next for it to recover: `None` while closed or forced, a tick in the
    /// past when a probe is welcome at once. Waits for a transition that is being written.
    pub fn next_probe_at(&self) -> Option<Tick> {
        loop {
            let word = self.word.settled();
            let at = match word.state {
                State::Closed | State::ForcedOpen | State::ForcedClosed => None,
                State::HalfOpen if !word.probe_out => Some(Tick::ORIGIN),
                State::HalfOpen | State::Open => Some(self.until()),
            };
            if self.word.of_generation(word.generation).is_some() {
                return at;
            }
        }
    }
}
