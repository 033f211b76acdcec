//! Whether a failed attempt is followed by another, decided by what the replica can have seen of it.
//!
//! A request that a replica may have acted on is repeated only if repeating it is harmless. The decision needs no
//! state: the caller says how far the request has come, and carries out the [`Verdict`].

use std::{fmt, time::Duration};

use gateway_proto::policy;
use http::Method;

use super::backoff;

/// What the replica can have seen of the failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: no byte of the request was written. Connect refused or timed out, a failed handshake.
    Unsent,
    /// It said that it did not process it: HTTP/2 `REFUSED_STREAM`, or a `GOAWAY` with a lower last stream.
    RefusedUnseen,
    /// Anything: bytes were written, and no response came.
    Unknown,
    /// All of it, and it answered with a failure of which nothing was forwarded yet.
    Answered,
}

/// What is known of the request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts {
    /// Doing it twice is like doing it once; see [`is_idempotent`].
    pub idempotent: bool,
    /// It can be sent again from its first byte: all of the body that was read is still held.
    pub replayable: bool,
}

/// How far the request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Retries so far that were [`counted`](Verdict::Retry::counted).
    pub retries_used: u8,
    /// Whether a replica is left that this request has not tried.
    pub untried_replicas: bool,
    /// Time until the request's deadline.
    pub remaining: Duration,
}

/// What to do after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try an untried replica.
    Retry {
        /// After this pause, which is shorter than the time that remains.
        after: Duration,
        /// Whether this adds one to [`Progress::retries_used`].
        counted: bool,
    },
    /// Answer the client with this attempt's failure.
    Stop(Stop),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The replica may have acted on it, and its method does not allow to do so twice.
    NotIdempotent,
    /// Its body is no longer held in full.
    NotReplayable,
    /// It has had all retries that the policy, or the refusing replica, allows.
    RetriesUsed,
    /// Every replica that may be asked was asked.
    NoOtherReplica,
    /// The service's retry budget is spent.
    BudgetExhausted,
    /// The pause would outlast the deadline.
    NoTimeLeft,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIdempotent => "the request is not idempotent and may have been seen",
            Self::NotReplayable => "the request body is too large to be sent again",
            Self::RetriesUsed => "all retries are used",
            Self::NoOtherReplica => "no other replica is left to try",
            Self::BudgetExhausted => "the retry budget of the service is exhausted",
            Self::NoTimeLeft => "the deadline leaves no time for a retry",
        })
    }
}

/// Decides what follows a failed attempt.
///
/// | the replica | which requests | how often | pause and budget |
/// |---|---|---|---|
/// | cannot have seen it | all | while an untried replica is left | none |
/// | says it did not process it | replayable | the first time; then as below | none |
/// | may have seen it, or answered | idempotent and replayable | `max_retry_count` | back-off, one from the budget |
///
/// Each replica is tried at most once. `try_budget` is called last, and only if nothing else stands against the
/// retry; `random` (0.0..1.0) sizes the back-off.
///
/// RFC 9110 section 9.2.2 forbids a proxy to repeat non-idempotent requests; RFC 9113 section 8.7 excepts those that
/// were provably not processed, and gRFC A6 limits that to once, lest a refusing server is asked forever.
pub fn decide(
    proof: Proof,
    facts: RequestFacts,
    progress: Progress,
    policy: &policy::Retry,
    try_budget: impl FnOnce() -> bool,
    random: f64,
) -> Verdict {
    let Progress { retries_used, untried_replicas, remaining } = progress;
    let first_refusal = proof == Proof::RefusedUnseen && retries_used == 0;
    let at_once = proof == Proof::Unsent || first_refusal;

    let against = if proof == Proof::Unsent {
        None
    } else if !facts.replayable {
        Some(Stop::NotReplayable)
    } else if first_refusal {
        None
    } else if !facts.idempotent {
        Some(if proof == Proof::RefusedUnseen { Stop::RetriesUsed } else { Stop::NotIdempotent })
    } else if retries_used >= policy.max_retry_count {
        Some(Stop::RetriesUsed)
    } else {
        None
    };
    if let Some(stop) = against {
        return Verdict::Stop(stop);
    }
    if !untried_replicas {
        return Verdict::Stop(Stop::NoOtherReplica);
    }
    let after = if at_once {
        Duration::ZERO
    } else {
        backoff::delay(policy.base_backoff, policy.max_backoff, retries_used.into(), random)
    };
    if after >= remaining {
        return Verdict::Stop(Stop::NoTimeLeft);
    }
    if !at_once && !try_budget() {
        return Verdict::Stop(Stop::BudgetExhausted);
    }
    Verdict::Retry { after, counted: proof != Proof::Unsent }
}

/// Whether doing a request with this method twice is like doing it once: RFC 9110 section 9.2.2.
pub fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}
