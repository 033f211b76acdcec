//! One replica over all data planes that report it.

use gateway_proto::{NodeId, ReplicaKey, v1};

use super::{Cell, Counts, Replica};

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
            trip_count: sum(|cell| cell.row.trip_count),
            attempt_count: counts.attempts,
            failure_count: counts.failures,
            retry_count: counts.retries,
            inflight_count: i32::try_from(counts.inflight).unwrap_or(i32::MAX),
            open_node_count: number(counts.open_nodes),
            node_count: number(cells().count()),
            ..worst.row.to_wire(key, None, worst.reported)
        })
    }

    /// What its data planes counted, summed up.
    pub fn counts(&self) -> Counts {
        count(self.rows.values())
    }

    /// What data planes see of it, beside its health.
    pub fn observed(&self) -> v1::ObservedHealth {
        let counts = self.counts();
        let worst = worst(self.rows.values());
        v1::ObservedHealth {
            node_count: number(self.rows.len()),
            open_node_count: number(counts.open_nodes),
            attempt_count: counts.attempts,
            failure_count: counts.failures,
            inflight_count: i32::try_from(counts.inflight).unwrap_or(i32::MAX),
            reason: worst.map(|cell| cell.row.reason.to_string()).unwrap_or_default(),
            last_errors: worst.map(|cell| cell.row.last_errors()).unwrap_or_default(),
        }
    }
}

fn worst<'a>(cells: impl Iterator<Item = &'a Cell>) -> Option<&'a Cell> {
    cells.max_by_key(|cell| cell.row.badness())
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

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
