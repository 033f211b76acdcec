//! One replica's circuit breaker on this proxy: closed while it works, open while it is left alone, half-open while
//! single requests try it.
//!
//! ```text
//!                 N failures in a row, or ratio ≥ T of ≥ M outcomes
//!      ┌────────┐ ───────────────────────────────────────────────▶ ┌──────┐
//!      │ CLOSED │                                                  │ OPEN │ ◀────────────┐
//!      └────────┘                                                  └──────┘              │
//!          ▲                                   open time has passed   │                  │
//!          │                                   and a caller came      ▼                  │
//!          │   S probes succeeded                              ┌───────────┐   probe     │
//!          └────────────────────────────────────────────────── │ HALF_OPEN │ ────────────┘
//!                                                              └───────────┘   failed
//!                                                                 │     ▲
//!                                                                 └─────┘ next probe, or the last one was lost
//! ```
//!
//! Every arrow is taken by exactly one thread: it swaps the word for a busy one of the next generation, writes the
//! fields beside the word, and stores the final word. A busy breaker admits nobody, and readers of several fields read
//! the word again to know that they belong together. A permit names the generation it was given in, so the result
//! of a request that started before a transition is void after it.
//!
//! The breaker has no timer: whoever asks when a probe is due becomes the probe. It owns its counts and nothing
//! else; it never decides who is asked, and publishes nothing.

mod change;
mod word;

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    },
    thread,
    time::Duration,
};

use gateway_proto::policy;

pub use self::change::{Change, Reason, Rule};
use self::word::Word;
use super::{Fault, Outcome, Tick, Totals, Window, tick::whole_nanos};

/// Whether and how traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Traffic flows.
    Closed,
    /// One probe at a time decides.
    HalfOpen,
    /// No traffic until the next probe is due.
    Open,
}

/// Leave to send one request, to be given back with its outcome to [`Breaker::record`] on every path.
///
/// One that is dropped instead costs nothing unless it is a probe's, and then only its time: see [`Breaker::admit`].
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
    /// When asking again may help: an open breaker's next probe, or now when a probe is out and may end any time.
    pub retry_at: Tick,
}

/// What a breaker shows of itself, all of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Whether and how traffic flows.
    pub state: State,
    /// Grows with every transition and with every probe.
    pub generation: u64,
    /// OPEN: when the next probe is due. HALF_OPEN with a probe out: when it counts as lost. Otherwise `None`.
    pub until: Option<Tick>,
    /// CLOSED: failures in a row.
    pub consecutive: u32,
    /// Outcomes in the window; none unless CLOSED.
    pub totals: Totals,
    /// Times it has opened.
    pub trip_count: u64,
    /// HALF_OPEN: probes that succeeded so far.
    pub probe_successes: u32,
    /// Times it opened, less the full healthy intervals since: the next open time is `base_open` × 2^`streak`.
    pub streak: u32,
}

/// The breaker of one replica, shared by all workers.
///
/// Closed, an admission is one load, and a success one load and one addition to the window.
#[derive(Debug)]
pub struct Breaker {
    word: AtomicU64,
    /// The tick at which somebody has to look: OPEN, the next probe; HALF_OPEN, the end of the probe's time.
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
            word: AtomicU64::new(Word::INITIAL.pack()),
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
    /// counts as lost, and its place is free again: so `probe_lease` must be longer than any attempt may take.
    ///
    /// # Errors
    /// [`Rejected`] while open, and while another call is the probe.
    pub fn admit(&self, now: Tick, probe_lease: Duration) -> Result<Admission, Rejected> {
        loop {
            let word = self.load();
            if word.busy {
                return Err(Rejected { retry_at: now });
            }
            let until = Tick::from_nanos(self.until.load(Acquire));
            let reason = match word.state {
                State::Closed => {
                    let permit = Permit { generation: word.generation, probe: false };
                    return Ok(Admission { permit, change: None });
                }
                State::Open if now < until => return Err(Rejected { retry_at: until }),
                State::Open => Some(Reason::ProbeDue),
                State::HalfOpen if !word.probe_out => None,
                State::HalfOpen if now < until => return Err(Rejected { retry_at: now }),
                State::HalfOpen => Some(Reason::ProbeLost),
            };
            if let Some(busy) = self.claim(word) {
                return Ok(self.probe(busy, reason, now, probe_lease));
            }
        }
    }

    /// Takes a permit back with what became of its request, and returns the transition that this made.
    ///
    /// `jitter` (0.0..1.0) sizes the open time if it opens. Results of another generation are discarded. In CLOSED,
    /// failures count for both rules and overload for the ratio only. In HALF_OPEN only the probe's result counts:
    /// overload fails it, and a neutral one just frees its place.
    pub fn record(
        &self,
        permit: Permit,
        outcome: Outcome,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        let fault = match outcome {
            Outcome::Neutral if permit.probe => return self.release(&permit),
            Outcome::Neutral => return None,
            Outcome::Success if permit.probe => return self.pass_probe(&permit, now, policy),
            Outcome::Success => return self.count_success(&permit, now, policy),
            Outcome::Failure(fault) => Some(fault),
            Outcome::Overloaded => None,
        };
        if permit.probe {
            self.fail_probe(&permit, fault, now, policy, jitter)
        } else {
            self.count_failure(&permit, fault, now, policy, jitter)
        }
    }

    /// The replica registered anew, as a new process: what its predecessor did says little about it.
    ///
    /// While open, the next probe is due at once. While half-open, a probe that is out is void and the next starts
    /// over. While closed, the counts are forgotten. The streak stays, so that a replica which crashes on
    /// every start is left alone for longer and longer.
    pub fn reprobe(&self, now: Tick) {
        loop {
            let word = self.settled();
            if word.state == State::Open {
                if let Some(busy) = self.claim(word) {
                    self.until.store(now.as_nanos(), Release);
                    self.settle(busy);
                    return;
                }
            } else {
                let generation = word.next_generation();
                if self.swap(word, Word { generation, count: 0, probe_out: false, ..word }) {
                    // Without a busy phase: nobody may be turned away because a healthy replica registered again.
                    self.window.clear();
                    return;
                }
            }
        }
    }

    /// What the breaker shows at `now`.
    pub fn view(&self, now: Tick, policy: &policy::Breaker) -> View {
        loop {
            let word = self.settled();
            let view = View {
                state: word.state,
                generation: word.generation,
                until: (word.state == State::Open || word.probe_out)
                    .then(|| Tick::from_nanos(self.until.load(Acquire))),
                consecutive: if word.state == State::Closed { word.count } else { 0 },
                totals: self.window.totals(now, policy.window),
                trip_count: self.trip_count.load(Acquire),
                probe_successes: if word.state == State::HalfOpen { word.count } else { 0 },
                streak: word.streak,
            };
            if self.load().generation == word.generation {
                return view;
            }
        }
    }

    /// When somebody has to look at this breaker next for it to recover: `None` while closed, a tick in the past
    /// when a probe is welcome at once.
    pub fn next_probe_at(&self) -> Option<Tick> {
        loop {
            let word = self.settled();
            let at = match word.state {
                State::Closed => return None,
                State::HalfOpen if !word.probe_out => return Some(Tick::ORIGIN),
                State::HalfOpen | State::Open => Tick::from_nanos(self.until.load(Acquire)),
            };
            if self.load().generation == word.generation {
                return Some(at);
            }
        }
    }
}

/// The arrows of the diagram, and the counting between them.
impl Breaker {
    fn count_success(&self, permit: &Permit, now: Tick, policy: &policy::Breaker) -> Option<Change> {
        let mut word = self.current(permit)?;
        self.window.add(now, policy.window, false);
        while word.count > 0 && !self.swap(word, Word { count: 0, ..word }) {
            word = self.current(permit)?;
        }
        if word.streak > 0 {
            self.decay(permit, now);
        }
        None
    }

    /// Lowers the streak by one if a whole healthy interval has passed since its start.
    ///
    /// Called on success only, so an interval without traffic proves nothing, however long it was.
    fn decay(&self, permit: &Permit, now: Tick) {
        let since = self.healthy_since.load(Acquire);
        let interval = Duration::from_nanos(self.open_time.load(Acquire));
        // Whoever moves the start of the interval has it counted; the others come too late.
        if now.since(Tick::from_nanos(since)) < interval
            || self.healthy_since.compare_exchange(since, now.as_nanos(), AcqRel, Acquire).is_err()
        {
            return;
        }
        while let Some(word) = self.current(permit).filter(|word| word.streak > 0) {
            if self.swap(word, Word { streak: word.streak - 1, ..word }) {
                return;
            }
        }
    }

    fn count_failure(
        &self,
        permit: &Permit,
        fault: Option<Fault>,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        let mut word = self.current(permit)?;
        self.window.add(now, policy.window, true);
        self.healthy_since.fetch_max(now.as_nanos(), AcqRel);
        loop {
            let count = (word.count + u32::from(fault.is_some())).min(Word::MAX_COUNT);
            if let Some(reason) = self.trip_reason(count, fault, now, policy) {
                if let Some(busy) = self.claim(word) {
                    return Some(self.open(busy, reason, now, policy, jitter));
                }
            } else if self.swap(word, Word { count, ..word }) {
                return None;
            }
            word = self.current(permit)?;
        }
    }

    fn trip_reason(
        &self,
        count: u32,
        fault: Option<Fault>,
        now: Tick,
        policy: &policy::Breaker,
    ) -> Option<Reason> {
        let threshold = policy.consecutive_failure_count;
        if let Some(fault) = fault.filter(|_| count >= threshold) {
            return Some(Reason::ConsecutiveFailures { count, threshold, fault });
        }
        let Totals { total, marked: failed } = self.window.totals(now, policy.window);
        let threshold = policy.failure_ratio;
        (total >= policy.min_request_count && f64::from(failed) >= threshold * f64::from(total))
            .then_some(Reason::FailureRatio { failed, total, threshold })
    }

    /// → HALF_OPEN with a probe out.
    fn probe(&self, busy: Word, reason: Option<Reason>, now: Tick, lease: Duration) -> Admission {
        self.until.store(now.plus(lease).as_nanos(), Release);
        let trip_count = self.trip_count.load(Acquire);
        let count = if busy.state == State::Open { 0 } else { busy.count };
        self.settle(Word { state: State::HalfOpen, probe_out: true, count, ..busy });
        let generation = busy.generation;
        let change = reason.map(|reason| Change {
            from: busy.state,
            to: State::HalfOpen,
            reason,
            generation,
            until: None,
            trip_count,
        });
        Admission { permit: Permit { generation, probe: true }, change }
    }

    /// HALF_OPEN without a verdict: the next caller is the probe.
    fn release(&self, permit: &Permit) -> Option<Change> {
        loop {
            let word = self.current(permit)?;
            if self.swap(word, Word { probe_out: false, ..word }) {
                return None;
            }
        }
    }

    /// HALF_OPEN → CLOSED, or one step towards it.
    fn pass_probe(&self, permit: &Permit, now: Tick, policy: &policy::Breaker) -> Option<Change> {
        loop {
            let word = self.current(permit)?;
            let count = word.count + 1;
            if count < u32::from(policy.half_open_success_count) {
                if self.swap(word, Word { probe_out: false, count, ..word }) {
                    return None;
                }
            } else if let Some(busy) = self.claim(word) {
                self.window.clear();
                self.healthy_since.store(now.as_nanos(), Release);
                let trip_count = self.trip_count.load(Acquire);
                self.settle(Word { state: State::Closed, probe_out: false, count: 0, ..busy });
                return Some(Change {
                    from: State::HalfOpen,
                    to: State::Closed,
                    reason: Reason::ProbesSucceeded { count },
                    generation: busy.generation,
                    until: None,
                    trip_count,
                });
            }
        }
    }

    fn fail_probe(
        &self,
        permit: &Permit,
        fault: Option<Fault>,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        loop {
            let word = self.current(permit)?;
            if let Some(busy) = self.claim(word) {
                return Some(self.open(busy, Reason::ProbeFailed { fault }, now, policy, jitter));
            }
        }
    }

    /// → OPEN.
    fn open(&self, busy: Word, reason: Reason, now: Tick, policy: &policy::Breaker, jitter: f64) -> Change {
        let (open_time, streak) = open_time(policy, busy.streak, jitter);
        let until = now.plus(open_time);
        self.window.clear();
        self.until.store(until.as_nanos(), Release);
        self.open_time.store(whole_nanos(open_time), Release);
        let trip_count = self.trip_count.fetch_add(1, AcqRel) + 1;
        self.settle(Word { state: State::Open, probe_out: false, count: 0, streak, ..busy });
        Change {
            from: busy.state,
            to: State::Open,
            reason,
            generation: busy.generation,
            until: Some(until),
            trip_count,
        }
    }
}

/// Reading and writing the word.
///
/// The fields beside it are stored with release and loaded with acquire: who sees a new value of one also sees, when
/// it reads the word again, that the generation has moved on.
impl Breaker {
    fn load(&self) -> Word {
        Word::unpack(self.word.load(Acquire))
    }

    /// The word, after waiting for a transition that is being written; that takes nanoseconds unless the writing
    /// thread lost its core. Not for the request path.
    fn settled(&self) -> Word {
        loop {
            let word = self.load();
            if !word.busy {
                return word;
            }
            thread::yield_now();
        }
    }

    /// The word, if the permit still counts.
    fn current(&self, permit: &Permit) -> Option<Word> {
        Some(self.load()).filter(|word| word.generation == permit.generation)
    }

    fn swap(&self, from: Word, to: Word) -> bool {
        self.word.compare_exchange(from.pack(), to.pack(), AcqRel, Acquire).is_ok()
    }

    /// Begins a transition: the winner gets the busy word and must [`settle`](Self::settle) it.
    fn claim(&self, from: Word) -> Option<Word> {
        let busy = Word { busy: true, generation: from.next_generation(), ..from };
        self.swap(from, busy).then_some(busy)
    }

    fn settle(&self, word: Word) {
        self.word.store(Word { busy: false, ..word }.pack(), Release);
    }
}

/// How long to stay open after `streak` openings without a healthy interval, and the streak that follows.
///
/// Doubles from `base_open` up to `max_open`, ± 20 %, so that proxies that tripped together do not probe together.
/// The streak stops growing where the open time does: otherwise a long outage would have to be paid off for as long.
fn open_time(policy: &policy::Breaker, streak: u32, jitter: f64) -> (Duration, u32) {
    let doubled = policy.base_open.saturating_mul(2_u32.saturating_pow(streak));
    let open_time = doubled.min(policy.max_open).mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0));
    let longer = doubled < policy.max_open && streak < Word::MAX_STREAK;
    (open_time, if longer { streak + 1 } else { streak })
}
