//! The breakers of every replica as every data plane sees them.

use std::collections::{BTreeMap, HashMap};

use gateway_proto::{NodeId, ReplicaId, ReplicaKey, ServiceName, v1};

/// Rows that are kept. With more than this, a data plane's further rows are dropped: bounded memory comes first.
const MAX_ROWS: usize = 200_000;

/// Replicas × data planes.
#[derive(Debug, Default)]
pub struct Matrix {
    rows: BTreeMap<ReplicaKey, BTreeMap<NodeId, v1::Breaker>>,
    row_count: usize,
}

/// What one data plane said of its breakers, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BreakerReport {
    /// Whether `breakers` are all there are, or only those that changed.
    pub full: bool,
    /// One entry for each replica.
    pub breakers: Vec<(ReplicaKey, v1::Breaker)>,
}

impl Matrix {
    /// Takes in a report. Yields how many rows there was no room for.
    pub fn report(&mut self, node: &NodeId, report: BreakerReport) -> usize {
        if report.full {
            self.forget_node(node);
        }
        let mut dropped = 0;
        for (key, breaker) in report.breakers {
            let is_known = self.rows.get(&key).is_some_and(|nodes| nodes.contains_key(node));
            if !is_known && self.row_count >= MAX_ROWS {
                dropped += 1;
                continue;
            }
            self.row_count += usize::from(!is_known);
            self.rows.entry(key).or_default().insert(node.clone(), breaker);
        }
        dropped
    }

    /// Drops what one data plane said.
    pub fn forget_node(&mut self, node: &NodeId) {
        for nodes in self.rows.values_mut() {
            self.row_count -= usize::from(nodes.remove(node).is_some());
        }
        self.rows.retain(|_, nodes| !nodes.is_empty());
    }

    /// Drops the rows of a replica that is gone.
    pub fn forget_replica(&mut self, key: &ReplicaKey) {
        self.row_count -= self.rows.remove(key).map_or(0, |nodes| nodes.len());
    }

    /// What every data plane says of each replica, from `start` on, it included; from the first one without `start`.
    pub fn from(
        &self,
        start: Option<&ReplicaKey>,
    ) -> impl Iterator<Item = (&ReplicaKey, &BTreeMap<NodeId, v1::Breaker>)> {
        match start {
            Some(start) => self.rows.range(start..),
            None => self.rows.range::<ReplicaKey, _>(..),
        }
    }

    /// The replicas that have rows.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaKey> {
        self.rows.keys()
    }

    /// How many replicas of the service have a breaker that is not closed on some data plane.
    pub fn open_replica_count(&self, service: &ServiceName) -> usize {
        // "0" is the least of all ids: labels begin with a letter or a digit.
        let least = ReplicaId::parse("0").expect("a digit is a label");
        let start = ReplicaKey { service: service.clone(), replica: least };
        let replicas = self.rows.range(start..).take_while(|(key, _)| key.service == *service);
        replicas.filter(|(_, nodes)| nodes.values().any(is_not_closed)).count()
    }

    /// How many breakers are not closed on each data plane that has such.
    pub fn open_breaker_counts(&self) -> HashMap<NodeId, usize> {
        let mut counts = HashMap::new();
        for (node, _) in self.rows.values().flatten().filter(|(_, row)| is_not_closed(row)) {
            *counts.entry(node.clone()).or_default() += 1;
        }
        counts
    }
}

fn is_not_closed(breaker: &v1::Breaker) -> bool {
    breaker.state() != v1::BreakerState::Closed
}

/// One row for a replica: the state, times and reason of the data plane that sees it worst, counts summed over all.
///
/// Of two that see it equally bad the one that changed last speaks. `None` without rows.
pub fn merge<'a>(rows: impl IntoIterator<Item = &'a v1::Breaker>) -> Option<v1::Breaker> {
    let rows: Vec<_> = rows.into_iter().collect();
    let changed = |row: &v1::Breaker| row.state_change_time.map(|at| (at.seconds, at.nanos));
    let worst = rows.iter().max_by_key(|row| (row.state(), changed(row)))?;
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let sum = |of: fn(&v1::Breaker) -> i64| rows.iter().map(|row| of(row)).fold(0, i64::saturating_add);
    Some(v1::Breaker {
        node_id: String::new(),
        window_request_count: sum(|row| row.window_request_count),
        window_failure_count: sum(|row| row.window_failure_count),
        trip_count: sum(|row| row.trip_count),
        attempt_count: sum(|row| row.attempt_count),
        failure_count: sum(|row| row.failure_count),
        retry_count: sum(|row| row.retry_count),
        inflight_count: rows.iter().map(|row| row.inflight_count).fold(0, i32::saturating_add),
        open_node_count: count(rows.iter().filter(|row| is_not_closed(row)).count()),
        node_count: count(rows.len()),
        ..v1::Breaker::clone(worst)
    })
}

#[cfg(test)]
mod tests {
    use gateway_proto::v1::BreakerState::{self, Closed, HalfOpen, Open};

    use super::*;

    fn key(id: &str) -> ReplicaKey {
        ReplicaKey::parse("orders", id).unwrap()
    }

    fn node(id: &str) -> NodeId {
        NodeId::parse(id).unwrap()
    }

    fn breaker(state: BreakerState, reason: &str) -> v1::Breaker {
        v1::Breaker {
            state: state.into(),
            reason: reason.into(),
            trip_count: 2,
            attempt_count: 5,
            ..Default::default()
        }
    }

    fn report(full: bool, rows: &[(&str, BreakerState)]) -> BreakerReport {
        let breakers = rows.iter().map(|(id, state)| (key(id), breaker(*state, id))).collect();
        BreakerReport { full, breakers }
    }

    fn replicas(matrix: &Matrix) -> Vec<String> {
        let rows = matrix.from(None).flat_map(|(key, nodes)| nodes.keys().map(move |node| (key, node)));
        rows.map(|(key, node)| format!("{}@{node}", key.replica)).collect()
    }

    #[test]
    fn a_full_report_replaces_and_another_one_adds() {
        let mut matrix = Matrix::default();
        matrix.report(&node("n1"), report(true, &[("a", Closed), ("b", Closed)]));
        matrix.report(&node("n2"), report(true, &[("b", Open)]));
        matrix.report(&node("n1"), report(false, &[("c", Open)]));
        assert_eq!(replicas(&matrix), ["a@n1", "b@n1", "b@n2", "c@n1"]);
        matrix.report(&node("n1"), report(true, &[("c", Closed)]));
        assert_eq!(replicas(&matrix), ["b@n2", "c@n1"]);
        assert_eq!(matrix.row_count, 2);
    }

    #[test]
    fn what_is_gone_takes_its_rows_with_it() {
        let mut matrix = Matrix::default();
        for id in ["n1", "n2"] {
            matrix.report(&node(id), report(true, &[("a", Open), ("b", Open)]));
        }
        assert_eq!(matrix.open_replica_count(&key("a").service), 2);
        assert_eq!(matrix.open_breaker_counts()[&node("n1")], 2);
        matrix.forget_replica(&key("a"));
        matrix.forget_node(&node("n2"));
        assert_eq!(replicas(&matrix), ["b@n1"]);
        matrix.forget_replica(&key("b"));
        assert_eq!((replicas(&matrix).len(), matrix.row_count), (0, 0));
    }

    #[test]
    fn rows_go_on_from_the_replica_named() {
        let mut matrix = Matrix::default();
        matrix.report(&node("n1"), report(true, &[("a", Open), ("b", Open), ("c", Open)]));
        let rest: Vec<_> = matrix.from(Some(&key("b"))).map(|(key, _)| key.replica.to_string()).collect();
        assert_eq!(rest, ["b", "c"]);
    }

    #[test]
    fn the_data_plane_that_sees_a_replica_worst_speaks_for_all() {
        let rows = [breaker(Closed, "fine"), breaker(Open, "refused"), breaker(HalfOpen, "probing")];
        let merged = merge(&rows).unwrap();
        assert_eq!((merged.state(), merged.reason.as_str()), (Open, "refused"));
        assert_eq!((merged.open_node_count, merged.node_count, merged.trip_count), (2, 3, 6));
        assert_eq!(merged.attempt_count, 15);
        assert_eq!(merge(&[]), None);
    }
}
