//! Counts that the request path makes and reports read.

mod tunnels;

use std::sync::atomic::{
    AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

pub use self::tunnels::{Direction, TunnelCounts};
use crate::{
    counts::{Count, PerWorker},
    routing::{Fault, Outcome, Tick, retry::Stop},
};

/// What was counted for one replica since it was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicaCounters {
    /// Attempts begun.
    pub attempts: u64,
    /// Attempts that failed by the replica's fault.
    pub failures: u64,
    /// Attempts that followed a failed one of the same request.
    pub retries: u64,
    /// Attempts that have not ended.
    pub inflight: u64,
}

impl ReplicaCounters {
    /// The sum of both.
    #[must_use]
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            attempts: self.attempts + other.attempts,
            failures: self.failures + other.failures,
            retries: self.retries + other.retries,
            inflight: self.inflight + other.inflight,
        }
    }

    /// What was counted since; what is in flight is in flight.
    #[must_use]
    pub(super) fn minus(self, before: Self) -> Self {
        Self {
            attempts: self.attempts.saturating_sub(before.attempts),
            failures: self.failures.saturating_sub(before.failures),
            retries: self.retries.saturating_sub(before.retries),
            inflight: self.inflight,
        }
    }

    /// The same counts when nobody will hear of the attempts that have not ended.
    #[must_use]
    pub(super) fn ended(self) -> Self {
        Self { inflight: 0, ..self }
    }
}

#[derive(Debug, Default)]
struct AttemptCell {
    attempts: Count,
    failures: Count,
    retries: Count,
    // Signed, because an attempt may end on another worker than it began in tests.
    inflight: AtomicI64,
    // Of those, the ones of which nothing has come yet. Signed likewise.
    unanswered: AtomicI64,
    // The tick at which something was heard of the replica last.
    heard: AtomicU64,
}

impl AttemptCell {
    /// Adds to a count of this cell: to be called by its worker only.
    fn change(count: &AtomicI64, by: i64) {
        count.store(count.load(Relaxed) + by, Relaxed);
    }

    fn unanswered(&self) -> u64 {
        u64::try_from(self.unanswered.load(Relaxed)).unwrap_or(0)
    }
}

/// The counting side of [`ReplicaCounters`].
#[derive(Debug)]
pub(super) struct AttemptCounts(PerWorker<AttemptCell>);

impl AttemptCounts {
    pub(super) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    pub(super) fn begin(&self, worker: usize, is_retry: bool) {
        let cell = self.0.of(worker);
        cell.attempts.add_one();
        if is_retry {
            cell.retries.add_one();
        }
        AttemptCell::change(&cell.inflight, 1);
        AttemptCell::change(&cell.unanswered, 1);
    }

    /// An attempt has its response head, or will not have one.
    pub(super) fn answered(&self, worker: usize) {
        AttemptCell::change(&self.0.of(worker).unanswered, -1);
    }

    /// The replica has shown a sign of life.
    pub(super) fn heard(&self, worker: usize, now: Tick) {
        self.0.of(worker).heard.store(now.as_nanos(), Relaxed);
    }

    /// When it did so last, over all workers.
    pub(super) fn heard_at(&self) -> Tick {
        Tick::from_nanos(self.0.iter().map(|cell| cell.heard.load(Relaxed)).max().unwrap_or(0))
    }

    /// An attempt has ended, and had, or had not, been [answered](Self::answered) before.
    pub(super) fn end(&self, worker: usize, was_answered: bool) {
        let cell = self.0.of(worker);
        AttemptCell::change(&cell.inflight, -1);
        AttemptCell::change(&cell.unanswered, -i64::from(!was_answered));
    }

    pub(super) fn failure(&self, worker: usize) {
        self.0.of(worker).failures.add_one();
    }

    /// Attempts that have not ended, over all workers.
    pub(super) fn inflight(&self) -> u64 {
        let inflight: i64 = self.0.iter().map(|cell| cell.inflight.load(Relaxed)).sum();
        u64::try_from(inflight).unwrap_or(0)
    }

    /// A worker's attempts that have no response head yet: of memory that only this worker writes, so that it costs nothing to
    /// look at each time.
    pub(super) fn unanswered_of(&self, worker: usize) -> u64 {
        self.0.of(worker).unanswered()
    }

    /// The same, over all workers.
    pub(super) fn unanswered(&self) -> u64 {
        self.0.sum(AttemptCell::unanswered)
    }

    pub(super) fn read(&self) -> ReplicaCounters {
        ReplicaCounters {
            attempts: self.0.sum(|cell| cell.attempts.get()),
            failures: self.0.sum(|cell| cell.failures.get()),
            retries: self.0.sum(|cell| cell.retries.get()),
            inflight: self.inflight(),
        }
    }
}

/// Attempts or requests of a whole service: how many have begun, modulo 2^32, in a cell's upper half, and how many of them have
/// not ended in its lower one. So it changes with each beginning and with each end, by one store.
///
/// Cells by themselves may be short of an end, because an attempt may end on another worker than it began in tests: their sum is
/// not.
#[derive(Debug)]
pub(super) struct Inflight(PerWorker<AtomicU64>);

impl Inflight {
    const BEGUN: u64 = (1 << 32) + 1;

    pub(super) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// One more: to be called by `worker` only.
    pub(super) fn begin(&self, worker: usize) {
        self.add(worker, Self::BEGUN);
    }

    /// One less: to be called by `worker` only.
    pub(super) fn end(&self, worker: usize) {
        self.add(worker, u64::MAX);
    }

    fn add(&self, worker: usize, change: u64) {
        let cell = self.0.of(worker);
        cell.store(cell.load(Relaxed).wrapping_add(change), Release);
    }

    /// How many have not ended.
    pub(super) fn read(&self) -> u64 {
        Traffic(self.sum()).inflight()
    }

    /// All cells together.
    pub(super) fn sum(&self) -> u64 {
        self.0.sum(|cell| cell.load(Acquire))
    }
}

/// What has come to a service so far: the same for two looks between which nothing has begun or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic(pub(super) u64);

impl Traffic {
    /// How much has not ended.
    pub fn inflight(self) -> u64 {
        // Below zero for a moment, when an end is seen before its beginning on another worker.
        u64::try_from((self.0 as u32).cast_signed()).unwrap_or(0)
    }
}

/// Status classes as metrics name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum CodeClass {
    Informational,
    Success,
    Redirection,
    ClientError,
    ServerError,
}

impl CodeClass {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Informational, Self::Success, Self::Redirection, Self::ClientError, Self::ServerError];

    /// The class of a status code; what is beyond 5xx counts as 5xx.
    pub fn of(status: http::StatusCode) -> Self {
        match status.as_u16() / 100 {
            0 | 1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            _ => Self::ServerError,
        }
    }

    /// `"2xx"` and so on.
    pub fn as_str(self) -> &'static str {
        ["1xx", "2xx", "3xx", "4xx", "5xx"][self as usize]
    }
}

/// Who answered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// A replica, and not with a failure.
    Success,
    /// A replica, with what counts as its failure.
    UpstreamError,
    /// The gateway itself, because no replica could.
    GatewayError,
    /// Somebody else, in place of a failure.
    Fallback,
    /// Nobody: the client went away before there was an answer.
    ClientAbort,
}

/// What an attempt came to, as metrics name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptResult {
    /// The replica did its job.
    Success,
    /// It answered with what counts as its failure, or with what is no answer, or not with all of it.
    Failure,
    /// It did not answer in time.
    Timeout,
    /// There was no connection to it, or no TLS.
    ConnectError,
    /// It ended the connection before it answered.
    Reset,
    /// It refused for lack of capacity.
    Overloaded,
    /// Nobody knows: its client left, another was quicker, or it was drained.
    Neutral,
}

impl AttemptResult {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [
        Self::Success,
        Self::Failure,
        Self::Timeout,
        Self::ConnectError,
        Self::Reset,
        Self::Overloaded,
        Self::Neutral,
    ];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["success", "failure", "timeout", "connect_error", "reset", "overloaded", "neutral"][self as usize]
    }
}

impl From<Outcome> for AttemptResult {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Overloaded => Self::Overloaded,
            Outcome::Neutral => Self::Neutral,
            Outcome::Failure(fault) => match fault {
                Fault::ResponseTimeout | Fault::Unanswered(_) => Self::Timeout,
                Fault::ConnectRefused
                | Fault::ConnectTimeout
                | Fault::ConnectFailed
                | Fault::TlsCertificate(_)
                | Fault::TlsProtocol(_) => Self::ConnectError,
                Fault::Reset | Fault::Closed => Self::Reset,
                Fault::Malformed | Fault::Truncated | Fault::Status(_) | Fault::Grpc(_) => Self::Failure,
            },
        }
    }
}

/// Who answers in place of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FallbackKind {
    /// Another service.
    Service,
    /// The last good answer.
    Stale,
    /// The gateway, by the policy's words.
    Static,
}

impl FallbackKind {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Service, Self::Stale, Self::Static];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["service", "stale", "static"][self as usize]
    }
}

impl RequestOutcome {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Success, Self::UpstreamError, Self::GatewayError, Self::Fallback, Self::ClientAbort];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["success", "upstream_error", "gateway_error", "fallback", "client_abort"][self as usize]
    }

    /// Whether there is such a thing in the ordinary course: what metrics show before the first of it. A call that a replica
    /// failed has 200; whoever went away counts as 499.
    pub fn comes_as(self, class: CodeClass) -> bool {
        use CodeClass::{ClientError, Redirection, ServerError, Success};
        match self {
            Self::Success => true,
            Self::UpstreamError => matches!(class, Success | ClientError | ServerError),
            Self::GatewayError => matches!(class, ClientError | ServerError),
            Self::Fallback => matches!(class, Success | Redirection | ClientError | ServerError),
            Self::ClientAbort => class == ClientError,
        }
    }
}

/// Requests of one service by status class and outcome, those that failed by what came of trying again or why they were not,
/// and its attempts by what they came to.
#[derive(Debug)]
pub struct ServiceCounters(PerWorker<ServiceCell>);

#[derive(Debug, Default)]
struct ServiceCell {
    answered: [[Count; CodeClass::ALL.len()]; RequestOutcome::ALL.len()],
    stopped: [Count; Stop::ALL.len()],
    attempts: [Count; AttemptResult::ALL.len()],
    hedges: Count,
    /// Not answered well in spite of it, and answered well.
    retried: [Count; 2],
}

impl ServiceCounters {
    pub(super) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// Counts one answered request: to be called by `worker` only.
    pub fn answered(&self, worker: usize, status: http::StatusCode, outcome: RequestOutcome) {
        self.0.of(worker).answered[outcome as usize][CodeClass::of(status) as usize].add_one();
    }

    /// Counts one request whose last attempt failed and was not followed by another: to be called by `worker` only.
    pub fn stopped(&self, worker: usize, stop: Stop) {
        self.0.of(worker).stopped[stop as usize].add_one();
    }

    /// Counts one attempt that has ended: to be called by `worker` only.
    pub fn attempted(&self, worker: usize, result: AttemptResult) {
        self.0.of(worker).attempts[result as usize].add_one();
    }

    /// How many attempts came to that since the start.
    pub fn attempts(&self, result: AttemptResult) -> u64 {
        self.0.sum(|cell| cell.attempts[result as usize].get())
    }

    /// Counts one attempt that is made beside another: to be called by `worker` only.
    pub fn hedged(&self, worker: usize) {
        self.0.of(worker).hedges.add_one();
    }

    /// How many attempts were made beside others since the start.
    pub fn hedges(&self) -> u64 {
        self.0.sum(|cell| cell.hedges.get())
    }

    /// Counts one request of which an attempt failed and another was made, and whether that led to a good answer: to be
    /// called by `worker` only.
    pub fn retried(&self, worker: usize, has_recovered: bool) {
        self.0.of(worker).retried[usize::from(has_recovered)].add_one();
    }

    /// How many requests were retried since the start, with a good answer or without.
    pub fn retries(&self, have_recovered: bool) -> u64 {
        self.0.sum(|cell| cell.retried[usize::from(have_recovered)].get())
    }

    /// How many failed requests were not tried again for that reason since the start.
    pub fn stops(&self, stop: Stop) -> u64 {
        self.0.sum(|cell| cell.stopped[stop as usize].get())
    }

    /// How many requests were answered since the start, and how many of them not with success; those that their clients gave
    /// up before are none of them.
    pub fn totals(&self) -> (u64, u64) {
        let of = |outcome| CodeClass::ALL.iter().map(|class| self.read(*class, outcome)).sum::<u64>();
        // Its replicas did fail, whoever stood in for them.
        let failed = [RequestOutcome::UpstreamError, RequestOutcome::GatewayError, RequestOutcome::Fallback];
        let failed = failed.into_iter().map(of).sum::<u64>();
        (of(RequestOutcome::Success) + failed, failed)
    }

    /// How many requests were answered in that way since the start.
    pub fn read(&self, class: CodeClass, outcome: RequestOutcome) -> u64 {
        self.0.sum(|cell| cell.answered[outcome as usize][class as usize].get())
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn counts_of_all_workers_add_up() {
        let counts = AttemptCounts::new(2);
        counts.begin(0, false);
        counts.begin(1, true);
        counts.failure(1);
        counts.end(1, false);
        let expected = ReplicaCounters { attempts: 2, failures: 1, retries: 1, inflight: 1 };
        assert_eq!(counts.read(), expected);
    }

    #[test]
    fn traffic_is_another_after_each_beginning_and_each_end_and_knows_what_has_not_ended() {
        let inflight = Inflight::new(2);
        let mut seen = vec![Traffic(inflight.sum())];
        let mut look = |expected| {
            let traffic = Traffic(inflight.sum());
            assert_eq!((traffic.inflight(), inflight.read()), (expected, expected));
            assert!(!seen.contains(&traffic));
            seen.push(traffic);
        };
        inflight.begin(0);
        look(1);
        inflight.begin(1);
        look(2);
        // On another worker than it began.
        inflight.end(1);
        inflight.end(1);
        look(0);
        inflight.begin(0);
        inflight.end(0);
        look(0);
    }

    #[test]
    fn an_attempt_is_unanswered_until_it_is_answered_or_ends_whichever_is_first() {
        let counts = AttemptCounts::new(2);
        (0..3).for_each(|_| counts.begin(1, false));
        counts.answered(1);
        assert_eq!((counts.unanswered_of(0), counts.unanswered_of(1), counts.unanswered()), (0, 2, 2));
        counts.end(1, true);
        counts.end(1, false);
        assert_eq!((counts.unanswered(), counts.inflight()), (1, 1));
    }

    #[test]
    fn requests_are_counted_by_class_and_outcome() {
        let counters = ServiceCounters::new(1);
        counters.answered(0, StatusCode::NO_CONTENT, RequestOutcome::Success);
        counters.answered(0, StatusCode::SERVICE_UNAVAILABLE, RequestOutcome::GatewayError);
        assert_eq!(counters.read(CodeClass::Success, RequestOutcome::Success), 1);
        assert_eq!(counters.read(CodeClass::ServerError, RequestOutcome::GatewayError), 1);
        assert_eq!(counters.read(CodeClass::ServerError, RequestOutcome::UpstreamError), 0);
        assert_eq!(counters.totals(), (2, 1));
        for (number, stop) in Stop::ALL.into_iter().enumerate() {
            assert_eq!(stop as usize, number, "they index the counts");
        }
        counters.stopped(0, Stop::BudgetExhausted);
        assert_eq!((counters.stops(Stop::BudgetExhausted), counters.stops(Stop::NoTimeLeft)), (1, 0));
    }

    #[test]
    fn a_request_that_its_client_gave_up_is_counted_and_is_no_answer() {
        let counters = ServiceCounters::new(1);
        counters.answered(0, StatusCode::from_u16(499).unwrap(), RequestOutcome::ClientAbort);
        assert_eq!(counters.read(CodeClass::ClientError, RequestOutcome::ClientAbort), 1);
        assert_eq!(counters.totals(), (0, 0));
    }

    #[test]
    fn attempts_are_counted_by_what_they_came_to_and_requests_by_what_retries_came_to() {
        let counters = ServiceCounters::new(2);
        for (number, result) in AttemptResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, number, "they index the counts");
        }
        let cases = [
            (Outcome::Success, "success"),
            (Outcome::Overloaded, "overloaded"),
            (Outcome::Neutral, "neutral"),
            (Outcome::Failure(Fault::Status(503)), "failure"),
            (Outcome::Failure(Fault::Truncated), "failure"),
            (Outcome::Failure(Fault::ResponseTimeout), "timeout"),
            (Outcome::Failure(Fault::ConnectTimeout), "connect_error"),
            (Outcome::Failure(Fault::Closed), "reset"),
        ];
        for (outcome, name) in cases {
            let result = AttemptResult::from(outcome);
            assert_eq!(result.as_str(), name);
            let before = counters.attempts(result);
            counters.attempted(1, result);
            assert_eq!(counters.attempts(result), before + 1);
        }
        counters.hedged(0);
        counters.hedged(1);
        assert_eq!(counters.hedges(), 2);
        counters.retried(0, true);
        counters.retried(1, true);
        counters.retried(1, false);
        assert_eq!((counters.retries(true), counters.retries(false)), (2, 1));
    }
}
