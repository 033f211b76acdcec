//! One replica's circuit breaker on this proxy: closed while it works, open while it is left alone, half-open while
//! single requests try it.
//!
//! ```text
//!        N failures in a row; failed or slow ratio ≥ T of ≥ M; slower than peers
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
//! How many probes S must succeed depends on what opened it. Who fails each time is found out by one or two of them, which is
//! what the policy asks for. Who fails sometimes passes two easily, and would be closed, and do harm until the window
//! is full again, each time: so after a ratio it takes as many in a row as nobody with that ratio is likely to have.
//!
//! A policy can withhold the arrow from CLOSED to OPEN: when it only observes, and when as many of the service's breakers
//! are open as it allows. What would have happened is told then, at most once in a window. One that only observes also has a
//! failed probe lead to CLOSED, for no rule of it keeps anybody out.
//!
//! The breaker has no timer: whoever asks when a probe is due becomes the probe. It owns its counts and nothing
//! else; it never decides who is asked, and publishes nothing.

// By their paths, and with all that threads meet in from one place: tests/breaker.rs builds this file a second time, with a
// model of the latter.
#[path = "breaker/change.rs"]
mod change;
#[path = "breaker/orders.rs"]
mod orders;
#[path = "breaker/past.rs"]
mod past;
#[path = "breaker/transitions.rs"]
mod transitions;
#[path = "breaker/view.rs"]
mod view;
#[path = "breaker/word.rs"]
mod word;

use std::{sync::OnceLock, time::Duration};

use gateway_proto::policy;

use self::word::SharedWord;
pub use self::{
    change::{Change, Reason, Rule, Withheld},
    past::Past,
    view::View,
};
use crate::routing::{
    LatencyWindow, Outcome, Sample, Tick, Windows, peers,
    sync::{AtomicU64, Ordering::Acquire},
};

/// How long a probe's answer is followed after its head before it counts as good: one that breaks off by then is a failure, and a
/// stream that lasts for hours keeps no breaker half-open.
pub const PROBE_BODY: Duration = Duration::from_secs(1);

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
    /// Among whose outcomes its own is counted.
    worker: u32,
}

impl Permit {
    /// Of no generation there is: its result counts for nothing.
    const VOID: u64 = u64::MAX;

    fn new(generation: u64, probe: bool) -> Self {
        Self { generation, probe, worker: 0 }
    }

    /// The same of this worker's, which counts its outcome where no other writes.
    pub fn of(self, worker: usize) -> Self {
        Self { worker: u32::try_from(worker).unwrap_or(0), ..self }
    }

    /// Whether this request decides over a half-open breaker.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// How its breaker came to let it through.
    pub fn admitted(&self) -> Admitted {
        match self.generation {
            Self::VOID => Admitted::Regardless,
            _ if self.probe => Admitted::AsProbe,
            _ => Admitted::LikeAll,
        }
    }
}

/// How a breaker came to let a request through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It lets all through.
    LikeAll,
    /// To find out how the replica is.
    AsProbe,
    /// It lets nobody through, and was not heeded: see [`Breaker::admit_regardless`].
    Regardless,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The verdict on the replica.
    pub outcome: Outcome,
    /// How long it took to its response head, or to the end of its time without one; `None` when it says nothing about
    /// how fast the replica is. With [`Outcome::Neutral`], it would have taken this long at least.
    pub latency: Option<Duration>,
}

impl From<Outcome> for Heard {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, latency: None }
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
/// Closed, an admission is one load, and a success one load and one addition to the worker's own window: no two workers write
/// the same memory while nothing fails.
#[derive(Debug)]
pub struct Breaker {
    word: SharedWord,
    /// The tick at which somebody has to look: OPEN, the next probe; HALF_OPEN, the end of the probe's lease, or when there was
    /// none any more.
    until: AtomicU64,
    /// Nanoseconds that it was open for last, jitter included; the streak decays by one in as long.
    open_time: AtomicU64,
    /// Start of the running healthy interval: the tick of closing, of the last failure, or of the last decay.
    healthy_since: AtomicU64,
    trip_count: AtomicU64,
    /// Probes in a row that disprove the ratio by which it opened; 0 when another rule opened it.
    disproof: AtomicU64,
    /// Before this tick, nothing is told of openings that are withheld.
    silent_until: AtomicU64,
    window: Windows,
    /// Responses, marked: slow ones; while the policy says what is slow.
    slow: Windows,
    /// Made when the policy first compares replicas.
    latencies: OnceLock<Box<LatencyWindow>>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self::new()
    }
}

impl Breaker {
    /// A closed breaker that has seen nothing, and that nobody shares.
    pub fn new() -> Self {
        Self::shared_by(1)
    }

    /// A closed breaker that has seen nothing, and that so many workers share.
    pub fn shared_by(workers: usize) -> Self {
        Self {
            word: SharedWord::new(),
            until: AtomicU64::new(0),
            open_time: AtomicU64::new(0),
            healthy_since: AtomicU64::new(0),
            trip_count: AtomicU64::new(0),
            disproof: AtomicU64::new(0),
            silent_until: AtomicU64::new(0),
            window: Windows::new(workers),
            slow: Windows::new(workers),
            latencies: OnceLock::new(),
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
                    let permit = Permit::new(word.generation, false);
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

    /// Admits a call although nobody is let through, unless an operator said so. What becomes of it counts for nothing:
    /// the breaker goes by its probes.
    pub fn admit_regardless(&self) -> Option<Permit> {
        let is_forced = self.word.load().state == State::ForcedOpen;
        (!is_forced).then_some(Permit::new(Permit::VOID, false))
    }

    /// Takes a permit back with what became of its request, and returns the transition that this made.
    ///
    /// `jitter` (0.0..1.0) sizes the open time if it opens. Results of another generation are discarded. In CLOSED and
    /// FORCED_CLOSED, failures count for all rules and overload for the failure ratio only. In HALF_OPEN only the probe's
    /// result counts: overload fails it, and so does a latency that is slow; a neutral one just frees its place.
    pub fn record(
        &self,
        permit: Permit,
        heard: impl Into<Heard>,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
    ) -> Option<Change> {
        self.record_if(permit, heard, now, policy, jitter, || true)
    }

    /// As [`Breaker::record`], where CLOSED may become OPEN only if `may_open` says so, which is asked when a rule holds.
    #[inline]
    pub fn record_if(
        &self,
        permit: Permit,
        heard: impl Into<Heard>,
        now: Tick,
        policy: &policy::Breaker,
        jitter: f64,
        may_open: impl FnMut() -> bool,
    ) -> Option<Change> {
        let Permit { generation, probe, worker } = permit;
        let Heard { outcome, latency } = heard.into();
        let terms = Terms { worker: worker as usize, now, policy, jitter };
        let fault = match outcome {
            Outcome::Success if probe => return self.pass_probe(generation, latency, terms),
            Outcome::Success => return self.count_success(generation, latency, terms, may_open),
            Outcome::Neutral => {
                if probe {
                    self.release_probe(generation, terms.now);
                    return None;
                }
                return latency.and_then(|latency| self.count_wait(generation, latency, terms, may_open));
            }
            Outcome::Failure(fault) => Some(fault),
            Outcome::Overloaded => None,
        };
        if probe {
            self.fail_probe(generation, Reason::ProbeFailed { fault }, terms)
        } else {
            self.count_failure(generation, fault, latency, terms, may_open)
        }
    }

    /// Its 90th percentile of latency in the window, for a comparison with its peers; `None` while it is not closed, or
    /// when nothing was recorded.
    pub fn latency(&self, now: Tick, policy: &policy::Breaker) -> Option<Sample> {
        let latencies = self.latencies.get().filter(|_| self.word.load().state == State::Closed)?;
        latencies.quantile(now, policy.window, peers::QUANTILE)
    }

    /// How many probes must succeed, one after the other, for it to close.
    fn probe_target(&self, policy: &policy::Breaker) -> u32 {
        let disproof = u32::try_from(self.disproof.load(Acquire)).unwrap_or(u32::MAX);
        disproof.max(policy.half_open_success_count.into())
    }

    fn until(&self) -> Tick {
        Tick::from_nanos(self.until.load(Acquire))
    }
}

/// By what a result is judged.
#[derive(Debug, Clone, Copy)]
struct Terms<'a> {
    worker: usize,
    now: Tick,
    policy: &'a policy::Breaker,
    jitter: f64,
}
