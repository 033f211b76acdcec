//! The breakers of every replica as every data plane sees them.

mod merged;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::SystemTime,
};

use gateway_proto::{NodeId, ReplicaKey, ServiceName, v1};

use super::{
    changes::{Change, Changes},
    row::Row,
    scope::Scope,
    tally::Tally,
};
use crate::registry::Sight;

/// Rows that are kept. With more than this, a data plane's further rows are dropped: bounded memory comes first.
const MAX_ROWS: usize = 200_000;
/// Changed rows that are told one by one; whoever missed more is told everything.
const MAX_DIRTY: usize = 50_000;

/// Replicas × data planes.
#[derive(Debug, Default)]
pub struct Matrix {
    replicas: BTreeMap<ReplicaKey, Replica>,
    nodes: HashMap<NodeId, NodeRows>,
    /// How many replicas of a service have a breaker that is not closed somewhere.
    open: HashMap<ServiceName, usize>,
    /// Replicas that have failures in a row, or fail checks on some data plane.
    suspects: BTreeSet<ReplicaKey>,
    row_count: usize,
    changes: Changes,
    /// The last of all doubts, see [`Replica::doubts`].
    last_doubt: u64,
}

/// One replica, as the data planes that report it see it.
#[derive(Debug)]
pub struct Replica {
    rows: BTreeMap<NodeId, Cell>,
    /// How many of them are not closed.
    open: usize,
    /// How many of them say that its checks fail.
    failing: usize,
    /// When the first of them came.
    added: Change,
    tally: Tally,
    /// The last report that said otherwise than that its checks fail, or the one that was the first after nobody had known it, by
    /// number: while it is the same, all have failed without a break.
    doubts: u64,
}

#[derive(Debug)]
struct Cell {
    row: Row,
    /// For the tally.
    done: i64,
    reported: SystemTime,
    added: Change,
    changed: Change,
}

#[derive(Debug, Default)]
struct NodeRows {
    keys: HashSet<ReplicaKey>,
    open: usize,
}

/// What one data plane said of its breakers, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BreakerReport {
    /// Whether `breakers` are all there are, or only those that changed.
    pub full: bool,
    /// One entry for each replica.
    pub breakers: Vec<(ReplicaKey, Row)>,
}

/// Names a row: merged, or of one data plane.
pub type RowName = (ReplicaKey, Option<NodeId>);

/// What changed since a reader looked last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dirty {
    /// These rows, in the order of their names, and whether each was there then; and the change to go on from.
    Rows(Vec<(RowName, bool)>, Change),
    /// Too much, or too long ago: only the whole set tells.
    TooMuch,
}

/// What changed since somebody who tells other control planes looked last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct News {
    /// Rows that are there.
    pub rows: Vec<(ReplicaKey, NodeId)>,
    /// Rows that went; one that has come again since is among `rows`, too.
    pub gone: Vec<(ReplicaKey, NodeId)>,
    /// The change to go on from.
    pub reached: Change,
    /// Whether there is no more.
    pub is_all: bool,
}

/// What a data plane counted of a replica, or all of them did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Attempts begun.
    pub attempts: i64,
    /// Attempts that failed by the replica's fault.
    pub failures: i64,
    /// Attempts that followed a failed one of the same request.
    pub retries: i64,
    /// Attempts that have not ended.
    pub inflight: i64,
    /// Data planes on which its breaker is not closed.
    pub open_nodes: usize,
}

/// What data planes have to do for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Load {
    /// Attempts that have not ended.
    pub inflight: i32,
    /// Requests that wait for a place at one of its replicas.
    pub pending: i32,
    /// Data planes that ask replicas they would not ask if there were more of the others.
    pub fail_open_nodes: usize,
}

impl Matrix {
    /// Takes in a report that came at `at`. Yields how many rows there was no room for.
    pub fn report(&mut self, node: &NodeId, report: BreakerReport, at: SystemTime) -> usize {
        if report.full {
            let reported: HashSet<_> = report.breakers.iter().map(|(key, _)| key).collect();
            let known = self.nodes.get(node).into_iter().flat_map(|rows| &rows.keys);
            let gone: Vec<_> = known.filter(|key| !reported.contains(key)).cloned().collect();
            for key in gone {
                self.remove(node, &key);
            }
        }
        let mut dropped = 0;
        for (key, row) in report.breakers {
            dropped += usize::from(!self.put(node, key, row, report.full, at));
        }
        dropped
    }

    /// Drops what one data plane said.
    pub fn forget_node(&mut self, node: &NodeId) {
        let rows = self.nodes.get_mut(node).map(|rows| std::mem::take(&mut rows.keys));
        for key in rows.into_iter().flatten() {
            self.remove(node, &key);
        }
        self.nodes.remove(node);
    }

    /// Drops the rows of a replica that is gone.
    pub fn forget_replica(&mut self, key: &ReplicaKey) {
        let nodes: Vec<_> =
            self.replicas.get(key).into_iter().flat_map(|replica| replica.rows.keys().cloned()).collect();
        for node in nodes {
            self.remove(&node, key);
        }
    }

    /// The replicas in scope that have rows, from `start` on, it included; from the first one without `start`.
    pub fn from<'a>(
        &'a self,
        scope: &'a Scope,
        start: Option<&ReplicaKey>,
    ) -> impl Iterator<Item = (&'a ReplicaKey, &'a Replica)> {
        let begin = scope.start().into_iter().chain(start.cloned()).max();
        let range = match &begin {
            Some(begin) => self.replicas.range(begin..),
            None => self.replicas.range::<ReplicaKey, _>(..),
        };
        range.take_while(|(key, _)| scope.admits_replica(key))
    }

    /// One replica; `None` when no data plane reports it.
    pub fn get(&self, key: &ReplicaKey) -> Option<&Replica> {
        self.replicas.get(key)
    }

    /// The replicas that have rows.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaKey> {
        self.replicas.keys()
    }

    /// How many replicas of the service have a breaker that is not closed on some data plane.
    pub fn open_replica_count(&self, service: &ServiceName) -> usize {
        self.open.get(service).copied().unwrap_or(0)
    }

    /// How the service fares on all data planes, as they reported last. In O(rows of the service).
    pub fn load(&self, service: &ServiceName) -> Load {
        let scope = Scope { service: Some(service.clone()), ..Scope::default() };
        let mut inflight = 0_i32;
        // Every row of a data plane says how many wait for any of the service's replicas; where it fails open, one at
        // least is of a replica that is asked regardless.
        let mut nodes: BTreeMap<&NodeId, (i32, bool)> = BTreeMap::new();
        for (node, cell) in self.from(&scope, None).flat_map(|(_, replica)| &replica.rows) {
            inflight = inflight.saturating_add(cell.row.inflight_count);
            let (pending, fails_open) = nodes.entry(node).or_default();
            *pending = cell.row.pending_count.max(*pending);
            *fails_open |= cell.row.asked_regardless;
        }
        Load {
            inflight,
            pending: nodes.values().map(|(pending, _)| *pending).fold(0, i32::saturating_add),
            fail_open_nodes: nodes.values().filter(|(_, fails_open)| *fails_open).count(),
        }
    }

    /// How many breakers are not closed on a data plane.
    pub fn open_breaker_count(&self, node: &NodeId) -> usize {
        self.nodes.get(node).map_or(0, |rows| rows.open)
    }

    /// What a data plane has in flight at a replica, as it reported last.
    pub fn inflight_count(&self, key: &ReplicaKey, node: &NodeId) -> i32 {
        self.replicas
            .get(key)
            .and_then(|replica| replica.rows.get(node))
            .map_or(0, |cell| cell.row.inflight_count)
    }

    /// The last change of any row.
    pub fn last_change(&self) -> Change {
        self.changes.last()
    }

    /// The rows in scope that changed after `since`, merged or of each data plane.
    pub fn dirty_since(&self, since: Change, scope: &Scope, per_node: bool) -> Dirty {
        if !self.changes.reaches(since) {
            return Dirty::TooMuch;
        }
        let mut dirty: BTreeMap<RowName, bool> = BTreeMap::new();
        let name = |key: &ReplicaKey, node: &NodeId| (key.clone(), per_node.then(|| node.clone()));
        for removal in self.changes.removals_since(since).filter(|removal| scope.admits_replica(&removal.key))
        {
            let added = if per_node { Some(removal.added) } else { removal.replica_added };
            let was_known = added.is_some_and(|added| added <= since);
            *dirty.entry(name(&removal.key, &removal.node)).or_default() |= was_known;
        }
        for (key, node) in self.changes.rows_since(since).filter(|(key, _)| scope.admits_replica(key)) {
            dirty.entry(name(key, node)).or_default();
            if dirty.len() > MAX_DIRTY {
                return Dirty::TooMuch;
            }
        }
        for ((key, node), was_known) in &mut dirty {
            let Some(replica) = self.replicas.get(key) else { continue };
            let added = match node {
                Some(node) => replica.rows.get(node).map(|cell| cell.added),
                None => Some(replica.added),
            };
            *was_known |= added.is_some_and(|added| added <= since);
        }
        Dirty::Rows(dirty.into_iter().collect(), self.changes.last())
    }

    /// What changed after `since` of the data planes that are `wanted`, at most `limit` rows, and the change to go on from.
    /// `None`: too long ago, so that only all rows tell.
    pub fn news_of(&self, since: Change, limit: usize, wanted: impl Fn(&NodeId) -> bool) -> Option<News> {
        if !self.changes.reaches(since) {
            return None;
        }
        let mut news = News { reached: self.changes.last(), is_all: true, ..News::default() };
        for (change, (key, node)) in self.changes.numbered_since(since) {
            if news.rows.len() >= limit {
                (news.reached, news.is_all) = (change - 1, false);
                break;
            }
            if wanted(node) {
                news.rows.push((key.clone(), node.clone()));
            }
        }
        let removals = self.changes.removals_since(since).take_while(|removal| removal.at <= news.reached);
        let removals = removals.filter(|removal| wanted(&removal.node));
        news.gone = removals.map(|removal| (removal.key.clone(), removal.node.clone())).collect();
        Some(news)
    }

    /// The replicas that a data plane has rows of, in no order.
    pub fn keys_of(&self, node: &NodeId) -> impl Iterator<Item = &ReplicaKey> {
        self.nodes.get(node).into_iter().flat_map(|rows| &rows.keys)
    }

    /// Drops one row.
    pub fn forget_row(&mut self, node: &NodeId, key: &ReplicaKey) {
        self.remove(node, key);
    }

    /// The row of this name, if it is there.
    pub fn row(&self, (key, node): &RowName) -> Option<v1::Breaker> {
        let replica = self.replicas.get(key)?;
        match node {
            Some(node) => replica.rows.get(node).map(|cell| cell.row.to_wire(key, Some(node), cell.reported)),
            None => replica.merged(key, |_| true),
        }
    }

    fn put(&mut self, node: &NodeId, key: ReplicaKey, mut row: Row, is_full: bool, at: SystemTime) -> bool {
        let is_doubt = row.check.is_some() && !row.is_failing();
        if let Some(replica) = self.replicas.get_mut(&key).filter(|_| is_doubt) {
            self.last_doubt += 1;
            replica.doubts = self.last_doubt;
        }
        let known = self.replicas.get_mut(&key).and_then(|replica| replica.rows.get_mut(node));
        if let Some(cell) = known {
            cell.reported = at;
            row.follow(&cell.row);
            if cell.row == row {
                return true;
            }
            let (was_open, is_open) = (cell.row.is_open(), row.is_open());
            cell.changed = self.changes.changed(Some(cell.changed), &key, node);
            let before = std::mem::replace(&mut cell.row, row);
            if let Some(replica) = self.replicas.get_mut(&key) {
                // All of it is told by one that comes, or comes back.
                replica.hear(node, Some(&before), is_full, at);
            }
            self.opened(node, &key, was_open, is_open);
            self.suspect(&key);
            return true;
        }
        if self.row_count >= MAX_ROWS {
            return false;
        }
        let change = self.changes.changed(None, &key, node);
        let is_open = row.is_open();
        self.row_count += 1;
        self.nodes.entry(node.clone()).or_default().keys.insert(key.clone());
        let replica = self.replicas.entry(key.clone()).or_insert_with(|| {
            self.last_doubt += 1;
            let (added, tally, doubts) = (change, Tally::default(), self.last_doubt);
            Replica { rows: BTreeMap::new(), open: 0, failing: 0, added, tally, doubts }
        });
        replica
            .rows
            .insert(node.clone(), Cell { row, done: 0, reported: at, added: change, changed: change });
        replica.hear(node, None, is_full, at);
        self.opened(node, &key, false, is_open);
        self.suspect(&key);
        true
    }

    fn remove(&mut self, node: &NodeId, key: &ReplicaKey) {
        let Some(replica) = self.replicas.get_mut(key) else { return };
        let Some(cell) = replica.rows.remove(node) else { return };
        replica.tally.forget(node);
        replica.failing -= usize::from(cell.row.is_failing());
        let replica_added = replica.rows.is_empty().then_some(replica.added);
        self.changes.removed(cell.changed, key, node, cell.added, replica_added);
        self.row_count -= 1;
        self.opened(node, key, cell.row.is_open(), false);
        if replica_added.is_some() {
            self.replicas.remove(key);
        }
        self.suspect(key);
        if let Some(rows) = self.nodes.get_mut(node) {
            rows.keys.remove(key);
            if rows.keys.is_empty() {
                self.nodes.remove(node);
            }
        }
    }

    /// Keeps the set of those that are to be looked at.
    fn suspect(&mut self, key: &ReplicaKey) {
        let is_one = self.replicas.get(key).is_some_and(Replica::is_suspect);
        if !is_one {
            self.suspects.remove(key);
        } else if !self.suspects.contains(key) {
            self.suspects.insert(key.clone());
        }
    }

    /// What there is to know of each replica that has failures in a row or fails checks, by the data planes that are `heard`.
    pub fn suspects(&self, heard: impl Fn(&NodeId) -> bool) -> BTreeMap<ReplicaKey, Sight> {
        let known = self.suspects.iter().filter_map(|key| Some((key.clone(), self.replicas.get(key)?)));
        known.map(|(key, replica)| (key, replica.seen(&heard))).collect()
    }

    /// Keeps the counts of what is not closed.
    fn opened(&mut self, node: &NodeId, key: &ReplicaKey, was_open: bool, is_open: bool) {
        if was_open == is_open {
            return;
        }
        if let Some(rows) = self.nodes.get_mut(node) {
            step(&mut rows.open, is_open);
        }
        let Some(replica) = self.replicas.get_mut(key) else { return };
        let before = replica.open;
        step(&mut replica.open, is_open);
        if (before == 0) == (replica.open == 0) {
            return;
        }
        let open = self.open.entry(key.service.clone()).or_default();
        step(open, is_open);
        if *open == 0 {
            self.open.remove(&key.service);
        }
    }
}

fn step(count: &mut usize, up: bool) {
    *count = if up { *count + 1 } else { count.saturating_sub(1) };
}

#[cfg(test)]
mod tests;
