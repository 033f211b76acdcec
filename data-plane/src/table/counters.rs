//! Counts that the request path makes and reports read.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::{
    counts::{Count, PerWorker},
    routing::retry::Stop,
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
        cell.inflight.store(cell.inflight.load(Relaxed) + 1, Relaxed);
    }

    pub(super) fn end(&self, worker: usize) {
        let cell = self.0.of(worker);
        cell.inflight.store(cell.inflight.load(Relaxed) - 1, Relaxed);
    }

    pub(super) fn failure(&self, worker: usize) {
        self.0.of(worker).failures.add_one();
    }

    /// Attempts that have not ended, over all workers.
    pub(super) fn inflight(&self) -> u64 {
        let inflight: i64 = self.0.iter().map(|cell| cell.inflight.load(Relaxed)).sum();
        u64::try_from(inflight).unwrap_or(0)
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

/// Attempts of a whole service that have not ended.
#[derive(Debug)]
pub(super) struct Inflight(PerWorker<AtomicI64>);

impl Inflight {
    pub(super) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// One more, or one less: to be called by `worker` only.
    pub(super) fn add(&self, worker: usize, change: i64) {
        let cell = self.0.of(worker);
        cell.store(cell.load(Relaxed) + change, Relaxed);
    }

    pub(super) fn read(&self) -> u64 {
        u64::try_from(self.0.iter().map(|cell| cell.load(Relaxed)).sum::<i64>()).unwrap_or(0)
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
    pub const ALL: [Self; 4] = [Self::Success, Self::UpstreamError, Self::GatewayError, Self::Fallback];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["success", "upstream_error", "gateway_error", "fallback"][self as usize]
    }
}

/// Requests of one service by status class and outcome, and those that failed by why they were not tried again.
#[derive(Debug)]
pub struct ServiceCounters(PerWorker<ServiceCell>);

#[derive(Debug, Default)]
struct ServiceCell {
    answered: [[Count; CodeClass::ALL.len()]; RequestOutcome::ALL.len()],
    stopped: [Count; Stop::ALL.len()],
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

    /// How many failed requests were not tried again for that reason since the start.
    pub fn stops(&self, stop: Stop) -> u64 {
        self.0.sum(|cell| cell.stopped[stop as usize].get())
    }

    /// How many requests were answered since the start, and how many of them not with success.
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

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client to a replica.
    Upstream,
    /// From a replica to a client.
    Downstream,
}

impl Direction {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Upstream, Self::Downstream];

    /// As metrics name it.
    pub fn as_str(self) -> &'static str {
        ["upstream", "downstream"][self as usize]
    }
}

#[derive(Debug, Default)]
struct TunnelCell {
    opened: Count,
    closed: Count,
    bytes: [Count; Direction::ALL.len()],
}

/// The tunnels of one service. Each method is to be called by `worker` only.
#[derive(Debug)]
pub struct TunnelCounts(PerWorker<TunnelCell>);

impl TunnelCounts {
    pub(super) fn new(workers: usize) -> Self {
        Self(PerWorker::new(workers))
    }

    /// Counts one that begins.
    pub fn opened(&self, worker: usize) {
        self.0.of(worker).opened.add_one();
    }

    /// Counts one that has ended.
    pub fn closed(&self, worker: usize) {
        self.0.of(worker).closed.add_one();
    }

    /// Counts bytes that were passed on.
    pub fn moved(&self, worker: usize, direction: Direction, bytes: u64) {
        self.0.of(worker).bytes[direction as usize].add(bytes);
    }

    /// How many have begun since the start, and how many of them have not ended.
    pub fn totals(&self) -> (u64, u64) {
        let closed = self.0.sum(|cell| cell.closed.get());
        let opened = self.0.sum(|cell| cell.opened.get());
        (opened, opened.saturating_sub(closed))
    }

    /// How many bytes were passed on since the start.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.0.sum(|cell| cell.bytes[direction as usize].get())
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
        counts.end(1);
        let expected = ReplicaCounters { attempts: 2, failures: 1, retries: 1, inflight: 1 };
        assert_eq!(counts.read(), expected);
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
}
