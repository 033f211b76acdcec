//! One breaker as one data plane reported it, checked and in little space: there are replicas × data planes of them.

use std::time::SystemTime;

use gateway_proto::{NodeId, ReplicaKey, time::timestamp, v1};
use prost_types::Timestamp;

/// A breaker of one data plane. Whose it is, is known by where it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub(super) state: v1::BreakerState,
    pub(super) rule: v1::BreakerRule,
    pub(super) address: Box<str>,
    pub(super) state_change_time: Option<Timestamp>,
    pub(super) retry_time: Option<Timestamp>,
    pub(super) reason: Box<str>,
    pub(super) window_request_count: i64,
    pub(super) window_failure_count: i64,
    pub(super) window_slow_count: i64,
    pub(super) asked_regardless: bool,
    pub(super) trip_count: i64,
    pub(super) consecutive_failure_count: i32,
    pub(super) probe_success_count: u16,
    pub(super) probe_success_target: u16,
    pub(super) inflight_count: i32,
    pub(super) inflight_limit: i32,
    pub(super) pending_count: i32,
    pub(super) incarnation: i64,
    pub(super) generation: i64,
    pub(super) last_errors: Box<[Box<str>]>,
    pub(super) attempt_count: i64,
    pub(super) failure_count: i64,
    pub(super) retry_count: i64,
    pub(super) active_override: Option<Box<v1::OverrideEntry>>,
    /// Where it is checked.
    pub(super) check: Option<Box<v1::HealthCheck>>,
    pub(super) registration_attempt_count: i64,
    pub(super) registration_failure_count: i64,
    /// Of a breaker that has opened or would have, and where anything is measured.
    pub(super) behind: Option<Box<Behind>>,
    /// With what `last_errors` would have, which is empty then.
    pub(super) last_failures: Box<[v1::FailedAttempt]>,
    pub(super) trip_streak: u8,
    pub(super) stands_by: bool,
}

/// Since when a breaker is not closed, how it opened last, how it would have, and how slow its replica is.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Behind {
    pub(super) last_trip: Option<v1::Trip>,
    pub(super) failed_probe: Option<v1::Trip>,
    pub(super) withheld: Option<v1::Trip>,
    pub(super) measures: Option<v1::Measures>,
    pub(super) out_time: Option<Timestamp>,
    pub(super) port_checked: bool,
    pub(super) nobody_else: bool,
}

impl Row {
    /// Takes from the row before what this one leaves out because it is as it was.
    pub(super) fn follow(&mut self, before: &Self) {
        if self.last_failures.is_empty() && self.failure_count == before.failure_count {
            self.last_failures = before.last_failures.clone();
        }
        if !self.last_failures.is_empty() {
            self.last_errors = Box::default();
        }
    }

    /// Whether traffic does not flow, or flows as a probe only.
    pub fn is_open(&self) -> bool {
        is_open(self.state)
    }

    /// The wire's form; `reported` is when.
    pub fn to_wire(&self, key: &ReplicaKey, node: Option<&NodeId>, reported: SystemTime) -> v1::Breaker {
        v1::Breaker {
            service: key.service.to_string(),
            replica_id: key.replica.to_string(),
            address: self.address.to_string(),
            node_id: node.map(NodeId::to_string).unwrap_or_default(),
            state: self.state.into(),
            state_change_time: self.state_change_time,
            retry_time: self.retry_time,
            rule: self.rule.into(),
            reason: self.reason.to_string(),
            window_request_count: self.window_request_count,
            window_failure_count: self.window_failure_count,
            window_slow_count: self.window_slow_count,
            asked_regardless: self.asked_regardless,
            trip_count: self.trip_count,
            consecutive_failure_count: self.consecutive_failure_count,
            probe_success_count: self.probe_success_count.into(),
            probe_success_target: self.probe_success_target.into(),
            // Of merged rows only.
            open_node_count: 0,
            node_count: 0,
            incarnation: self.incarnation,
            generation: self.generation,
            last_errors: self.last_errors(),
            attempt_count: self.attempt_count,
            failure_count: self.failure_count,
            retry_count: self.retry_count,
            inflight_count: self.inflight_count,
            inflight_limit: self.inflight_limit,
            pending_count: self.pending_count,
            active_override: self.active_override.as_deref().cloned(),
            report_time: Some(timestamp(reported)),
            health_check: self.check.as_deref().cloned(),
            registration_attempt_count: self.registration_attempt_count,
            registration_failure_count: self.registration_failure_count,
            last_trip: self.behind.as_ref().and_then(|behind| behind.last_trip.clone()),
            last_failed_probe: self.behind.as_ref().and_then(|behind| behind.failed_probe.clone()),
            port_checked: self.behind.as_ref().is_some_and(|behind| behind.port_checked),
            nobody_else: self.behind.as_ref().is_some_and(|behind| behind.nobody_else),
            last_withheld_trip: self.behind.as_ref().and_then(|behind| behind.withheld.clone()),
            last_failures: self.last_failures.to_vec(),
            trip_streak: self.trip_streak.into(),
            stands_by: self.stands_by,
            measures: self.behind.as_ref().and_then(|behind| behind.measures),
            out_time: self.behind.as_ref().and_then(|behind| behind.out_time),
        }
    }

    /// Whether its active checks fail.
    pub(super) fn is_failing(&self) -> bool {
        self.check.as_deref().is_some_and(|check| check.state() == v1::HealthCheckState::Failing)
    }

    pub(super) fn last_errors(&self) -> Vec<String> {
        match &self.last_failures {
            failures if failures.is_empty() => {
                self.last_errors.iter().map(|error| error.to_string()).collect()
            }
            failures => failures.iter().map(|failure| failure.error.clone()).collect(),
        }
    }

    /// Grows with how bad it is: by state, then the one that changed last.
    pub(super) fn badness(&self) -> (u8, Option<(i64, i32)>) {
        let by_state = match self.state {
            v1::BreakerState::ForcedOpen => 5,
            v1::BreakerState::Open => 4,
            v1::BreakerState::HalfOpen => 3,
            v1::BreakerState::ForcedClosed => 2,
            v1::BreakerState::Closed => 1,
            v1::BreakerState::Unspecified => 0,
        };
        (by_state, self.state_change_time.map(|at| (at.seconds, at.nanos)))
    }
}

/// Whether a breaker of this state keeps traffic away, apart from probes.
pub fn is_open(state: v1::BreakerState) -> bool {
    matches!(state, v1::BreakerState::Open | v1::BreakerState::HalfOpen | v1::BreakerState::ForcedOpen)
}
