//! One replica over all data planes that report it.

use std::time::SystemTime;

use gateway_proto::{NodeId, ReplicaKey, v1};

use super::{Cell, Counts, Replica, Row};
use crate::registry::Sight;

/// Data planes that are named where it fails.
const MAX_NAMED: usize = 20;

impl Replica {
    /// The rows, by data plane.
    pub fn rows<'a>(
        &'a self,
        key: &'a ReplicaKey,
    ) -> impl DoubleEndedIterator<Item = (&'a NodeId, v1::Breaker)> {
        self.rows.iter().map(|(node, cell)| (node, cell.row.to_wire(key, Some(node), cell.reported)))
    }

    /// The data planes that report it.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = &NodeId> {
        self.rows.keys()
    }

    /// One row for all of `nodes`: the state, times and reason of the data plane that sees it worst, counts summed up.
    ///
    /// Of two that see it equally bad the one that changed last speaks. `None` without rows.
    pub fn merged(&self, key: &ReplicaKey, nodes: impl Fn(&NodeId) -> bool) -> Option<v1::Breaker> {
        let cells = || self.rows.iter().filter(|(node, _)| nodes(node)).map(|(_, cell)| cell);
        let worst = worst(cells())?;
        let counts = count(cells());
        let sum = |of: fn(&Cell) -> i64| cells().map(of).fold(0, i64::saturating_add);
        Some(v1::Breaker {
            window_request_count: sum(|cell| cell.row.window_request_count),
            window_failure_count: sum(|cell| cell.row.window_failure_count),
            window_slow_count: sum(|cell| cell.row.window_slow_count),
            asked_regardless: cells().any(|cell| cell.row.asked_regardless),
            stands_by: cells().all(|cell| cell.row.stands_by),
            // Each data plane's own.
            measures: None,
            port_checked: false,
            nobody_else: false,
            trip_count: sum(|cell| cell.row.trip_count),
            attempt_count: counts.attempts,
            failure_count: counts.failures,
            retry_count: counts.retries,
            inflight_count: i32::try_from(counts.inflight).unwrap_or(i32::MAX),
            inflight_limit: limit(cells()),
            pending_count: pending(cells()),
            open_node_count: number(counts.open_nodes),
            node_count: number(cells().count()),
            health_check: merged_check(cells()),
            registration_attempt_count: sum(|cell| cell.row.registration_attempt_count),
            registration_failure_count: sum(|cell| cell.row.registration_failure_count),
            ..worst.row.to_wire(key, None, worst.reported)
        })
    }

    /// What its data planes counted, summed up.
    pub fn counts(&self) -> Counts {
        count(self.rows.values())
    }

    /// What data planes see of it at `at`, beside its health.
    pub fn observed(&self, at: SystemTime) -> v1::ObservedHealth {
        let counts = self.counts();
        let sum =
            |of: fn(&Row) -> i64| self.rows.values().map(|cell| of(&cell.row)).fold(0, i64::saturating_add);
        let (minute_attempts, minute_failures) = self.tally.minute(at);
        let lately = self.tally.lately(at);
        let fails = |cell: &Cell| cell.row.is_failing() || cell.row.registration_failure_count > 0;
        let failing = self.rows.iter().filter(|(_, cell)| fails(cell));
        let worst = worst(self.rows.values());
        v1::ObservedHealth {
            node_count: number(self.rows.len()),
            open_node_count: number(counts.open_nodes),
            attempt_count: counts.attempts,
            failure_count: counts.failures,
            inflight_count: i32::try_from(counts.inflight).unwrap_or(i32::MAX),
            inflight_limit: limit(self.rows.values()),
            pending_count: pending(self.rows.values()),
            reason: worst.map(|cell| cell.row.reason.to_string()).unwrap_or_default(),
            last_errors: worst.map(|cell| cell.row.last_errors()).unwrap_or_default(),
            health_check: merged_check(self.rows.values()),
            registration_attempt_count: sum(|row| row.registration_attempt_count),
            registration_failure_count: sum(|row| row.registration_failure_count),
            minute_attempt_count: whole(minute_attempts),
            minute_failure_count: whole(minute_failures),
            consecutive_failure_count: whole(self.tally.failures_in_a_row()),
            failing_node_ids: failing.take(MAX_NAMED).map(|(node, _)| node.to_string()).collect(),
            attempt_rate: Some(lately.rate),
            success_ratio: lately.success,
            // Who sums up what data planes count knows.
            latency_p99: None,
            // Who judges evictions knows.
            eviction_time: None,
            eviction_held_reason: String::new(),
        }
    }

    /// The row of this data plane has followed `before`.
    pub(super) fn hear(&mut self, node: &NodeId, before: Option<&Row>, came_back: bool, at: SystemTime) {
        if let Some(cell) = self.rows.get_mut(node) {
            self.failing -= usize::from(before.is_some_and(Row::is_failing));
            self.failing += usize::from(cell.row.is_failing());
            let before = before.map(|row| (row, cell.done));
            cell.done = self.tally.hear(node, before, &cell.row, came_back, at);
        }
    }

    /// Whether it has failures in a row, or fails checks somewhere. Asked with every row that changes, so it looks at no others.
    pub(super) fn is_suspect(&self) -> bool {
        self.failing > 0 || self.tally.has_failures()
    }

    /// What the data planes that are `heard` see of its newest registration.
    pub(super) fn seen(&self, heard: impl Fn(&NodeId) -> bool) -> Sight {
        let cells = || self.rows.iter().filter(|(node, _)| heard(node)).map(|(_, cell)| &cell.row);
        let incarnation = cells().map(|row| row.incarnation).max().unwrap_or_default();
        let checked = || cells().filter(|row| row.check.is_some());
        let failing = || checked().filter(|row| row.is_failing() && row.incarnation == incarnation);
        let failure = failing().find_map(|row| row.check.as_deref()).map(|check| check.last_failure.clone());
        let reporting = cells().count();
        // Where there is no other, its word has to do.
        let is_alone = self.rows.len() == 1;
        Sight {
            incarnation,
            checking: checked().count(),
            failing: failing().count(),
            reporting,
            silent: self.rows.len() - reporting,
            doubts: self.doubts,
            failures_in_a_row: match is_alone {
                true => self.tally.failures_in_a_row(),
                false => self.tally.failures_borne_out(),
            },
            failure: failure.unwrap_or_default(),
        }
    }
}

fn worst<'a>(cells: impl Iterator<Item = &'a Cell>) -> Option<&'a Cell> {
    cells.max_by_key(|cell| cell.row.badness())
}

/// What checks show, with the times and texts of the data plane on which it fails longest, else of any; counts summed up.
fn merged_check<'a>(cells: impl Iterator<Item = &'a Cell>) -> Option<v1::HealthCheck> {
    let checks: Vec<_> = cells.filter_map(|cell| cell.row.check.as_deref()).collect();
    let is_failing = |check: &&v1::HealthCheck| check.state() == v1::HealthCheckState::Failing;
    let since = |check: &v1::HealthCheck| check.state_change_time.map(|at| (at.seconds, at.nanos));
    let worst = checks.iter().min_by_key(|check| (!is_failing(check), since(check)))?;
    let sum =
        |of: fn(&v1::HealthCheck) -> i64| checks.iter().map(|check| of(check)).fold(0, i64::saturating_add);
    Some(v1::HealthCheck {
        keeps_out: checks.iter().any(|check| check.keeps_out),
        check_count: sum(|check| check.check_count),
        failure_count: sum(|check| check.failure_count),
        node_count: number(checks.len()),
        failing_node_count: number(checks.iter().copied().filter(|check| is_failing(check)).count()),
        ..(*worst).clone()
    })
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count<'a>(cells: impl Iterator<Item = &'a Cell>) -> Counts {
    cells.fold(Counts::default(), |sum, cell| Counts {
        attempts: sum.attempts.saturating_add(cell.row.attempt_count),
        failures: sum.failures.saturating_add(cell.row.failure_count),
        retries: sum.retries.saturating_add(cell.row.retry_count),
        inflight: sum.inflight.saturating_add(cell.row.inflight_count.into()),
        open_nodes: sum.open_nodes + usize::from(cell.row.is_open()),
    })
}

/// How much may be in flight to it in all; 0 when some data plane has no limit.
fn limit<'a>(cells: impl Iterator<Item = &'a Cell>) -> i32 {
    let limits = cells.map(|cell| Some(cell.row.inflight_limit).filter(|limit| *limit > 0));
    let sum = limits.reduce(|sum, limit| Some(sum?.saturating_add(limit?)));
    sum.flatten().unwrap_or(0)
}

/// How many requests wait for it or one of its peers.
fn pending<'a>(cells: impl Iterator<Item = &'a Cell>) -> i32 {
    cells.map(|cell| cell.row.pending_count).fold(0, i32::saturating_add)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
